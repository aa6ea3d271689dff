"""Settings of every config: equal shares of environments, memory for them, their options."""

import dataclasses
import re

import pytest

from common import environments, errors
from common.config import settings
from common.environments import atari
from common.machine import memory
from impala import config as configs


@dataclasses.dataclass
class Config(settings.Settings):
  """A system's config."""

  num_actors: int = 2
  envs_per_actor: int = 3
  rate: float = 0.5


def suite_of(tasks, bytes_per_environment=0):
  """A suite of `tasks` tasks; its spaces do not matter here."""
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


def test_one_environment_too_many_is_refused_like_one_too_few():
  Config(num_actors=1, envs_per_actor=57).check_shares(suite_of(57))
  for each in (56, 58, 59):
    config = Config(num_actors=1, envs_per_actor=each)
    with pytest.raises(errors.UserError, match='tasks get the same number of environments'):
      config.check_shares(suite_of(57))


def test_more_environments_than_memory_holds_are_refused():
  """One environment takes 60% of the free memory."""
  free = memory.available()
  fits = Config(num_actors=1, envs_per_actor=1)
  too_many = Config(num_actors=2, envs_per_actor=1)
  suite = suite_of(1, bytes_per_environment=int(0.6 * free))
  fits.check_shares(suite)
  with pytest.raises(
    errors.UserError,
    match=r'envs_per_actor is 1, expected fewer: 2 environments of many take about',
  ):
    too_many.check_shares(suite)


def test_memory_must_hold_the_environments_of_this_process_only():
  free = memory.available()
  suite = dataclasses.replace(suite_of(1), bytes_per_environment=free // 20)
  config = Config(num_actors=100, envs_per_actor=10)
  with pytest.raises(errors.UserError, match='1000 environments'):
    config.check_shares(suite)
  config.check_shares(suite, actors=1)
  with pytest.raises(errors.UserError, match='100 environments'):
    config.check_shares(suite, actors=10)


def test_memory_for_all_engines_of_deepmind_lab_is_checked(monkeypatch):
  """`table_3_shallow` has 210 engines of 115 MB each: 24.15 GB."""
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


def test_impala_checks_shares_against_the_environment():
  config = dataclasses.replace(
    configs.PRESETS.preset('table_4_multi_task'), num_actors=2, envs_per_actor=3
  )
  suite = dataclasses.replace(environments.load('atari:pong'), name='atari57', tasks=atari.ATARI_57)
  with pytest.raises(errors.UserError, match='57 tasks'):
    config.check_environment(suite)
  dataclasses.replace(config, envs_per_actor=57).check_environment(suite)


def test_environment_options_come_from_the_config():
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
