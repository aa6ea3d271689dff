"""The layout of trajectories: which entry holds what came of the action at x_t."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import environments
from common.distributed import wire
from impala import batching, networks, trajectory, vtrace
from impala import config as configs
from impala import learner as learners

T, B = 4, 2


def unrolls() -> trajectory.Trajectory:
  """Two unrolls of four steps, written down as an environment gives them, `[T+1, B]`.

  In the first, an episode ends inside, by the action at x_1:

    x_0 -a=1-> r=1, x_1 -a=0-> r=2, end | x_2 -a=2-> r=3, x_3 -a=1-> r=4, x_4

  In the second, the previous unroll's last action ended an episode, and so does this one's:

    x_0 -a=3-> r=10, x_1 -a=3-> r=20, x_2 -a=0-> r=30, x_3 -a=1-> r=40, end | x_4
  """
  per_unroll = np.zeros(B, np.int32)
  per_entry = np.zeros((T + 1, B))
  return trajectory.Trajectory(
    actor=per_unroll,
    parameter_version=per_unroll.astype(np.int64),
    task=per_unroll,
    core_state=(),
    observation={'observation': np.zeros((T + 1, B, 4), np.float32)},
    frame_start=per_entry.astype(bool),
    # The first row belongs to the previous unroll's last step.
    last_action=np.int32([[2, 2], [1, 3], [0, 3], [2, 0], [1, 1]]),
    reward=np.float32([[9, 9], [1, 10], [2, 20], [3, 30], [4, 40]]),
    done=np.array([[0, 1], [0, 0], [1, 0], [0, 0], [0, 1]], bool),
    behaviour_logits=np.zeros((T, B, 4), np.float32),
    episode_return=per_entry.astype(np.float32),
    episode_length=per_entry.astype(np.int32),
  )


def test_each_step_has_the_answer_to_its_own_action():
  steps = trajectory.aligned(unrolls())
  np.testing.assert_array_equal(steps.actions, [[1, 3], [0, 3], [2, 0], [1, 1]])
  np.testing.assert_array_equal(steps.rewards, [[1, 10], [2, 20], [3, 30], [4, 40]])
  np.testing.assert_array_equal(
    steps.done, [[False, False], [True, False], [False, False], [False, True]]
  )


def test_no_return_reaches_across_the_end_of_an_episode():
  # Every number is exact in float32.
  steps = trajectory.aligned(unrolls())
  values = np.float32([[8, 8], [16, 16], [24, 24], [32, 32]])
  returns = vtrace.no_correction(
    discounts=0.5 * np.float32(~steps.done),
    rewards=steps.rewards,
    values=values,
    bootstrap_value=np.float32([80, 80]),
  )
  first = [1 + 2 / 2, 2, 3 + 4 / 2 + 80 / 4, 4 + 80 / 2]
  second = [10 + 20 / 2 + 30 / 4 + 40 / 8, 20 + 30 / 2 + 40 / 4, 30 + 40 / 2, 40]
  np.testing.assert_array_equal(returns.vs, np.transpose([first, second]))


def test_alignment_keeps_tensors_and_dtypes():
  batch = tf.nest.map_structure(tf.constant, unrolls())
  steps = tf.function(trajectory.aligned)(batch)
  assert [x.shape for x in steps] == [(T, B)] * 3
  assert [x.dtype for x in steps] == [tf.int32, tf.float32, tf.bool]


def test_specification_counts_entries_frames_and_logits():
  suite = environments.load('atari:pong')
  core_state = (tf.zeros([5, 3]),)
  spec = trajectory.specification(suite, T, core_state)
  assert spec.behaviour_logits.shape == (T, suite.num_actions)
  # Four frames make the stack of entry 0, and each further entry adds one.
  assert spec.observation['observation'].shape == (T + 4, 84, 84)
  assert spec.frame_start.shape == (T + 4,)
  assert spec.core_state[0].shape == (3,)
  for name in ('last_action', 'reward', 'done', 'episode_return', 'episode_length'):
    assert getattr(spec, name).shape == (T + 1,)


def test_empty_arrays_have_the_specification_after_a_batch_axis():
  suite = environments.load('gym:CartPole-v1')
  spec = trajectory.specification(suite, T, tf.zeros([1, 256]))
  arrays = trajectory.empty(spec, 3)
  for array, expected in zip(tf.nest.flatten(arrays), tf.nest.flatten(spec), strict=True):
    assert array.shape == (3, *expected.shape)
    assert array.dtype == expected.dtype.as_numpy_dtype


SUITE = environments.load('gym:CartPole-v1')
LIMIT, SUM = wire.LARGEST, wire.LARGEST_SUM


class TestBounds:
  """What a learner takes from an actor."""

  VERSION = 7

  @pytest.fixture(scope='class')
  def codec(self):
    agent = networks.make_agent(configs.PRESETS.preset('gym'), SUITE)
    spec = trajectory.specification(SUITE, T, agent.initial_state(1))
    return wire.Codec(spec, trajectory.bounds(spec, SUITE, 2, lambda: self.VERSION))

  def payload(self, codec, name='actor', value=0):
    """A trajectory of zeros, but for the last number of a field."""
    zeros = tf.nest.map_structure(
      lambda s: np.zeros([1, *s.shape], s.dtype.as_numpy_dtype), codec.spec
    )
    tf.nest.flatten(getattr(zeros, name))[-1].flat[-1] = value
    return codec.encode(zeros)

  @pytest.mark.parametrize(
    'name, sane, wrong',
    [
      ('parameter_version', VERSION, VERSION + 1),
      ('parameter_version', 0, 2**63 - 1),
      ('reward', LIMIT, 3e38),
      ('reward', -LIMIT, -2 * LIMIT),
      ('observation', LIMIT, -3e38),
      ('behaviour_logits', -LIMIT, -3e38),
      ('core_state', LIMIT, 3e38),
      ('episode_return', SUM, 3e38),
      ('episode_return', -SUM, -2 * SUM),
      ('episode_length', 2**31 - 1, -1),
      ('actor', 1, 2),
    ],
  )
  def test_insane_numbers_are_refused(self, codec, name, sane, wrong):
    codec.decode(self.payload(codec, name, sane))
    with pytest.raises(wire.Malformed, match=f'^{name}.* holds .*, expected '):
      codec.decode(self.payload(codec, name, wrong))

  @pytest.mark.parametrize('lstm', [True, False])
  def test_the_largest_numbers_leave_the_loss_and_the_gradient_finite(self, lstm):
    """In all fields at once, without clipping, over the unrolls of the paper."""
    config = dataclasses.replace(
      configs.PRESETS.preset('gym'),
      lstm=lstm,
      unroll_length=100,
      batch_size=32,
      reward_clipping='none',
      max_gradient_norm=0.0,
    )
    learner = learners.Learner(config, SUITE, networks.make_agent(config, SUITE))
    spec = trajectory.specification(SUITE, 100, learner.agent.initial_state(1))
    largest = tf.nest.map_structure(
      lambda s: tf.cast(tf.fill(s.shape, LIMIT if s.dtype.is_floating else 0.0), s.dtype), spec
    )
    sign = np.where(np.arange(100) % 3, 1.0, -1.0)[:, np.newaxis] * [1.0, -1.0]
    largest = largest._replace(behaviour_logits=tf.constant(LIMIT * sign, tf.float32))
    batch = batching.stack([largest] * 32)
    update = learner.update(batch, tf.constant(1, tf.int64))
    assert update.statistics['finite'] and update.parameters_finite
    assert update.statistics['loss/baseline'] > 1e20
