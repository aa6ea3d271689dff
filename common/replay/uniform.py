"""Uniform replay of structures of tensors, first in, first out (IMPALA, section 5.2.2)."""

from typing import Any

import tensorflow as tf


class UniformReplay(tf.Module):
  """A ring of `capacity` elements in `tf.Variable`s, on the CPU; its operations belong into a `tf.function`."""

  def __init__(self, spec: Any, capacity: int):
    """`spec`: nested `tf.TensorSpec`s of one element."""
    super().__init__(name='uniform_replay')
    self._spec, self._capacity = spec, capacity
    with tf.device('/cpu:0'):
      self._storage = [
        tf.Variable(tf.zeros([capacity, *s.shape], s.dtype), trainable=False)
        for s in tf.nest.flatten(spec)
      ]
      self._added = tf.Variable(0, dtype=tf.int64, trainable=False)

  @staticmethod
  def size_in_bytes(spec: Any, capacity: int) -> int:
    """What `capacity` elements take."""
    return capacity * sum(s.shape.num_elements() * s.dtype.size for s in tf.nest.flatten(spec))

  def size(self) -> tf.Tensor:
    """Number of elements held, int64."""
    return tf.minimum(self._added, self._capacity)

  def add(self, elements: Any) -> None:
    """Adds elements `[N, ...]`, in the place of the oldest once it is full."""
    flat = tf.nest.flatten(elements)
    count = tf.shape(flat[0], out_type=tf.int64)[0]
    slots = (self._added + tf.range(count)) % self._capacity
    for variable, values in zip(self._storage, flat, strict=True):
      variable.scatter_update(tf.IndexedSlices(values, slots))
    self._added.assign_add(count)

  def sample(self, count: int) -> Any:
    """`count` elements drawn uniformly with replacement, `[count, ...]`; there must be at least one."""
    slots = tf.random.uniform([count], maxval=self.size(), dtype=tf.int64)
    return tf.nest.pack_sequence_as(
      self._spec, [tf.gather(variable, slots) for variable in self._storage]
    )
