"""A cache of compiled maps on disk, for DeepMind Lab: shared by all processes of a machine.

Maps of mazes are compiled at every reset (4 to 43 s each) unless the engine finds them in such a cache (0.3 s).
"""

import contextlib
import fcntl
import logging
import os
import pathlib
import shutil
import tempfile

from common import errors

_TEMPORARY = '.new-'


class LevelCache:
  """`fetch` and `write` as the engine calls them. Files appear whole or not at all, whoever writes, dies or evicts."""

  def __init__(self, folder: pathlib.Path, max_bytes: float):
    """Makes the folder. When it holds more than `max_bytes`, those files leave that were not used for longest.

    Raises:
      UserError: if it cannot be made or written to.
    """
    self._folder, self._max_bytes, self._warned = folder, max_bytes, False
    try:
      folder.mkdir(parents=True, exist_ok=True)
      (folder / 'lock').touch()
    except OSError as error:
      raise errors.UserError(f'the level cache {folder} cannot be written: {error}. Give another folder with '
                             '--config.dmlab_level_cache=DIR, or none with --config.dmlab_level_cache=') from error

  def fetch(self, key: str, pk3_path: str) -> bool:
    """Copies the map of a key to a path; whether there was one. The engine dies of True without the file."""
    try:
      _copy(self._folder / key, pathlib.Path(pk3_path))
    except FileNotFoundError:
      return False
    except OSError as error:
      self._warn('read', error)
      return False
    with contextlib.suppress(OSError):  # It was used just now; unless another process has evicted it meanwhile.
      os.utime(self._folder / key)
    return True

  def write(self, key: str, pk3_path: str) -> None:
    """Keeps a copy of a compiled map. A disk that is full costs the time to compile it again, not the run."""
    try:
      with self._locked():
        _copy(pathlib.Path(pk3_path), self._folder / key)
        self._evict()
    except OSError as error:
      self._warn('written', error)

  def _warn(self, what: str, error: OSError) -> None:
    """Once: every reset to come will fail likewise."""
    if not self._warned:
      logging.warning('the level cache %s cannot be %s, maps are compiled at every reset: %s', self._folder, what, error)
    self._warned = True

  @contextlib.contextmanager
  def _locked(self):
    with open(self._folder / 'lock') as lock:
      fcntl.flock(lock, fcntl.LOCK_EX)  # Ends with the process, if that is killed.
      yield

  def _evict(self) -> None:
    """Removes what is too much, and what a killed writer left: with the lock, no other is writing."""
    files = [path for path in self._folder.iterdir() if path.name != 'lock']
    for path in files:
      if path.name.startswith(_TEMPORARY):
        path.unlink()
    states = sorted((path.stat().st_mtime, path.stat().st_size, path)
                    for path in files if not path.name.startswith(_TEMPORARY))
    excess = sum(size for _, size, _ in states) - self._max_bytes
    for _, size, path in states:
      if excess <= 0:
        break
      path.unlink()
      excess -= size


def _copy(source: pathlib.Path, target: pathlib.Path) -> None:
  """Copies under a temporary name and renames: the target is whole whenever it is there."""
  with open(source, 'rb') as original, tempfile.NamedTemporaryFile(
      prefix=_TEMPORARY, dir=target.parent, delete=False) as copy:
    try:
      shutil.copyfileobj(original, copy)
      copy.flush()
      os.fsync(copy.fileno())
      os.replace(copy.name, target)
    except BaseException:
      os.unlink(copy.name)
      raise
