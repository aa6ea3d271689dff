"""Whole training runs in processes of their own, for the tests of both systems."""

import importlib
import os
import pathlib
import subprocess
import sys
import time

import pytest

from common import errors
from common.reporting import metrics

ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEADLINE = 120.0


def start(system: str, *flags: str) -> subprocess.Popen:
  """Starts a short training of `impala` or `apex`, which can use the environments in tests/environments.py."""
  return subprocess.Popen(
    [
      sys.executable,
      '-u',
      '-m',
      f'{system}.train',
      '--env=gym:CartPole-v1',
      '--config.evaluation_episodes=2',
      '--config.log_every_seconds=0.5',
      *flags,
    ],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests'},
  )


def finish(process: subprocess.Popen, status: int = 0) -> str:
  """Waits for the end of a run; returns what it printed."""
  output, _ = process.communicate(timeout=_DEADLINE)
  assert process.returncode == status, output
  assert status == 1 or 'Traceback' not in output
  return output


def refusal(system: str, *flags: str) -> str:
  """What the program says, in this process, of a mistake of the user."""
  program = importlib.import_module(f'{system}.train')
  with pytest.raises(errors.UserError) as refused:
    program.main(['train', '--env=gym:CartPole-v1', *flags])
  return str(refused.value)


def wait_for(folder: pathlib.Path, pattern: str, process: subprocess.Popen) -> None:
  """Waits until the folder holds such a file."""
  end = time.monotonic() + _DEADLINE
  while not list(folder.glob(pattern)):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < end
    time.sleep(0.05)


def wait_for_rows(folder: pathlib.Path, count: int, process: subprocess.Popen) -> None:
  """Waits until the run has written so many rows of metrics."""
  wait_for(folder, 'metrics.csv', process)
  while len(rows(folder)) < count:
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.05)


def rows(folder: pathlib.Path) -> list[dict[str, float]]:
  return metrics.read(folder / 'metrics.csv')


def saved_updates(folder: pathlib.Path) -> int:
  """Those of the newest checkpoint."""
  return max(
    int(path.stem.removeprefix('ckpt-')) for path in folder.glob('checkpoints/latest/ckpt-*.index')
  )
