"""Slots of transition blocks in `tf.Variable`s: every observation is stored once."""

from typing import Any

import tensorflow as tf

from common.replay import structures

# The parts of a block that transitions read by their leaf. Observations are read by entry,
# priorities live in the sum tree.
_PER_TRANSITION = ('action', 'n_step_return', 'discount', 'end', 'valid')
UNKNOWN = -1  # The origin of a block that came without one.


class BlockStorage(tf.Module):
  """Slots for blocks on the CPU. Not thread-safe; call its methods in a `tf.function`.

  Leaf `slot * B + b` is the transition b of the block in a slot. Variables are not initialised, so
  the operating system commits memory only as slots fill.
  """

  def __init__(self, spec: structures.TransitionBlock, slots: int, stack: int):
    """Makes empty slots.

    Args:
      spec: `tf.TensorSpec`s of one block.
      slots: The number of blocks that there is room for.
      stack: Frames per observation; 1 where they are not stacked.
    """
    super().__init__(name='block_storage')
    self.length = spec.priority.shape[0]  # B
    self._entries = spec.frame_start.shape[0]  # E
    self._stack = stack
    with tf.device('/cpu:0'):
      self._observation = tf.nest.map_structure(
        lambda part: _uninitialised(slots * self._entries, part), spec.observation
      )
      self._frame_start = _uninitialised(slots * self._entries, spec.frame_start)
      self._per_transition = {
        name: _uninitialised(slots * self.length, getattr(spec, name)) for name in _PER_TRANSITION
      }
      # By slot: the serial number of its block, or -1; and the number of valid transitions in it.
      no_stamps = tf.fill([slots], tf.constant(-1, tf.int64))
      self.stamps = tf.Variable(no_stamps, trainable=False)
      self.counts = tf.Variable(tf.zeros([slots], tf.int64), trainable=False)
      # By slot: where its block comes from, for messages.
      self.origins = tf.Variable(tf.fill([slots], UNKNOWN), trainable=False)

  @staticmethod
  def size_in_bytes(spec: structures.TransitionBlock, slots: int) -> int:
    """Bytes that full slots take."""
    stamp_count_and_origin = 20
    return slots * (stamp_count_and_origin + structures.block_bytes(spec))

  def leaves(self, slots: tf.Tensor) -> tf.Tensor:
    """All leaves of slots int64 `[M]`, int64 `[M * B]`."""
    return _rows(slots, self.length)

  def write(
    self,
    slots: tf.Tensor,
    blocks: structures.TransitionBlock,
    counts: tf.Tensor,
    stamps: tf.Tensor,
    origins: tf.Tensor,
  ) -> None:
    """Puts blocks into slots, over what was there.

    Args:
      slots: int64 `[M]`, all different.
      blocks: `[M, ...]`.
      counts: int64 `[M]`, the number of valid transitions in each block.
      stamps: int64 `[M]`, the blocks' serial numbers.
      origins: int32 `[M]`, where they come from, for messages.
    """
    tf.debugging.assert_rank(slots, 1)
    entries = _rows(slots, self._entries)  # [M * E]
    leaves = self.leaves(slots)  # [M * B]
    tf.nest.map_structure(
      lambda variable, part: _scatter(variable, entries, flatten(part)),
      self._observation,
      blocks.observation,
    )
    _scatter(self._frame_start, entries, flatten(blocks.frame_start))
    for name, variable in self._per_transition.items():
      _scatter(variable, leaves, flatten(getattr(blocks, name)))
    _scatter(self.counts, slots, counts)
    _scatter(self.stamps, slots, stamps)
    _scatter(self.origins, slots, origins)

  def holds(self, leaf: tf.Tensor, stamp: tf.Tensor) -> tf.Tensor:
    """Whether transitions are still here, bool `[K]`.

    Args:
      leaf: int64 `[K]`.
      stamp: int64 `[K]`, the serial numbers of their blocks.
    """
    # A slot whose stamp has changed holds another block now.
    is_same = tf.gather(self.stamps, leaf // self.length) == stamp
    return is_same & (stamp >= 0) & self.valid(leaf)

  def remove(self, leaves: tf.Tensor) -> None:
    """Removes transitions at leaves int64 `[K]`, all different; their blocks stay."""
    _scatter(self._per_transition['valid'], leaves, tf.zeros_like(leaves, tf.bool))
    one_each = tf.IndexedSlices(tf.ones_like(leaves), leaves // self.length)
    self.counts.scatter_sub(one_each)

  def valid(self, leaves: tf.Tensor) -> tf.Tensor:
    """Whether there are transitions at leaves int64 `[K]` of filled slots, bool `[K]`."""
    return tf.gather(self._per_transition['valid'], leaves)

  def clear(self, slots: tf.Tensor) -> None:
    """Marks slots int64 `[M]` as empty."""
    _scatter(self.stamps, slots, tf.fill(tf.shape(slots), tf.constant(-1, tf.int64)))

  def read_blocks(self, slots: tf.Tensor) -> dict[str, Any]:
    """The blocks in slots int64 `[M]`, by field name, `[M, ...]`; all fields but `priority`."""
    tf.debugging.assert_rank(slots, 1)
    parts = {
      'observation': tf.nest.map_structure(
        lambda variable: _gather_blocks(variable, slots, self._entries), self._observation
      ),
      'frame_start': _gather_blocks(self._frame_start, slots, self._entries),
    }
    for name, variable in self._per_transition.items():
      parts[name] = _gather_blocks(variable, slots, self.length)
    return parts

  def read_transitions(self, leaf: tf.Tensor) -> dict[str, Any]:
    """The transitions at leaves int64 `[K]`, by the names of `structures.Sample`'s fields.

    Returns:
      `[K, stack, ...]` for observations and frame starts; `[K, ...]` for action, return and
      discount.
    """
    tf.debugging.assert_rank(leaf, 1)
    # The oldest entries of the first and last stack: S_t's is entry b, S_{t+n}'s is entry end[b].
    block_start = leaf // self.length * self._entries
    first = block_start + leaf % self.length
    last = block_start + tf.cast(tf.gather(self._per_transition['end'], leaf), tf.int64)

    window = tf.range(self._stack, dtype=tf.int64)
    entries = first[:, tf.newaxis] + window  # [K, stack]
    next_entries = last[:, tf.newaxis] + window  # [K, stack]
    parts = {
      'observation': self._observations(entries),
      'frame_start': tf.gather(self._frame_start, entries),
      'next_observation': self._observations(next_entries),
      'next_frame_start': tf.gather(self._frame_start, next_entries),
    }
    for name in ('action', 'n_step_return', 'discount'):
      parts[name] = tf.gather(self._per_transition[name], leaf)
    return parts

  def _observations(self, entries: tf.Tensor) -> Any:
    """The observations at entries int64 `[K, stack]`, `[K, stack, ...]`."""
    return tf.nest.map_structure(lambda variable: tf.gather(variable, entries), self._observation)


def flatten(x: tf.Tensor) -> tf.Tensor:
  """Merges the first two axes: `[M, N, ...]` to `[M * N, ...]`."""
  return tf.reshape(x, tf.concat([[-1], tf.shape(x)[2:]], axis=0))


def _uninitialised(count: int, spec: tf.TensorSpec) -> tf.Variable:
  """A variable of `count` rows; `spec` is of a block's rows, `[N, ...]`."""
  empty = tf.raw_ops.Empty(shape=[count, *spec.shape[1:]], dtype=spec.dtype)
  return tf.Variable(empty, trainable=False)


def _rows(slots: tf.Tensor, length: int) -> tf.Tensor:
  """The rows of slots `[M]` in a variable with `length` rows per slot, `[M * length]`."""
  rows = slots[:, tf.newaxis] * length + tf.range(length, dtype=tf.int64)  # [M, length]
  return tf.reshape(rows, [-1])


def _scatter(variable: tf.Variable, rows: tf.Tensor, values: tf.Tensor) -> None:
  variable.scatter_update(tf.IndexedSlices(values, rows))


def _gather_blocks(variable: tf.Variable, slots: tf.Tensor, length: int) -> tf.Tensor:
  """What a variable with `length` rows per slot holds for slots `[M]`, `[M, length, ...]`."""
  rows = tf.gather(variable, _rows(slots, length))  # [M * length, ...]
  return tf.reshape(rows, [-1, length, *variable.shape[1:]])
