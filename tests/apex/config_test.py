"""Presets hold the paper's numbers; settings that cannot work are refused."""

import dataclasses

import pytest

from apex import config as configs
from common import environments, errors


def assert_settings(preset, **expected):
  """Asserts that a preset has these settings."""
  config = configs.PRESETS.preset(preset)
  assert {name: getattr(config, name) for name in expected} == expected


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_is_a_valid_config(name):
  configs.PRESETS.preset(name).check()


def test_the_paper_preset_holds_the_papers_numbers():
  """Section 4.1 and appendix C."""
  assert_settings(
    'paper',
    num_environments=360,
    n_step=3,
    batch_size=512,
    prefetch=16,
    target_period=2500,
    alpha=0.6,
    beta=0.4,
    replay_capacity=2_000_000,
    min_replay=50_000,
    learning_rate=6.25e-5,
    rmsprop_decay=0.95,
    rmsprop_epsilon=1.5e-7,
    max_gradient_norm=40.0,
    remove_period=100,
    max_episode_frames=50_000,
    block_length=50,
    local_buffer=100,
    parameter_pull_frames=400,
    discount=0.99,
    torso='nature',
    hidden_size=512,
    replay_ratio=0.0,
  )


@pytest.mark.parametrize(
  'task', ['humanoid-stand', 'humanoid-walk', 'humanoid-run', 'manipulator-bring_ball']
)
def test_the_presets_of_ape_x_dpg_hold_the_papers_numbers(task):
  """Appendix D; what it does not mention is as for Ape-X DQN."""
  assert_settings(
    f'figure_3_{task.replace("-", "_")}',
    env=f'control:{task}',
    algorithm='dpg',
    num_environments=64,
    noise_sigma=0.3,
    batch_size=256,
    target_period=100,
    learning_rate=0.0001,
    replay_capacity=1_000_000,
    eviction='by_priority',
    alpha=0.6,
    alpha_evict=-0.4,
    n_step=3,
    discount=0.99,
    beta=0.4,
    min_replay=50_000,
    block_length=50,
    local_buffer=100,
    parameter_pull_frames=400,
    replay_ratio=0.0,
  )


@pytest.mark.parametrize(
  'name, differences',
  [
    ('figure_4_64_actors', {'num_environments': 64, 'replay_capacity': 1_000_000}),
    ('figure_5_250k', {'num_environments': 256, 'replay_capacity': 250_000}),
    ('figure_6_32_actors_8_copies', {'num_environments': 32, 'replicas': 8}),
    ('figure_6_256_actors', {'num_environments': 256, 'replicas': 1}),
    (
      'figure_7_six_epsilons',
      {'num_environments': 360, 'distinct_epsilons': 6, 'evaluation_epsilon': 0.00164},
    ),
    ('figure_12_uniform', {'alpha': 0.0, 'learning_rate': 0.00025}),
  ],
)
def test_the_presets_of_the_studies(name, differences):
  assert_settings(name, **differences)


def test_an_environment_holds_no_more_than_its_local_buffer():
  # Of the 100 transitions for each of 360 environments, one block of 50 is being filled and one is
  # in the queue.
  assert configs.PRESETS.preset('paper').queue_capacity == 360


@pytest.mark.parametrize(
  'field, value',
  [
    ('batch_size', 0),
    ('alpha', -0.1),
    ('beta', 1.5),
    ('torso', 'huge'),
    ('local_buffer', 60),
    ('min_replay', 10**9),
    ('replay_ratio', -1.0),
    ('n_step', 0),
    ('evaluation_epsilon', 2.0),
    ('learning_rate', float('inf')),
    ('replay_capacity', 100),
    ('replicas', 0),
    ('distinct_epsilons', 400),
    ('algorithm', 'ddpg'),
    ('noise_sigma', -0.1),
    ('eviction', 'newest'),
    ('alpha_evict', 0.4),
  ],
)
def test_impossible_values_are_refused_by_name(field, value):
  with pytest.raises(errors.UserError, match=r'(is .*, expected .*--config\.)'):
    dataclasses.replace(configs.Config(), **{field: value}).check()


@pytest.mark.parametrize('env, torso', [('gym:CartPole-v1', 'nature'), ('atari:pong', 'vector')])
def test_a_torso_that_cannot_read_the_environment_is_refused(env, torso):
  with pytest.raises(errors.UserError, match=f'torso is {torso!r}.*{env}'):
    dataclasses.replace(configs.Config(), torso=torso).check_environment(environments.load(env))


def test_a_suite_of_several_tasks_is_refused():
  with pytest.raises(errors.UserError, match='doom has 10 tasks.*--env=doom --tasks=basic'):
    configs.Config().check_environment(environments.load('doom'))


@pytest.mark.parametrize(
  'env, preset',
  [
    ('atari:breakout', 'atari'),
    ('gym:CartPole-v1', 'gym'),
    ('gym:Pendulum-v1', 'gym_continuous'),
    ('control:walker-run', 'control'),
    ('', 'atari'),
  ],
)
def test_an_environment_gets_the_preset_of_its_family(env, preset):
  assert configs.PRESETS.preset_for(env) == preset
