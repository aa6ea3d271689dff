"""Presets hold the paper's numbers; settings that cannot work are refused."""

import dataclasses
import shlex

import gymnasium
import pytest

from apex import config as apex_configs
from common import environments, errors, networks
from common.config import command_line, settings
from common.environments import atari, doom, grids, levels
from impala import config as configs
from impala import rewards


def assert_settings(preset, **expected):
  """Asserts that a preset has these settings."""
  config = configs.PRESETS.preset(preset)
  assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_is_a_valid_config(name):
  configs.PRESETS.preset(name).check()


def test_choices_of_settings_are_those_of_the_code():
  assert set(settings.TORSOS) == set(networks.TORSOS)
  assert configs.REWARD_CLIPPINGS == tuple(rewards.FORMS)


def test_the_atari_preset_holds_table_g_1():
  assert_settings(
    'atari_shallow',
    unroll_length=20,
    batch_size=32,
    discount=0.99,
    entropy_cost=0.01,
    learning_rate=0.0006,
    rmsprop_epsilon=0.01,
    max_gradient_norm=40.0,
    lstm=False,
  )


def test_the_dmlab_preset_holds_tables_d_1_to_d_3():
  assert_settings(
    'dmlab',
    unroll_length=100,
    batch_size=32,
    discount=0.99,
    baseline_cost=0.5,
    rmsprop_momentum=0.0,
    max_gradient_norm=0.0,
    lstm=True,
  )


def test_the_replay_preset_holds_the_numbers_of_section_5_2_2():
  assert_settings('table_2_vtrace_replay', replayed_per_batch=16, replay_capacity=10_000)


@pytest.mark.parametrize(
  'field, value',
  [
    ('batch_size', 0),
    ('discount', 1.5),
    ('torso', 'huge'),
    ('correction', 'retrace'),
    ('replay_fraction', 1.0),
    ('reward_clipping', 'sign'),
    ('pg_bootstrap', 'q'),
    ('clip_c_threshold', 2.0),
    ('entropy_cost', -1.0),
  ],
)
def test_impossible_values_are_refused_by_name(field, value):
  with pytest.raises(errors.UserError, match=f'{field} is {value!r}, expected .*--config.{field}='):
    dataclasses.replace(configs.Config(), **{field: value}).check()


@pytest.mark.parametrize('env, torso', [('gym:CartPole-v1', 'shallow'), ('doom', 'vector')])
def test_a_torso_that_cannot_read_the_environment_is_refused(env, torso):
  with pytest.raises(errors.UserError, match=f'torso is {torso!r}.*{env}'):
    dataclasses.replace(configs.Config(), torso=torso).check_environment(environments.load(env))


def test_an_unknown_preset_suggests_the_nearest():
  message = "unknown preset 'atari_shalow'. Did you mean atari_shallow"
  with pytest.raises(errors.UserError, match=message):
    configs.PRESETS.preset('atari_shalow')


@pytest.mark.parametrize(
  'env, preset', [('doom:basic', 'doom'), ('atari:pong', 'atari_shallow'), ('gym:X-v0', 'gym')]
)
def test_an_environment_gets_the_preset_of_its_family(env, preset):
  assert configs.PRESETS.preset_for(env) == preset


@pytest.mark.parametrize('env', ['gym:Pendulum-v1', 'control:cartpole-swingup'])
def test_continuous_actions_are_refused_and_ape_x_dpg_is_named(env):
  config = dataclasses.replace(configs.Config(), env=env, torso='vector')
  message = f'{env} has continuous actions.*python -m apex.train --env={env}'
  with pytest.raises(errors.UserError, match=message):
    config.check_environment(environments.load(env))


def test_the_command_for_dpg_makes_the_same_environment():
  """It is split as a shell would, and Ape-X takes it."""
  config = dataclasses.replace(
    configs.PRESETS.preset('gym'), env='gym:Pendulum-v1', env_kwargs='g=9.5', action_repeat=2
  )
  suite = environments.load(config.env, config.environment_options())
  with pytest.raises(errors.UserError) as refused:
    config.check_environment(suite)
  words = shlex.split(str(refused.value).partition('Use Ape-X DPG: ')[2])
  assert words[:3] == ['python', '-m', 'apex.train']
  found, _ = command_line.parse(words[2:], '', apex_configs.PRESETS)
  names = ('env', 'env_kwargs', 'wrappers', 'action_repeat', 'image_size', 'frame_stack')
  assert all(getattr(found, name) == getattr(config, name) for name in names)
  found.check_environment(suite)


def test_dpg_is_named_in_python_for_a_function_that_no_command_line_can_name():
  name = environments.remember(lambda: gymnasium.make('Pendulum-v1'))
  config = dataclasses.replace(configs.PRESETS.preset('gym'), env=name)
  with pytest.raises(
    errors.UserError, match=r'Use Ape-X DPG: apex\.train\.train\(config, make_env'
  ):
    config.check_environment(environments.load(name))


def fitted(name, **changes):
  """A preset's config, fitted to its environment or to a stand-in with as many tasks.

  The engine of the environment need not be installed.
  """
  config = dataclasses.replace(configs.PRESETS.preset(name), **changes)
  suites = {
    **levels.SETS,
    **grids.SUITES,
    'atari57': atari.ATARI_57,
    'doom': tuple(doom.INSTRUCTIONS),
  }
  tasks = suites.get(config.env, (config.env,))
  if config.tasks:
    tasks = config.tasks.split(',')
  stand_in = environments.load('gym:CartPole-v1' if config.torso == 'vector' else 'doom:basic')
  config.fit(dataclasses.replace(stand_in, name=config.env, tasks=tuple(tasks)))
  return config


@pytest.mark.parametrize(
  'name, count, torso',
  [
    ('table_3_shallow', 210, 'shallow'),
    ('table_3_deep', 150, 'deep'),
    ('table_3_deep_pbt', 150, 'deep'),
  ],
)
def test_table_3_has_its_numbers_of_environments(name, count, torso):
  """Section 5.3.1: 210 actors for the shallow network and 150 for the deep one.

  The paper's actors have one environment each.
  """
  config = fitted(name)
  assert config.env == 'dmlab30' and config.torso == torso
  assert config.num_actors * config.envs_per_actor == count
  assigned = []
  for actor in range(config.num_actors):
    assigned += environments.assign(
      levels.DMLAB_30, actor, config.num_actors, config.envs_per_actor
    )
  assert {assigned.count(task) for task in levels.DMLAB_30} == {count // 30}


@pytest.mark.parametrize(
  'name, total_frames',
  [
    ('dmlab30', 10_000_000_000),
    ('table_3_shallow', 10_000_000_000),
    ('table_3_deep', 10_000_000_000),
    # The 30 experts have as many frames together.
    ('table_3_experts', 10_000_000_000 // 30),
  ],
)
def test_dmlab_30_has_the_released_codes_numbers(name, total_frames):
  assert_settings(
    name,
    learning_rate=0.00031866995608948655,
    entropy_cost=0.0033391318945337044,
    rmsprop_epsilon=0.1,
    total_frames=total_frames,
    batch_size=32,
    unroll_length=100,
    discount=0.99,
    baseline_cost=0.5,
    max_gradient_norm=0.0,
    lstm=True,
    reward_clipping='soft_asymmetric',
  )


def test_single_tasks_of_dmlab_clip_rewards_as_in_table_d_2():
  assert_settings('dmlab', reward_clipping='abs_one')


def test_experts_have_a_single_task():
  experts = configs.PRESETS.preset('table_3_experts')
  family, _, level = experts.env.partition(':')
  assert family == 'dmlab' and level in levels.DMLAB_30
  assert experts.torso == 'deep'
  for name, torso in (('atari_shallow', 'shallow'), ('atari_deep', 'deep')):
    assert configs.PRESETS.preset(name).env.startswith('atari:')
    assert_settings(name, torso=torso, total_frames=200_000_000)


def test_table_4_has_one_agent_for_57_games():
  config = fitted('table_4_multi_task')
  assert (config.env, config.torso, config.total_frames) == ('atari57', 'deep', 11_400_000_000)
  assert config.num_actors * config.envs_per_actor in range(57, 1000, 57)

  # Table G.1 holds for this agent and for the experts, which differ in nothing else.
  experts = configs.PRESETS.preset('atari_deep')
  as_experts = dataclasses.replace(
    config,
    env=experts.env,
    total_frames=experts.total_frames,
    num_actors=experts.num_actors,
    envs_per_actor=experts.envs_per_actor,
  )
  assert as_experts == experts


def test_dynamic_batching_of_table_1_has_48_actors():
  for name in ('table_1_48_actors', 'table_1_48_actors_dynamic_batching'):
    config = configs.PRESETS.preset(name)
    assert config.num_actors * config.envs_per_actor == 48
    assert config.dynamic_batching == name.endswith('batching')


# Those of section 5.2, which trains one agent per level.
OF_SINGLE_LEVELS = [
  name
  for name in configs.PRESETS.rows
  if name.startswith(('table_1', 'a2c', 'a3c', 'figure_4', 'figure_e1'))
]


@pytest.mark.parametrize('name', sorted(set(configs.PRESETS.rows) - set(OF_SINGLE_LEVELS)))
def test_every_preset_shares_its_environments_equally(name):
  config = fitted(name)
  assert config.num_actors > 0 and config.envs_per_actor > 0


def test_presets_of_single_levels_do_not_fit_ten_tasks():
  for name in OF_SINGLE_LEVELS:
    fitted(name, env='doom:basic')
  with pytest.raises(errors.UserError, match='now 48, is a multiple of the 10 tasks'):
    fitted('table_1_48_actors', env='doom')


@pytest.mark.parametrize(
  'name, architecture, environments_in_all',
  [
    ('a2c_sync_step', 'a2c_sync_step', 32),
    ('a2c_sync_trajectory', 'a2c_sync_trajectory', 32),
    ('a2c_dynamic_batching', 'a2c_dynamic_batching', 32),
    ('a3c', 'a3c', 32),
    ('a3c_distributed', 'a3c', 200),
    ('table_3_a3c', 'a3c', 210),
    ('table_1_150_actors', 'impala', 150),
    ('table_1_375_actors', 'impala', 375),
    ('table_1_batch_128', 'impala', 500),
  ],
)
def test_rows_of_table_1_and_figure_4_have_their_numbers(name, architecture, environments_in_all):
  config = configs.PRESETS.preset(name)
  assert config.architecture == architecture and config.envs_per_actor == 1
  assert config.num_actors == environments_in_all
  assert config.batch_size == (128 if name.endswith('128') else 32)


def test_seven_workers_of_a3c_have_each_level_of_dmlab_30():
  config = fitted('table_3_a3c')
  workers = [environments.assign(levels.DMLAB_30, i, config.num_actors, 1) for i in range(210)]
  assert {workers.count([level]) for level in levels.DMLAB_30} == {7}


def test_figure_e1_has_a_preset_for_each_lag():
  for lag in (0, 1, 10, 50, 100, 500):
    assert fitted(f'figure_e1_lag_{lag}', env='doom:basic').policy_lag == lag


def test_numbers_of_actors_set_to_0_follow_the_tasks():
  """So that --tasks can narrow a suite without other flags."""
  config = fitted('table_3_shallow', tasks='rooms_watermaze,rooms_keys_doors_puzzle')
  assert (config.num_actors, config.envs_per_actor) == (2, 7)
  config = fitted('table_4_multi_task', tasks='pong,breakout,boxing')
  assert config.envs_per_actor == 3


@pytest.mark.parametrize(
  'env, preset',
  [
    ('dmlab30', 'dmlab30'),
    ('dmlab5', 'dmlab5'),
    ('dmlab:rooms_watermaze', 'dmlab'),
    ('atari57', 'table_4_multi_task'),
    ('babyai', 'babyai'),
    ('minigrid', 'minigrid'),
    ('envpool:MiniGrid-Unlock-v0', 'minigrid'),
    ('envpool:Acrobot-v1', 'envpool'),
  ],
)
def test_suites_have_their_own_presets(env, preset):
  assert configs.PRESETS.preset_for(env) == preset
  if ':' not in env:
    assert configs.PRESETS.preset(preset).env == env


def test_levels_that_compile_maps_for_minutes_do_not_look_hung():
  """A map takes up to 43 s, and several are compiled at once."""
  dmlab = [name for name in configs.PRESETS.rows if configs.PRESETS.preset(name).env[:5] == 'dmlab']
  assert len(dmlab) >= 7
  assert all(configs.PRESETS.preset(name).stall_seconds >= 300 for name in dmlab)
