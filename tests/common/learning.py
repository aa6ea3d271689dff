"""Trains in a process of its own and evaluates: the learning tests of both systems."""

import json
import os
import pathlib
import subprocess
import sys

from tests.common import programs


def train(system: str, folder: pathlib.Path, *flags: str) -> dict[str, dict]:
  """Trains on one task, then plays 30 episodes of evaluation.

  Args:
    system: `impala` or `apex`.
    folder: The run's folder, which must not exist.
    *flags: Further flags of the command line.

  Returns:
    The summaries in `evaluation.json` of the `random` policy and of the `agent`.
  """
  command = [sys.executable, '-m', f'{system}.train', f'--run_dir={folder}']
  subprocess.run(
    [*command, '--seed=1', '--config.evaluation_episodes=30', *flags],
    cwd=programs.ROOT,
    check=True,
    timeout=600,
    stdout=subprocess.DEVNULL,
    env={**os.environ, 'PYTHONPATH': f'{programs.ROOT}:{programs.ROOT}/tests'},
  )
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  return {name: next(iter(evaluation[name].values())) for name in ('random', 'agent')}
