"""Builds stacks of grey frames on the learner, so that every frame is sent and stored only once."""

from typing import Sequence

import tensorflow as tf


def interleave(frames: Sequence[tf.Tensor]) -> tf.Tensor:
  """Makes grey images the channels of one.

  Four adjacent bytes are one 32-bit word, so for four images, the usual number, this computes words
  and reads them as bytes. It takes a third of the time of `tf.stack`, which copies byte by byte.

  Args:
    frames: Tensors, uint8 `[..., H, W]`.

  Returns:
    uint8 `[..., H, W, len(frames)]`.
  """
  for frame in frames:
    # Larger numbers would spill into the next channel.
    tf.debugging.assert_type(frame, tf.uint8)
  if len(frames) != 4:
    return tf.stack(frames, axis=-1)
  word = tf.cast(frames[0], tf.uint32)  # [..., H, W]
  for i, frame in enumerate(frames[1:], 1):
    shift = tf.constant(8 * i, tf.uint32)
    word = tf.bitwise.bitwise_or(word, tf.bitwise.left_shift(tf.cast(frame, tf.uint32), shift))
  return tf.bitcast(word, tf.uint8)  # [..., H, W, 4]


def channels(observed: tf.Tensor) -> tf.Tensor:
  """Converts stacks from the environments' layout to the networks'.

  Args:
    observed: uint8 `[N, S, H, W]`.

  Returns:
    uint8 `[N, H, W, S]`.
  """
  tf.debugging.assert_rank(observed, 4)
  return interleave(tf.unstack(observed, axis=1))


def stack(frames: tf.Tensor, starts: tf.Tensor, size: int = 4) -> tf.Tensor:
  """Rebuilds an unroll's stacks from single frames, with zeros before a game's start.

  Args:
    frames: uint8 `[T + size - 1, B, H, W]`; the first `size - 1` precede step 0.
    starts: bool `[T + size - 1, B]`, True where the frame is the first of a game.
    size: Frames per stack.

  Returns:
    uint8 `[T, B, H, W, size]`, the newest frame last.
  """
  tf.debugging.assert_rank(frames, 4)
  tf.debugging.assert_rank(starts, 2)
  tf.debugging.assert_type(starts, tf.bool)
  length = tf.shape(frames)[0] - (size - 1)  # T
  newest = frames[size - 1 : size - 1 + length]  # [T, B, H, W]
  newest_first = [newest]
  visible = tf.ones(tf.shape(newest)[:2], tf.bool)  # [T, B]
  for age in range(1, size):
    first = size - 1 - age
    # A frame is visible if no game started at any later frame of its stack.
    no_start_after = tf.logical_not(starts[first + 1 : first + 1 + length])
    visible = tf.logical_and(visible, no_start_after)
    mask = tf.cast(visible, tf.uint8)[:, :, tf.newaxis, tf.newaxis]
    newest_first.append(frames[first : first + length] * mask)
  return interleave(newest_first[::-1])


def stacks(frames: tf.Tensor, starts: tf.Tensor) -> tf.Tensor:
  """Like `stack`, for stacks that were drawn one by one.

  Args:
    frames: uint8 `[K, S, H, W]`, the newest last.
    starts: bool `[K, S]`, True where the frame is the first of a game.

  Returns:
    uint8 `[K, H, W, S]`.
  """
  tf.debugging.assert_rank(frames, 4)
  tf.debugging.assert_rank(starts, 2)
  tf.debugging.assert_type(starts, tf.bool)
  # A frame is visible if no game started at any later one: a product, from the newest on.
  no_start = 1.0 - tf.cast(starts, tf.float32)
  visible = tf.math.cumprod(no_start, axis=1, exclusive=True, reverse=True)  # [K, S]
  return channels(frames * tf.cast(visible, tf.uint8)[:, :, tf.newaxis, tf.newaxis])
