"""An actor's environments: made, stepped, restarted after crashes, their episodes counted."""

import contextlib
import logging
from typing import Any, Iterator, NamedTuple, Self, Sequence, cast

import gymnasium
import numpy as np

from common import errors
from common.environments import masks
from common.environments import suite as suites
from common.machine import threads

_MAX_CRASHES = 5  # In a row, without anything collected between them.


def seed_of(run_seed: int, *numbers: int) -> int:
  """Derives a seed below 10^9 for one actor from the run's seed.

  Args:
    run_seed: The run's `--seed`.
    *numbers: What distinguishes this actor. Include the run's environment frames so far: a resumed
      run then plays other episodes than it did at its start.
  """
  sequence = np.random.SeedSequence([run_seed, *numbers])
  return int(sequence.generate_state(1)[0]) % 1_000_000_000


class Step(NamedTuple):
  """The result of one agent step in N environments; arrays are `[N]` unless stated otherwise."""

  # By name, [N, ...], as the environments return it. Where an episode ended, the first observation
  # of the next one. May be a view that the next step overwrites.
  observation: Any
  # float32, scaled by the suite for each task.
  reward: np.ndarray
  # float32: the discounted sum of these rewards since the episode began, up to this one; zeros if
  # the suite has no `return_discount`.
  discounted_return: np.ndarray
  # bool: the episode ended, so nothing after this step counts for the agent.
  terminated: np.ndarray
  # bool: the episode hit a time limit; `info['final_obs']` holds its last observation.
  truncated: np.ndarray
  # bool: the observation is the first of a game. Losing a life terminates an episode but starts no
  # game.
  start: np.ndarray
  # float32: where a game ended, its sum of unscaled rewards; 0 elsewhere.
  episode_return: np.ndarray
  # int32: where a game ended, its length in agent steps; 0 elsewhere.
  episode_length: np.ndarray
  # bool: the engine died in this step and was restarted, so the transition into this observation is
  # not real.
  crashed: np.ndarray
  info: suites.StepInfo


class Games:
  """One actor's vector environment, with one environment for each task name given.

  A context manager: entering makes the environments, leaving closes them. All environments crashing
  together raise `EnvironmentCrashed` from `reset` or `step`; pass it to `record_crash` and reset.
  One environment crashing alone is restarted at once and marked in `Step.crashed`.

  Attributes:
    pulse: What the actor is doing, for reports about stalled runs.
    crashes: The number of crashes so far, of single environments and of all together.
  """

  _environment: gymnasium.vector.VectorEnv

  def __init__(self, index: int, suite: suites.Suite, tasks: Sequence[str], seed: int):
    """Makes nothing yet: a run that is only constructed starts no engine.

    Args:
      index: The actor's number, for messages.
      suite: The suite that the tasks belong to.
      tasks: The task of each environment.
      seed: The seed of the first reset.
    """
    self.pulse = threads.Pulse(f'actor {index} ({", ".join(sorted(set(tasks)))})')
    self.crashes = 0
    self._index = index
    self._suite = suite
    self._tasks = tasks
    self._seed = seed
    self._crashes_in_a_row = 0

    scales = [suite.reward_scales.get(task, 1.0) for task in tasks]
    self._reward_scales = np.array(scales, np.float32)
    # float64: returns of long games are sums of many rewards.
    self._running_return = np.zeros(len(tasks), np.float64)
    self._running_length = np.zeros(len(tasks), np.int32)
    self._discounted_return = np.zeros(len(tasks), np.float64)

  def __enter__(self) -> Self:
    self.pulse.enter('making environments')
    with self._naming_who_fails():
      self._environment = self._suite.make(self._tasks, True)
    self._crashes_in_a_row = 0
    return self

  def __exit__(self, *exception: object) -> None:
    self._environment.close()

  def reset(self) -> Any:
    """Starts a new game in every environment, restarting engines that have died.

    Returns:
      The first observations by name, `[N, ...]`.

    Raises:
      EnvironmentCrashed: If an engine dies while starting.
      UserError: If an action mask forbids all actions.
    """
    self.pulse.enter('resetting environments', self._awaited)
    # The same seeds would replay the episodes that led to the crash. The modulus keeps seeds within
    # 31 bits however often an actor crashes.
    seed = self._seed + 1_000_003 * (self.crashes % 900)
    with self._naming_who_fails():
      observation, info = self._environment.reset(seed=seed)
    self._count_single_crashes(cast(suites.StepInfo, info))
    self._running_return[:] = 0.0
    self._running_length[:] = 0
    self._discounted_return[:] = 0.0
    masks.check(self._suite, observation)
    return observation

  def step(self, actions: np.ndarray) -> Step:
    """Takes one agent step in every environment.

    Args:
      actions: int32 `[N]`, `[N, K]` for K of them at once, or float32 `[N, A]` for continuous ones.

    Raises:
      EnvironmentCrashed: If the environments crashed together.
      UserError: If an action mask forbids all actions.
    """
    self.pulse.enter('stepping environments', self._awaited)
    with self._naming_who_fails():
      observation, rewards, terminated, truncated, answer = self._environment.step(actions)
    info = cast(suites.StepInfo, answer)
    done = terminated | truncated
    masks.check(self._suite, observation)

    # An engine that dies in the reset after an episode's end has completed that episode.
    crashed = self._count_single_crashes(info) & ~done
    game_over = info.get('game_over', done)

    self._running_return += rewards
    self._running_length += 1
    episode_return = np.where(game_over, self._running_return, 0.0).astype(np.float32)
    episode_length = np.where(game_over, self._running_length, 0).astype(np.int32)

    start = game_over | crashed
    self._running_return[start] = 0.0
    self._running_length[start] = 0
    scaled = rewards.astype(np.float32) * self._reward_scales
    return Step(
      observation=observation,
      reward=scaled,
      discounted_return=self._discounted(scaled, done | crashed),
      terminated=terminated,
      truncated=truncated,
      start=start,
      episode_return=episode_return,
      episode_length=episode_length,
      crashed=crashed,
      info=info,
    )

  def _discounted(self, rewards: np.ndarray, ended: np.ndarray) -> np.ndarray:
    """G <- gamma G + r, from 0 in each episode's first step: G after this step, float32 `[N]`.

    In gymnasium's NormalizeReward the step that ends an episode drops what came before it, and its
    reward is carried into the next episode. Here G is the return that the episode had.
    """
    discount = self._suite.return_discount
    if discount is None:
      return np.zeros(len(rewards), np.float32)
    self._discounted_return = discount * self._discounted_return + rewards
    result = self._discounted_return.astype(np.float32)
    self._discounted_return[ended] = 0.0
    return result

  def record_collected(self) -> None:
    """Notes that the actor has something to hand over, which ends a row of crashes."""
    self._crashes_in_a_row = 0
    self.pulse.enter('waiting for the learner to take what was collected')

  def record_crash(self, crash: suites.EnvironmentCrashed) -> None:
    """Counts a crash of all environments; the next `reset` restarts them.

    Raises:
      UserError: If this is the fifth crash in a row with nothing collected in between.
    """
    self.crashes += 1
    self._crashes_in_a_row += 1
    if self._crashes_in_a_row == _MAX_CRASHES:
      raise errors.UserError(
        f'{self.pulse.name}: environments crashed {_MAX_CRASHES} times in a row: {crash}'
      ) from crash
    self._warn_of_restart(str(crash))

  @contextlib.contextmanager
  def _naming_who_fails(self) -> Iterator[None]:
    """Notes on errors in environments' own code whose they are."""
    try:
      yield
    except (suites.EnvironmentCrashed, errors.UserError):
      raise
    except Exception as error:
      error.add_note(f'Raised by an environment of {self.pulse.name}, {self.pulse.activity}.')
      raise

  def _awaited(self) -> str:
    return suites.awaited(self._environment)

  def _count_single_crashes(self, info: suites.StepInfo) -> np.ndarray:
    """Counts and logs environments that died alone; returns which ones, bool `[N]`."""
    crashed = np.zeros(len(self._tasks), bool)
    for i, reason in info.get('crashes', {}).items():
      crashed[i] = True
      self.crashes += 1
      self._warn_of_restart(f'{self._tasks[i]}: {reason}')
    return crashed

  def _warn_of_restart(self, reason: str) -> None:
    logging.warning(
      'actor %d: %s; restarting it and dropping what it was collecting', self._index, reason
    )
