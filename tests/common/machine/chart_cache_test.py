"""Where matplotlib keeps its cache if the user's home cannot be written."""

import os
import pathlib
import subprocess
import sys

from tests import other_user

ROOT = pathlib.Path(__file__).resolve().parents[3]
PROGRAM = """
import os
from common.machine import chart_cache
chart_cache.prepare()
import matplotlib
print(matplotlib.get_cachedir())
"""


def cache(home, user=()):
  """Imports matplotlib with this home; returns its folder, and what else is printed."""
  kept = {name: value for name, value in os.environ.items() if not name.startswith('XDG_')}
  kept.pop('MPLCONFIGDIR', None)
  done = subprocess.run(
    [*user, sys.executable, '-c', PROGRAM],
    cwd=ROOT,
    env={**kept, 'HOME': str(home), 'TMPDIR': '/tmp'},
    capture_output=True,
    text=True,
    check=True,
  )
  return pathlib.Path(done.stdout.strip()), done.stderr


def test_a_home_that_cannot_be_written_gets_a_temporary_folder(tmp_path):
  folder, printed = cache(other_user.protect(tmp_path), other_user.command())
  assert folder.parent == pathlib.Path('/tmp') and not printed
  assert not folder.exists()


def test_a_home_that_does_not_exist_is_no_matter():
  folder, printed = cache('/nonexistent', other_user.command())
  assert folder.parent == pathlib.Path('/tmp') and not printed


def test_a_home_that_can_be_written_has_the_cache(tmp_path):
  folder, _ = cache(tmp_path)
  assert folder == tmp_path / '.cache' / 'matplotlib'
