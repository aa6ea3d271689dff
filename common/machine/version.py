"""A fingerprint of the code: all processes of a run must have the same."""

import fnmatch
import functools
import hashlib
import pathlib

_PACKAGES = ('impala', 'apex', 'common')
_ROOT = pathlib.Path(__file__).resolve().parents[2]
# What decides which runs there are and how they are shown, but never how one of them goes.
_AROUND_RUNS = ('common/experiments/*', 'common/reporting/*', '*figures.py')


@functools.cache
def of_code() -> str:
  """Twelve hexadecimal digits that identify the source of all modules.

  The same checkout has the same digits on every machine; any change to a module changes them.
  """
  return _digest(_PACKAGES)


@functools.cache
def of_training(system: str) -> str:
  """As `of_code`, for the modules that can decide how a run of one system goes."""
  return _digest((system, 'common'), _AROUND_RUNS)


def _digest(packages: tuple[str, ...], without: tuple[str, ...] = ()) -> str:
  paths = [path for package in packages for path in (_ROOT / package).rglob('*.py')]
  digest = hashlib.sha256()
  # An editor's lock is a link that leads nowhere.
  for path in sorted(filter(pathlib.Path.is_file, paths)):
    name = path.relative_to(_ROOT)
    if any(fnmatch.fnmatch(str(name), pattern) for pattern in without):
      continue
    # With the names, as text may move from one module to another.
    digest.update(f'{name}\0'.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]
