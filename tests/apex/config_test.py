"""Presets are the paper's settings; settings that cannot work are refused."""

import dataclasses

import pytest

from apex import config as configs
from common import environments, errors


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_is_a_valid_config(name):
  configs.PRESETS.preset(name).check()


def test_the_paper_preset_holds_the_papers_numbers():
  paper = configs.PRESETS.preset('paper')  # Section 4.1 and appendix C.
  assert paper.num_environments == 360
  assert (paper.n_step, paper.batch_size, paper.prefetch, paper.target_period) == (3, 512, 16, 2500)
  assert (paper.alpha, paper.beta, paper.replay_capacity, paper.min_replay) == (
    0.6,
    0.4,
    2_000_000,
    50_000,
  )
  assert (paper.learning_rate, paper.rmsprop_decay, paper.rmsprop_epsilon) == (
    6.25e-5,
    0.95,
    1.5e-7,
  )
  assert (paper.max_gradient_norm, paper.remove_period, paper.max_episode_frames) == (
    40.0,
    100,
    50_000,
  )
  assert (paper.block_length, paper.local_buffer, paper.parameter_pull_frames) == (50, 100, 400)
  assert (paper.discount, paper.torso, paper.hidden_size, paper.replay_ratio) == (
    0.99,
    'nature',
    512,
    0.0,
  )


@pytest.mark.parametrize(
  'task', ['humanoid-stand', 'humanoid-walk', 'humanoid-run', 'manipulator-bring_ball']
)
def test_the_presets_of_ape_x_dpg_hold_the_papers_numbers(task):
  dpg = configs.PRESETS.preset(
    f'figure_3_{task.replace("-", "_")}'
  )  # Appendix D; the rest is as for DQN.
  assert (dpg.env, dpg.algorithm, dpg.num_environments) == (f'control:{task}', 'dpg', 64)
  assert (dpg.noise_sigma, dpg.batch_size, dpg.target_period, dpg.learning_rate) == (
    0.3,
    256,
    100,
    0.0001,
  )
  assert (dpg.replay_capacity, dpg.eviction, dpg.alpha, dpg.alpha_evict) == (
    1_000_000,
    'by_priority',
    0.6,
    -0.4,
  )
  assert (dpg.n_step, dpg.discount, dpg.beta, dpg.min_replay) == (3, 0.99, 0.4, 50_000)
  assert (dpg.block_length, dpg.local_buffer, dpg.parameter_pull_frames, dpg.replay_ratio) == (
    50,
    100,
    400,
    0.0,
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
  config = configs.PRESETS.preset(name)
  assert {field: getattr(config, field) for field in differences} == differences


def test_an_environment_holds_no_more_than_its_local_buffer():
  # One block of 50 that is filled, one on its way, for each of 360 environments.
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


def test_an_environment_of_several_tasks_is_refused():
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
def test_an_environment_has_a_preset_of_its_family(env, preset):
  assert configs.PRESETS.preset_for(env) == preset
