"""What an actor sends to the learner: one environment's unroll (IMPALA, section 3 and the released code's layout)."""

from typing import Any, Mapping, NamedTuple

import numpy as np
import tensorflow as tf

from common import frames
from common.environments import suite as suites


class Trajectory(NamedTuple):
  """T steps of one environment and the observation after them; T + 1 entries, of which the first overlaps with the
  last of the unroll before.

  Entry t holds what the environment returned before the agent chose its action at t: so the reward at t + 1 is the one
  for the action chosen at t, which `last_action` at t + 1 repeats. Where `done`, the reward belongs to the episode that
  ended and the observation is the first of the next. A batch of trajectories has its axis after the time's, `[T+1, B]`,
  or in front, `[B]`, of what has no time.
  """

  actor: Any  # int32 []. Which actor it is from.
  parameter_version: (
    Any  # int64 []. Learner updates that the behaviour policy's parameters had seen.
  )
  task: Any  # int32 []. For statistics: the agent never sees it.
  core_state: Any  # Before entry 0.
  observation: Mapping[
    str, Any
  ]  # [T+1, ...]; grey frames that are stacked: singly, [T+stack, H, W].
  frame_start: (
    Any  # bool [T+stack]. The frame is the first of a game: no stack reaches back beyond it.
  )
  last_action: Any  # int32 [T+1].
  reward: Any  # float32 [T+1], scaled by the suite for its task, not clipped.
  done: Any  # bool [T+1].
  behaviour_logits: Any  # float32 [T, A], of mu at entries 0 to T-1.
  episode_return: Any  # float32 [T+1], where an episode ended: the sum of its rewards as the environment gave them.
  episode_length: Any  # int32 [T+1], likewise: its agent steps; 0 at all other steps.


def specification(suite: suites.Suite, unroll_length: int, core_state: Any) -> Trajectory:
  """The `tf.TensorSpec`s of one trajectory.

  Args:
    suite: the environments.
    unroll_length: T, in agent steps.
    core_state: of a batch of any size, for its shapes.
  """
  steps, held = unroll_length + 1, unroll_length + suite.frame_stack
  observation = {}
  for name, space in suite.observation_space.spaces.items():
    single_frames = name == 'observation' and suite.frame_stack > 1
    shape = (held, *space.shape[1:]) if single_frames else (steps, *space.shape)
    observation[name] = tf.TensorSpec(shape, tf.as_dtype(space.dtype))
  scalar = lambda dtype: tf.TensorSpec([], dtype)
  per_step = lambda dtype: tf.TensorSpec([steps], dtype)
  return Trajectory(
    actor=scalar(tf.int32),
    parameter_version=scalar(tf.int64),
    task=scalar(tf.int32),
    core_state=tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), core_state),
    observation=observation,
    frame_start=tf.TensorSpec([held], tf.bool),
    last_action=per_step(tf.int32),
    reward=per_step(tf.float32),
    done=per_step(tf.bool),
    behaviour_logits=tf.TensorSpec([unroll_length, suite.num_actions], tf.float32),
    episode_return=per_step(tf.float32),
    episode_length=per_step(tf.int32),
  )


def bounds(suite: suites.Suite, num_actors: int) -> dict[str, tuple[float, float]]:
  """The lowest and highest values of a trajectory's fields, for `wire.Codec`."""
  any_number = (0, np.iinfo(np.int64).max)
  observation = {
    f'observation.{name}': limits for name, limits in suites.integer_bounds(suite).items()
  }
  return {
    **observation,
    'actor': (0, num_actors - 1),
    'parameter_version': any_number,
    'task': (0, len(suite.tasks) - 1),
    'last_action': (0, suite.num_actions - 1),
    'episode_length': any_number,
  }


def empty(spec: Trajectory, count: int) -> Trajectory:
  """Arrays for `count` trajectories, `[count, ...]`, not initialised."""
  return tf.nest.map_structure(lambda s: np.empty((count, *s.shape), s.dtype.as_numpy_dtype), spec)


def agent_observation(
  suite: suites.Suite, environment_observation: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
  """What the network gets of an environment's observation `[N, ...]`: stacks `[N, 4, H, W]` become channels."""
  observation = dict(environment_observation)
  if suite.frame_stack > 1:
    observation['observation'] = frames.channels(observation['observation'])
  return observation


def restacked_observation(suite: suites.Suite, batch: Trajectory) -> dict[str, tf.Tensor]:
  """What the network gets of a batch of trajectories, `[T+1, B, ...]`: single frames become stacks again."""
  observation = dict(batch.observation)
  if suite.frame_stack > 1:
    observation['observation'] = frames.stack(
      observation['observation'], batch.frame_start, suite.frame_stack
    )
  return observation
