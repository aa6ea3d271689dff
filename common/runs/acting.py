"""What every actor does, whatever it learns by: keeps environments running and counts what their episodes return."""

import logging
from typing import Any, Callable, NamedTuple, Sequence

import gymnasium
import numpy as np

from common import errors
from common.distributed import queues
from common.environments import suite as suites
from common.machine import threads

_MAX_CRASHES = 5  # In a row, without anything collected between them.


def seed_of(run_seed: int, *numbers: int) -> int:
  """An actor's seed, below 10^9, told from others by some numbers.

  The run's frames so far are to be among them: one that is resumed then has other seeds than at its start.
  """
  return int(np.random.SeedSequence([run_seed, *numbers]).generate_state(1)[0]) % 1_000_000_000


class Step(NamedTuple):
  """What N environments answered; arrays `[N]`, observations as the environment gives them."""

  observation: Any  # By name, `[N, ...]`; where an episode ended, the first of the next. Overwritten by the next step.
  reward: np.ndarray  # float32, scaled by the suite for each task.
  terminated: np.ndarray  # bool: for the agent nothing comes after this step.
  truncated: np.ndarray  # bool: a time limit; `info['final_obs']` has what came last.
  start: (
    np.ndarray
  )  # bool: the observation is the first of a game. A lost life terminates, yet starts none.
  episode_return: (
    np.ndarray
  )  # float32, where a game ended: the sum of its rewards as the environment gave them.
  episode_length: np.ndarray  # int32, likewise: its agent steps; 0 elsewhere.
  crashed: (
    np.ndarray
  )  # bool: the engine died and was started again. What was being collected there has no end.
  info: Any


class Games:
  """The environments of one actor: one for each task named."""

  def __init__(self, index: int, suite: suites.Suite, tasks: Sequence[str], seed: int):
    self.pulse, self.crashes = threads.Pulse(f'actor {index} ({", ".join(sorted(set(tasks)))})'), 0
    self._index, self._suite, self._tasks, self._seed = index, suite, tasks, seed
    self._reward_scales = np.array(
      [suite.reward_scales.get(task, 1.0) for task in tasks], np.float32
    )
    self._environment: gymnasium.vector.VectorEnv | None = None

  def run(
    self,
    begin: Callable[[], None],
    collect: Callable[[], Any],
    put: Callable[[Any], None],
    stopped: Callable[[], bool],
  ) -> None:
    """Makes the environments, collects and puts, until `stopped()` or until somebody says the queue is closed.

    When all environments crash together they are started again, and what was being collected is dropped. One that
    crashes alone is in `Step.crashed`.

    Args:
      begin: resets, at first and after a crash.
      collect: steps for a while, and returns what to put.
      put: gives it to whoever learns from it.
      stopped: whether to end.

    Raises:
      UserError: if environments crash again and again.
    """
    self.pulse.enter('making environments')
    self._environment = self._suite.make(self._tasks, True)
    try:
      begun, in_a_row = False, 0
      while not stopped():
        try:
          if not begun:
            begin()
            begun = True
          collected = collect()
          in_a_row = 0
        except suites.EnvironmentCrashed as crash:
          self.crashes, in_a_row, begun = self.crashes + 1, in_a_row + 1, False
          if in_a_row == _MAX_CRASHES:
            raise errors.UserError(
              f'{self.pulse.name}: environments crashed {in_a_row} times in a row: {crash}'
            ) from crash
          logging.warning(
            'actor %d: %s; it is started again, what it was collecting is dropped',
            self._index,
            crash,
          )
          continue
        except queues.QueueClosed:
          break
        self.pulse.enter('waiting for the learner to take what was collected')
        put(collected)
    finally:
      self._environment.close()

  def reset(self) -> Any:
    """Starts a new game in every environment; returns the observations `[N, ...]`."""
    self.pulse.enter('resetting environments')
    count = len(self._tasks)
    # A crash restarts games under other seeds: the same ones would replay the same episodes.
    observation, info = self._environment.reset(seed=self._seed + 1_000_003 * (self.crashes % 900))
    self._count_crashes(info)
    self._running_return, self._running_length = (
      np.zeros(count, np.float64),
      np.zeros(count, np.int32),
    )
    return observation

  def step(self, actions: np.ndarray) -> Step:
    """One agent step in every environment."""
    self.pulse.enter('stepping environments')
    observation, rewards, terminated, truncated, info = self._environment.step(actions)
    crashed = self._count_crashes(info) & ~(
      terminated | truncated
    )  # Else it died in the reset after an episode.
    over = info.get('game_over', terminated | truncated)
    self._running_return += rewards
    self._running_length += 1
    finished_return = np.where(over, self._running_return, 0.0).astype(np.float32)
    finished_length = np.where(over, self._running_length, 0).astype(np.int32)
    start = over | crashed
    self._running_return[start], self._running_length[start] = 0.0, 0
    return Step(
      observation,
      rewards.astype(np.float32) * self._reward_scales,
      terminated,
      truncated,
      start,
      finished_return,
      finished_length,
      crashed,
      info,
    )

  def _count_crashes(self, info: Any) -> np.ndarray:
    """Says which environments died, each alone; bool `[N]`."""
    crashed = np.zeros(len(self._tasks), bool)
    for i, reason in info.get('crashes', {}).items():
      crashed[i] = True
      self.crashes += 1
      logging.warning(
        'actor %d: %s: %s; it is started again, what it was collecting is dropped',
        self._index,
        self._tasks[i],
        reason,
      )
    return crashed
