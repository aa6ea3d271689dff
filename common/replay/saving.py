"""Saves a prioritized replay beside a run's checkpoints, and restores it.

Every process that saves has a folder of its own, `replay/NUMBER`. In it, a chunk file holds the blocks of some slots;
of later saves it is written again only if one of these blocks has been replaced. `priorities.npz` is written last,
whole: it says which blocks are held and their priorities. Blocks that were replaced while a save went on are not in
it together with their contents: they are lost, as those in flight are.
"""

import logging
import pathlib
import shutil
import threading
import time
import zipfile
from typing import Callable

import numpy as np

from common import errors
from common.machine import files
from common.replay import prioritized, structures

_CHUNK_BYTES = 50_000_000
_PRIORITIES = 'priorities.npz'


class Saver:
  """Saves one replay again and again. The replay may be used meanwhile: it is held up for a chunk at a time."""

  def __init__(self, replay: prioritized.PrioritizedReplay, folder: pathlib.Path):
    """`folder`: of the run's replay, for example `RUN/replay`."""
    self._lock = threading.Lock()
    self._replay, self._root = replay, folder
    self._folder = folder / f'{max(_numbers(folder), default=0) + 1:06}'
    self._written = np.full(replay.slots, -1)
    self._blocks = max(1, _CHUNK_BYTES // structures.block_bytes(replay.spec))  # To a chunk.

  def save(self, updates: int, given_up: Callable[[], bool] = lambda: False) -> None:
    """Writes what has changed, then removes what earlier processes have saved. One thread does it after the other.

    Args:
      updates: of the learner so far.
      given_up: asked after every chunk whether to end there: what was saved before is still whole then.
    """
    with self._lock:
      self._save(updates, given_up)

  def _save(self, updates: int, given_up: Callable[[], bool]) -> None:
    self._folder.mkdir(parents=True, exist_ok=True)
    stamps, written, started = self._replay.stamps(), 0, time.monotonic()
    for first in range(0, self._replay.slots, self._blocks):
      if given_up():
        return
      chunk = slice(first, min(first + self._blocks, self._replay.slots))
      if np.any((stamps[chunk] >= 0) & (stamps[chunk] != self._written[chunk])):
        now, blocks = self._replay.read(np.arange(chunk.start, chunk.stop))
        path = self._folder / f'chunk-{first // self._blocks:06}.npz'
        _write(path, stamp=now, **blocks)
        self._written[chunk], written = now, written + path.stat().st_size
    stamps, priorities = self._replay.priorities()
    _write(self._folder / _PRIORITIES, stamp=stamps, priority=priorities, updates=updates)
    logging.info(
      'Saved what is new in the replay: %.2f GB in %.1f s.',
      written / 1e9,
      time.monotonic() - started,
    )
    for number in _numbers(self._root):
      if self._root / f'{number:06}' != self._folder:
        shutil.rmtree(self._root / f'{number:06}')


def restore(replay: prioritized.PrioritizedReplay, folder: pathlib.Path) -> int | None:
  """Fills an empty replay with what was saved last: oldest first, if that is who leaves first.

  Returns:
    At how many updates of the learner it was saved; None if it was not.

  Raises:
    UserError: if it cannot be read, or its transitions are of another form.
  """
  saved = [folder / f'{number:06}' for number in _numbers(folder)]
  saved = [path for path in saved if (path / _PRIORITIES).exists()]
  if not saved:
    return None
  try:
    return _restore(replay, saved[-1])
  except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
    raise errors.UserError(
      f'the replay saved in {saved[-1]} does not fit or is damaged ({error}). Go on without it, filling the replay '
      'anew: --config.checkpoint_replay=false'
    ) from error


def _restore(replay: prioritized.PrioritizedReplay, folder: pathlib.Path) -> int:
  with np.load(folder / _PRIORITIES) as saved:
    held = {int(stamp): slot for slot, stamp in enumerate(saved['stamp']) if stamp >= 0}
    priorities, updates = saved['priority'], int(saved['updates'])
  places = []  # Of every block: its stamp, its file, its place there.
  for path in sorted(folder.glob('chunk-*.npz')):
    with np.load(path) as chunk:
      places += [
        (int(stamp), path, i) for i, stamp in enumerate(chunk['stamp']) if int(stamp) in held
      ]
  if replay.keeps_order:
    places.sort(key=lambda place: place[0])
  if len(places) < len(held):
    logging.warning(
      '%d of %d blocks of the replay were replaced while they were saved, and are lost.',
      len(held) - len(places),
      len(held),
    )
  while places:
    path = places[0][1]
    count = next((i for i, place in enumerate(places) if place[1] != path), len(places))
    count = min(count, replay.slots)  # This replay may be smaller than the one that was saved.
    stamps, rows = [p[0] for p in places[:count]], [p[2] for p in places[:count]]
    with np.load(path) as chunk:
      fields = {
        name: chunk[name][rows]
        for name in structures.TransitionBlock._fields
        if name != 'priority'
      }
    block = structures.TransitionBlock(
      **fields, priority=priorities[[held[stamp] for stamp in stamps]]
    )
    _check_form(block, replay.spec)
    replay.add(block)
    places = places[count:]
  logging.info('Restored a replay of %s transitions.', f'{replay.size():,}')
  return updates


def _check_form(block: structures.TransitionBlock, spec: structures.TransitionBlock) -> None:
  for name, values, expected in zip(spec._fields, block, spec):
    if values.shape[1:] != tuple(expected.shape) or values.dtype != expected.dtype.as_numpy_dtype:
      raise ValueError(
        f'{name} is {values.dtype} {list(values.shape[1:])} in a block, '
        f'expected {expected.dtype.name} {expected.shape.as_list()}'
      )


def _write(path: pathlib.Path, **arrays: np.ndarray) -> None:
  with files.replacing(path, 'wb') as file:
    np.savez(file, **arrays)


def _numbers(folder: pathlib.Path) -> list[int]:
  return sorted(int(path.name) for path in folder.glob('[0-9]' * 6))
