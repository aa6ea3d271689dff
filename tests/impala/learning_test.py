"""Learning that neither a random nor a broken agent shows, through the command that users run."""

import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]


def train(folder: pathlib.Path, *flags: str) -> dict[str, dict]:
  """Trains with 30 episodes of evaluation; returns the summaries of `evaluation.json` for the one task."""
  subprocess.run(
      [sys.executable, '-m', 'impala.train', f'--run_dir={folder}', '--seed=1', '--config.evaluation_episodes=30',
       *flags], cwd=ROOT, check=True, timeout=600, stdout=subprocess.DEVNULL,
      env={**os.environ, 'PYTHONPATH': f'{ROOT}:{ROOT}/tests/impala'})
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  return {name: next(iter(evaluation[name].values())) for name in ('random', 'agent')}


def test_cartpole_is_learned_with_an_lstm(tmp_path):
  # At most 500. Random play reaches 20 and one that always pushes the same way 9; seed 1 reached 497.
  result = train(tmp_path / 'run', '--env=gym:CartPole-v1')
  assert result['random']['mean'] < 40
  assert result['agent']['mean'] > 250


def test_catch_is_learned_from_pixels(tmp_path):
  # At most 1. Random play reaches -0.6, no fixed action more; seed 1 reached 1.0 in all of 30 episodes.
  result = train(tmp_path / 'run', '--env=gym:catch:Catch-v0', '--config.torso=shallow', '--total_frames=150000')
  assert result['random']['mean'] < 0
  assert result['agent']['mean'] > 0.8
