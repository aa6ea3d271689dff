"""Prioritized replay of n-step transitions (Ape-X, sections 2 and 3; Schaul et al. 2015, proportional variant).

Transitions come and are kept in blocks of B consecutive ones of one environment, so that every frame is kept once: a
block's entries are the single frames (or vectors) from the oldest of its first stack to the last state that it
bootstraps from. Sampling draws single transitions, and reads the few entries that each one needs.
"""

import threading

import numpy as np
import tensorflow as tf

from common.replay import eviction, structures, sum_tree

# Priorities are brought into this range. A TD error of zero must not keep a transition from ever being drawn again;
# and beside one of 1e30 no other would be, nor would its sum with theirs be exact.
MIN_PRIORITY, MAX_PRIORITY = 1e-6, 1e9


class PrioritizedReplay(tf.Module):
  """Slots of blocks on the CPU, and a sum tree over their transitions. May be used by several threads at once.

  Memory is taken as it fills. Adds are always accepted; who leaves for them is up to the eviction.
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
      capacity: in transitions.
      stack: frames to an observation; 1 where they are not stacked.
      alpha: P(k) = p_k^alpha / sum p^alpha; 0 draws uniformly.
      beta: importance weights are (N P(k))^-beta, over the largest of the batch: they only ever scale down.
      stratified: whether the K draws come from K equal parts of the total, or are independent.
      alpha_evict: the exponent by which transitions leave a full replay; blocks then hold one each. None: the oldest
        leave first.
    """
    super().__init__(name='prioritized_replay')
    self.spec, self.capacity, self._stack = spec, capacity, stack
    self._alpha, self._beta, self._stratified = alpha, beta, stratified
    self._length, self._entries = spec.priority.shape[0], spec.frame_start.shape[0]
    if alpha_evict is not None and self._length != 1:
      raise ValueError(f'blocks of {self._length} transitions, expected 1: each is to leave alone')
    self._eviction = (
      eviction.OldestFirst(capacity, self._length)
      if alpha_evict is None
      else eviction.ByPriority(capacity, alpha_evict)
    )
    self.keeps_order = alpha_evict is None  # Of slots: blocks that come one after the other lie so.
    self.slots = self._eviction.slots
    self._lock, self._graphs = threading.Lock(), {}
    with tf.device('/cpu:0'):
      empty = lambda count, s: tf.Variable(
        tf.raw_ops.Empty(shape=[count, *s.shape[1:]], dtype=s.dtype), trainable=False
      )
      self._observation = empty(self.slots * self._entries, spec.observation)
      self._frame_start = empty(self.slots * self._entries, spec.frame_start)
      self._per_transition = {
        name: empty(self.slots * self._length, getattr(spec, name))
        for name in ('action', 'n_step_return', 'discount', 'end', 'valid')
      }
      self._tree = sum_tree.SumTree(self.slots * self._length)
      counter = lambda: tf.Variable(0, dtype=tf.int64, trainable=False)
      self._added, self._size = counter(), counter()  # Blocks so far, transitions now.
      # The number of each slot's block, counted as they come, or -1; and how many transitions it has.
      self._stamps = tf.Variable(tf.fill([self.slots], tf.constant(-1, tf.int64)), trainable=False)
      self._counts = tf.Variable(tf.zeros([self.slots], tf.int64), trainable=False)

  @staticmethod
  def size_in_bytes(spec: structures.TransitionBlock, capacity: int, alpha_evict: float | None = None) -> int:
    """What it takes when it is full."""
    way, length = (
      eviction.OldestFirst if alpha_evict is None else eviction.ByPriority,
      spec.priority.shape[0],
    )
    slots = way.num_slots(capacity, length)
    return (
      slots * (16 + structures.block_bytes(spec))
      + way.size_in_bytes(slots)  # A slot has a stamp and a count, too.
      + sum_tree.SumTree.size_in_bytes(slots * length)
    )

  def size(self) -> int:
    """Transitions that can be drawn."""
    return int(self._size)

  def add(self, blocks: structures.TransitionBlock) -> int:
    """Adds blocks `[M, ...]`, over others if there is no room left.

    Returns:
      The number of transitions.

    Raises:
      structures.RefusedBlock: if a number is NaN or infinite, or a priority negative; nothing is added then.
      ValueError: if there are more blocks than there is room for at all.
    """
    if len(blocks.priority) > self.slots:
      raise ValueError(f'{len(blocks.priority)} blocks at once, expected at most {self.slots}')
    bad = structures.refused(blocks)
    if bad.any():
      raise structures.RefusedBlock(
        f'a block with priorities {np.asarray(blocks.priority)[bad][0]}: expected finite numbers, and '
        'priorities of at least 0'
      )
    with self._lock:
      return int(self._call(self._add, blocks))

  def sample(self, count: int) -> structures.Sample:
    """Draws `count` transitions with replacement; there must be at least one."""
    with self._lock:
      return self._call(self._sample, tf.constant(count))

  def update_priorities(self, leaf: tf.Tensor, stamp: tf.Tensor, priority: tf.Tensor) -> int:
    """Gives sampled transitions new priorities: finite float32 `[K]`.

    Returns:
      How many of them are no longer there; for these, nothing is done.
    """
    with self._lock:
      return int(self._call(self._update_priorities, leaf, stamp, priority))

  def remove_to_fit(self) -> int:
    """Takes out blocks until no more than `capacity` transitions are held; returns how many transitions."""
    with self._lock:
      return int(self._call(self._remove_to_fit))

  def stamps(self) -> np.ndarray:
    """The number of the block in every slot, int64 `[slots]`; -1 where none is held."""
    with self._lock:
      return self._call(self._read_stamps).numpy()

  def read(self, slots: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The stamps of the blocks in slots int `[M]`, and by name all that a `TransitionBlock` has but its priorities."""
    with self._lock:
      stamps, parts = self._call(self._read, tf.constant(slots, tf.int64))
    return stamps.numpy(), {name: values.numpy() for name, values in parts.items()}

  def priorities(self) -> tuple[np.ndarray, np.ndarray]:
    """The stamps as from `stamps`, and all priorities float32 `[slots, B]`; 1 where nothing depends on them."""
    with self._lock:
      stamps, priorities = self._call(self._read_priorities)
    return stamps.numpy(), priorities.numpy()

  def sample_spec(self, count: int) -> structures.Sample:
    """The `tf.TensorSpec`s of a sample of so many transitions."""
    return tf.nest.map_structure(
      lambda x: tf.TensorSpec([count, *x.shape[1:]], x.dtype), self.sample(0)
    )

  def warm_up(self) -> None:
    """Traces and optimises all graphs; changes nothing but that it removes to fit."""
    self.add(tf.nest.map_structure(lambda s: tf.zeros([0, *s.shape], s.dtype), self.spec))
    sample = self.sample(0)
    self.update_priorities(sample.leaf, sample.stamp, sample.weight)
    self.remove_to_fit()

  def _call(self, function, *arguments):
    """Calls a method as a graph, for any number of elements."""
    if function.__name__ not in self._graphs:
      signature = tf.nest.map_structure(
        lambda x: tf.TensorSpec([None, *x.shape[1:]] if x.shape.rank else [], x.dtype),
        tf.nest.map_structure(tf.convert_to_tensor, arguments),
      )
      self._graphs[function.__name__] = tf.function(function, input_signature=signature)
    with tf.device('/cpu:0'):
      return self._graphs[function.__name__](*arguments)

  def _weigh(self, leaves: tf.Tensor, priority: tf.Tensor, valid: tf.Tensor) -> None:
    """Brings both distributions up to date for leaves `[K]`; where not `valid`, there is no transition."""
    priority = tf.clip_by_value(tf.cast(priority, tf.float64), MIN_PRIORITY, MAX_PRIORITY)
    self._tree.set(leaves, tf.where(valid, priority**self._alpha, tf.zeros([], tf.float64)))
    self._eviction.weigh(leaves // self._length, priority)

  def _priorities(self, values: tf.Tensor) -> tf.Tensor:
    """Those that values in the tree were made from, float32."""
    return tf.cast(values ** (1 / self._alpha) if self._alpha else values, tf.float32)

  def _rows(self, slots: tf.Tensor, length: int) -> tf.Tensor:
    """The rows of blocks `[M]`, each of `length`; `[M * length]`."""
    return tf.reshape(slots[:, tf.newaxis] * length + tf.range(length, dtype=tf.int64), [-1])

  def _add(self, blocks: structures.TransitionBlock) -> tf.Tensor:
    count = tf.shape(blocks.priority, out_type=tf.int64)[0]
    leaving, slots = self._eviction.make_room(count)
    self._size.assign_sub(tf.reduce_sum(tf.gather(self._counts, leaving)))
    flat = lambda x: tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))
    scatter = lambda variable, rows, x: variable.scatter_update(tf.IndexedSlices(x, rows))
    entries, leaves = self._rows(slots, self._entries), self._rows(slots, self._length)
    scatter(self._observation, entries, flat(blocks.observation))
    scatter(self._frame_start, entries, flat(blocks.frame_start))
    for name, variable in self._per_transition.items():
      scatter(variable, leaves, flat(getattr(blocks, name)))
    self._weigh(leaves, flat(blocks.priority), flat(blocks.valid))
    counts = tf.reduce_sum(tf.cast(blocks.valid, tf.int64), axis=1)
    scatter(self._counts, slots, counts)
    scatter(self._stamps, slots, self._added + tf.range(count))
    added = tf.reduce_sum(counts)
    self._added.assign_add(count)
    self._size.assign_add(added)
    return added

  def _remove_to_fit(self) -> tf.Tensor:
    slots = self._eviction.excess(self._counts, self._size)
    leaves = self._rows(slots, self._length)
    self._tree.set(leaves, tf.zeros_like(leaves, tf.float64))
    self._stamps.scatter_update(
      tf.IndexedSlices(tf.fill(tf.shape(slots), tf.constant(-1, tf.int64)), slots)
    )
    removed = tf.reduce_sum(tf.gather(self._counts, slots))
    self._size.assign_sub(removed)
    return removed

  def _sample(self, count: tf.Tensor) -> structures.Sample:
    total = self._tree.total()
    points = tf.random.uniform([count], dtype=tf.float64)
    if self._stratified:
      points = (points + tf.range(tf.cast(count, tf.float64), dtype=tf.float64)) / tf.cast(
        count, tf.float64
      )
    leaf = self._tree.find(points * total)
    value = self._tree.get(leaf)
    probability = value / total
    weight = (tf.cast(self._size, tf.float64) * probability) ** -self._beta
    slot = leaf // self._length
    first = slot * self._entries
    start = first + leaf % self._length
    end = first + tf.cast(tf.gather(self._per_transition['end'], leaf), tf.int64)
    window = tf.range(self._stack, dtype=tf.int64)
    now, later = start[:, tf.newaxis] + window, end[:, tf.newaxis] + window
    stamp = tf.gather(self._stamps, slot)
    return structures.Sample(
      leaf=leaf,
      stamp=stamp,
      observation=tf.gather(self._observation, now),
      frame_start=tf.gather(self._frame_start, now),
      next_observation=tf.gather(self._observation, later),
      next_frame_start=tf.gather(self._frame_start, later),
      **{
        name: tf.gather(self._per_transition[name], leaf)
        for name in ('action', 'n_step_return', 'discount')
      },
      weight=tf.cast(weight / tf.reduce_max(weight), tf.float32),
      priority=self._priorities(value),
      age=(self._added - 1 - stamp) * self._length,
    )

  def _update_priorities(self, leaf: tf.Tensor, stamp: tf.Tensor, priority: tf.Tensor) -> tf.Tensor:
    there = tf.gather(self._stamps, leaf // self._length) == stamp
    held = tf.boolean_mask(leaf, there)
    self._weigh(held, tf.boolean_mask(priority, there), tf.ones_like(held, tf.bool))
    return tf.reduce_sum(tf.cast(tf.logical_not(there), tf.int32))

  def _read_stamps(self) -> tf.Tensor:
    return tf.identity(self._stamps)

  def _read(self, slots: tf.Tensor) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    blocks = lambda variable, length: tf.reshape(
      tf.gather(variable, self._rows(slots, length)), [-1, length, *variable.shape[1:]]
    )
    parts = {
      'observation': blocks(self._observation, self._entries),
      'frame_start': blocks(self._frame_start, self._entries),
    }
    parts |= {
      name: blocks(variable, self._length) for name, variable in self._per_transition.items()
    }
    return tf.gather(self._stamps, slots), parts

  def _read_priorities(self) -> tuple[tf.Tensor, tf.Tensor]:
    leaves = tf.range(self.slots * self._length, dtype=tf.int64)
    # The sampling tree tells nothing of them where it is uniform, yet the eviction may have them.
    priorities = (
      self._priorities(self._tree.get(leaves))
      if self._alpha
      else tf.cast(self._eviction.priorities(leaves // self._length), tf.float32)
    )
    return tf.identity(self._stamps), tf.reshape(priorities, [self.slots, self._length])
