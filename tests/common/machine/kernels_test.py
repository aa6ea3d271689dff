import subprocess
import sys

import pytest

SCRIPT = (
  'from common.config import command_line; command_line.import_tensorflow(); '
  'from common.machine import kernels; print(kernels.describe())'
)


@pytest.mark.parametrize('asked, kind', [(None, 'oneDNN'), ('1', 'oneDNN'), ('0', 'Eigen')])
def test_onednn_runs_unless_the_user_turns_it_off(asked, kind, monkeypatch):
  monkeypatch.delenv('TF_ENABLE_ONEDNN_OPTS', raising=False)
  if asked is not None:
    monkeypatch.setenv('TF_ENABLE_ONEDNN_OPTS', asked)
  done = subprocess.run([sys.executable, '-c', SCRIPT], capture_output=True, text=True, check=True)
  assert done.stdout.endswith(f', {kind} kernels.\n')
