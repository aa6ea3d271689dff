"""Programs of a user who may read everything here, but write nothing that tests have protected."""

import os
import pathlib
import shutil

import pytest

# The user nobody, with the one right of root to read all files and folders.
_AS_NOBODY = [
  'setpriv',
  '--reuid=65534',
  '--regid=65534',
  '--clear-groups',
  '--inh-caps=-all,+dac_read_search',
  '--ambient-caps=+dac_read_search',
  '--bounding-set=-all,+dac_read_search',
]


def command() -> list[str]:
  """What comes before a command that this user runs; nothing where permissions bind us already."""
  if os.geteuid():
    return []
  # Root may write whatever the permissions are.
  if not shutil.which('setpriv'):
    pytest.skip('as root, this needs setpriv')
  return _AS_NOBODY


def protect(folder: pathlib.Path) -> pathlib.Path:
  """Takes the right to write from everybody; returns the folder."""
  for path in (folder, *folder.rglob('*')):
    if not path.is_symlink():
      path.chmod(path.stat().st_mode & ~0o222)
  return folder
