"""Plans: what runs there are, what they are named after, what a version or a machine lacks."""

import dataclasses
import json
import shlex

import pytest

from common import errors
from common.experiments import definitions, plan
from impala import config as configs

PRESETS = {'impala': configs.PRESETS}
TASK = definitions.Task('CartPole', 'gym:CartPole-v1', 20.0, 500.0)
CLAIM = definitions.Claim('A beats B.', 'section 1', (definitions.Better('A', 'B'),))


def experiment(**changes):
  scale = definitions.Scale(
    preset='gym',
    tasks=(TASK, dataclasses.replace(TASK, name='Acrobot', env='gym:Acrobot-v1')),
    changes='All.',
    frames_per_second=100.0,
    settings=dict(total_frames=3_000, learning_rate=0.5, batch_size=4),
    draws=3,
    seeds=2,
  )
  values = dict(
    id='impala.mine',
    title='Mine',
    claims=(CLAIM,),
    variants=(
      definitions.Variant('A', dict(correction='vtrace')),
      definitions.Variant('B', dict(correction='none'), at={'small': dict(core_size=32)}),
    ),
    scales={'small': scale},
  )
  return definitions.Experiment(**{**values, **changes})


def planned(tmp_path, **changes):
  return plan.make(experiment(**changes), 'small', PRESETS, tmp_path)


def test_all_variants_tasks_combinations_and_seeds_are_planned(tmp_path):
  runs = planned(tmp_path).runs
  assert len(runs) == 2 * 2 * 3 * 2 == len({run.name for run in runs})
  assert [run.number for run in runs] == list(range(24))
  last = runs[-1]
  assert last.describe() == 'B on Acrobot, draw 2, seed 2'
  assert (last.config.correction, last.config.core_size) == ('none', 32)
  assert (last.config.env, last.config.seed, last.config.batch_size) == ('gym:Acrobot-v1', 2, 4)
  # The combination of hyperparameters, which the scale's own value must not replace.
  drawn = configs.PRESETS.draw(2)
  assert {name: getattr(last.config, name) for name in drawn} == drawn
  assert runs[0].config.core_size == 256


def test_a_command_trains_the_same_run(tmp_path):
  from common.config import command_line

  run = planned(tmp_path).runs[-1]
  words = shlex.split(run.command(tmp_path))
  assert words[:3] == ['python', '-m', 'impala.train']
  config, options = command_line.parse(words[2:], '', configs.PRESETS)
  assert config == run.config
  assert options.run_dir == tmp_path / run.name


def test_the_same_run_of_two_experiments_has_one_folder(tmp_path):
  names = {run.name for run in planned(tmp_path).runs}
  others = plan.make(experiment(id='impala.other'), 'small', PRESETS, tmp_path)
  assert {run.name for run in others.runs} == names
  changed = (definitions.Variant('A', dict(correction='vtrace', discount=0.5)),)
  changed_runs = planned(tmp_path, variants=changed, claims=()).runs
  assert not {run.name for run in changed_runs} & names


def test_only_what_is_not_finished_is_missing_and_its_speed_is_used(tmp_path):
  made = planned(tmp_path)
  assert plan.total_seconds(made, made.runs, 1) == pytest.approx(24 * 34.0)
  assert plan.total_seconds(made, made.runs, 2) == pytest.approx(12 * 34.0)
  first = made.runs[0]
  (tmp_path / first.name).mkdir()
  (tmp_path / first.name / 'finished.json').write_text(json.dumps({'seconds': 10.0}))
  assert [run.number for run in made.missing()] == list(range(1, 24))
  # The six runs of A on CartPole, and the others at the stated speed.
  assert plan.total_seconds(made, made.runs, 1) == pytest.approx(6 * 10.0 + 18 * 34.0)


def test_variants_that_this_version_cannot_run_are_named_and_left_out(tmp_path):
  lacking = (
    definitions.Variant('A', dict(warp_drive=True)),
    definitions.Variant('B', program='teleport'),
  )
  made = planned(tmp_path, variants=lacking)
  assert not made.runs
  assert made.unavailable == {
    'A': 'not available in this version: setting warp_drive',
    'B': 'not available in this version: program impala.teleport',
  }
  alien = (dataclasses.replace(TASK, env='alien:task'),)
  scale = dataclasses.replace(experiment().scales['small'], tasks=alien)
  made = planned(tmp_path, scales={'small': scale})
  assert made.unavailable['A'] == 'not available in this version: environment alien:task'


def test_a_setting_that_cannot_work_names_its_experiment(tmp_path):
  wrong = (
    definitions.Variant('A', dict(correction='none')),
    definitions.Variant('B', dict(discount=7.0)),
  )
  with pytest.raises(errors.UserError, match='impala.mine, B, CartPole: discount is 7.0'):
    planned(tmp_path, variants=wrong)


@pytest.mark.parametrize(
  'changes, words',
  [
    (dict(pictures=('curve',)), "picture of experiment impala.mine 'curve'. Did you mean curves"),
    (dict(variants=(definitions.Variant('A'),)), "variant of experiment impala.mine 'B'"),
    (dict(scales={'tiny': None}), "scale of experiment impala.mine 'tiny'"),
    (dict(scales={}), 'expected variants and scales, or a command'),
  ],
)
def test_a_definition_that_contradicts_itself_is_refused(changes, words):
  with pytest.raises(errors.UserError, match=words):
    experiment(**changes)


def test_what_a_machine_lacks_is_said():
  needs = definitions.Needs(cores=10_000, gpus=99, gigabytes=10**6, packages=('no_such_lab',))
  lacks = plan.lacking_machine(needs, 2)
  assert [text.split(',')[0] for text in lacks] == [
    '10000 cores for a run',
    '99 GPU',
    '2000000 GB of memory',
    'the package no_such_lab',
  ]
  assert not plan.lacking_machine(definitions.Needs(gigabytes=0.1), 1)


@pytest.mark.parametrize(
  'seconds, words',
  [(5, '5 s'), (600, '10 min'), (7200, '2.0 h'), (864_000, '10 days'), (4e10, '1,268 years')],
)
def test_durations_are_for_people(seconds, words):
  assert plan.duration(seconds) == words
