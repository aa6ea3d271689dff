"""Who leaves a full replay, and in which slots new blocks are put: the two ways of the paper (Ape-X, appendices C, D).

Both work within the graphs of `common.replay.prioritized`, which hold its lock: what is held, and how it is weighed
here, change together.
"""

import math

import tensorflow as tf

from common.replay import sum_tree


class OldestFirst(tf.Module):
  """First in, first out. The capacity is soft: `excess` is removed at times; only `_SLACK` beyond it room runs out."""

  _SLACK = 0.03  # In the paper the median size was 1.8% beyond the capacity.

  def __init__(self, capacity: int, length: int):
    """`capacity`: in transitions, of which each block has `length`."""
    super().__init__(name='oldest_first')
    self._capacity, self.slots = capacity, self.num_slots(capacity, length)
    with tf.device('/cpu:0'):
      counter = lambda: tf.Variable(0, dtype=tf.int64, trainable=False)
      # Blocks are numbered as they come; those from `_oldest` up to `_newest`, without it, are held.
      self._oldest, self._newest = counter(), counter()

  @classmethod
  def num_slots(cls, capacity: int, length: int) -> int:
    """Blocks that there is room for."""
    return math.ceil(capacity * (1 + cls._SLACK) / length) + 1

  @staticmethod
  def size_in_bytes(slots: int) -> int:
    """What this takes beside the replay itself."""
    del slots
    return 0

  def make_room(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """For `count` new blocks: the slots of those that leave, int64 `[L]`, and all slots to put them in, `[count]`."""
    leaving = self._leave(tf.maximum(self._newest + count - self.slots - self._oldest, 0))
    placed = (self._newest + tf.range(count)) % self.slots
    self._newest.assign_add(count)
    return leaving, placed

  def weigh(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
    """Takes note of the priorities float64 `[K]` of transitions in slots `[K]`: they do not matter here."""

  def priorities(self, slots: tf.Tensor) -> tf.Tensor:
    """What is known here of the priorities in slots `[K]`, float64: nothing, they are 1."""
    return tf.ones_like(slots, tf.float64)

  def excess(self, counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """The slots of the oldest blocks without which no more than the capacity is held.

    Args:
      counts: the number of transitions in every slot.
      size: of transitions held.
    """
    held = (self._oldest + tf.range(self._newest - self._oldest)) % self.slots
    left = size - tf.cumsum(tf.gather(counts, held), exclusive=True)
    return self._leave(tf.reduce_sum(tf.cast(left > self._capacity, tf.int64)))

  def _leave(self, count: tf.Tensor) -> tf.Tensor:
    leaving = (self._oldest + tf.range(count)) % self.slots
    self._oldest.assign_add(count)
    return leaving


class ByPriority(tf.Module):
  """Proportional prioritized eviction: item k leaves with probability p_k^alpha / sum p^alpha, alpha < 0 (appendix D).

  The capacity is fixed. A block is one transition: only so can any of them leave alone. The probabilities have a sum
  tree of their own, over the same slots as the one that samples are drawn by.
  """

  def __init__(self, capacity: int, alpha: float):
    super().__init__(name='by_priority')
    self.slots, self._alpha = capacity, alpha
    self._tree = sum_tree.SumTree(capacity)
    with tf.device('/cpu:0'):
      self._filled = tf.Variable(0, dtype=tf.int64, trainable=False)

  @staticmethod
  def num_slots(capacity: int, length: int) -> int:
    del length
    return capacity

  @staticmethod
  def size_in_bytes(slots: int) -> int:
    return sum_tree.SumTree.size_in_bytes(slots)

  def make_room(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """As `OldestFirst.make_room`: whoever leaves does so for one that takes its place."""
    free = tf.minimum(self.slots - self._filled, count)
    unused = self._filled + tf.range(free)
    self._filled.assign_add(free)
    leaving = self._draw(count - free)
    return leaving, tf.concat([unused, leaving], axis=0)

  def weigh(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
    self._tree.set(slots, priorities**self._alpha)

  def priorities(self, slots: tf.Tensor) -> tf.Tensor:
    values = self._tree.get(slots)
    return tf.where(values > 0.0, values ** (1 / self._alpha), 0.0) if self._alpha else values

  def excess(self, counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """None: there never is."""
    del counts, size
    return tf.zeros([0], tf.int64)

  def _draw(self, count: tf.Tensor) -> tf.Tensor:
    """Draws `count` different slots, one after the other, without replacement.

    Draws with replacement, of which each slot's first counts, are draws without: so they are made in bulk. If any is
    lacking then, those that were drawn weigh nothing from there on (they are about to be weighed anew), and it is drawn
    from the others.
    """
    drawn = self._distinct(count)
    while tf.shape(drawn, out_type=tf.int64)[0] < count:
      tf.autograph.experimental.set_loop_options(shape_invariants=[(drawn, tf.TensorShape([None]))])
      self._tree.set(drawn, tf.zeros_like(drawn, tf.float64))
      drawn = tf.concat(
        [drawn, self._distinct(count - tf.shape(drawn, out_type=tf.int64)[0])], axis=0
      )
    return drawn

  def _distinct(self, count: tf.Tensor) -> tf.Tensor:
    """Up to `count` different slots: those of as many draws with replacement."""
    return tf.unique(
      self._tree.find(tf.random.uniform([count], dtype=tf.float64) * self._tree.total())
    )[0]
