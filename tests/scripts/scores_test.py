"""Experts are scored as one agent, from the evaluations of their runs."""

import json
import pathlib
import subprocess
import sys

import pytest

from common import errors
from common.reporting import scores
from scripts import scores as script

ROOT = pathlib.Path(__file__).resolve().parents[2]


def evaluated(folder, means, references='atari57', note=''):
  """Writes the `evaluation.json` of a run with these mean returns by task; returns its folder."""
  folder.mkdir()
  agent = {
    task: {
      'mean': mean,
      'low': mean - 1,
      'high': mean + 1,
      'episodes': 2,
      'returns': [mean, mean],
      'lengths': [9, 9],
    }
    for task, mean in means.items()
  }
  evaluation = {
    'checkpoint': f'{folder}/checkpoints/latest/ckpt-5',
    'env': 'atari:pong',
    'seed': 3,
    'references': references,
    'note': note,
    'agent': agent,
  }
  (folder / 'evaluation.json').write_text(json.dumps(evaluation))
  return folder


def merged(tmp_path, *runs):
  script.main(['scores.py', str(tmp_path / 'together'), *map(str, runs)])
  return json.loads((tmp_path / 'together' / 'scores.json').read_text())


def refusal(tmp_path, *runs):
  with pytest.raises(errors.UserError) as refused:
    merged(tmp_path, *runs)
  assert not (tmp_path / 'together').exists()
  return str(refused.value)


def test_experts_are_scored_as_one_agent(tmp_path):
  runs = [
    evaluated(tmp_path / 'a', {'pong': 14.6}),
    evaluated(tmp_path / 'b', {'breakout': 16.1}),
    evaluated(tmp_path / 'c', {'boxing': 0.1, 'freeway': 29.6}),
  ]
  folder = tmp_path / 'deep' / 'folder'
  done = subprocess.run(
    [sys.executable, 'scripts/scores.py', str(folder), *map(str, runs)],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  found = json.loads((folder / 'scores.json').read_text())
  assert found['normalised'] == {
    'pong': pytest.approx(100.0),
    'breakout': pytest.approx(50.0),
    'boxing': pytest.approx(0.0),
    'freeway': pytest.approx(100.0),
  }
  assert found['summary']['agent'] == {'median': pytest.approx(75.0), 'mean': pytest.approx(62.5)}
  assert '4 of the 57 tasks' in found['note'] and '4 of the 57 tasks' in done.stdout
  assert (folder / 'scores.png').read_bytes().startswith(b'\x89PNG')
  for task in found['normalised']:
    assert task in done.stdout
  assert 'Traceback' not in done.stderr


def test_experts_on_dmlab_have_the_mean_of_table_b1(tmp_path):
  table = scores.references('dmlab30')
  runs = [
    evaluated(tmp_path / level, {level: row['experts_deep']}, 'dmlab30')
    for level, row in table.items()
  ]
  found = merged(tmp_path, *runs)
  assert found['summary']['agent']['mean_capped_table_b1'] == pytest.approx(44.44, abs=0.005)
  assert found['summary']['agent'] == found['summary']['experts'] and found['note'] == ''


def test_a_note_of_several_runs_is_written_once(tmp_path):
  notes = {'pong': 'Sticky.', 'boxing': 'Slippery.', 'freeway': 'Sticky.', 'qbert': ''}
  runs = [evaluated(tmp_path / task, {task: 1.0}, note=note) for task, note in notes.items()]
  found = merged(tmp_path, *runs)
  assert found['note'].startswith('Sticky. Slippery. ') and found['note'].count('Sticky.') == 1


def test_a_task_of_two_runs_is_refused(tmp_path):
  runs = [
    evaluated(tmp_path / 'a', {'pong': 1.0}),
    evaluated(tmp_path / 'b', {'boxing': 1.0, 'pong': 2.0}),
  ]
  text = refusal(tmp_path, *runs)
  assert str(runs[1]) in text and 'pong' in text and 'boxing' not in text.replace(str(runs[1]), '')
  assert 'pong' in refusal(tmp_path, runs[0], runs[0])


def test_a_run_that_was_not_evaluated_is_refused_with_how_to(tmp_path):
  (tmp_path / 'b').mkdir()
  text = refusal(tmp_path, evaluated(tmp_path / 'a', {'pong': 1.0}), tmp_path / 'b')
  assert f'{tmp_path}/b/evaluation.json' in text
  assert f'python -m impala.evaluate {tmp_path}/b' in text
  assert str(tmp_path / 'nowhere') in refusal(tmp_path, tmp_path / 'nowhere')


@pytest.mark.parametrize(
  'text', ['{', '[]', '{"agent": {}}', 'null', '{"references": "atari57", "note": ""}']
)
def test_a_damaged_evaluation_is_refused(tmp_path, text):
  (tmp_path / 'a').mkdir()
  (tmp_path / 'a' / 'evaluation.json').write_text(text)
  assert f'{tmp_path}/a/evaluation.json' in refusal(tmp_path, tmp_path / 'a')


def test_runs_with_different_references_are_refused(tmp_path):
  text = refusal(
    tmp_path,
    evaluated(tmp_path / 'a', {'pong': 1.0}),
    evaluated(tmp_path / 'b', {'rooms_watermaze': 1.0}, 'dmlab30'),
  )
  assert "'atari57'" in text and "'dmlab30'" in text


def test_runs_without_references_are_refused(tmp_path):
  assert 'expected all against atari57 or all against dmlab30' in refusal(
    tmp_path, evaluated(tmp_path / 'a', {'CartPole-v1': 1.0}, '')
  )
  assert 'expected all' in refusal(
    tmp_path,
    evaluated(tmp_path / 'b', {'basic': 1.0}, ''),
    evaluated(tmp_path / 'c', {'pong': 1.0}),
  )


@pytest.mark.parametrize('arguments', [[], ['only_a_folder'], ['--help', 'x', 'y']])
def test_a_command_line_without_runs_says_what_is_expected(arguments):
  with pytest.raises(errors.UserError, match='FOLDER RUN'):
    script.main(['scores.py', *arguments])
