"""Presets are the paper's rows; settings that cannot work are refused."""

import dataclasses

import pytest

from common import environments, errors, networks
from common.config import settings
from common.environments import atari, doom, levels
from impala import config as configs
from impala import rewards


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_is_a_valid_config(name):
  configs.PRESETS.preset(name).check()


def test_names_are_those_of_the_code():
  assert set(settings.TORSOS) == set(networks.TORSOS) and configs.REWARD_CLIPPINGS == tuple(
    rewards.FORMS
  )


def test_presets_hold_the_papers_numbers():
  atari = configs.PRESETS.preset('atari_shallow')  # Table G.1.
  assert (
    atari.unroll_length,
    atari.batch_size,
    atari.discount,
    atari.entropy_cost,
    atari.learning_rate,
    atari.rmsprop_epsilon,
    atari.max_gradient_norm,
    atari.lstm,
  ) == (20, 32, 0.99, 0.01, 0.0006, 0.01, 40.0, False)
  dmlab = configs.PRESETS.preset('dmlab')  # Tables D.1 to D.3.
  assert (
    dmlab.unroll_length,
    dmlab.batch_size,
    dmlab.discount,
    dmlab.baseline_cost,
    dmlab.rmsprop_momentum,
    dmlab.max_gradient_norm,
    dmlab.lstm,
  ) == (100, 32, 0.99, 0.5, 0.0, 0.0, True)
  replay = configs.PRESETS.preset('table_2_vtrace_replay')  # Section 5.2.2.
  assert (replay.replayed_per_batch, replay.replay_capacity) == (16, 10_000)


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
  with pytest.raises(
    errors.UserError, match="unknown preset 'atari_shalow'. Did you mean atari_shallow"
  ):
    configs.PRESETS.preset('atari_shalow')


@pytest.mark.parametrize(
  'env, preset', [('doom:basic', 'doom'), ('atari:pong', 'atari_shallow'), ('gym:X-v0', 'gym')]
)
def test_an_environment_has_a_preset_of_its_family(env, preset):
  assert configs.PRESETS.preset_for(env) == preset


@pytest.mark.parametrize('env', ['gym:Pendulum-v1', 'control:cartpole-swingup'])
def test_continuous_actions_are_refused_and_ape_x_dpg_is_named(env):
  with pytest.raises(
    errors.UserError, match=f'{env} has continuous actions.*python -m apex.train --env={env}'
  ):
    dataclasses.replace(configs.Config(), torso='vector').check_environment(environments.load(env))


def fitted(name, **changes):
  """The config of a preset for its own environment, or one with as many tasks, whether or not the engine is there."""
  config = dataclasses.replace(configs.PRESETS.preset(name), **changes)
  tasks = {**levels.SETS, 'atari57': atari.ATARI_57, 'doom': tuple(doom.INSTRUCTIONS)}.get(
    config.env, (config.env,)
  )
  stand_in = environments.load('gym:CartPole-v1' if config.torso == 'vector' else 'doom:basic')
  if config.tasks:
    tasks = config.tasks.split(',')
  config.fit(dataclasses.replace(stand_in, name=config.env, tasks=tuple(tasks)))
  return config


def test_table_3_has_its_numbers_of_environments():
  """Section 5.3.1: 210 actors for the shallow network, 150 for the deep one, here of one environment each."""
  for name, count, torso in (
    ('table_3_shallow', 210, 'shallow'),
    ('table_3_deep', 150, 'deep'),
    ('table_3_deep_pbt', 150, 'deep'),
  ):
    config = fitted(name)
    assert (config.env, config.num_actors * config.envs_per_actor, config.torso) == (
      'dmlab30',
      count,
      torso,
    )
    shared = [
      task
      for actor in range(config.num_actors)
      for task in environments.assign(
        levels.DMLAB_30, actor, config.num_actors, config.envs_per_actor
      )
    ]
    assert {shared.count(task) for task in levels.DMLAB_30} == {count // 30}


def test_dmlab_30_has_the_released_code_s_numbers():
  for name in ('dmlab30', 'table_3_shallow', 'table_3_deep', 'table_3_experts'):
    config = configs.PRESETS.preset(name)
    assert (config.learning_rate, config.entropy_cost, config.rmsprop_epsilon) == (
      0.00031866995608948655,
      0.0033391318945337044,
      0.1,
    )
    assert config.total_frames == 10_000_000_000 // (
      30 if name == 'table_3_experts' else 1
    )  # All 30 together.
    assert (
      config.batch_size,
      config.unroll_length,
      config.discount,
      config.baseline_cost,
      config.max_gradient_norm,
      config.lstm,
      config.reward_clipping,
    ) == (32, 100, 0.99, 0.5, 0.0, True, 'soft_asymmetric')
  assert configs.PRESETS.preset('dmlab').reward_clipping == 'abs_one'  # Single tasks, table D.2.


def test_experts_have_a_single_task():
  experts = configs.PRESETS.preset('table_3_experts')
  assert experts.env.partition(':')[::2] in [('dmlab', level) for level in levels.DMLAB_30]
  assert experts.torso == 'deep'
  for name, torso in (('atari_shallow', 'shallow'), ('atari_deep', 'deep')):
    config = configs.PRESETS.preset(name)
    assert config.env.startswith('atari:') and (config.torso, config.total_frames) == (
      torso,
      200_000_000,
    )


def test_table_4_has_one_agent_for_57_games():
  config = fitted('table_4_multi_task')
  assert (config.env, config.torso, config.total_frames) == ('atari57', 'deep', 11_400_000_000)
  assert config.num_actors * config.envs_per_actor in range(57, 1000, 57)
  experts = configs.PRESETS.preset('atari_deep')  # But for these, table G.1 is that of the experts.
  assert (
    dataclasses.replace(
      config,
      env=experts.env,
      total_frames=experts.total_frames,
      num_actors=experts.num_actors,
      envs_per_actor=experts.envs_per_actor,
    )
    == experts
  )


def test_dynamic_batching_of_table_1_has_48_actors():
  for name in ('table_1_48_actors', 'table_1_48_actors_dynamic_batching'):
    config = configs.PRESETS.preset(name)
    assert config.num_actors * config.envs_per_actor == 48
    assert config.dynamic_batching == name.endswith('batching')


@pytest.mark.parametrize(
  'name', [name for name in configs.PRESETS.rows if not name.startswith('table_1_48')]
)
def test_every_preset_shares_its_environments_equally(name):
  """All but those of Table 1, whose 48 actors are for single levels: they say so of a suite, and run on one."""
  config = fitted(name)
  assert config.num_actors > 0 and config.envs_per_actor > 0


@pytest.mark.parametrize('name', ['table_1_48_actors', 'table_1_48_actors_dynamic_batching'])
def test_the_48_actors_of_table_1_are_for_single_levels(name):
  fitted(name, env='doom:basic')
  with pytest.raises(errors.UserError, match='now 48, is a multiple of the 10 tasks'):
    fitted(name, env='doom')


def test_numbers_of_0_follow_the_tasks():
  """So that --tasks narrows a suite without more ado."""
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
  ],
)
def test_suites_have_presets_of_their_own(env, preset):
  assert configs.PRESETS.preset_for(env) == preset
  if ':' not in env:
    assert configs.PRESETS.preset(preset).env == env
