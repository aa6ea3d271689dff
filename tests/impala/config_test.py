"""Presets are the paper's rows; settings that cannot work are refused."""

import dataclasses

import pytest

from common import environments, errors, networks, settings
from impala import config as configs, rewards


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_every_preset_is_a_valid_config(name):
  configs.PRESETS.preset(name).check()


def test_names_are_those_of_the_code():
  assert set(settings.TORSOS) == set(networks.TORSOS) and configs.REWARD_CLIPPINGS == tuple(rewards.FORMS)


def test_presets_hold_the_papers_numbers():
  atari = configs.PRESETS.preset('atari_shallow')  # Table G.1.
  assert (atari.unroll_length, atari.batch_size, atari.discount, atari.entropy_cost, atari.learning_rate,
          atari.rmsprop_epsilon, atari.max_gradient_norm, atari.lstm) == (20, 32, 0.99, 0.01, 0.0006, 0.01, 40.0, False)
  dmlab = configs.PRESETS.preset('dmlab')  # Tables D.1 to D.3.
  assert (dmlab.unroll_length, dmlab.batch_size, dmlab.discount, dmlab.baseline_cost, dmlab.rmsprop_momentum,
          dmlab.max_gradient_norm, dmlab.lstm) == (100, 32, 0.99, 0.5, 0.0, 0.0, True)
  replay = configs.PRESETS.preset('table_2_vtrace_replay')  # Section 5.2.2.
  assert (replay.replayed_per_batch, replay.replay_capacity) == (16, 10_000)


@pytest.mark.parametrize('field, value', [
    ('batch_size', 0), ('discount', 1.5), ('torso', 'huge'), ('correction', 'retrace'), ('replay_fraction', 1.0),
    ('reward_clipping', 'sign'), ('pg_bootstrap', 'q'), ('clip_c_threshold', 2.0), ('entropy_cost', -1.0)])
def test_impossible_values_are_refused_by_name(field, value):
  with pytest.raises(errors.UserError, match=f'{field} is {value!r}, expected .*--config.{field}='):
    dataclasses.replace(configs.Config(), **{field: value}).check()


@pytest.mark.parametrize('env, torso', [('gym:CartPole-v1', 'shallow'), ('doom', 'vector')])
def test_a_torso_that_cannot_read_the_environment_is_refused(env, torso):
  with pytest.raises(errors.UserError, match=f'torso is {torso!r}.*{env}'):
    dataclasses.replace(configs.Config(), torso=torso).check_environment(environments.load(env))


def test_an_unknown_preset_suggests_the_nearest():
  with pytest.raises(errors.UserError, match="unknown preset 'atari_shalow'. Did you mean atari_shallow"):
    configs.PRESETS.preset('atari_shalow')


@pytest.mark.parametrize('env, preset', [('doom:basic', 'doom'), ('atari:pong', 'atari_shallow'), ('gym:X-v0', 'gym')])
def test_an_environment_has_a_preset_of_its_family(env, preset):
  assert configs.PRESETS.preset_for(env) == preset


@pytest.mark.parametrize('env', ['gym:Pendulum-v1', 'control:cartpole-swingup'])
def test_continuous_actions_are_refused_and_ape_x_dpg_is_named(env):
  with pytest.raises(errors.UserError, match=f'{env} has continuous actions.*python -m apex.train --env={env}'):
    dataclasses.replace(configs.Config(), torso='vector').check_environment(environments.load(env))
