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

  @staticmethod
  def size_in_bytes(spec: Any, capacity: int) -> int:
    """Bytes that `capacity` elements take. For the arguments, see the constructor."""
    return capacity * sum(s.shape.num_elements() * s.dtype.size for s in tf.nest.flatten(spec))

  def size(self) -> tf.Tensor:
    """The number of elements held, int64 `[]`."""
    return tf.minimum(self._added, self._capacity)

  def add(self, elements: Any) -> None:
    """Adds N elements; once the ring is full, they replace the oldest.

    Args:
      elements: `[N, ...]`, with the structure of `spec`.
    """
    # Flattening discards the structure, so another one of as many tensors would go unnoticed.
    tf.nest.assert_same_structure(self._spec, elements)
    flat = tf.nest.flatten(elements)
    count = tf.shape(flat[0], out_type=tf.int64)[0]
    slots = (self._added + tf.range(count)) % self._capacity  # [N]
    for variable, values in zip(self._storage, flat, strict=True):
      variable.scatter_update(tf.IndexedSlices(values, slots))
    self._added.assign_add(count)

  def sample(self, count: int) -> Any:
    """Draws elements uniformly, with replacement. The replay must not be empty.

    Args:
      count: The number of draws, K.

    Returns:
      `[K, ...]`, with the structure of `spec`.
    """
    slots = tf.random.uniform([count], maxval=self.size(), dtype=tf.int64)  # [K]
    drawn = [tf.gather(variable, slots) for variable in self._storage]
    return tf.nest.pack_sequence_as(self._spec, drawn)
