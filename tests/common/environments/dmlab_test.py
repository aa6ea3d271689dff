"""DeepMind Lab as an environment: calls to the engine, its answers, and what is refused."""

import importlib
import inspect
import logging
import os
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest

from common import environments, errors
from common.environments import dmlab, levels, parallel, suite
from common.machine import workers
from scripts import processes

ROOT = pathlib.Path(__file__).parents[3]
STAND_INS = str(ROOT / 'tests' / 'stand_ins')
PREFIX = 'contributed/dmlab30/'
WATERMAZE = 'rooms_watermaze'
LANGUAGE = 'language_execute_random_task'
MAZE = 'explore_goal_locations_small'
SHORT = 'rooms_select_nonmatching_object'  # Its episodes have 180 steps.
PSYCHLAB = ('psychlab_arbitrary_visuomotor_mapping', 'psychlab_continuous_recognition')
# IMPALA, Table D.2, by hand: look right, look down, strafe right, forward, fire, jump, crouch.
VECTORS = {
  'forward': [0, 0, 0, 1, 0, 0, 0],
  'backward': [0, 0, 0, -1, 0, 0, 0],
  'strafe left': [0, 0, -1, 0, 0, 0, 0],
  'strafe right': [0, 0, 1, 0, 0, 0, 0],
  'look left': [-20, 0, 0, 0, 0, 0, 0],
  'look right': [20, 0, 0, 0, 0, 0, 0],
  'forward and left': [-20, 0, 0, 1, 0, 0, 0],
  'forward and right': [20, 0, 0, 1, 0, 0, 0],
  'fire': [0, 0, 0, 0, 1, 0, 0],
}
NAMES = list(VECTORS)
DEBUG = ['DEBUG.POS.TRANS', 'DEBUG.POS.ROT']


@pytest.fixture(autouse=True)
def module(monkeypatch, tmp_path):
  """The stand-in for `deepmind_lab`; each test has settings and files of its own."""
  monkeypatch.syspath_prepend(STAND_INS)
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  for name in (
    'STAND_IN_COMPILE_SECONDS',
    'STAND_IN_DIE_AT',
    'STAND_IN_DIE_ONCE_FLAG',
    'STAND_IN_NO_RENDERER',
    'LP_NUM_THREADS',
  ):
    # First set, so that monkeypatch restores it even if the environment adapter sets it.
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)
  return importlib.import_module('deepmind_lab')


@pytest.fixture
def labs(module, monkeypatch):
  """The engines made in this process, with the arguments that they were given."""
  made = []
  constructor = inspect.signature(module.Lab)
  reset_method = inspect.signature(module.Lab.reset)

  class Recorded(module.Lab):
    __slots__ = ('asked', 'seeds', 'actions')

    def __init__(self, *arguments, **named):
      self.asked = constructor.bind(*arguments, **named).arguments
      self.seeds = []
      self.actions = []
      made.append(self)
      super().__init__(*arguments, **named)

    def reset(self, *arguments, **named):
      bound = reset_method.bind(self, *arguments, **named)
      self.seeds.append(bound.arguments.get('seed'))
      return super().reset(*arguments, **named)

    def step(self, *arguments, **named):
      self.actions.append(arguments[0] if arguments else named['action'])
      return super().step(*arguments, **named)

  monkeypatch.setattr(module, 'Lab', Recorded)
  return made


@pytest.fixture
def here(monkeypatch):
  """A function that makes the environments of a suite in this process, as a list."""
  monkeypatch.setattr(
    parallel, 'ParallelVectorEnv', lambda makes, *_, **__: [make() for make in makes]
  )

  def make(name, training=True, tasks=None, **options):
    loaded = environments.load(name, environments.Options(**options))
    return loaded.make(tasks or loaded.tasks, training)

  return make


def level(name, cache='', episode_seeds=0, **config) -> dmlab.Level:
  return dmlab.Level(
    path=PREFIX + name,
    config={'width': '96', 'height': '72', **config},
    renderer='software',
    cache=cache,
    cache_bytes=1e9,
    episode_seeds=episode_seeds,
  )


def by_hand(module, name, observations=('RGB_INTERLEAVED', 'INSTR'), **config):
  """The engine itself, without the adapter under test."""
  config = {'width': '96', 'height': '72', **config}
  return module.Lab(PREFIX + name, list(observations), config)


def vector(name) -> np.ndarray:
  return np.array(VECTORS[name], np.intc)


def load(name, **options) -> suite.Suite:
  return environments.load(name, environments.Options(**options))


def refusal(name, **options) -> str:
  with pytest.raises(errors.UserError) as refused:
    load(name, **options)
  return str(refused.value)


def refusal_of_environments(name, training=True, **options) -> str:
  """The message when the environments refuse, in their processes, and not `load`."""
  before = processes.children()
  loaded = load(name, **options)
  with pytest.raises(errors.UserError) as refused:
    loaded.make(loaded.tasks, training)
  assert processes.children() == before
  assert 'Traceback' not in str(refused.value)
  return str(refused.value)


# Observations, actions and episodes.


@pytest.mark.parametrize('name', [WATERMAZE, LANGUAGE])
def test_observations_are_small_pictures_and_hashed_instructions(labs, module, name):
  environment = dmlab.DmLabEnv(level(name))
  observation, info = environment.reset(seed=1)
  lab = by_hand(module, name)
  lab.reset(seed=labs[0].seeds[0])
  seen = lab.observations()
  assert observation['observation'].shape == (72, 96, 3)
  assert observation['observation'].dtype == np.uint8
  assert environment.observation_space.contains(observation) and info == {}
  np.testing.assert_array_equal(observation['observation'], seen['RGB_INTERLEAVED'])
  np.testing.assert_array_equal(observation['instruction'], suite.hash_words(seen['INSTR']))
  assert (name == LANGUAGE) == bool((observation['instruction'] >= 0).sum())


def test_a_level_without_instructions_is_played_with_empty_ones(labs, here):
  (environment,) = here('dmlab:tests/demo_map')
  observations = [environment.reset(seed=1)[0], environment.step(0)[0]]
  assert labs[-1].asked['observations'] == ['RGB_INTERLEAVED']
  for observation in observations:
    assert environment.observation_space.contains(observation)
    np.testing.assert_array_equal(observation['instruction'], suite.hash_words(''))


def test_the_engine_is_made_with_the_right_arguments(labs):
  dmlab.DmLabEnv(level(WATERMAZE))
  assert len(labs) == 1  # A second one in a process would load the module's library once more.
  asked = labs[0].asked
  assert asked['level'] == 'contributed/dmlab30/rooms_watermaze'
  assert type(asked['observations']) is list
  assert set(asked['observations']) == {'RGB_INTERLEAVED', 'INSTR'}
  assert (asked['config']['width'], asked['config']['height']) == ('96', '72')
  assert asked.get('temp_folder', '') is not None and asked['renderer'] == 'software'


@pytest.mark.parametrize('number, name', enumerate(NAMES))
def test_each_action_is_that_of_the_paper(labs, module, number, name):
  environment = dmlab.DmLabEnv(level(WATERMAZE))
  environment.reset(seed=1)
  lab = by_hand(module, WATERMAZE)
  lab.reset(seed=labs[0].seeds[0])
  rewards = []
  for _ in range(16):
    observation, reward, *_ = environment.step(np.int64(number))
    rewards.append(reward)
    assert reward == lab.step(vector(name), num_steps=4)
    if name != 'fire':  # After a shot, engines with one seed differ.
      seen = lab.observations()['RGB_INTERLEAVED']
      np.testing.assert_array_equal(observation['observation'], seen)
  assert sum(rewards) == {'fire': 1, 'backward': -1}.get(name, 0)
  assert all(action.flags.c_contiguous and action.dtype == np.intc for action in labs[0].actions)


@pytest.mark.parametrize(
  'number, ahead, left, turned',
  [
    (0, 1, 0, 0),
    (1, -1, 0, 0),
    (2, 0, 1, 0),
    (3, 0, -1, 0),
    (4, 0, 0, 1),
    (5, 0, 0, -1),
    (8, 0, 0, 0),
  ],
)
def test_each_action_moves_the_player_where_it_says(
  module, monkeypatch, number, ahead, left, turned
):
  original = module.Lab
  made = []

  def make_with_place(level, observations, **named):
    """Observes the player's place too, which the environment does not ask for."""
    made.append(original(level, observations + DEBUG, **named))
    return made[0]

  monkeypatch.setattr(module, 'Lab', make_with_place)
  environment = dmlab.DmLabEnv(level(WATERMAZE))
  environment.reset(seed=1)
  (x, y, _), (_, before, _) = (made[0].observations()[name] for name in DEBUG)
  for _ in range(3):
    environment.step(number)
  (to_x, to_y, _), (pitch, after, _) = (made[0].observations()[name] for name in DEBUG)
  walked = complex(to_x - x, to_y - y) / np.exp(1j * np.radians(before))
  # 12 frames: 5.3 units or 2.1 degrees each.
  assert (round(walked.real / 64), round(walked.imag / 64)) == (ahead, left)
  assert round(((after - before + 180) % 360 - 180) / 25.35) == turned
  assert pitch == 0


def test_there_are_nine_actions():
  assert dmlab.DmLabEnv.action_space.n == len(VECTORS) == 9
  np.testing.assert_array_equal(dmlab.ACTIONS, list(VECTORS.values()))


def test_an_action_is_held_for_four_frames_and_their_rewards_are_summed(labs, module):
  environment = dmlab.DmLabEnv(level(LANGUAGE))
  environment.reset(seed=2)
  lab = by_hand(module, LANGUAGE)
  lab.reset(seed=labs[0].seeds[0])
  instructions = set()
  total = 0.0
  for number in np.random.default_rng(0).choice([0, 1, 1, 5, 1], 320):
    observation, reward, terminated, truncated, _ = environment.step(number)
    assert reward == sum(lab.step(vector(NAMES[number])) for _ in range(4))
    seen = lab.observations()
    np.testing.assert_array_equal(observation['observation'], seen['RGB_INTERLEAVED'])
    np.testing.assert_array_equal(observation['instruction'], suite.hash_words(seen['INSTR']))
    assert not terminated and not truncated
    instructions.add(seen['INSTR'])
    total += abs(reward)
  assert lab.num_steps() == labs[0].num_steps() == 1280
  assert len(instructions) > 1  # A new trial has a new instruction within the episode.
  assert total > 5


def test_the_last_step_repeats_the_observation_before_it(labs):
  environment = dmlab.DmLabEnv(level(SHORT))
  first, _ = environment.reset(seed=3)
  seen = []
  terminated = False
  while not terminated:
    observation, _, terminated, truncated, _ = environment.step(7)
    seen.append(observation)
    assert not truncated and len(seen) <= 180
  assert len(seen) == 180
  for name in ('observation', 'instruction'):
    np.testing.assert_array_equal(seen[-1][name], seen[-2][name])
  assert (seen[-2]['observation'] != seen[-3]['observation']).any()
  again, _ = environment.reset()
  assert (again['observation'] != first['observation']).any()
  assert not environment.step(0)[2]


def test_the_same_engine_plays_all_episodes(labs):
  environment = dmlab.DmLabEnv(level(SHORT, episodeLengthSeconds='1'))
  ends = 0
  environment.reset(seed=1)
  for _ in range(45):
    if environment.step(0)[2]:
      ends += 1
      environment.reset()
  assert (ends, len(labs), len(labs[0].seeds)) == (3, 1, 4)
  environment.close()
  assert not labs[0].close()  # It was open until then, and is closed now.


# Seeds.


def seeds(labs, seed, number=40, **options) -> list[int]:
  """The engine's seeds of the first episodes of a new environment."""
  environment = dmlab.DmLabEnv(level(WATERMAZE, **options))
  environment.reset(seed=seed)
  for _ in range(number - 1):
    environment.reset()
  return labs[-1].seeds


def test_seeds_of_episodes_are_in_the_range_of_the_engine(labs):
  found = seeds(labs, 1)
  assert all(type(seed) is int and 0 <= seed < 2**31 for seed in found)
  assert len(set(found)) == 40
  assert min(found) < 2**29 and max(found) > 3 * 2**29  # The whole range.


def test_a_seed_repeats_the_episodes_in_a_new_environment(labs):
  assert seeds(labs, 1) == seeds(labs, 1)
  assert not set(seeds(labs, 1)) & set(seeds(labs, 2))


def test_without_a_seed_episodes_differ(labs):
  # Without one, the engine would use the second of its start: the same in many processes.
  assert None not in seeds(labs, None)
  assert not set(seeds(labs, None)) & set(seeds(labs, None))


def test_episode_seeds_limit_the_episodes(labs):
  first = seeds(labs, 1, episode_seeds=3)
  second = seeds(labs, 2, episode_seeds=3)
  assert set(first) == set(second) and len(set(first)) == 3
  assert first != second
  assert all(type(seed) is int for seed in first)


def test_only_training_is_limited_to_few_episodes(labs, here):
  for training, expected in ((True, 2), (False, 12)):
    (environment,) = here('dmlab:rooms_watermaze', training, dmlab_episode_seeds=2)
    for _ in range(12):
      environment.reset()
    assert len(set(labs[-1].seeds)) == expected


# Settings of the levels.


@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('name', ['dmlab30', 'dmlab5'])
def test_all_levels_take_their_settings_and_play(labs, here, training, name):
  made = here(name, training, dmlab_dataset_path='dummy')
  assert len(labs) == len(levels.SETS[name])
  for environment in made:
    environment.reset(seed=1)
    assert environment.step(0)[2] is False
  for lab in labs:
    config = lab.asked['config']
    assert all(type(text) is str for pair in config.items() for text in pair)
    assert (config['width'], config['height']) == ('96', '72')


def test_training_is_on_the_training_levels(labs, here):
  here('dmlab30', dmlab_dataset_path='dummy')
  assert [lab.asked['level'] for lab in labs] == [PREFIX + task for task in levels.DMLAB_30]
  for lab in labs:
    assert not {'mixerSeed', 'allowHoldOutLevels'} & set(lab.asked['config'])


def test_evaluation_is_on_the_test_levels_with_their_mixer_seed(labs, here):
  here('dmlab30', training=False, dmlab_dataset_path='dummy')
  expected = [PREFIX + task for task in levels.DMLAB_30]
  expected[:2] = [
    PREFIX + 'rooms_collect_good_objects_test',
    PREFIX + 'rooms_exploit_deferred_effects_test',
  ]
  assert [lab.asked['level'] for lab in labs] == expected
  for lab in labs:
    assert int(lab.asked['config']['mixerSeed'], 0) == 0x600D5EED
    assert lab.asked['config']['allowHoldOutLevels'] == 'true'


@pytest.mark.parametrize(
  'name',
  [
    'rooms_collect_good_objects_test',
    'rooms_exploit_deferred_effects_test',
    'contributed/fast_mapping/fast_mapping_test',
    'contributed/psychlab/memory_suite_01/change_detection_holdout_extrapolate',
  ],
)
def test_levels_held_out_for_evaluation_are_allowed_when_they_are_asked_for(name):
  for training in (True, False):
    config = dmlab.level(name, training, environments.Options()).config
    assert config['allowHoldOutLevels'] == 'true'
  assert 'allowHoldOutLevels' not in dmlab.level(WATERMAZE, True, environments.Options()).config


def test_a_held_out_level_of_dmlab_30_is_trained_and_evaluated(labs, here):
  for training in (True, False):
    (environment,) = here('dmlab:rooms_collect_good_objects_test', training)
    environment.reset(seed=1)
    asked = labs[-1].asked
    assert asked['level'] == PREFIX + 'rooms_collect_good_objects_test'
    assert asked['config']['logLevel'] == 'WARN'
    assert ('mixerSeed' in asked['config']) == (not training)


def test_a_level_outside_of_dmlab_30_gets_none_of_its_settings(labs, here):
  for training in (True, False):
    here('dmlab:seekavoid_arena_01', training, dmlab_dataset_path='dummy')
    assert labs[-1].asked['level'] == 'seekavoid_arena_01'
    config = labs[-1].asked['config']
    assert not {'mixerSeed', 'allowHoldOutLevels', 'datasetPath', 'logLevel'} & set(config)


def test_tasks_may_be_repeated_and_chosen(labs, here):
  here('dmlab30', tasks=[MAZE, WATERMAZE, MAZE], dmlab_dataset_path='dummy')
  asked = [lab.asked['level'] for lab in labs]
  assert asked == [PREFIX + name for name in (MAZE, WATERMAZE, MAZE)]


def test_engine_settings_and_the_renderer_pass_through(labs, here):
  here(
    'dmlab:rooms_watermaze',
    dmlab_engine='minimalUI=true,episodeLengthSeconds=2',
    dmlab_renderer='hardware',
  )
  asked = labs[0].asked
  assert (asked['config']['minimalUI'], asked['config']['episodeLengthSeconds']) == ('true', '2')
  assert asked['renderer'] == 'hardware'


@pytest.mark.parametrize('text', ['minimalUI', 'minimalUI=true,fps', 'width=64', 'height=64'])
def test_malformed_engine_settings_are_refused(text):
  said = refusal('dmlab:rooms_watermaze', dmlab_engine=text)
  assert 'dmlab_engine' in said and text.split(',')[-1] in said and 'KEY=VALUE' in said


def test_the_level_cache_is_given_only_if_it_has_a_folder(labs, here, tmp_path, monkeypatch):
  here('dmlab:rooms_watermaze')
  assert labs[-1].asked.get('level_cache') is None
  monkeypatch.setenv('HOME', str(tmp_path / 'home'))
  (environment,) = here(f'dmlab:{MAZE}', dmlab_level_cache='~/maps')
  cache = labs[-1].asked['level_cache']
  assert callable(cache.fetch) and callable(cache.write)
  environment.reset(seed=1)
  assert list((tmp_path / 'home' / 'maps').glob('explore_maze_noaas_*'))


# Refusals of the engine.


@pytest.mark.parametrize(
  'name, options, words',
  [
    (
      'dmlab:rooms_watermaze',
      {'dmlab_engine': 'zzz=1'},
      ['Invalid setting: "zzz" = "1"', 'rooms_watermaze'],
    ),
    ('dmlab:no_such_level', {}, ['Level not found', 'no_such_level']),
    ('dmlab:rooms_watermaze', {'dmlab_renderer': 'glass'}, ['glass']),
  ],
)
def test_the_user_reads_the_message_of_the_engine(name, options, words):
  said = refusal_of_environments(name, **options)
  assert all(word in said for word in words)


def test_a_module_that_cannot_be_imported_is_reported(tmp_path, monkeypatch):
  # As if a library were missing, or it had been built for another Python.
  (tmp_path / 'deepmind_lab.py').write_text(
    'raise ImportError("libOSMesa.so.8: cannot open shared object file")'
  )
  monkeypatch.syspath_prepend(str(tmp_path))
  said = refusal_of_environments('dmlab:rooms_watermaze')
  assert 'deepmind_lab' in said and 'libOSMesa.so.8' in said


def test_a_renderer_that_cannot_be_loaded_is_reported_with_the_reason(monkeypatch):
  """Which the engine only writes; what it raises says that it failed."""
  monkeypatch.setenv('STAND_IN_NO_RENDERER', '1')
  said = refusal_of_environments('dmlab:rooms_watermaze')
  assert 'Failed to connect RL API Failed to open library! - ' in said
  assert said.endswith('libOSMesa.so.8: cannot open shared object file: No such file or directory')


def test_one_bad_level_among_good_ones_ends_all(module):
  before = processes.children()
  loaded = load('dmlab5')
  with pytest.raises(errors.UserError, match='Level not found'):
    loaded.make([WATERMAZE, 'no_such_level'], True)
  assert processes.children() == before


def test_a_cache_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  said = refusal_of_environments('dmlab:rooms_watermaze', dmlab_level_cache=f'{tmp_path}/file/x')
  assert str(tmp_path / 'file') in said


def test_an_error_of_the_engine_in_a_reset_is_a_crash():
  environment = dmlab.DmLabEnv(level(PSYCHLAB[0]))
  with pytest.raises(suite.EnvironmentCrashed) as crashed:
    environment.reset(seed=1)
  said = str(crashed.value)
  assert said.startswith('Failed to start environment - "') and said.endswith('data folder."')
  # In one line, without the stack trace of the level's script.
  assert 'Follow instructions to download datasets here: "data/' in said and '\n' not in said


def test_an_error_of_the_engine_in_a_step_is_a_crash():
  environment = dmlab.DmLabEnv(level(WATERMAZE))
  with pytest.raises(suite.EnvironmentCrashed, match='wrong status'):
    environment.step(0)


def test_a_level_that_fails_in_a_step_has_crashed(tmp_path):
  environment = dmlab.DmLabEnv(level(PSYCHLAB[0], datasetPath=str(tmp_path)))
  environment.reset(seed=1)
  with pytest.raises(suite.EnvironmentCrashed) as crashed:
    for _ in range(16):
      environment.step(0)
  said = str(crashed.value)
  assert said.startswith('Failed to advance environment "') and said.endswith('0001.png\'"')
  assert 'traceback' not in said and '\n' not in said


def test_a_level_that_fails_in_every_episode_ends_the_run_with_its_message(tmp_path):
  image = tmp_path / '0001.png'
  image.touch()
  loaded = load(f'dmlab:{PSYCHLAB[0]}', dmlab_dataset_path=str(tmp_path))
  image.unlink()
  made = loaded.make(loaded.tasks, True)
  try:
    made.reset(seed=1)
    for _ in range(14):
      made.step([0])
    assert 'Failed to advance environment' in made.step([0])[-1]['crashes'][0]
    with pytest.raises(errors.UserError, match='5 times in a row .*0001.png'):
      for _ in range(4 * 15):
        made.step([0])
  finally:
    made.close()


# The data set of some levels.


def test_without_the_data_set_its_levels_are_left_out_loudly(caplog):
  with caplog.at_level(logging.WARNING):
    loaded = load('dmlab30')
  assert list(loaded.tasks) == [task for task in levels.DMLAB_30 if task not in PSYCHLAB]
  assert [record.levelname for record in caplog.records] == ['WARNING']
  for text in (caplog.text, loaded.note):
    assert all(task in text for task in PSYCHLAB)
  assert 'dmlab_dataset_path' in caplog.text


@pytest.mark.parametrize('task', PSYCHLAB)
def test_a_single_level_without_its_data_set_is_refused(task):
  said = refusal(f'dmlab:{task}')
  assert task in said and 'dmlab_dataset_path' in said and 'dummy' in said and '\n' not in said
  assert 'dmlab_dataset_path' in refusal('dmlab30', tasks=','.join(PSYCHLAB))


def test_the_data_set_is_passed_to_its_levels(labs, here, tmp_path, caplog):
  (tmp_path / '0001.png').touch()
  with caplog.at_level(logging.WARNING):
    loaded = load('dmlab30', dmlab_dataset_path=str(tmp_path))
  assert loaded.tasks == levels.DMLAB_30 and loaded.note == '' and not caplog.records
  for environment in here('dmlab30', tasks=PSYCHLAB, dmlab_dataset_path=str(tmp_path)):
    environment.reset(seed=1)
  assert [lab.asked['config']['datasetPath'] for lab in labs] == [str(tmp_path)] * 2


def test_every_level_of_psychlab_takes_a_data_set(labs, here, tmp_path):
  (tmp_path / '0001.png').touch()
  for name in ('contributed/psychlab/harlow', 'contributed/psychlab/visual_search'):
    (environment,) = here(f'dmlab:{name}', dmlab_dataset_path=str(tmp_path))
    environment.reset(seed=1)
    for _ in range(16):
      environment.step(0)
    assert labs[-1].asked['config']['datasetPath'] == str(tmp_path)


@pytest.mark.parametrize(
  'name',
  [
    'contributed/psychlab/harlow',
    'contributed/psychlab/continuous_recognition',
    'contributed/psychlab/memory_suite_01/arbitrary_visuomotor_mapping_train',
  ],
)
def test_levels_outside_of_dmlab_30_need_their_data_set_too(name):
  said = refusal(f'dmlab:{name}')
  assert name in said and 'dmlab_dataset_path' in said


def test_dummy_images_are_noted_with_every_score():
  loaded = load('dmlab30', dmlab_dataset_path='dummy')
  assert loaded.tasks == levels.DMLAB_30
  assert 'dummy' in loaded.note and all(task in loaded.note for task in PSYCHLAB)
  assert load('dmlab:rooms_watermaze', dmlab_dataset_path='dummy').note == ''  # It shows no images.


def test_a_data_set_that_is_not_a_folder_with_images_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'file', tmp_path / 'nothing', tmp_path):
    said = refusal('dmlab30', dmlab_dataset_path=str(path))
    assert f"'{path}'" in said and 'dmlab_dataset_path' in said and '0001.png' in said
  # A level without photographs may have another data set.
  load('dmlab:contributed/psychlab/what_then_where', dmlab_dataset_path=str(tmp_path))


def test_levels_that_need_no_data_set_cause_no_warning(caplog):
  with caplog.at_level(logging.WARNING):
    assert load('dmlab5').note == load('dmlab30', tasks=WATERMAZE).note == ''
  assert not caplog.records


# The suite.


def test_the_suite_has_what_a_learner_must_know():
  for name in ('dmlab30', 'dmlab5', 'dmlab:rooms_watermaze'):
    loaded = load(name, dmlab_dataset_path='dummy')
    assert loaded.name == name
    assert (loaded.action_repeat, loaded.num_actions, loaded.frame_stack) == (4, 9, 1)
    assert loaded.observation_space == suite.pixels_and_instruction(72, 96)
    # Measured: 30 levels together took 4.1 GB.
    assert 4.1e9 < 30 * loaded.bytes_per_environment < 1.25 * 4.1e9
    # The end of a run waits for a map that is being compiled, which takes up to 43 s.
    assert loaded.closing_seconds > 60
  assert len(load('dmlab30', dmlab_dataset_path='dummy').tasks) == 30
  assert load('dmlab:seekavoid_arena_01').tasks == ('seekavoid_arena_01',)


def test_only_levels_of_dmlab_30_have_reference_scores():
  assert load('dmlab30', dmlab_dataset_path='dummy').references == 'dmlab30'
  assert load('dmlab:rooms_watermaze').references == 'dmlab30'
  assert load('dmlab:seekavoid_arena_01').references == ''


def test_the_five_levels_are_those_of_the_paper():
  assert load('dmlab5').tasks == (
    'rooms_watermaze',
    'rooms_keys_doors_puzzle',
    'lasertag_three_opponents_small',
    'explore_goal_locations_small',
    'seekavoid_arena_01',
  )


def test_the_thirty_levels_are_levels_of_the_engine(module):
  assert len(set(levels.DMLAB_30)) == 30
  for task in levels.DMLAB_30:
    by_hand(module, task)
  for task in levels.DMLAB_30[:2]:
    by_hand(module, levels.test_variant(task), allowHoldOutLevels='true')
  with pytest.raises(RuntimeError, match='Level not found'):
    by_hand(module, 'no_such_level')


def test_tasks_narrow_a_suite():
  loaded = load('dmlab30', tasks=f'{MAZE}, {WATERMAZE}', dmlab_dataset_path='dummy')
  assert loaded.tasks == (WATERMAZE, MAZE)  # In the suite's order, which numbers the tasks.
  assert load('dmlab5', tasks=WATERMAZE).tasks == (WATERMAZE,)


def test_unknown_tasks_are_refused_with_near_ones():
  said = refusal('dmlab30', tasks=f'{MAZE},rooms_watermazes')
  assert "'rooms_watermazes'" in said and 'Did you mean rooms_watermaze' in said
  only_in_dmlab5 = 'seekavoid_arena_01'
  assert only_in_dmlab5 in refusal('dmlab30', tasks=only_in_dmlab5)
  another = 'rooms_keys_doors_puzzle'
  assert another in refusal('dmlab:rooms_watermaze', tasks=another)


@pytest.mark.parametrize(
  'name', ['dmlab', 'dmlab:', 'dmlab31', 'dmlab30:rooms_watermaze', 'dmlab5:rooms_watermaze']
)
def test_malformed_names_are_refused_with_the_right_form(name):
  assert re.search('dmlab30|dmlab5|dmlab:', refusal(name).partition(repr(name))[2])


# Processes.


class Report:
  """An environment, with a method that reports on its process."""

  def __init__(self):
    self.environment = dmlab.DmLabEnv(level(WATERMAZE))

  def threads(self) -> str:
    return os.environ['LP_NUM_THREADS']


@pytest.mark.parametrize('asked, expected', [(None, '1'), ('3', '3')])
def test_the_renderer_has_one_thread_unless_told_otherwise(monkeypatch, asked, expected):
  if asked:
    monkeypatch.setenv('LP_NUM_THREADS', asked)
  worker = workers.Worker(Report)
  assert worker.receive() is None
  assert worker.call('threads') == expected
  worker.close()


def run_apart(program: str, *paths: str) -> str:
  """The output of a Python with only these folders, and those of its packages, on its path."""
  environment = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
  done = subprocess.run(
    [sys.executable, '-c', program],
    cwd=ROOT,
    capture_output=True,
    text=True,
    env=environment | {'PYTHONPATH': os.pathsep.join(paths)},
  )
  assert done.returncode == 0, done.stderr
  return done.stdout


def test_the_engine_is_not_in_the_process_of_the_learner():
  # The learner could not fork then, a fatal error would end it, and the engine holds Python's lock.
  program = """
import sys
from common import environments
loaded = environments.load('dmlab5', environments.Options(tasks='rooms_watermaze'))
made = loaded.make(loaded.tasks, True)
made.reset(seed=1)
made.step([0])
print('deepmind_lab' in sys.modules)
made.close()
"""
  assert run_apart(program, STAND_INS).split() == ['False']


@pytest.mark.parametrize('name', ['dmlab30', 'dmlab:rooms_watermaze'])
def test_without_the_module_one_paragraph_explains_what_to_do(name):
  said = run_apart(f"""
from common import environments, errors
try:
  environments.load({name!r}, environments.Options())
except errors.UserError as error:
  print(error)
""")
  for word in (name, 'deepmind_lab', 'github.com/google-deepmind/lab', 'doom'):
    assert word in said
  assert '\n\n' not in said.strip() and 'Traceback' not in said
