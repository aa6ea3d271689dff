"""A sum tree in `tf.Variable`s: draws leaves in proportion to their values, in time logarithmic in their number.

        10                         the total
     7   |   3                     each number is the sum of the row below it
    4 3  |  1 2                    the leaves 0 to 3

Here with rows of two; really they have `_WIDTH`, so that few levels, thus few operations, lead from the top to a leaf.

A draw is a point on the line [0, total), on which every leaf has a stretch as long as its value. From the top, it goes
to that number of a row within which it lies, less the numbers before it.

After a change every sum above is computed anew from its row, never corrected by a difference: so each always is the
rounded sum of its row, however many changes there were, and errors do not accumulate.
"""

import numpy as np
import tensorflow as tf

_WIDTH = 16
_BEFORE = np.triu(
  np.ones([_WIDTH, _WIDTH]), 1
)  # A row times this: for each number, the sum of those before it.


def _rows(size: int) -> list[int]:
  """How many rows each level has, from the leaves up to a single one."""
  rows = [-(-size // _WIDTH)]
  while rows[-1] > 1:
    rows.append(-(-rows[-1] // _WIDTH))
  return rows


class SumTree(tf.Module):
  """Leaves 0 to `size` - 1, all zero at first. Its operations belong into a `tf.function`, one of them at a time."""

  def __init__(self, size: int):
    super().__init__(name='sum_tree')
    with tf.device('/cpu:0'):  # Of float64, so that a small value counts beside a large sum.
      self.levels = [
        tf.Variable(tf.zeros([rows, _WIDTH], tf.float64), trainable=False) for rows in _rows(size)
      ]

  @staticmethod
  def size_in_bytes(size: int) -> int:
    """What a tree of so many leaves takes."""
    return 8 * _WIDTH * sum(_rows(size))

  def total(self) -> tf.Tensor:
    """The sum of all leaves, float64 `[]`."""
    return tf.reduce_sum(self.levels[-1])

  def get(self, leaves: tf.Tensor) -> tf.Tensor:
    """The values of leaves int64 `[K]`, float64 `[K]`."""
    return tf.gather_nd(self.levels[0], _place(leaves))

  def set(self, leaves: tf.Tensor, values: tf.Tensor) -> None:
    """Gives leaves int64 `[K]` values float64 `[K]`, at least 0. Of a leaf that is named twice, one value stays."""
    for level in self.levels:
      level.scatter_nd_update(_place(leaves), values)
      leaves //= _WIDTH
      values = tf.reduce_sum(tf.gather(level, leaves), axis=1)

  def find(self, points: tf.Tensor) -> tf.Tensor:
    """The leaves int64 `[K]` at points float64 `[K]` in [0, total); never one whose value is zero if the total is not."""
    found = tf.zeros_like(points, tf.int64)
    for level in reversed(self.levels):
      row = tf.gather(level, found)
      before = tf.matmul(row, _BEFORE)
      number = (
        tf.searchsorted(before, points[:, tf.newaxis], side='right', out_type=tf.int64)[:, 0] - 1
      )
      # Where rounding has moved a point out of its row, or onto a zero at the row's end, its largest number has it.
      number = tf.where(
        tf.gather(row, tf.maximum(number, 0), batch_dims=1) > 0.0, number, tf.argmax(row, axis=1)
      )
      points -= tf.gather(before, number, batch_dims=1)
      found = found * _WIDTH + number
    return found


def _place(numbers: tf.Tensor) -> tf.Tensor:
  """Rows and columns `[K, 2]`."""
  return tf.stack([numbers // _WIDTH, numbers % _WIDTH], axis=1)
