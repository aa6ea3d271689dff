"""A sum tree in `tf.Variable`s: draws leaves in proportion to their values, in time logarithmic in their number.

            10                     node 1, the total
        7        3                 nodes 2 and 3: each is the sum of the two below it
      4   3    1   2               nodes 4 to 7: the leaves 0 to 3

A draw is a point on the line [0, total), on which every leaf has a stretch as long as its value. From the top, it goes
left if it lies within the left node's sum; else right, less that sum.

After a change every node above is computed anew from the two below it, never corrected by a difference: so each always is
the rounded sum of its two, however many changes there were, and errors do not accumulate.
"""

import tensorflow as tf


class SumTree(tf.Module):
  """Leaves 0 to `size` - 1, all zero at first. Its operations belong into a `tf.function`, one of them at a time."""

  def __init__(self, size: int):
    super().__init__(name='sum_tree')
    self._depth = max(1, (size - 1).bit_length())
    self._first_leaf = 2**self._depth
    with tf.device('/cpu:0'):  # Of float64, so that a small value counts beside a large sum.
      self._nodes = tf.Variable(tf.zeros([2 * self._first_leaf], tf.float64), trainable=False)

  @staticmethod
  def size_in_bytes(size: int) -> int:
    """What a tree of so many leaves takes."""
    return 16 * 2**max(1, (size - 1).bit_length())

  def total(self) -> tf.Tensor:
    """The sum of all leaves, float64 `[]`."""
    return tf.gather(self._nodes, 1)  # Not `[1]`, which would copy all nodes first.

  def get(self, leaves: tf.Tensor) -> tf.Tensor:
    """The values of leaves int64 `[K]`, float64 `[K]`."""
    return tf.gather(self._nodes, leaves + self._first_leaf)

  def set(self, leaves: tf.Tensor, values: tf.Tensor) -> None:
    """Gives leaves int64 `[K]` values float64 `[K]`, at least 0. Of a leaf that is named twice, one value stays."""
    nodes = leaves + self._first_leaf
    self._write(nodes, values)
    for _ in range(self._depth):
      nodes //= 2
      self._write(nodes, tf.gather(self._nodes, 2 * nodes) + tf.gather(self._nodes, 2 * nodes + 1))

  def find(self, points: tf.Tensor) -> tf.Tensor:
    """The leaves int64 `[K]` at points float64 `[K]` in [0, total); never one whose value is zero if the total is not.
    """
    nodes = tf.ones_like(points, tf.int64)
    for _ in range(self._depth):
      nodes *= 2
      left, right = tf.gather(self._nodes, nodes), tf.gather(self._nodes, nodes + 1)
      # Where rounding has moved a point beyond its sum, there may be nothing on the right.
      goes_right = tf.logical_and(points >= left, right > 0.0)
      points = tf.where(goes_right, points - left, points)
      nodes += tf.cast(goes_right, tf.int64)
    return nodes - self._first_leaf

  def _write(self, nodes: tf.Tensor, values: tf.Tensor) -> None:
    self._nodes.scatter_update(tf.IndexedSlices(values, nodes))
