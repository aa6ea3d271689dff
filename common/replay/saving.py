"""Saves a prioritized replay beside a run's checkpoints, and restores it.

Every process that saves has its own folder, `replay/NUMBER`. A chunk file there holds the blocks of
some slots, and is written again only if one of these blocks has been replaced since. The file
`priorities.npz` is written last and whole: it names the blocks held, with their priorities. A block
that is replaced during a save is not in both places, and is lost like blocks still on the way.
"""

import logging
import pathlib
import shutil
import threading
import time
import zipfile
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

from common import errors
from common.machine import files
from common.replay import prioritized, structures

# Per chunk file. The replay is locked while a chunk is read.
_CHUNK_BYTES = 50_000_000
_PRIORITIES = 'priorities.npz'


class Saver:
  """Saves one replay repeatedly. Other threads may use it meanwhile: only reads lock it."""

  def __init__(self, replay: prioritized.PrioritizedReplay, folder: pathlib.Path):
    """Chooses a new folder for this process, which `save` creates.

    Args:
      replay: The replay to save.
      folder: The run's folder for replays, for example `RUN/replay`.
    """
    self._lock = threading.Lock()
    self._replay = replay
    self._root = folder
    self._folder = folder / f'{max(_numbers(folder), default=0) + 1:06}'
    # By slot: the stamp of the block in its chunk file, or -1.
    self._written = np.full(replay.slots, -1)
    self._chunk_slots = max(1, _CHUNK_BYTES // structures.block_bytes(replay.spec))

  def save(self, updates: int, given_up: Callable[[], bool] = lambda: False) -> None:
    """Writes what has changed, then removes what earlier processes have saved.

    Threads that call this at the same time take turns.

    Args:
      updates: The learner's updates so far.
      given_up: Asked before every chunk whether to stop there; the last complete save then stays
        valid.
    """
    with self._lock:
      self._save(updates, given_up)

  def _save(self, updates: int, given_up: Callable[[], bool]) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    started = time.monotonic()
    stamps = self._replay.stamps()
    written_bytes = 0
    for first in range(0, self._replay.slots, self._chunk_slots):
      if given_up():
        return
      chunk = slice(first, min(first + self._chunk_slots, self._replay.slots))
      # Chunks of empty slots only are never written.
      changed = (stamps[chunk] >= 0) & (stamps[chunk] != self._written[chunk])
      if np.any(changed):
        written_bytes += self._write_chunk(chunk)

    # Only now: the file must not name blocks that are in no chunk file.
    stamps, priorities = self._replay.priorities()
    _write(self._folder / _PRIORITIES, stamp=stamps, priority=priorities, updates=updates)
    logging.info(
      'Saved the changes to the replay: %.2f GB in %.1f s.',
      written_bytes / 1e9,
      time.monotonic() - started,
    )
    self._remove_earlier()

  def _write_chunk(self, chunk: slice) -> int:
    """Writes the blocks in a range of slots. Returns the file's size in bytes."""
    stamps, blocks = self._replay.read(np.arange(chunk.start, chunk.stop))
    path = self._folder / f'chunk-{chunk.start // self._chunk_slots:06}.npz'
    parts = structures.named(structures.TransitionBlock(**blocks, priority=None))
    del parts['priority']  # In a file of their own.
    _write(path, stamp=stamps, **parts)
    self._written[chunk] = stamps
    return path.stat().st_size

  def _remove_earlier(self) -> None:
    for number in _numbers(self._root):
      folder = self._root / f'{number:06}'
      if folder != self._folder:
        shutil.rmtree(folder)


class _Place(NamedTuple):
  """Where a saved block is."""

  stamp: int
  path: pathlib.Path
  row: int


def restore(replay: prioritized.PrioritizedReplay, folder: pathlib.Path) -> int | None:
  """Fills an empty replay with the last complete save.

  Blocks are added oldest first if the oldest leave first, so that a smaller replay keeps the
  newest.

  Args:
    replay: An empty replay.
    folder: The run's folder for replays, as for `Saver`.

  Returns:
    The learner's updates when it was saved, or None if there is no complete save.

  Raises:
    UserError: If the save cannot be read, or its transitions do not match the replay's
      specification.
  """
  saves = [folder / f'{number:06}' for number in _numbers(folder)]
  # A save without this file was interrupted; the one before it is still there.
  complete = [path for path in saves if (path / _PRIORITIES).exists()]
  if not complete:
    return None
  latest = complete[-1]
  try:
    return _restore(replay, latest)
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'the replay saved in {latest} does not fit or is damaged ({error}). To continue without it, '
      'filling the replay anew, add --config.checkpoint_replay=false'
    ) from error


def _restore(replay: prioritized.PrioritizedReplay, folder: pathlib.Path) -> int:
  with np.load(folder / _PRIORITIES) as saved:
    slot_of = {int(stamp): slot for slot, stamp in enumerate(saved['stamp']) if stamp >= 0}
    priorities = saved['priority']
    updates = int(saved['updates'])

  # Blocks that left before `priorities.npz` was written, or came after their chunk, are skipped.
  places = [place for place in _places(folder) if place.stamp in slot_of]
  # By age, blocks are evicted in the order in which they are added, so this must be the old order.
  # By priority, the order does not matter, and files are read in one go.
  if replay.keeps_order:
    places.sort(key=lambda place: place.stamp)
  if len(places) < len(slot_of):
    logging.warning(
      '%d of %d blocks of the replay were replaced while it was saved, and are lost.',
      len(slot_of) - len(places),
      len(slot_of),
    )

  while places:
    count = _length_of_run(places, replay.slots)
    slots = [slot_of[place.stamp] for place in places[:count]]
    replay.add(_read_blocks(places[:count], priorities[slots], replay.spec))
    places = places[count:]
  logging.info('Restored a replay of %s transitions.', f'{replay.size():,}')
  return updates


def _places(folder: pathlib.Path) -> list[_Place]:
  """Where all blocks in a save's chunk files are, in the order of their slots."""
  places = []
  for path in sorted(folder.glob('chunk-*.npz')):
    with np.load(path) as chunk:
      stamps = chunk['stamp'].tolist()
    places += [_Place(stamp, path, row) for row, stamp in enumerate(stamps)]
  return places


def _length_of_run(places: Sequence[_Place], slots: int) -> int:
  """How many places to read at once: those at the front in one file, at most `slots`."""
  first = places[0].path
  count = next((i for i, place in enumerate(places) if place.path != first), len(places))
  # The replay may be smaller than the saved one.
  return min(count, slots)


def _read_blocks(
  places: Sequence[_Place], priorities: np.ndarray, spec: structures.TransitionBlock
) -> structures.TransitionBlock:
  """Reads blocks `[M, ...]`.

  Args:
    places: The places of M blocks, in one file.
    priorities: float32 `[M, B]`.
    spec: What the replay expects of one block.

  Raises:
    ValueError: If a field has another shape or dtype.
  """
  rows = [place.row for place in places]
  names = [name for name in structures.named(spec) if name != 'priority']
  with np.load(places[0].path) as chunk:
    parts = [chunk[name][rows] for name in names]
  # Priorities are the last field.
  blocks = tf.nest.pack_sequence_as(spec, [*parts, priorities])
  # Some may have been removed from their blocks after those were written.
  blocks = blocks._replace(valid=blocks.valid & (priorities > 0))
  _check_matches(blocks, spec)
  return blocks


def _check_matches(blocks: structures.TransitionBlock, spec: structures.TransitionBlock) -> None:
  found = structures.named(blocks)
  for name, expected in structures.named(spec).items():
    values = found[name]
    if values.shape[1:] != tuple(expected.shape) or values.dtype != expected.dtype.as_numpy_dtype:
      raise ValueError(
        f'{name} is {values.dtype} {list(values.shape[1:])} in a block, '
        f'expected {expected.dtype.name} {expected.shape.as_list()}'
      )


def _write(path: pathlib.Path, **arrays: Any) -> None:
  """Writes arrays and numbers to a file, which appears whole or not at all."""
  with files.replacing(path, 'wb') as file:
    np.savez(file, **arrays)


def _numbers(folder: pathlib.Path) -> list[int]:
  """The numbers of the saves in a folder, ascending."""
  return sorted(int(path.name) for path in folder.glob('[0-9]' * 6))
