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


_SINGLE = dict(num_environments=1, replay_capacity=1_000_000, discount=0.99, min_replay=50_000)


@pytest.mark.parametrize('steps, suffix', [(1, ''), (3, '_3_steps')])
def test_the_baselines_of_dqn_have_one_actor_and_falling_epsilons(steps, suffix):
  falling = dict(_SINGLE, n_step=steps, epsilon_frames=4_000_000, batch_size=32)
  # A batch of 32 for every four steps.
  falling |= dict(replay_ratio=32 / 4)
  plain = dict(dueling=False, double=False, alpha=0.0, final_epsilon=0.1, max_td_error=1.0)
  assert_settings(f'dqn{suffix}', **falling, **plain, learning_rate=0.00025)
  # As in Ape-X, but for the one actor.
  dueling = dict(dueling=True, double=True, max_td_error=0.0, learning_rate=6.25e-5)
  assert_settings(f'dueling_uniform{suffix}', **falling, **dueling, alpha=0.0)
  assert_settings(f'dueling_prioritized{suffix}', **falling, **dueling, alpha=0.6, beta=0.4)


def test_ddpg_has_the_numbers_of_its_paper():
  assert_settings(
    'ddpg',
    num_environments=1,
    algorithm='dpg',
    noise='ornstein_uhlenbeck',
    noise_theta=0.15,
    noise_sigma=0.2,
    target_tau=0.001,
    target_period=1,
    learning_rate=1e-4,
    critic_learning_rate=1e-3,
    critic_l2=1e-2,
    batch_size=64,
    # An update for every step.
    replay_ratio=64.0,
    alpha=0.0,
    eviction='oldest',
    replay_capacity=1_000_000,
    n_step=1,
    dpg_layers='ddpg',
    max_action_gradient=0.0,
    max_gradient_norm=0.0,
  )


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_runs_on_a_small_task(name):
  config = configs.PRESETS.preset(name)
  env = 'gym:CartPole-v1' if config.algorithm == 'dqn' else 'gym:Pendulum-v1'
  config.check_environment(environments.load(env))
  assert config.torso_for(environments.load(env)) == 'vector'


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
    ('noise', 'pink'),
    ('target_tau', 0.0),
    ('dpg_layers', 'huge'),
    ('final_epsilon', 1.5),
  ],
)
def test_impossible_values_are_refused_by_name(field, value):
  with pytest.raises(errors.UserError, match=r'(is .*, expected .*--config\.)'):
    dataclasses.replace(configs.Config(), **{field: value}).check()


def test_a_torso_that_cannot_read_the_environment_is_refused():
  with pytest.raises(errors.UserError, match="torso is 'vector'.*atari:pong"):
    config = dataclasses.replace(configs.Config(), torso='vector')
    config.check_environment(environments.load('atari:pong'))


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
