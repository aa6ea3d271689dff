"""Uniform replay of structures of tensors, first in, first out (IMPALA, section 5.2.2)."""

from typing import Any

import tensorflow as tf


class UniformReplay(tf.Module):
  """A ring of `capacity` elements on the CPU. Call its methods in a `tf.function`.

  An element is a nest of tensors, e.g. a trajectory.
  """

  def __init__(self, spec: Any, capacity: int):
    """Starts empty.

    Args:
      spec: `tf.TensorSpec`s of one element, nested.
      capacity: The number of elements that there is room for.
    """
    super().__init__(name='uniform_replay')
    self._spec = spec
    self._capacity = capacity
    with tf.device('/cpu:0'):
      self._storage = [
        tf.Variable(tf.zeros([capacity, *s.shape], s.dtype), trainable=False)
        for s in tf.nest.flatten(spec)
      ]
      self._added = tf.Variable(0, dtype=tf.int64, trainable=False)
      # By slot: whether it holds an element.
      self._held = tf.Variable(tf.zeros([capacity], tf.bool), trainable=False)

  @staticmethod
  def size_in_bytes(spec: Any, capacity: int) -> int:
    """Bytes that `capacity` elements take. For the arguments, see the constructor."""
    element = sum(s.shape.num_elements() * s.dtype.size for s in tf.nest.flatten(spec))
    return capacity * (element + tf.bool.size)

  def size(self) -> tf.Tensor:
    """The number of elements held, int64 `[]`."""
    return tf.reduce_sum(tf.cast(self._held, tf.int64))

  def add(self, elements: Any) -> tf.Tensor:
    """Adds N elements; once the ring is full, they replace the oldest.

    Args:
      elements: `[N, ...]`, with the structure of `spec`.

    Returns:
      The elements' serial numbers, int64 `[N]`, for `remove`.
    """
    # Flattening discards the structure, so another one of as many tensors would go unnoticed.
    tf.nest.assert_same_structure(self._spec, elements)
    flat = tf.nest.flatten(elements)
    count = tf.shape(flat[0], out_type=tf.int64)[0]
    serials = self._added + tf.range(count)  # [N]
    slots = serials % self._capacity
    for variable, values in zip(self._storage, flat, strict=True):
      variable.scatter_update(tf.IndexedSlices(values, slots))
    self._held.scatter_update(tf.IndexedSlices(tf.ones_like(slots, tf.bool), slots))
    self._added.assign_add(count)
    return serials

  def sample(self, count: int) -> tuple[Any, tf.Tensor]:
    """Draws elements uniformly, with replacement. The replay must not be empty.

    Args:
      count: The number of draws, K.

    Returns:
      `[K, ...]`, with the structure of `spec`; and their serial numbers, int64 `[K]`.
    """
    held = tf.where(self._held)[:, 0]  # [size]
    drawn = tf.random.uniform([count], maxval=tf.size(held, tf.int64), dtype=tf.int64)
    slots = tf.gather(held, drawn)  # [K]
    elements = [tf.gather(variable, slots) for variable in self._storage]
    newest = self._added - 1
    serials = newest - (newest - slots) % self._capacity
    return tf.nest.pack_sequence_as(self._spec, elements), serials

  @tf.function(input_signature=[tf.TensorSpec([None], tf.int64)], autograph=False)
  def remove(self, serials: tf.Tensor) -> None:
    """Removes elements that must not be drawn again; ignores those that are gone already.

    Args:
      serials: int64 `[N]`, of elements; may repeat.
    """
    # The slots of older ones hold other elements now.
    present = tf.boolean_mask(serials, serials >= self._added - self._capacity)
    slots = present % self._capacity
    self._held.scatter_update(tf.IndexedSlices(tf.zeros_like(slots, tf.bool), slots))
