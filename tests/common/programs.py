"""Whole training runs in child processes, for the tests of both systems."""

import importlib
import os
import pathlib
import subprocess
import sys
import time

import pytest

from common import errors
from common.reporting import metrics_file

ROOT = pathlib.Path(__file__).resolve().parents[2]
_DEADLINE = 120.0  # Seconds.


def start(system: str, *flags: str) -> subprocess.Popen:
  """Starts a training run that can use the environments in tests/environments.py.

  Args:
    system: `impala` or `apex`.
    *flags: Command-line flags. Later ones override the defaults made for short runs.
  """
  command = [
    *(sys.executable, '-u', '-m', f'{system}.train'),
    '--env=gym:CartPole-v1',
    '--config.evaluation_episodes=2',
    '--config.log_every_seconds=0.5',
    *flags,
  ]
  return _started(command)


def start_population(*flags: str) -> subprocess.Popen:
  """Starts a population of IMPALA on CartPole."""
  program = [sys.executable, '-u', '-m', 'impala.population', '--env=gym:CartPole-v1']
  return _started([*program, '--config.log_every_seconds=0.5', *flags])


def start_script(path: pathlib.Path) -> subprocess.Popen:
  """Starts a script that trains."""
  return _started([sys.executable, '-u', str(path)])


def _started(command: list[str]) -> subprocess.Popen:
  return subprocess.Popen(
    command,
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests'},
  )


def finish(process: subprocess.Popen, status: int = 0) -> str:
  """Waits for a run to end with the given exit status; returns what it printed."""
  output, _ = process.communicate(timeout=_DEADLINE)
  assert process.returncode == status, output
  # Only errors in the code, which exit with 1, show a stack trace.
  assert status == 1 or 'Traceback' not in output
  return output


def refusal(system: str, *flags: str) -> str:
  """Runs the program in this process; returns the text of the `UserError` it must raise."""
  program = importlib.import_module(f'{system}.train')
  with pytest.raises(errors.UserError) as refused:
    program.main(['train', '--env=gym:CartPole-v1', *flags])
  return str(refused.value)


def wait_for(folder: pathlib.Path, pattern: str, process: subprocess.Popen) -> None:
  """Waits until the folder holds a file that matches the pattern."""
  end = time.monotonic() + _DEADLINE
  while not list(folder.glob(pattern)):
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < end
    time.sleep(0.05)


def wait_for_rows(folder: pathlib.Path, count: int, process: subprocess.Popen) -> None:
  """Waits until the run has written `count` rows of metrics."""
  wait_for(folder, 'metrics.csv', process)
  while len(rows(folder)) < count:
    assert process.poll() is None, process.stdout.read()
    time.sleep(0.05)


def rows(folder: pathlib.Path) -> list[dict[str, float]]:
  """The rows of a run's metrics so far, by column."""
  return metrics_file.read(folder / 'metrics.csv')


def saved_updates(folder: pathlib.Path) -> int:
  """The number of learner updates in the newest checkpoint."""
  paths = folder.glob('checkpoints/latest/ckpt-*.index')
  return max(int(path.stem.removeprefix('ckpt-')) for path in paths)
