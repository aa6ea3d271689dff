"""What an actor sends to the learner: one environment's unroll (IMPALA, section 3).

The layout, with its overlap of one entry, is that of the authors' released code.
"""

from typing import Any, Callable, Mapping, NamedTuple

import numpy as np
import tensorflow as tf

from common import frames
from common.distributed import wire
from common.environments import suite as suites
from impala import actions as acting


class Trajectory(NamedTuple):
  """T agent steps of one environment and the observation after them, in T+1 entries.

  Entry t holds what the environment returned before the agent chose its action there:

    entry              0       1       2      ...   T
    observation        x_0     x_1     x_2          x_T
    last_action        a_{-1}  a_0     a_1          a_{T-1}
    reward, done       r_{-1}  r_0     r_1          r_{T-1}
    behaviour_logits   mu_0    mu_1    mu_2   ...   (ends at T-1)

  Entry 0 repeats entry T of the previous unroll. Where `done`, the reward belongs to the episode
  that ended, and the observation is the first of the next one.

  Arrays of a single trajectory are `[T+1, ...]`. A batch has its batch axis after the time axis,
  `[T+1, B, ...]`, and in front of fields without time, `[B, ...]`: see `impala.batching`.
  """

  # int32 []. The actor's index.
  actor: Any
  # int64 []. Learner updates in the behaviour policy's parameters.
  parameter_version: Any
  # int32 []. Index into the suite's tasks, for statistics: the agent never sees it.
  task: Any
  # Nested float32 [H], the core state before entry 0; empty for a feed-forward agent.
  core_state: Any
  # [T+1, ...] by name. Grey frames that the network sees in stacks are sent once each:
  # uint8 [T+stack, H, W], the older frames of the first stack in front.
  observation: Mapping[str, Any]
  # bool [T+stack]. The frame is the first of a game: no stack reaches back beyond it.
  frame_start: Any
  # int32 [T+1], or [T+1, K] for K actions at once.
  last_action: Any
  # float32 [T+1], scaled by the suite for its task, neither normalised nor clipped.
  reward: Any
  # bool [T+1].
  done: Any
  # float32 [T, A], of mu at entries 0 to T-1.
  behaviour_logits: Any
  # float32 [T+1]. Where an episode ended, the sum of its unscaled rewards.
  episode_return: Any
  # int32 [T+1]. Where an episode ended, its length in agent steps; elsewhere 0.
  episode_length: Any
  # float32 [T+1], the discounted sum of the episode's rewards up to `reward`; () unless the suite
  # has a `return_discount`.
  discounted_return: Any = ()


class AlignedSteps(NamedTuple):
  """What was done at x_0 to x_{T-1}, and what came of it: row t belongs to the action at x_t.

  Attributes:
    actions: int32 `[T, B]`, or `[T, B, K]`, a_t, drawn from mu at x_t.
    rewards: float32 `[T, B]`, r_t, the reward for a_t, not clipped.
    done: bool `[T, B]`, whether a_t ended its episode; x_{t+1} is then the first of the next one.
  """

  actions: Any
  rewards: Any
  done: Any


def aligned(batch: Trajectory) -> AlignedSteps:
  """The T steps of a batch, aligned with the observations they were chosen at.

  This is the one place where everybody errs. The network's outputs and the behaviour logits for x_t
  stand at entry t. The environment answers one entry later: the action chosen at entry t, its
  reward and whether it ended the episode stand at entry t+1. What stands at entry 0 belongs to the
  last step of the previous unroll, which was learned from with that one.

  Args:
    batch: `[T+1, B]`.
  """
  return AlignedSteps(
    actions=batch.last_action[1:],  # [T, B]
    rewards=batch.reward[1:],
    done=batch.done[1:],
  )


def specification(suite: suites.Suite, unroll_length: int, core_state: Any) -> Trajectory:
  """The `tf.TensorSpec`s of one trajectory.

  Args:
    suite: The environments.
    unroll_length: T, in agent steps.
    core_state: A core state `[N, ...]` for any N, for its shapes.
  """
  steps = unroll_length + 1
  num_frames = unroll_length + suite.frame_stack
  return Trajectory(
    actor=tf.TensorSpec([], tf.int32),
    parameter_version=tf.TensorSpec([], tf.int64),
    task=tf.TensorSpec([], tf.int32),
    core_state=tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape[1:], x.dtype), core_state),
    observation=_observation_specification(suite, steps, num_frames),
    frame_start=tf.TensorSpec([num_frames], tf.bool),
    last_action=tf.TensorSpec([steps, *acting.shape_of(suite.action_space)], tf.int32),
    reward=tf.TensorSpec([steps], tf.float32),
    done=tf.TensorSpec([steps], tf.bool),
    behaviour_logits=tf.TensorSpec(
      [unroll_length, acting.num_logits(suite.action_space)], tf.float32
    ),
    episode_return=tf.TensorSpec([steps], tf.float32),
    episode_length=tf.TensorSpec([steps], tf.int32),
    discounted_return=(() if suite.return_discount is None else tf.TensorSpec([steps], tf.float32)),
  )


def _observation_specification(
  suite: suites.Suite, steps: int, num_frames: int
) -> dict[str, tf.TensorSpec]:
  specs = {}
  for name, space in suite.observation_space.spaces.items():
    assert space.shape is not None  # Suites observe boxes.
    if name == 'observation' and suite.frame_stack > 1:
      # [stack, H, W] of one observation becomes [T+stack, H, W] of the whole unroll.
      shape = (num_frames, *space.shape[1:])
    else:
      shape = (steps, *space.shape)
    specs[name] = tf.TensorSpec(shape, tf.as_dtype(space.dtype))
  return specs


def bounds(
  spec: Trajectory, suite: suites.Suite, num_actors: int, version: Callable[[], int]
) -> wire.Bounds:
  """The lowest and highest value of each field, for `wire.Codec`.

  Args:
    spec: As `specification` returns it.
    suite: The environments.
    num_actors: Of the run.
    version: The learner's updates so far. No behaviour policy can be newer.
  """
  limits = wire.magnitudes(spec)
  for name, integers in suites.integer_bounds(suite).items():
    limits[f'observation.{name}'] = integers
  if suite.return_discount is not None:
    limits['discounted_return'] = (-wire.LARGEST_SUM, wire.LARGEST_SUM)
  return limits | {
    'actor': (0, num_actors - 1),
    'parameter_version': (0, version),
    'task': (0, len(suite.tasks) - 1),
    'last_action': acting.bounds(suite.action_space),
    'episode_return': (-wire.LARGEST_SUM, wire.LARGEST_SUM),
    'episode_length': (0, np.iinfo(np.int32).max),
  }


def empty(spec: Trajectory, count: int) -> Trajectory:
  """Uninitialised arrays for `count` trajectories, `[count, ...]`."""
  return tf.nest.map_structure(lambda s: np.empty((count, *s.shape), s.dtype.as_numpy_dtype), spec)


def agent_observation(
  suite: suites.Suite, environment_observation: Mapping[str, tf.Tensor]
) -> dict[str, tf.Tensor]:
  """The network's view of an environment's observation `[N, ...]`.

  Stacks of grey frames, `[N, 4, H, W]`, become the channels of one image, `[N, H, W, 4]`.
  """
  observation = dict(environment_observation)
  if suite.frame_stack > 1:
    observation['observation'] = frames.channels(observation['observation'])
  return observation


def restacked_observation(suite: suites.Suite, batch: Trajectory) -> dict[str, tf.Tensor]:
  """The network's view of a batch of trajectories, `[T+1, B, ...]`.

  Single grey frames, `[T+4, B, H, W]`, become stacks again, `[T+1, B, H, W, 4]`.
  """
  observation = dict(batch.observation)
  if suite.frame_stack > 1:
    observation['observation'] = frames.stack(
      observation['observation'], batch.frame_start, suite.frame_stack
    )
  return observation
