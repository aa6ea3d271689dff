"""A cache of compiled maps on disk, for DeepMind Lab: shared by all processes of a machine.

Maps of mazes are compiled at every reset (4 to 43 s each) unless the engine finds them in such a cache (0.3 s).
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
from typing import IO, Iterator

from common import errors

_LOCK = (
  '.level_cache'  # Its text is how many bytes the maps have. A folder without it is not a cache.
)
_ROOM = 0.9  # Of the limit is left when maps have to leave: they are listed then, 80,000 of them in a second.


class LevelCache:
  """`fetch` and `write` as the engine calls them. Files appear whole or not at all, whoever writes, dies or evicts."""

  def __init__(self, folder: pathlib.Path, max_bytes: float):
    """Makes the folder. When it holds more than `max_bytes`, those files leave that were not used for longest.

    Raises:
      UserError: if it cannot be made or written to, or holds something else.
    """
    self._folder, self._max_bytes, self._warned = folder, max_bytes, False
    mend = 'Give another folder with --config.dmlab_level_cache=DIR, or none with --config.dmlab_level_cache='
    try:
      folder.mkdir(parents=True, exist_ok=True)
      if not (folder / _LOCK).exists() and any(path.name != _LOCK for path in folder.iterdir()):
        raise errors.UserError(
          f'{folder} holds other files than compiled maps, which are removed when there are too '
          f'many of them. {mend}'
        )
      (folder / _LOCK).touch()
    except OSError as error:
      raise errors.UserError(
        f'the level cache {folder} cannot be written: {error}. {mend}'
      ) from error

  def fetch(self, key: str, pk3_path: str) -> bool:
    """Copies the map of a key to a path; whether there was one. The engine dies of True without the file."""
    try:
      _copy(self._folder / key, pathlib.Path(pk3_path), pathlib.Path(f'{pk3_path}.new'))
    except FileNotFoundError:
      return False
    except OSError as error:
      self._warn('read', error)
      return False
    with contextlib.suppress(
      OSError
    ):  # It was used just now; unless another process has evicted it meanwhile.
      os.utime(self._folder / key)
    return True

  def write(self, key: str, pk3_path: str) -> None:
    """Keeps a copy of a compiled map. A disk that is full costs the time to compile it again, not the run."""
    try:
      size = os.path.getsize(pk3_path)
      if size > self._max_bytes:
        return
      with self._locked() as lock:
        # One writes at a time: what a killed writer left has the same name, and is written over.
        _copy(pathlib.Path(pk3_path), self._folder / key, self._folder / f'{_LOCK}.new')
        total = _number(lock) + size
        if total > self._max_bytes:
          total = self._evict(max(_ROOM * self._max_bytes, size))
        lock.seek(0)
        lock.write(f'{total:<20}')
    except OSError as error:
      self._warn('written', error)

  def _warn(self, what: str, error: OSError) -> None:
    """Once: every reset to come will fail likewise."""
    if not self._warned:
      logging.warning(
        'the level cache %s cannot be %s, maps are compiled at every reset: %s',
        self._folder,
        what,
        error,
      )
    self._warned = True

  @contextlib.contextmanager
  def _locked(self) -> Iterator[IO[str]]:
    with open(self._folder / _LOCK, 'r+') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # Ends with the process, if that is killed.
      yield lock

  def _evict(self, goal: float) -> int:
    """Removes maps until they have so many bytes at most; returns how many they have."""
    states = sorted(
      (path.stat().st_mtime, path.stat().st_size, path)
      for path in self._folder.iterdir()
      if not path.name.startswith(_LOCK)
    )
    total = sum(size for _, size, _ in states)
    for _, size, path in states:
      if total <= goal:
        break
      path.unlink()
      total -= size
    return total


def _number(lock: IO[str]) -> int:
  """The lock's text; nothing, or the half of a number that a kill left, is counted anew once the limit seems passed."""
  text = lock.read().strip()
  return int(text) if text.isdecimal() else 0


def _copy(source: pathlib.Path, target: pathlib.Path, temporary: pathlib.Path) -> None:
  """Copies under a temporary name and renames: the target is whole whenever it is there."""
  with open(source, 'rb') as original:
    try:
      with open(temporary, 'wb') as copy:
        shutil.copyfileobj(original, copy)
        copy.flush()
        os.fsync(copy.fileno())
      os.replace(temporary, target)
    except BaseException:
      temporary.unlink(missing_ok=True)
      raise
