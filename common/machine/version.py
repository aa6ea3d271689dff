"""A fingerprint of the code: all processes of a run must have the same."""

import functools
import hashlib
import pathlib

_PACKAGES = ('impala', 'apex', 'common')


@functools.cache
def of_code() -> str:
  """Twelve hexadecimal digits that identify the source of all modules.

  The same checkout has the same digits on every machine; any change to a module changes them.
  """
  root = pathlib.Path(__file__).resolve().parents[2]
  paths = [path for package in _PACKAGES for path in (root / package).rglob('*.py')]
  digest = hashlib.sha256()
  # An editor's lock is a link that leads nowhere.
  for path in sorted(filter(pathlib.Path.is_file, paths)):
    # With the names, as text may move from one module to another.
    digest.update(f'{path.relative_to(root)}\0'.encode())
    digest.update(path.read_bytes())
  return digest.hexdigest()[:12]
