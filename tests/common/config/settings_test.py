"""Settings of every config: equal shares of environments, memory for them, their options."""

import dataclasses
import re

import gymnasium
import numpy as np
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


def test_processes_of_environments_must_fit_too(monkeypatch):
  suite = dataclasses.replace(suite_of(1), measure_bytes=lambda: 120 * 10**6)
  monkeypatch.setattr(memory, 'available', lambda: int(6e9))
  Config(num_actors=5, envs_per_actor=10).check_shares(suite)
  message = (
    'envs_per_actor is 16, expected fewer: 64 environments of many take about 8 GB, 120 MB each, '
    'and 6 GB are free. Each has a process, without which they take less: '
    '--config.env_processes=never. Set it with --config.envs_per_actor=VALUE'
  )
  with pytest.raises(errors.UserError) as refused:
    Config(num_actors=4, envs_per_actor=16).check_shares(suite)
  assert str(refused.value) == message


def test_impala_checks_shares_against_the_environment():
  config = dataclasses.replace(
    configs.PRESETS.preset('table_4_multi_task'), num_actors=2, envs_per_actor=3
  )
  suite = dataclasses.replace(environments.load('atari:pong'), name='atari57', tasks=atari.ATARI_57)
  with pytest.raises(errors.UserError, match='57 tasks'):
    config.check_environment(suite)
  dataclasses.replace(config, envs_per_actor=57).check_environment(suite)


def test_an_evaluation_without_a_limit_of_steps_is_refused():
  dataclasses.replace(Config(), max_evaluation_steps=1).check()
  with pytest.raises(errors.UserError, match='max_evaluation_steps is 0, expected more than 0'):
    dataclasses.replace(Config(), max_evaluation_steps=0).check()


def showing(*shape, frame_stack=1):
  """A suite that shows images or vectors of a shape."""
  dtype = np.float32 if len(shape) == 1 else np.uint8
  space = gymnasium.spaces.Box(0, 255, shape, dtype)
  return dataclasses.replace(
    suite_of(1),
    observation_space=gymnasium.spaces.Dict({'observation': space}),
    frame_stack=frame_stack,
  )


@pytest.mark.parametrize(
  'suite, torso',
  [
    (showing(4), 'vector'),
    (showing(7, 7, 3), 'small'),
    (showing(19, 160, 3), 'small'),
    (showing(20, 20, 1), 'shallow'),
    (showing(96, 96, 3), 'shallow'),
    # Grey frames, stacked along the first axis.
    (showing(4, 84, 84, frame_stack=4), 'shallow'),
    (showing(4, 10, 10, frame_stack=4), 'small'),
  ],
)
def test_the_torso_is_chosen_by_what_is_observed(suite, torso):
  config = Config(torso='auto')
  config.check_torso(suite)
  assert config.torso_for(suite) == torso
  # And only then.
  assert Config(torso='deep').torso_for(suite) == 'deep'


@pytest.mark.parametrize(
  'torso, suite, message',
  [
    ('vector', showing(7, 7, 3), "torso is 'vector', expected 'auto', or 'vector' for vectors"),
    (
      'shallow',
      showing(7, 7, 3),
      "torso is 'shallow', expected 'auto', or one for images as small",
    ),
    ('grid', showing(7, 7, 1), "torso is 'grid', expected 'auto': grid reads an object"),
  ],
)
def test_a_torso_that_does_not_fit_is_refused(torso, suite, message):
  with pytest.raises(errors.UserError, match=re.escape(message)):
    Config(torso=torso).check_torso(suite)


def test_grids_are_read_by_their_torso():
  Config(torso='grid').check_torso(showing(7, 7, 3))


@pytest.mark.parametrize('sizes', ['', '64,', '0', '-3', '64 64', 'a'])
def test_sizes_that_are_no_numbers_are_refused(sizes):
  with pytest.raises(errors.UserError, match='vector_sizes is'):
    Config(vector_sizes=sizes).check()


def test_sizes_of_the_vector_network():
  config = Config(vector_sizes='128, 32')
  config.check()
  assert config.vector_layers() == (128, 32)
  assert Config().vector_layers() == (64, 64)


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
