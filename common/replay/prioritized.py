"""Proportional prioritized replay of n-step transitions (Ape-X, section 3; Schaul et al. 2015).

Transitions arrive and are stored in blocks of B consecutive ones of one environment, so that every
observation is stored once. Sampling draws single transitions and reads only the entries that each
needs.

Three parts work together under one lock: `storage` holds the blocks, a `sum_tree` the distribution
that samples are drawn from, and an `eviction` decides which blocks leave.
"""

import threading
from typing import Any

import numpy as np
import tensorflow as tf

from common.replay import eviction, graphs, storage, structures, sum_tree

# Priorities are clipped to this range. A TD error of zero must not keep a transition from ever
# being drawn again. Beside one of 1e30, no other would be drawn, and sums would not be exact.
MIN_PRIORITY = 1e-6
MAX_PRIORITY = 1e9


class PrioritizedReplay(tf.Module):
  """Blocks in slots on the CPU, and a sum tree over their transitions. Thread-safe.

  The operating system commits memory as slots fill. Adds are always accepted; the eviction decides
  which blocks they replace.
  """

  def __init__(
    self,
    spec: structures.TransitionBlock,
    capacity: int,
    stack: int,
    alpha: float,
    beta: float,
    stratified: bool,
    alpha_evict: float | None = None,
  ):
    """Makes an empty replay.

    Args:
      spec: `tf.TensorSpec`s of one block.
      capacity: Transitions.
      stack: Frames per observation; 1 where they are not stacked.
      alpha: The exponent of P(k) = p_k^alpha / sum_j p_j^alpha; 0 draws uniformly.
      beta: The exponent of the importance weights.
      stratified: Whether the K draws come from K equal parts of the total, or are independent.
      alpha_evict: The exponent of eviction by priority, which needs blocks of one transition. None
        evicts the oldest blocks first.

    Raises:
      ValueError: If `alpha_evict` is given and blocks hold more than one transition.
    """
    super().__init__(name='prioritized_replay')
    self.spec = spec
    self._alpha = alpha
    self._beta = beta
    self._stratified = stratified
    self._eviction = _make_eviction(capacity, spec.priority.shape[0], alpha_evict)
    # Whether blocks added one after the other lie in consecutive slots.
    self.keeps_order = self._eviction.keeps_order
    self.slots = self._eviction.slots
    # What it takes when it is full.
    self.bytes = self.size_in_bytes(spec, capacity, alpha_evict)

    self._lock = threading.Lock()
    self._call = graphs.Graphs().call
    self._storage = storage.BlockStorage(spec, self.slots, stack)
    self._tree = sum_tree.SumTree(self.slots * self._storage.length)
    with tf.device('/cpu:0'):
      self._added = tf.Variable(0, dtype=tf.int64, trainable=False)  # Blocks so far.
      self._size = tf.Variable(0, dtype=tf.int64, trainable=False)  # Transitions now.

  @staticmethod
  def size_in_bytes(
    spec: structures.TransitionBlock, capacity: int, alpha_evict: float | None = None
  ) -> int:
    """Bytes that a full replay takes. For the arguments, see the constructor."""
    length = spec.priority.shape[0]
    kind = _eviction_class(alpha_evict)
    slots = kind.num_slots(capacity, length)
    return (
      storage.BlockStorage.size_in_bytes(spec, slots)
      + kind.size_in_bytes(slots)
      + sum_tree.SumTree.size_in_bytes(slots * length)
    )

  def size(self) -> int:
    """The number of transitions that can be drawn."""
    return int(self._size)

  def add(self, blocks: structures.TransitionBlock, origins: np.ndarray | None = None) -> int:
    """Adds blocks `[M, ...]`; where no room is left, they replace others.

    Args:
      blocks: M blocks.
      origins: int32 `[M]`, numbers that say where they come from, for `origins`.

    Returns:
      The number of valid transitions in them.

    Raises:
      structures.RefusedBlock: If a number is NaN or infinite, or a priority negative. Nothing is
        added then.
      ValueError: If there are more blocks than slots.
    """
    count = len(blocks.priority)
    if count > self.slots:
      raise ValueError(f'{count} blocks at once, expected at most {self.slots}')
    # Before the lock is taken: other threads need not wait for this.
    bad = structures.refused(blocks)
    if bad.any():
      raise structures.RefusedBlock(
        f'a block with priorities {np.asarray(blocks.priority)[bad][0]}: expected finite numbers, '
        'and priorities of at least 0'
      )
    if origins is None:
      origins = np.full(count, storage.UNKNOWN, np.int32)
    with self._lock:
      return int(self._call(self._add, blocks, origins))

  def sample(self, count: int) -> structures.Sample:
    """Draws `count` transitions with replacement. The replay must not be empty."""
    with self._lock:
      return self._call(self._sample, tf.constant(count))

  def update_and_sample(
    self, changed: structures.Priorities, count: int
  ) -> tuple[int, structures.Sample]:
    """`update_priorities` and then `sample`, in one call, which costs less than two.

    Of transitions that come twice, either priority counts.
    """
    with self._lock:
      late, sample = self._call(self._update_and_sample, changed, tf.constant(count))
    return int(late), sample

  def update_priorities(self, leaf: tf.Tensor, stamp: tf.Tensor, priority: tf.Tensor) -> int:
    """Gives sampled transitions new priorities. Skips those that have left the replay.

    Args:
      leaf: int64 `[K]`, from a sample.
      stamp: int64 `[K]`, from the same sample.
      priority: float32 `[K]`, finite.

    Returns:
      How many of the transitions had left.
    """
    with self._lock:
      return int(self._call(self._update_priorities, leaf, stamp, priority))

  def origins(self, leaf: tf.Tensor, stamp: tf.Tensor) -> np.ndarray:
    """Where transitions come from, int32 `[K]`; `storage.UNKNOWN` for those that have left.

    Args:
      leaf: int64 `[K]`, from a sample.
      stamp: int64 `[K]`, from the same sample.
    """
    with self._lock:
      return self._call(self._origins, leaf, stamp).numpy()

  def remove(self, leaf: tf.Tensor, stamp: tf.Tensor) -> int:
    """Removes transitions, which are not drawn again. Skips those that have left already.

    Args:
      leaf: int64 `[K]`, from a sample; may repeat.
      stamp: int64 `[K]`, from the same sample.

    Returns:
      The number of transitions removed.
    """
    with self._lock:
      return int(self._call(self._remove, leaf, stamp))

  def remove_to_fit(self) -> int:
    """Evicts blocks until at most `capacity` transitions are held.

    Returns:
      The number of transitions evicted.
    """
    with self._lock:
      return int(self._call(self._remove_to_fit))

  def stamps(self) -> np.ndarray:
    """The serial number of the block in every slot, int64 `[slots]`; -1 for empty slots."""
    with self._lock:
      return self._call(self._read_stamps).numpy()

  def read(self, slots: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Reads blocks.

    Args:
      slots: int `[M]`.

    Returns:
      Their stamps, int64 `[M]`; and by name the fields of `structures.TransitionBlock` but
      `priority`, `[M, ...]`.
    """
    with self._lock:
      stamps, parts = self._call(self._read, tf.constant(slots, tf.int64))
    return stamps.numpy(), tf.nest.map_structure(lambda part: part.numpy(), parts)

  def priorities(self) -> tuple[np.ndarray, np.ndarray]:
    """Reads all priorities.

    Returns:
      The stamps as from `stamps`, int64 `[slots]`; and the priorities, float32 `[slots, B]`, which
      are 1 where nothing uses them, and 0 where there is no transition.
    """
    with self._lock:
      stamps, priorities = self._call(self._read_priorities)
    return stamps.numpy(), priorities.numpy()

  def sample_spec(self, count: int) -> structures.Sample:
    """The `tf.TensorSpec`s of a sample of `count` transitions."""
    # Drawing no transitions works on an empty replay, and its tensors have the right shapes.
    return tf.nest.map_structure(
      lambda x: tf.TensorSpec([count, *x.shape[1:]], x.dtype), self.sample(0)
    )

  def warm_up(self) -> None:
    """Traces and optimises the graphs that training uses. Also removes to fit."""
    self.add(tf.nest.map_structure(lambda s: tf.zeros([0, *s.shape], s.dtype), self.spec))
    sample = self.sample(0)
    changed = structures.Priorities(sample.leaf, sample.stamp, sample.weight)
    self.update_priorities(*changed)
    self.update_and_sample(changed, 0)
    self.origins(sample.leaf, sample.stamp)
    self.remove(sample.leaf, sample.stamp)
    self.remove_to_fit()

  def _add(self, blocks: structures.TransitionBlock, origins: tf.Tensor) -> tf.Tensor:
    tf.debugging.assert_type(blocks.priority, tf.float32)
    tf.debugging.assert_rank(blocks.priority, 2)
    count = tf.shape(blocks.priority, out_type=tf.int64)[0]
    # The leaves of evicted blocks need no clearing: new blocks get their slots at once.
    leaving, slots = self._eviction.make_room(count)
    self._size.assign_sub(tf.reduce_sum(tf.gather(self._storage.counts, leaving)))

    counts = tf.reduce_sum(tf.cast(blocks.valid, tf.int64), axis=1)  # [M]
    stamps = self._added + tf.range(count)
    self._storage.write(slots, blocks, counts, stamps, origins)
    leaves = self._storage.leaves(slots)  # [M * B]
    self._set_priorities(leaves, storage.flatten(blocks.priority), storage.flatten(blocks.valid))

    added = tf.reduce_sum(counts)
    self._added.assign_add(count)
    self._size.assign_add(added)
    return added

  def _origins(self, leaf: tf.Tensor, stamp: tf.Tensor) -> tf.Tensor:
    origins = tf.gather(self._storage.origins, leaf // self._storage.length)
    return tf.where(self._storage.holds(leaf, stamp), origins, storage.UNKNOWN)

  def _remove(self, leaf: tf.Tensor, stamp: tf.Tensor) -> tf.Tensor:
    held = tf.boolean_mask(leaf, self._storage.holds(leaf, stamp))
    leaves = tf.unique(held)[0]  # [L]
    self._storage.remove(leaves)
    self._tree.set(leaves, tf.zeros_like(leaves, tf.float64))
    # By priority, what is left of their blocks is the next to leave.
    lowest = tf.fill(tf.shape(leaves), tf.constant(MIN_PRIORITY, tf.float64))
    self._eviction.set_priorities(leaves // self._storage.length, lowest)
    removed = tf.size(leaves, tf.int64)
    self._size.assign_sub(removed)
    return removed

  def _remove_to_fit(self) -> tf.Tensor:
    slots = self._eviction.remove_excess(self._storage.counts, self._size)
    leaves = self._storage.leaves(slots)
    self._tree.set(leaves, tf.zeros_like(leaves, tf.float64))
    self._storage.clear(slots)
    removed = tf.reduce_sum(tf.gather(self._storage.counts, slots))
    self._size.assign_sub(removed)
    return removed

  def _update_and_sample(
    self, changed: structures.Priorities, count: tf.Tensor
  ) -> tuple[tf.Tensor, structures.Sample]:
    late = self._update_priorities(*changed)
    return late, self._sample(count)

  def _sample(self, count: tf.Tensor) -> structures.Sample:
    """Draws K transitions. Equations and symbols are those of Schaul et al. 2015."""
    leaf, p_alpha, total = self._draw_leaves(count)
    weight = self._importance_weights(p_alpha / total)
    return self._gather(leaf, p_alpha, weight)

  def _draw_leaves(self, count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Draws leaves with probability P(k) = p_k^alpha / sum_j p_j^alpha (equation 1).

    Args:
      count: int32 `[]`, K.

    Returns:
      The leaves, int64 `[K]`; their p_k^alpha, float64 `[K]`; and the sum over all, float64 `[]`.
    """
    total = self._tree.total()
    points = tf.random.uniform([count], dtype=tf.float64)  # [K], in [0, 1).
    if self._stratified:
      # One point in each of K equal parts of the line (appendix B.2.1).
      parts = tf.range(tf.cast(count, tf.float64), dtype=tf.float64)
      points = (points + parts) / tf.cast(count, tf.float64)
    leaf = self._tree.find(points * total)
    return leaf, self._tree.get(leaf), total

  def _importance_weights(self, probability: tf.Tensor) -> tf.Tensor:
    """Corrects the bias of drawing by priority: w_k = (N P(k))^-beta / max_j w_j (section 3.4).

    Args:
      probability: float64 `[K]`, P(k) of each draw. N is the replay's size.

    Returns:
      float32 `[K]`. Dividing by the batch's largest weight lets them only ever scale updates down.
    """
    weight = (tf.cast(self._size, tf.float64) * probability) ** -self._beta
    return tf.cast(weight / tf.reduce_max(weight), tf.float32)

  def _gather(self, leaf: tf.Tensor, p_alpha: tf.Tensor, weight: tf.Tensor) -> structures.Sample:
    """Reads the transitions at leaves.

    Args:
      leaf: int64 `[K]`.
      p_alpha: float64 `[K]`, the leaves' values in the tree.
      weight: float32 `[K]`, the importance weights.
    """
    stamp = tf.gather(self._storage.stamps, leaf // self._storage.length)
    return structures.Sample(
      leaf=leaf,
      stamp=stamp,
      weight=weight,
      priority=self._inverse_power(p_alpha),
      age=(self._added - 1 - stamp) * self._storage.length,
      **self._storage.read_transitions(leaf),
    )

  def _update_priorities(self, leaf: tf.Tensor, stamp: tf.Tensor, priority: tf.Tensor) -> tf.Tensor:
    tf.debugging.assert_rank(leaf, 1)
    tf.debugging.assert_rank(stamp, 1)
    tf.debugging.assert_rank(priority, 1)
    tf.debugging.assert_type(priority, tf.float32)
    held = self._storage.holds(leaf, stamp)
    leaves = tf.boolean_mask(leaf, held)  # [L], L <= K
    valid = tf.ones_like(leaves, tf.bool)
    self._set_priorities(leaves, tf.boolean_mask(priority, held), valid)
    return tf.reduce_sum(tf.cast(tf.logical_not(held), tf.int32))

  def _set_priorities(self, leaves: tf.Tensor, priority: tf.Tensor, valid: tf.Tensor) -> None:
    """Updates the distributions of sampling and of eviction.

    Args:
      leaves: int64 `[K]`.
      priority: float32 `[K]`, the new priorities.
      valid: bool `[K]`. Leaves without a transition are never drawn.
    """
    priority = tf.clip_by_value(tf.cast(priority, tf.float64), MIN_PRIORITY, MAX_PRIORITY)
    self._tree.set(leaves, tf.where(valid, priority**self._alpha, tf.zeros([], tf.float64)))
    self._eviction.set_priorities(leaves // self._storage.length, priority)

  def _inverse_power(self, p_alpha: tf.Tensor) -> tf.Tensor:
    """The priorities p, float32, from p^alpha as in the tree; 1 for transitions if alpha is 0."""
    return tf.cast(p_alpha ** (1 / self._alpha) if self._alpha else p_alpha, tf.float32)

  def _read_stamps(self) -> tf.Tensor:
    return tf.identity(self._storage.stamps)

  def _read(self, slots: tf.Tensor) -> tuple[tf.Tensor, dict[str, Any]]:
    return tf.gather(self._storage.stamps, slots), self._storage.read_blocks(slots)

  def _read_priorities(self) -> tuple[tf.Tensor, tf.Tensor]:
    length = self._storage.length
    leaves = tf.range(self.slots * length, dtype=tf.int64)
    if self._alpha:
      priorities = self._inverse_power(self._tree.get(leaves))
    else:
      # A uniform sampling tree does not know the priorities, but the eviction may.
      priorities = tf.cast(self._eviction.priorities(leaves // length), tf.float32)
      priorities = tf.where(self._storage.valid(leaves), priorities, 0.0)
    return self._read_stamps(), tf.reshape(priorities, [self.slots, length])


def _eviction_class(alpha_evict: float | None) -> type[eviction.Eviction]:
  return eviction.OldestFirst if alpha_evict is None else eviction.ByPriority


def _make_eviction(capacity: int, length: int, alpha_evict: float | None) -> eviction.Eviction:
  """Makes the eviction for blocks of `length` transitions; see the constructor."""
  if alpha_evict is None:
    return eviction.OldestFirst(capacity, length)
  if length != 1:
    raise ValueError(
      f'blocks of {length} transitions, expected 1: with alpha_evict, transitions leave one by one'
    )
  return eviction.ByPriority(capacity, alpha_evict)
