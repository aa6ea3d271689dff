"""Runs that fail, die or are stopped: retried once, then reported; and what goes on later."""

import json
import os
import pathlib
import signal
import threading
import time

import pytest

from common.config import presets, settings
from common.experiments import definitions, execution, plan, results

SYSTEM = 'tests.common.experiments'
PRESETS = {
  SYSTEM: presets.Presets(config=settings.Settings, rows={'any': {}}, families={}, default='any')
}


def planned(folder, *endings, program='failing'):
  """A plan with a run for each way to end."""
  scale = definitions.Scale(
    preset='any',
    tasks=(definitions.Task('task', 'gym:CartPole-v1'),),
    changes='All.',
    frames_per_second=1.0,
  )
  variants = tuple(
    definitions.Variant(name, dict(tasks=name, total_frames=1), system=SYSTEM, program=program)
    for name in endings
  )
  experiment = definitions.Experiment('any.x', 'X', (), variants, {'smoke': scale})
  return plan.make(experiment, 'smoke', PRESETS, folder)


def attempts(made, name):
  run = next(run for run in made.runs if run.variant == name)
  return len((made.folder / run.name / 'attempts').read_text())


@pytest.mark.long  # Every failure costs a process that imports TensorFlow.
def test_a_failed_run_is_retried_once_and_then_reported(tmp_path):
  made = planned(tmp_path, 'ends well', 'fails once', 'dies', 'is wrong')
  report = execution.execute(made, made.missing(), jobs=2)
  assert report.finished == 2 and not report.is_stopped
  assert {name.partition(' on ')[0] for name in report.failed} == {'dies', 'is wrong'}
  assert 'a setting that cannot work' in ' '.join(report.failed.values())
  assert 'SIGKILL' in ' '.join(report.failed.values())
  tried = {name: attempts(made, name) for name in ('ends well', 'fails once', 'dies', 'is wrong')}
  assert tried == {'ends well': 1, 'fails once': 2, 'dies': 2, 'is wrong': 1}
  notes = [json.loads(path.read_text()) for path in tmp_path.glob('*/finished.json')]
  assert sorted(note['attempts'] for note in notes) == [1, 2]
  # What is finished is not run again, what failed is.
  assert [run.variant for run in made.missing()] == ['dies', 'is wrong']
  assert len(list(tmp_path.glob('*/failed.txt'))) == 2


def test_a_program_that_trains_many_runs_has_an_outcome_for_each(tmp_path):
  made = planned(tmp_path, 'many', program='outside')
  report = execution.execute(made, made.missing(), jobs=1)
  assert report.finished == 1 and not report.failed
  outcomes = results.collect(made)['many']['task']
  assert [each.metrics['final_return'] for each in outcomes] == [0.0, 1.0]


def test_a_signal_stops_runs_in_order_and_the_rest_is_left_for_later(tmp_path):
  made = planned(tmp_path, 'is stopped', 'ends well')
  waiting = tmp_path / made.runs[0].name / 'is waiting'

  def interrupt():
    while not waiting.exists():
      time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGTERM)

  thread = threading.Thread(target=interrupt, daemon=True)
  thread.start()
  report = execution.execute(made, made.missing(), jobs=1)
  thread.join()
  assert report.is_stopped and not report.finished and not report.failed
  assert len(made.missing()) == 2
  assert not pathlib.Path(tmp_path / made.runs[1].name).exists()


def test_jobs_share_the_cores():
  usable = sorted(os.sched_getaffinity(0))
  assert execution._shares(1) == [usable]
  many = execution._shares(2 * len(usable))
  assert all(len(share) == 1 for share in many)
  assert sorted(core for share in execution._shares(len(usable)) for core in share) == usable
