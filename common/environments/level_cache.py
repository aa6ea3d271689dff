"""A cache of compiled maps on disk, for DeepMind Lab: shared by all processes of a machine.

Maps of mazes are compiled at every reset (4 to 43 s each) unless the engine finds them in such a
cache (0.3 s).
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
from typing import IO, Iterator

from common import errors

# Writers lock this file. Its text is the size of all maps in bytes. A folder that has files but not
# this one is not a cache: its files are never removed.
_LOCK = '.level_cache'
# Evicting leaves this fraction of the limit, so that it is rare: it lists the whole folder, 80,000
# maps in a second.
_ROOM = 0.9
_OTHER_FOLDER = (
  'Give another folder with --config.dmlab_level_cache=DIR, or none with '
  '--config.dmlab_level_cache='
)


class LevelCache:
  """`fetch` and `write` as the engine calls them.

  Any number of processes may use one folder. Files appear whole or not at all, even if a process is
  killed while it writes, or another one evicts maps meanwhile.
  """

  def __init__(self, folder: pathlib.Path, max_bytes: float):
    """Makes the folder.

    Args:
      folder: The cache; its user can write to it.
      max_bytes: When the maps exceed this, those leave that have been unused for longest.

    Raises:
      UserError: If the folder cannot be made or written to, or holds other files.
    """
    self._folder = folder
    self._max_bytes = max_bytes
    self._warned = False
    try:
      folder.mkdir(parents=True, exist_ok=True)
      if not (folder / _LOCK).exists() and any(path.name != _LOCK for path in folder.iterdir()):
        raise errors.UserError(
          f'{folder} holds other files than compiled maps, and a full cache removes files. '
          f'{_OTHER_FOLDER}'
        )
      (folder / _LOCK).touch()
    except OSError as error:
      raise errors.UserError(
        f'the level cache {folder} cannot be written: {error}. {_OTHER_FOLDER}'
      ) from error

  def fetch(self, key: str, pk3_path: str) -> bool:
    """Copies a compiled map out of the cache.

    Args:
      key: The map's name in the cache.
      pk3_path: Where the engine expects the map.

    Returns:
      Whether the map is there now. Never True without the file: the engine would die.
    """
    cached = self._folder / key
    try:
      _copy(cached, pathlib.Path(pk3_path), pathlib.Path(f'{pk3_path}.new'))
    except FileNotFoundError:
      return False
    except OSError as error:
      self._warn('read', error)
      return False
    # Marks it as used just now, unless another process has evicted it meanwhile.
    with contextlib.suppress(OSError):
      os.utime(cached)
    return True

  def write(self, key: str, pk3_path: str) -> None:
    """Keeps a copy of a compiled map.

    Errors are logged, not raised: with a full disk maps are compiled again, but the run goes on.

    Args:
      key: The map's name in the cache.
      pk3_path: The map.
    """
    try:
      size = os.path.getsize(pk3_path)
      if size > self._max_bytes:
        return
      with self._locked() as lock:
        # Only one process writes at a time, so all may use one temporary name; what a killed writer
        # left there is overwritten.
        _copy(pathlib.Path(pk3_path), self._folder / key, self._folder / f'{_LOCK}.new')
        total = _number(lock) + size
        if total > self._max_bytes:
          total = self._evict(max(_ROOM * self._max_bytes, size))
        lock.seek(0)
        lock.write(f'{total:<20}')  # Padded: the text before may be longer, and is not truncated.
    except OSError as error:
      self._warn('written', error)

  def _warn(self, what: str, error: OSError) -> None:
    """Warns once, as every reset to come will fail in the same way."""
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
      fcntl.flock(lock, fcntl.LOCK_EX)  # Released by the system if the process is killed.
      yield lock

  def _evict(self, goal: float) -> int:
    """Removes the maps that have been unused for longest, until `goal` bytes at most are left.

    Returns:
      The size in bytes of the maps that are left.
    """
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
  """The size that the lock's text says; 0 if it says none.

  It is empty at first, or half a number if a writer was killed. The sum is then too small until it
  exceeds the limit, when evicting counts the maps.
  """
  text = lock.read().strip()
  return int(text) if text.isdecimal() else 0


def _copy(source: pathlib.Path, target: pathlib.Path, temporary: pathlib.Path) -> None:
  """Copies under a temporary name and renames, so that the target is whole whenever it exists."""
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
