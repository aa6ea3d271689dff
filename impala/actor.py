"""An actor: environments and a policy, whose unrolls become trajectories (IMPALA, section 3)."""

from typing import Callable, Sequence

import numpy as np
import tensorflow as tf

from common.distributed import queues
from common.environments import suite as suites
from common.runs import acting
from impala import networks, trajectory
from impala import policy as policies


class Actor:
  """Steps N environments with one policy; every unroll is N trajectories."""

  def __init__(
    self,
    index: int,
    suite: suites.Suite,
    tasks: Sequence[str],
    policy: policies.Policy,
    unroll_length: int,
    seed: int,
  ):
    """`tasks`: one environment is made for each. `unroll_length` in agent steps."""
    self.games = acting.Games(index, suite, tasks, seed)
    self._index, self._suite, self._policy = index, suite, policy
    self._task_ids = np.array([suite.tasks.index(task) for task in tasks], np.int32)
    self._spec = trajectory.specification(suite, unroll_length, policy.initial_state(1))

  def run(self, put: Callable[[trajectory.Trajectory], None], stopped: Callable[[], bool]) -> None:
    """Makes unrolls and puts them, `[N, ...]`, until `stopped()` or until the queue that `put` puts to is closed.

    Raises:
      UserError: if environments crash again and again.
    """
    self.games.run(self._begin, lambda: self.unroll(stopped), put, stopped)

  def unroll(self, stopped: Callable[[], bool]) -> trajectory.Trajectory:
    """Takes the latest parameters and makes T steps with them, in all environments.

    Returns:
      Arrays `[M, ...]`, of all environments but those whose engine died meanwhile.

    Raises:
      QueueClosed: if `stopped()` between two steps: nobody would take the trajectories.
    """
    self.games.pulse.enter('taking parameters')
    version = self._policy.refresh()
    result = trajectory.empty(self._spec, len(self._task_ids))
    result.actor[:], result.parameter_version[:], result.task[:] = (
      self._index,
      version,
      self._task_ids,
    )
    tf.nest.map_structure(
      np.copyto, result.core_state, tf.nest.map_structure(np.asarray, self._core_state)
    )
    steps, whole = result.behaviour_logits.shape[1], np.ones(len(self._task_ids), bool)
    self._record_first(result)
    for t in range(steps):
      if stopped():
        raise queues.QueueClosed
      self.games.pulse.enter('choosing actions')
      decision = self._policy(self._inputs, self._core_state)
      self._core_state, actions = decision.core_state, decision.actions.numpy()
      result.behaviour_logits[:, t] = decision.logits.numpy()
      whole &= ~self._step(actions)
      self._record(result, t + 1)
    return result if whole.all() else tf.nest.map_structure(lambda x: x[whole], result)

  def _begin(self) -> None:
    count = len(self._task_ids)
    observation = self.games.reset()
    self._core_state = self._policy.initial_state(count)
    self._inputs = networks.AgentInput(
      observation, np.zeros(count, np.int32), np.zeros(count, np.float32), np.ones(count, bool)
    )
    self._start = np.ones(count, bool)
    self._episode_return, self._episode_length = (
      np.zeros(count, np.float32),
      np.zeros(count, np.int32),
    )

  def _step(self, actions: np.ndarray) -> np.ndarray:
    """Steps all environments; returns whose engine died, bool `[N]`."""
    step = self.games.step(actions)
    self._inputs = networks.AgentInput(
      step.observation, actions, step.reward, step.terminated | step.truncated | step.crashed
    )
    self._start, self._episode_return, self._episode_length = (
      step.start,
      step.episode_return,
      step.episode_length,
    )
    return step.crashed

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
    result.episode_return[:, t], result.episode_length[:, t] = (
      self._episode_return,
      self._episode_length,
    )
