"""The command from end to end: a small experiment runs, goes on, and is refused what cannot be."""

import json
import subprocess
import sys

import pytest

from common import errors
from common.experiments import definitions, plan
from scripts import reproduce
from tests.common import programs

EXPERIMENTS = reproduce.EXPERIMENTS.values()


def run(folder, *arguments):
  return subprocess.run(
    [sys.executable, 'scripts/reproduce.py', f'--folder={folder}', *arguments],
    cwd=programs.ROOT,
    capture_output=True,
    text=True,
    timeout=400,
  )


def main(tmp_path, *arguments):
  return reproduce.main(['reproduce.py', f'--folder={tmp_path}', *arguments])


@pytest.mark.parametrize('experiment', EXPERIMENTS, ids=lambda each: each.id)
def test_every_experiment_can_be_planned_at_every_scale(experiment, tmp_path):
  assert experiment.command or 'smoke' in experiment.scales
  for name in experiment.scales:
    made = plan.make(experiment, name, reproduce.PRESETS, tmp_path)
    assert made.runs or made.unavailable
    # Every claim has a test, and every variant is run or said to be missing.
    assert {run.variant for run in made.runs} | set(made.unavailable) == set(experiment.names())
  for claim in experiment.claims:
    assert claim.tests or experiment.command


def test_rows_of_table_2_are_the_presets_of_that_table(tmp_path):
  made = plan.make(reproduce.EXPERIMENTS['impala.table_2'], 'paper', reproduce.PRESETS, tmp_path)
  presets = reproduce.PRESETS['impala']
  names = {'V-trace': 'vtrace', 'no correction, replay': 'none_replay'}
  for variant, name in names.items():
    planned = next(r for r in made.runs if r.variant == variant and r.draw == 5)
    expected = presets.preset(f'table_2_{name}:5')
    for field in (
      'correction',
      'replay_fraction',
      'replay_capacity',
      'learning_rate',
      'batch_size',
    ):
      assert getattr(planned.config, field) == getattr(expected, field)


def test_an_experiment_runs_goes_on_and_reports(tmp_path):
  done = run(tmp_path, 'impala.rho_bar', '--scale=smoke')
  assert done.returncode == 0, done.stdout + done.stderr
  folder = tmp_path / 'results' / 'impala.rho_bar' / 'smoke'
  result = json.loads((folder / 'result.json').read_text())
  assert result['runs']['finished'] == result['runs']['planned'] == 3
  assert 'NOT SHOWN: A threshold of 1 is best.' in done.stdout
  assert {path.name for path in folder.glob('*.png')} == {'curves.png', 'sorted.png'}
  finished = sorted((tmp_path / 'runs').glob('*/finished.json'))
  before = [path.read_text() for path in finished]
  # As if it had been killed just before its end: it resumes from its checkpoint.
  finished[0].unlink()
  again = run(tmp_path, 'impala.rho_bar', '--scale=smoke')
  assert again.returncode == 0, again.stdout + again.stderr
  assert '1 of 3 runs to do' in again.stdout
  assert [path.read_text() for path in finished[1:]] == before[1:]
  assert 'Resuming' in (finished[0].parent / 'log').read_text()


@pytest.mark.long
@pytest.mark.parametrize(
  'experiment', ['impala.table_2', 'impala.figure_e3', 'apex.figure_6', 'apex.figure_3']
)
def test_more_experiments_run(experiment, tmp_path):
  done = run(tmp_path, experiment, '--scale=smoke')
  assert done.returncode == 0, done.stdout + done.stderr
  folder = tmp_path / 'results' / experiment / 'smoke'
  result = json.loads((folder / 'result.json').read_text())
  assert result['runs']['finished'] == result['runs']['planned'] > 0


@pytest.mark.parametrize(
  'arguments, words',
  [
    (['impala.table_22'], 'Did you mean impala.table_2'),
    (['apex.figure_12', '--scale=large'], 'large'),
    ([], 'expected a figure or table'),
    (['apex.figure_4', '--scale=paper'], 'this machine cannot hold apex.figure_4 at scale paper'),
    (['impala.figure_4', '--from_published'], 'has no published scores by task'),
    (['list', '--experiments=no_such_module'], 'no such module'),
    (['report'], 'has no results yet'),
  ],
)
def test_what_cannot_be_is_refused(arguments, words, tmp_path):
  with pytest.raises(errors.UserError, match=words):
    main(tmp_path, *arguments)


def test_what_is_too_large_is_told_with_what_it_takes(tmp_path, monkeypatch):
  # Not installed, whatever other tests have imported.
  monkeypatch.setitem(sys.modules, 'deepmind_lab', None)
  with pytest.raises(errors.UserError) as refused:
    main(tmp_path, 'impala.rho_bar', '--scale=paper')
  text = str(refused.value)
  assert '48 cores for a run' in text and 'the package deepmind_lab' in text
  assert '360 runs of together' in text and '--slurm' in text


def test_an_array_job_has_a_task_for_each_run(tmp_path, capsys):
  main(tmp_path, 'apex.figure_4', '--scale=paper', '--slurm', '--dry_run')
  text = capsys.readouterr().out
  assert text.startswith('#!/bin/bash\n')
  assert f'#SBATCH --array={",".join(map(str, range(36)))}\n' in text
  assert '#SBATCH --gres=gpu:1\n' in text and '--run=$SLURM_ARRAY_TASK_ID' in text
  assert not list(tmp_path.iterdir())


def test_the_list_names_every_figure_its_claims_and_its_cost(tmp_path, capsys):
  main(tmp_path, 'list')
  text = capsys.readouterr().out
  for experiment in EXPERIMENTS:
    for name in (experiment.id, *experiment.also):
      assert name in text
  assert 'With replay, V-trace is the best correction.' in text
  assert 'small     192 runs, 0 finished; about' in text


def test_further_ids_find_the_experiment_whose_runs_they_share():
  found = definitions.find(reproduce.EXPERIMENTS, 'impala.figure_6')
  assert found.id == 'impala.table_3'
