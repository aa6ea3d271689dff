"""The paper's two evictions: oldest first (Ape-X, appendix C), and by priority (appendix D)."""

import math
from typing import ClassVar, Protocol

import tensorflow as tf

from common.replay import sum_tree


class Eviction(Protocol):
  """Decides which blocks leave a full replay, and which slots new blocks get.

  A `tf.Module` with state of its own. `prioritized.PrioritizedReplay` calls the methods on tensors
  only in its graphs and while it holds its lock, so that this state always matches the replay's
  contents.
  """

  # Whether blocks added one after the other lie in consecutive slots, modulo `slots`.
  keeps_order: ClassVar[bool]
  # The number of blocks that the replay has room for.
  slots: int

  @classmethod
  def num_slots(cls, capacity: int, length: int) -> int:
    """The number of slots for a capacity.

    Args:
      capacity: Transitions.
      length: Transitions per block.
    """

  @staticmethod
  def size_in_bytes(slots: int) -> int:
    """Bytes that the eviction's own state takes."""

  def make_room(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Assigns slots to new blocks, and evicts the blocks in their way.

    Args:
      count: int64 `[]`, the number of new blocks M, at most `slots`.

    Returns:
      The slots of the evicted blocks, int64 `[L]`, L <= M; and the slots for the new blocks, int64
      `[M]`, all different.
    """

  def set_priorities(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
    """Records the priorities of transitions.

    Args:
      slots: int64 `[K]`, the slot of each transition's block; may repeat.
      priorities: float64 `[K]`, positive.
    """

  def priorities(self, slots: tf.Tensor) -> tf.Tensor:
    """The priorities as recorded, float64 `[K]`, of slots int64 `[K]`; 1 if they are not needed."""

  def remove_excess(self, counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Evicts blocks until no more than the capacity is held.

    Args:
      counts: int64 `[slots]`, the number of transitions in every slot.
      size: int64 `[]`, the number of transitions held.

    Returns:
      The slots of the evicted blocks, int64 `[L]`.
    """


class OldestFirst(tf.Module):
  """First in, first out, with the soft capacity of appendix C.

  Adds are accepted beyond the capacity, and `remove_excess` is called from time to time. Only
  beyond `_SLACK` does a new block overwrite the oldest one.
  """

  keeps_order: ClassVar[bool] = True
  _SLACK = 0.03  # In the paper, the median size was 1.8% above the capacity.

  def __init__(self, capacity: int, length: int):
    """Starts empty.

    Args:
      capacity: Transitions.
      length: Transitions per block.
    """
    super().__init__(name='oldest_first')
    self._capacity = capacity
    self.slots = self.num_slots(capacity, length)
    with tf.device('/cpu:0'):
      # Serial numbers of blocks: those from `_oldest` up to, but not including, `_newest` are held.
      self._oldest = tf.Variable(0, dtype=tf.int64, trainable=False)
      self._newest = tf.Variable(0, dtype=tf.int64, trainable=False)

  @classmethod
  def num_slots(cls, capacity: int, length: int) -> int:
    """See `Eviction`."""
    return math.ceil(capacity * (1 + cls._SLACK) / length) + 1

  @staticmethod
  def size_in_bytes(slots: int) -> int:
    """See `Eviction`: two counters, which do not matter."""
    del slots
    return 0

  def make_room(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """See `Eviction`: the slots are a ring."""
    tf.debugging.assert_rank(count, 0)
    overwritten = tf.maximum(self._newest + count - self.slots - self._oldest, 0)
    leaving = self._evict_oldest(overwritten)
    assigned = (self._newest + tf.range(count)) % self.slots
    self._newest.assign_add(count)
    return leaving, assigned

  def set_priorities(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
    """See `Eviction`: age alone decides."""
    del slots, priorities

  def priorities(self, slots: tf.Tensor) -> tf.Tensor:
    """See `Eviction`: not known here."""
    return tf.ones_like(slots, tf.float64)

  def remove_excess(self, counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """See `Eviction`: whole blocks leave, so a little less than the capacity may be left."""
    tf.debugging.assert_rank(counts, 1)
    held = (self._oldest + tf.range(self._newest - self._oldest)) % self.slots
    # Before each block, from the oldest on: the size if all older ones had left.
    size_before = size - tf.cumsum(tf.gather(counts, held), exclusive=True)
    excess = tf.reduce_sum(tf.cast(size_before > self._capacity, tf.int64))
    return self._evict_oldest(excess)

  def _evict_oldest(self, count: tf.Tensor) -> tf.Tensor:
    leaving = (self._oldest + tf.range(count)) % self.slots
    self._oldest.assign_add(count)
    return leaving


class ByPriority(tf.Module):
  """Proportional prioritized eviction (appendix D): low priorities leave first.

  Transition k leaves with probability p_k^alpha / sum_j p_j^alpha, alpha < 0.

  The capacity is fixed. Blocks hold one transition each, so that every transition can leave alone.
  The p_k^alpha have a sum tree of their own, over the same slots as the tree that samples are drawn
  from.
  """

  keeps_order: ClassVar[bool] = False

  def __init__(self, capacity: int, alpha: float):
    """Starts empty.

    Args:
      capacity: Transitions.
      alpha: The paper's alpha_evict. Negative, so that low priorities leave first; 0 evicts
        uniformly.
    """
    super().__init__(name='by_priority')
    self.slots = capacity
    self._alpha = alpha
    self._tree = sum_tree.SumTree(capacity)
    with tf.device('/cpu:0'):
      self._filled = tf.Variable(0, dtype=tf.int64, trainable=False)  # Slots 0 to `_filled` - 1.

  @classmethod
  def num_slots(cls, capacity: int, length: int) -> int:
    """See `Eviction`."""
    del length
    return capacity

  @staticmethod
  def size_in_bytes(slots: int) -> int:
    """See `Eviction`."""
    return sum_tree.SumTree.size_in_bytes(slots)

  def make_room(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """See `Eviction`: each evicted block's slot goes to a new one, once no slot is unused."""
    tf.debugging.assert_rank(count, 0)
    free = tf.minimum(self.slots - self._filled, count)
    unused = self._filled + tf.range(free)
    self._filled.assign_add(free)
    leaving = self._draw(count - free)
    return leaving, tf.concat([unused, leaving], axis=0)

  def set_priorities(self, slots: tf.Tensor, priorities: tf.Tensor) -> None:
    """See `Eviction`."""
    self._tree.set(slots, priorities**self._alpha)

  def priorities(self, slots: tf.Tensor) -> tf.Tensor:
    """See `Eviction`; 0 for slots that were never filled."""
    values = self._tree.get(slots)
    if not self._alpha:
      return values
    # With a negative exponent, an unfilled slot's 0 would become infinity.
    return tf.where(values > 0.0, values ** (1 / self._alpha), 0.0)

  def remove_excess(self, counts: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """See `Eviction`: never more than the capacity is held."""
    del counts, size
    return tf.zeros([0], tf.int64)

  def _draw(self, count: tf.Tensor) -> tf.Tensor:
    """Draws `count` different slots by the formula, as if one after the other, without replacement.

    Keeping first occurrences of draws with replacement equals drawing without. So draws are made in
    bulk, and again for those that were repetitions.
    """

    def too_few(drawn: tf.Tensor) -> tf.Tensor:
      return tf.size(drawn, tf.int64) < count

    def draw_more(drawn: tf.Tensor) -> list[tf.Tensor]:
      # These cannot be drawn again. Their new blocks' priorities replace the zeros.
      self._tree.set(drawn, tf.zeros_like(drawn, tf.float64))
      more = self._draw_distinct(count - tf.size(drawn, tf.int64))
      return [tf.concat([drawn, more], axis=0)]

    any_length = [tf.TensorShape([None])]
    (drawn,) = tf.while_loop(too_few, draw_more, [self._draw_distinct(count)], any_length)
    return drawn

  def _draw_distinct(self, count: tf.Tensor) -> tf.Tensor:
    """The first occurrences among `count` draws with replacement, int64 `[L]`, L <= count."""
    points = tf.random.uniform([count], dtype=tf.float64) * self._tree.total()
    return tf.unique(self._tree.find(points))[0]
