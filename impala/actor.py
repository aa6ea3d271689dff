"""An actor: environments and a policy, whose unrolls become trajectories (IMPALA, section 3)."""

from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

from common.distributed import queues
from common.environments import suite as suites
from common.runs import games
from impala import actions as acting
from impala import networks, trajectory
from impala import policy as policies


class State(NamedTuple):
  """Where an actor stands between two steps of its N environments; arrays `[N, ...]`."""

  inputs: networks.AgentInput  # What the policy chooses the next actions from.
  core_state: Any  # The policy's, before it sees `inputs`.
  start: np.ndarray  # bool: the observation in `inputs` is the first of a game.
  episode_return: np.ndarray  # float32, of the game that the last step ended; 0 elsewhere.
  episode_length: np.ndarray  # int32, in agent steps, of that game; 0 elsewhere.
  discounted_return: np.ndarray  # float32, see `games.Step`.


class Actor:
  """Steps N environments with one policy; every unroll yields N trajectories.

  Attributes:
    games: The environments, with the actor's pulse and its count of crashes.
  """

  def __init__(
    self,
    index: int,
    suite: suites.Suite,
    tasks: Sequence[str],
    policy: policies.Policy,
    unroll_length: int,
    seed: int,
  ):
    """Makes an actor; `run` makes its environments.

    Args:
      index: The actor's number in the run.
      suite: The suite that the tasks belong to.
      tasks: The task of each of the N environments.
      policy: The behaviour policy.
      unroll_length: T, in agent steps.
      seed: The seed of the environments.
    """
    self.games = games.Games(index, suite, tasks, seed)
    self._index = index
    self._suite = suite
    self._policy = policy
    self._unroll_length = unroll_length
    self._task_ids = np.array([suite.tasks.index(task) for task in tasks], np.int32)
    self._spec = trajectory.specification(suite, unroll_length, policy.initial_state(1))

  def run(self, put: Callable[[trajectory.Trajectory], None], stopped: Callable[[], bool]) -> None:
    """Acts until `stopped()` or until the learner closes the queue.

    Args:
      put: Hands over the trajectories of one unroll, `[M, ...]`; may wait for room.
      stopped: Whether to end; asked before every step.

    Raises:
      UserError: If the environments crash five times in a row with no unroll in between.
    """
    with self.games:
      while not stopped():
        try:
          state = self._start_games()
          while not stopped():
            state, trajectories = self._unroll(state, stopped)
            self.games.record_collected()
            put(trajectories)
        except suites.EnvironmentCrashed as crash:
          self.games.record_crash(crash)
        except queues.QueueClosed:
          return

  def _start_games(self) -> State:
    """Resets the environments and the core state."""
    count = len(self._task_ids)
    inputs = networks.AgentInput(
      observation=self.games.reset(),
      last_action=np.zeros((count, *acting.shape_of(self._suite.action_space)), np.int32),
      reward=np.zeros(count, np.float32),
      done=np.ones(count, bool),
    )
    return State(
      inputs=inputs,
      core_state=self._policy.initial_state(count),
      start=np.ones(count, bool),
      episode_return=np.zeros(count, np.float32),
      episode_length=np.zeros(count, np.int32),
      discounted_return=np.zeros(count, np.float32),
    )

  def _unroll(
    self, state: State, stopped: Callable[[], bool]
  ) -> tuple[State, trajectory.Trajectory]:
    """Takes T steps in all environments, with the policy's latest parameters.

    Returns:
      The state after T steps, and the trajectories `[M, ...]` of the environments whose engine
      survived all T steps.

    Raises:
      QueueClosed: If `stopped()` between two steps, as nobody would take the trajectories.
      EnvironmentCrashed: If the environments crashed together.
    """
    self.games.pulse.enter('taking parameters')
    version = self._policy.refresh()
    unroll = self._begin_unroll(state, version)
    survived = np.ones(len(self._task_ids), bool)

    for t in range(self._unroll_length):
      if stopped():
        raise queues.QueueClosed
      self.games.pulse.enter('choosing actions')
      decision = self._policy(state.inputs, state.core_state)
      actions = decision.actions.numpy()
      unroll.behaviour_logits[:, t] = decision.logits.numpy()

      step = self.games.step(actions)
      survived &= ~step.crashed
      state = _next_state(step, actions, decision.core_state)
      self._record(unroll, t + 1, state)

    if survived.all():
      return state, unroll
    return state, tf.nest.map_structure(lambda x: x[survived], unroll)

  def _begin_unroll(self, state: State, version: int) -> trajectory.Trajectory:
    """Allocates the trajectories of an unroll; fills in what has no time axis, and entry 0."""
    unroll = trajectory.empty(self._spec, len(self._task_ids))
    unroll.actor[:] = self._index
    unroll.parameter_version[:] = version
    unroll.task[:] = self._task_ids
    core_state = tf.nest.map_structure(np.asarray, state.core_state)
    tf.nest.map_structure(np.copyto, unroll.core_state, core_state)

    older = self._suite.frame_stack - 1
    if older:
      # The learner restacks single frames, so entry 0 also needs the older frames of its stack.
      stacks = state.inputs.observation['observation']  # [N, stack, H, W]
      unroll.observation['observation'][:, :older] = stacks[:, :-1]
      # Frames that precede a game's start are zero in its stacks already, so a start among the
      # older frames need not be marked.
      unroll.frame_start[:, :older] = False
    self._record(unroll, 0, state)
    return unroll

  def _record(self, unroll: trajectory.Trajectory, t: int, state: State) -> None:
    """Writes entry t. The arrays are copied, since the next step overwrites observations."""
    older = self._suite.frame_stack - 1
    for name, values in state.inputs.observation.items():
      if older and name == 'observation':
        # Only the newest frame: the rest of the stack stands in the entries before.
        unroll.observation[name][:, t + older] = values[:, -1]
      else:
        unroll.observation[name][:, t] = values
    unroll.frame_start[:, t + older] = state.start
    unroll.last_action[:, t] = state.inputs.last_action
    unroll.reward[:, t] = state.inputs.reward
    unroll.done[:, t] = state.inputs.done
    unroll.episode_return[:, t] = state.episode_return
    unroll.episode_length[:, t] = state.episode_length
    if self._suite.return_discount is not None:
      unroll.discounted_return[:, t] = state.discounted_return


def _next_state(step: games.Step, actions: np.ndarray, core_state: Any) -> State:
  """The state after a step, in which the policy chose `actions` and left `core_state`."""
  inputs = networks.AgentInput(
    observation=step.observation,
    last_action=actions,
    reward=step.reward,
    # A restarted engine shows the first observation of an episode, as after any other end.
    done=step.terminated | step.truncated | step.crashed,
  )
  return State(
    inputs=inputs,
    core_state=core_state,
    start=step.start,
    episode_return=step.episode_return,
    episode_length=step.episode_length,
    discounted_return=step.discounted_return,
  )
