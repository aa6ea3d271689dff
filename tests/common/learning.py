"""Trains in a process of its own and says how well, for the learning tests of both systems."""

import json
import os
import pathlib
import subprocess
import sys

from tests.common import programs


def train(system: str, folder: pathlib.Path, *flags: str) -> dict[str, dict]:
  """Trains with 30 episodes of evaluation; returns the summaries of `evaluation.json` for the one task."""
  subprocess.run(
    [
      sys.executable,
      '-m',
      f'{system}.train',
      f'--run_dir={folder}',
      '--seed=1',
      '--config.evaluation_episodes=30',
      *flags,
    ],
    cwd=programs.ROOT,
    check=True,
    timeout=600,
    stdout=subprocess.DEVNULL,
    env={**os.environ, 'PYTHONPATH': f'{programs.ROOT}:{programs.ROOT}/tests'},
  )
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  return {name: next(iter(evaluation[name].values())) for name in ('random', 'agent')}
