"""An actor: environments and a policy, whose unrolls become trajectories (IMPALA, section 3)."""

import logging
from typing import Any, Callable, Sequence

import gymnasium
import numpy as np
import tensorflow as tf

from common import errors
from common.distributed import queues, threads
from common.environments import suite as suites
from impala import networks, policy as policies, trajectory

_MAX_CRASHES = 5  # In a row, without a whole unroll between them.


class Actor:
  """Steps N environments with one policy; every unroll is N trajectories."""

  def __init__(self, index: int, suite: suites.Suite, tasks: Sequence[str], policy: policies.Policy,
               unroll_length: int, seed: int):
    """`tasks`: one environment is made for each. `unroll_length` in agent steps."""
    self.pulse, self.crashes = threads.Pulse(f'actor {index} ({", ".join(sorted(set(tasks)))})'), 0
    self._index, self._suite, self._tasks, self._policy, self._seed = index, suite, tasks, policy, seed
    self._task_ids = np.array([suite.tasks.index(task) for task in tasks], np.int32)
    self._reward_scales = np.array([suite.reward_scales.get(task, 1.0) for task in tasks], np.float32)
    self._spec = trajectory.specification(suite, unroll_length, policy.initial_state(1))
    self._environment: gymnasium.vector.VectorEnv | None = None

  def run(self, put: Callable[[trajectory.Trajectory], None], stopped: Callable[[], bool]) -> None:
    """Makes unrolls and puts them, `[N, ...]`, until `stopped()` or until the queue that `put` puts to is closed.

    An environment that crashes is started again, and the unroll it broke is dropped.

    Raises:
      UserError: if environments crash again and again.
    """
    self.pulse.enter('making environments')
    self._environment = self._suite.make(self._tasks, True)
    try:
      self._reset()
      in_a_row = 0
      while not stopped():
        try:
          trajectories = self.unroll(stopped)
          in_a_row = 0
        except suites.EnvironmentCrashed as crash:
          self.crashes, in_a_row = self.crashes + 1, in_a_row + 1
          if in_a_row == _MAX_CRASHES:
            raise errors.UserError(f'{self.pulse.name}: environments crashed {in_a_row} times in a row: {crash}'
                                   ) from crash
          logging.warning('actor %d: %s; it is started again, this unroll is dropped', self._index, crash)
          self._reset()
          continue
        except queues.QueueClosed:
          break
        self.pulse.enter('waiting for the learner to take trajectories')
        put(trajectories)
    finally:
      self._environment.close()

  def unroll(self, stopped: Callable[[], bool]) -> trajectory.Trajectory:
    """Takes the latest parameters and makes T steps with them, in all environments.

    Returns:
      Arrays `[N, ...]`.

    Raises:
      QueueClosed: if `stopped()` between two steps: nobody would take the trajectories.
    """
    self.pulse.enter('taking parameters')
    version = self._policy.refresh()
    result = trajectory.empty(self._spec, len(self._tasks))
    result.actor[:], result.parameter_version[:], result.task[:] = self._index, version, self._task_ids
    tf.nest.map_structure(np.copyto, result.core_state, tf.nest.map_structure(np.asarray, self._core_state))
    steps = result.behaviour_logits.shape[1]
    self._record_first(result)
    for t in range(steps):
      if stopped():
        raise queues.QueueClosed
      self.pulse.enter('choosing actions')
      decision = self._policy(self._inputs, self._core_state)
      self._core_state, actions = decision.core_state, decision.actions.numpy()
      result.behaviour_logits[:, t] = decision.logits.numpy()
      self.pulse.enter('stepping environments')
      self._step(actions)
      self._record(result, t + 1)
    return result

  def _reset(self) -> None:
    self.pulse.enter('resetting environments')
    count = len(self._tasks)
    # A crash restarts games under other seeds: the same ones would replay the same episodes.
    observation, _ = self._environment.reset(seed=self._seed + 1_000_003 * self.crashes)
    self._core_state = self._policy.initial_state(count)
    self._inputs = networks.AgentInput(
        observation, np.zeros(count, np.int32), np.zeros(count, np.float32), np.ones(count, bool))
    self._running_return, self._running_length = np.zeros(count, np.float64), np.zeros(count, np.int32)
    self._finished_return, self._finished_length = np.zeros(count, np.float32), np.zeros(count, np.int32)
    self._start = np.ones(count, bool)

  def _step(self, actions: np.ndarray) -> None:
    observation, rewards, terminated, truncated, info = self._environment.step(actions)
    done = terminated | truncated
    self._inputs = networks.AgentInput(
        observation, actions, rewards.astype(np.float32) * self._reward_scales, done)
    self._start = info.get('game_over', done)
    self._running_return += rewards
    self._running_length += 1
    self._finished_return = np.where(self._start, self._running_return, 0.0)
    self._finished_length = np.where(self._start, self._running_length, 0)
    self._running_return[self._start], self._running_length[self._start] = 0.0, 0

  def _record_first(self, result: trajectory.Trajectory) -> None:
    """Entry 0, with the older frames of its stacks where frames are stacked."""
    older = self._suite.frame_stack - 1
    if older:
      result.observation['observation'][:, :older] = self._inputs.observation['observation'][:, :-1]
      # The frames of a stack are zeroed already where they precede a start: only one at entry 0 itself matters.
      result.frame_start[:, :older] = False
    self._record(result, 0)

  def _record(self, result: trajectory.Trajectory, t: int) -> None:
    older = self._suite.frame_stack - 1
    for name, values in self._inputs.observation.items():
      if older and name == 'observation':
        result.observation[name][:, t + older] = values[:, -1]
      else:
        result.observation[name][:, t] = values
    result.frame_start[:, t + older] = self._start
    result.last_action[:, t], result.reward[:, t], result.done[:, t] = self._inputs[1:]
    result.episode_return[:, t], result.episode_length[:, t] = self._finished_return, self._finished_length
