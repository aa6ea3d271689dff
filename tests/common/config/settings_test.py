"""What all configs share: tasks have equally many environments, machines hold them, and presets have combinations."""

import dataclasses
import re

import pytest

from common import environments, errors
from common.config import presets, settings
from common.environments import atari
from common.machine import memory
from impala import config as configs


@dataclasses.dataclass
class Config(settings.Settings):
  """A system's own."""

  num_actors: int = 2
  envs_per_actor: int = 3
  rate: float = 0.5


PRESETS = presets.Presets(
  Config,
  {'slow': {'rate': 0.1, 'seed': 9}, 'fast': {}},
  {},
  'slow',
  draws=3,
  draw=lambda number: {'rate': 10.0 + number},
)


def suite_of(tasks, bytes_per_environment=0):
  """A suite of so many tasks; its spaces do not matter here."""
  cartpole = environments.load('gym:CartPole-v1')
  return dataclasses.replace(
    cartpole,
    name='many',
    tasks=tuple(f'task_{i}' for i in range(tasks)),
    bytes_per_environment=bytes_per_environment,
  )


@pytest.mark.parametrize(
  'actors, each, tasks',
  [
    (2, 3, 1),
    (2, 3, 2),
    (2, 3, 3),
    (2, 3, 6),
    (30, 1, 30),
    (5, 6, 30),
    (57, 2, 57),
    (2, 57, 57),
    (1, 30, 30),
  ],
)
def test_equal_shares_are_accepted(actors, each, tasks):
  Config(num_actors=actors, envs_per_actor=each).check_shares(suite_of(tasks))
  shared = [
    task
    for actor in range(actors)
    for task in environments.assign(suite_of(tasks).tasks, actor, actors, each)
  ]
  assert {shared.count(task) for task in suite_of(tasks).tasks} == {actors * each // tasks}


@pytest.mark.parametrize(
  'actors, each, tasks', [(2, 3, 4), (2, 3, 5), (2, 3, 12), (4, 32, 30), (1, 1, 57), (4, 10, 57)]
)
def test_unequal_shares_are_refused_with_a_number_that_works(actors, each, tasks):
  config = Config(num_actors=actors, envs_per_actor=each)
  with pytest.raises(errors.UserError) as refused:
    config.check_shares(suite_of(tasks))
  text = str(refused.value)
  assert text.startswith(f'envs_per_actor is {each}, expected')
  assert f'now {actors * each}' in text and f'{tasks} tasks' in text
  suggested = int(re.search(r'for example (\d+)', text).group(1))
  assert suggested > 0
  dataclasses.replace(config, envs_per_actor=suggested).check_shares(suite_of(tasks))


def test_one_environment_too_many_is_refused_just_as_one_too_few():
  for each, fine in ((59, False), (57, True), (58, False), (56, False)):
    config = Config(num_actors=1, envs_per_actor=each)
    if fine:
      config.check_shares(suite_of(57))
    else:
      with pytest.raises(errors.UserError, match='equally many'):
        config.check_shares(suite_of(57))


def test_more_environments_than_the_machine_holds_are_refused():
  """The engines of DeepMind Lab take 115 MB each."""
  free = memory.available()
  fits, too_many = Config(num_actors=1, envs_per_actor=1), Config(num_actors=2, envs_per_actor=1)
  suite = suite_of(1, bytes_per_environment=int(0.6 * free))
  fits.check_shares(suite)
  with pytest.raises(
    errors.UserError,
    match=r'envs_per_actor is 1, expected fewer: 2 environments of many take about',
  ):
    too_many.check_shares(suite)


def test_deepmind_lab_s_engines_are_counted(monkeypatch):
  """`table_3_shallow` has 210 of them, of 115 MB: 24.15 GB."""
  config = dataclasses.replace(
    configs.PRESETS.preset('table_3_shallow'), num_actors=30, envs_per_actor=7
  )
  suite = dataclasses.replace(suite_of(30, 115 * 10**6), name='dmlab30')
  monkeypatch.setattr(memory, 'available', lambda: int(25e9))
  config.check_shares(suite)
  monkeypatch.setattr(memory, 'available', lambda: int(24e9))
  with pytest.raises(
    errors.UserError, match='210 environments of dmlab30 take about 24 GB, 115 MB each, and 24'
  ):
    config.check_shares(suite)


def test_impala_s_config_refuses_unequal_shares_of_the_environment_itself():
  config = dataclasses.replace(
    configs.PRESETS.preset('table_4_multi_task'), num_actors=2, envs_per_actor=3
  )
  suite = dataclasses.replace(environments.load('atari:pong'), name='atari57', tasks=atari.ATARI_57)
  with pytest.raises(errors.UserError, match='57 tasks'):
    config.check_environment(suite)
  dataclasses.replace(config, envs_per_actor=57).check_environment(suite)


def test_options_of_environments_are_the_config_s():
  config = dataclasses.replace(
    Config(),
    tasks='a,b',
    dmlab_dataset_path='dummy',
    dmlab_level_cache='/x',
    dmlab_episode_seeds=4,
    dmlab_engine='minimalUI=true',
    dmlab_renderer='hardware',
    dmlab_level_cache_gb=2.5,
  )
  assert config.environment_options() == environments.Options(
    tasks='a,b',
    max_training_frames=None,
    dmlab_dataset_path='dummy',
    dmlab_level_cache='/x',
    dmlab_level_cache_gb=2.5,
    dmlab_renderer='hardware',
    dmlab_engine='minimalUI=true',
    dmlab_episode_seeds=4,
  )


def test_a_preset_with_a_number_is_the_rest_of_it_with_that_combination():
  assert PRESETS.preset('slow') == Config(rate=0.1, seed=9)
  assert PRESETS.preset('slow:0') == Config(rate=10.0, seed=9)
  assert PRESETS.preset('slow:2') == Config(rate=12.0, seed=9)
  assert PRESETS.preset('fast:1') == Config(rate=11.0)


@pytest.mark.parametrize(
  'name', ['slow:3', 'slow:-1', 'slow:x', 'slow:1.0', 'slow:1:1', 'slow: 1', 'slow:', 'slow:99']
)
def test_a_number_that_is_none_is_refused_with_those_that_are(name):
  with pytest.raises(errors.UserError, match='expected slow, or slow:0 to slow:2'):
    PRESETS.preset(name)


def test_a_number_of_a_preset_that_does_not_exist_suggests_those_that_do():
  with pytest.raises(errors.UserError, match="unknown preset 'slwo:1'. Did you mean slow"):
    PRESETS.preset('slwo:1')


def test_a_system_without_combinations_says_so():
  without = dataclasses.replace(PRESETS, draws=0, draw=None)
  assert without.preset('slow').seed == 9
  with pytest.raises(errors.UserError, match='expected slow, without a number'):
    without.preset('slow:0')


def test_a_preset_is_a_copy():
  PRESETS.preset('slow').seed = 1000
  assert PRESETS.preset('slow').seed == 9
