"""Stacks rebuilt from single frames are those that the environment showed, to the last byte."""

import contextlib

import numpy as np
import pytest
import tensorflow as tf

from common import environments, frames

STACK, GAMES, UNROLL = 4, 3, 20


def random_frames(*shape):
  return np.random.default_rng(0).integers(256, size=shape, dtype=np.uint8)


def stacked_by_hand(single, starts, size=STACK):
  """For each step: the newest frame, and older ones back to the first of its game; then zeros."""
  steps = len(single) - size + 1
  result = np.zeros((steps, *single.shape[1:], size), np.uint8)
  for t in range(steps):
    for b in range(single.shape[1]):
      for age in range(size):
        index = t + size - 1 - age
        result[t, b, ..., size - 1 - age] = single[index, b]
        if starts[index, b]:
          break
  return result


def start_patterns(length):
  """By column: no start, one at every position, two at every pair of them, all, random ones."""
  singles = np.eye(length, dtype=bool)
  pairs = [singles[first] | singles[second] for first in range(length) for second in range(first)]
  randoms = np.random.default_rng(1).random((20, length)) < 0.4
  none, everywhere = np.zeros((1, length), bool), np.ones((1, length), bool)
  return np.concatenate([none, singles, pairs, everywhere, randoms]).T


@pytest.mark.parametrize('shape', [(3, 5), (2, 3, 5), (4, 2, 3, 5)])
def test_interleave_is_numpys_stack(shape):
  images = random_frames(4, *shape)
  interleaved = frames.interleave([tf.constant(image) for image in images])
  assert interleaved.dtype == tf.uint8
  np.testing.assert_array_equal(interleaved, np.stack(images, axis=-1))


def test_interleave_keeps_every_byte_in_its_channel():
  every_byte, zeros = np.arange(256, dtype=np.uint8).reshape(16, 16), np.zeros((16, 16), np.uint8)
  for channel in range(4):
    images = [every_byte if i == channel else zeros for i in range(4)]
    interleaved = frames.interleave([tf.constant(image) for image in images])
    np.testing.assert_array_equal(interleaved, np.stack(images, axis=-1))


def test_interleave_refuses_other_integers():
  with pytest.raises(TypeError, match='uint8'):
    frames.interleave([tf.zeros([2, 2], tf.int32)] * 4)


@pytest.mark.parametrize('count', [1, 2, 3, 5])
def test_interleave_makes_channels_of_any_number_of_frames(count):
  images = random_frames(count, 2, 3, 5)
  interleaved = frames.interleave([tf.constant(image) for image in images])
  np.testing.assert_array_equal(interleaved, np.stack(list(images), axis=-1))


@pytest.mark.parametrize('steps', [1, 2, 7])
def test_stack_with_starts_at_all_positions(steps):
  starts = start_patterns(steps + STACK - 1)
  single = random_frames(*starts.shape, 3, 5)
  stacks = frames.stack(tf.constant(single), tf.constant(starts))
  assert stacks.dtype == tf.uint8
  np.testing.assert_array_equal(stacks, stacked_by_hand(single, starts))


def test_stacks_drawn_one_by_one():
  starts = start_patterns(STACK).T  # A row for each.
  single = random_frames(len(starts), STACK, 3, 5)
  pairs = zip(single, starts, strict=True)
  expected = [stacked_by_hand(frame[:, None], start[:, None])[0, 0] for frame, start in pairs]
  np.testing.assert_array_equal(frames.stacks(tf.constant(single), tf.constant(starts)), expected)


def test_channels_are_the_frames_of_a_stack():
  stacks = random_frames(3, STACK, 5, 7)
  np.testing.assert_array_equal(frames.channels(tf.constant(stacks)), np.moveaxis(stacks, 1, -1))


def test_stack_in_a_graph_of_unknown_shapes():
  @tf.function(
    input_signature=[
      tf.TensorSpec([None, None, 3, 5], tf.uint8),
      tf.TensorSpec([None, None], tf.bool),
    ]
  )
  def stack(single, starts):
    return frames.stack(single, starts)

  starts = start_patterns(9)
  single = random_frames(*starts.shape, 3, 5)
  np.testing.assert_array_equal(stack(single, starts), stacked_by_hand(single, starts))


def unroll_of(environment, rng, first_stacks, first_starts, num_actions):
  """Plays UNROLL steps with random actions.

  Returns:
    The single frames and game starts, both from the oldest of the first stack on; the stacks; and
    the number of lives lost without ending a game.
  """
  single = [first_stacks[:, age] for age in range(STACK)]
  starts = [np.zeros(GAMES, bool)] * (STACK - 1) + [first_starts]
  stacks = [first_stacks]
  lost = 0
  for _ in range(UNROLL):
    actions = rng.integers(num_actions, size=GAMES)
    observations, _, terminated, truncated, info = environment.step(actions)
    stacks.append(observations['observation'].copy())
    single.append(stacks[-1][:, -1])
    starts.append(info['game_over'].copy())
    lost += np.sum((terminated | truncated) & ~info['game_over'])
  return np.stack(single), np.stack(starts), np.stack(stacks), lost


@pytest.mark.parametrize('game, steps, has_lives', [('pong', 1200, False), ('breakout', 620, True)])
def test_the_stacks_of_real_games_come_back(game, steps, has_lives):
  suite = environments.load(f'atari:{game}')
  rng = np.random.default_rng(0)
  ends = lost = 0
  with contextlib.closing(suite.make([game] * GAMES, True)) as environment:
    stacks = environment.reset(seed=1)[0]['observation'].copy()[None]
    starts = np.ones((1, GAMES), bool)
    for _ in range(steps // UNROLL):
      single, starts, stacks, lost_now = unroll_of(
        environment, rng, stacks[-1], starts[-1], suite.num_actions
      )
      restacked = frames.stack(tf.constant(single), tf.constant(starts))
      np.testing.assert_array_equal(restacked, np.moveaxis(stacks, 2, -1))
      ends += np.sum(starts[STACK:])
      lost += lost_now
  assert ends >= GAMES
  assert (lost >= GAMES) == has_lives
