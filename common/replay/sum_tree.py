"""A sum tree in `tf.Variable`s: draws leaves in proportion to their values in O(log n).

A draw is a point on the line [0, total), on which each leaf owns a stretch as long as its value.
With rows of two numbers:

         10              the total
     7    |    3         each number is the sum of one row of the level below
   4   3  |  1   2       the leaves 0 to 3

`find(7.5)` starts at the top row, (7, 3). The point lies in its second number, 0.5 beyond the first
one's end; in that number's row, (1, 2), the point 0.5 lies in the first: leaf 2.

Rows really have `_WIDTH` = 16 numbers, so that few levels, thus few operations, lead from the top
to a leaf. A level is a matrix of rows. Its number i is in row i // 16 at column i % 16, and is the
sum of row i of the level below. Unused numbers are 0. A tree of 600 leaves:

  levels[2]  [1, 16]    | s0  s1  s2   0 ... 0 |
                          |   |   |_______________
                          |   |_______            |
                          |           |           |
  levels[1]  [3, 16]    | s0 ... s15 | s16 ... s31 | s32 ... s37  0 ... 0 |
                          |       |                            |
                          |       |________                    |__________
                          |                |                              |
  levels[0]  [38, 16]   | v0 ... v15 | ... | v240 ... v255 | ... | v592 ... v599  0 ... 0 |

A change recomputes every sum above it from its whole row and never adds differences. So each sum is
always the rounded sum of its row, and errors do not accumulate over any number of changes.
"""

import numpy as np
import tensorflow as tf

_WIDTH = 16
# `rows @ _BEFORE` is the exclusive cumulative sum of each row.
_BEFORE = np.triu(np.ones([_WIDTH, _WIDTH]), 1)


def _rows(size: int) -> list[int]:
  """The number of rows of each level, from the leaves up to a single row."""
  rows = [-(-size // _WIDTH)]  # Rounded up.
  while rows[-1] > 1:
    rows.append(-(-rows[-1] // _WIDTH))
  return rows


class SumTree(tf.Module):
  """Leaves 0 to `size` - 1, initially 0. Not thread-safe; call its methods in a `tf.function`."""

  def __init__(self, size: int):
    super().__init__(name='sum_tree')
    with tf.device('/cpu:0'):
      # In float64, a small value still counts beside a large sum.
      self.levels = [
        tf.Variable(tf.zeros([rows, _WIDTH], tf.float64), trainable=False) for rows in _rows(size)
      ]

  @staticmethod
  def size_in_bytes(size: int) -> int:
    """Bytes that a tree of `size` leaves takes."""
    return 8 * _WIDTH * sum(_rows(size))

  def total(self) -> tf.Tensor:
    """The sum of all leaves, float64 `[]`."""
    return tf.reduce_sum(self.levels[-1])

  def get(self, leaves: tf.Tensor) -> tf.Tensor:
    """The values of leaves.

    Args:
      leaves: int64 `[K]`.

    Returns:
      float64 `[K]`.
    """
    tf.debugging.assert_rank(leaves, 1)
    return tf.gather_nd(self.levels[0], _row_and_column(leaves))

  def set(self, leaves: tf.Tensor, values: tf.Tensor) -> None:
    """Changes the values of leaves.

    Args:
      leaves: int64 `[K]`. If a leaf is repeated, it gets one of its values.
      values: float64 `[K]`, at least 0.
    """
    tf.debugging.assert_rank(leaves, 1)
    tf.debugging.assert_rank(values, 1)
    for level in self.levels:
      level.scatter_nd_update(_row_and_column(leaves), values)
      # Row i of this level is summed by number i of the next.
      leaves //= _WIDTH
      values = tf.reduce_sum(tf.gather(level, leaves), axis=1)

  def find(self, points: tf.Tensor) -> tf.Tensor:
    """The leaves whose stretches contain the points.

    Args:
      points: float64 `[K]`, in [0, total).

    Returns:
      int64 `[K]`; never a leaf of value 0, unless the total is 0.
    """
    tf.debugging.assert_rank(points, 1)
    found = tf.zeros_like(points, tf.int64)  # [K]: a row of each level, from the top down.
    for level in reversed(self.levels):
      row = tf.gather(level, found)  # [K, 16]
      before = tf.matmul(row, _BEFORE)  # [K, 16]
      # The last number that starts at or before the point.
      column = tf.searchsorted(before, points[:, tf.newaxis], side='right', out_type=tf.int64)
      column = column[:, 0] - 1  # [K]

      # Rounding may move a point out of its row, or onto a 0 at the row's end. The row's largest
      # number is never 0 on the way down, so it stands in.
      chosen = tf.gather(row, tf.maximum(column, 0), batch_dims=1)
      column = tf.where(chosen > 0.0, column, tf.argmax(row, axis=1))

      points -= tf.gather(before, column, batch_dims=1)
      found = found * _WIDTH + column
    return found


def _row_and_column(numbers: tf.Tensor) -> tf.Tensor:
  """Where numbers `[K]` are in their level, `[K, 2]`."""
  return tf.stack([numbers // _WIDTH, numbers % _WIDTH], axis=1)
