"""Learner, actors, evaluation and resumed runs normalise by the same statistics."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import environments, errors, normalization
from common.distributed import parameters, wire
from common.runs import checkpoints
from impala import batching, networks, players, policy, trajectory
from impala import config as configs
from impala import learner as learners
from tests.common import programs

T, B, REPLAYED = 6, 4, 2
FRAMES = tf.constant(T * (B - REPLAYED), tf.int64)


def make_config(**settings):
  values = {'normalize_observations': True, 'normalize_rewards': True, **settings}
  return dataclasses.replace(
    configs.PRESETS.preset('gym'),
    unroll_length=T,
    batch_size=B,
    replay_fraction=REPLAYED / B,
    total_frames=10_000,
    lstm=False,
    feedback=True,
    **values,
  )


CONFIG = make_config()
SUITE = environments.load(CONFIG.env, CONFIG.environment_options())
PLAIN = make_config(normalize_observations=False, normalize_rewards=False)


def make_learner(config=CONFIG):
  tf.random.set_seed(1)
  return learners.Learner(config, SUITE, networks.make_agent(config, SUITE))


def draw_batch(seed, agent):
  """Observations about 1,000 and rewards about 20."""
  rng = np.random.default_rng(seed)
  spec = trajectory.specification(SUITE, T, agent.initial_state(1))

  def draw(s):
    drawn = rng.normal(size=s.shape) if s.dtype.is_floating else rng.integers(0, 2, s.shape)
    return tf.constant(drawn, s.dtype)

  one = [tf.nest.map_structure(draw, spec) for _ in range(B)]
  batch = batching.stack(one)
  return batch._replace(
    observation={'observation': 1000.0 + 30.0 * batch.observation['observation']},
    reward=20.0 * batch.reward,
    discounted_return=100.0 + 50.0 * batch.discounted_return,
  )


def values_of(learner):
  return [variable.numpy() for variable in learner.variables]


@pytest.fixture(scope='module')
def trained():
  """A learner after three updates, and their batches."""
  learner = make_learner()
  batches = [draw_batch(seed, learner.agent) for seed in range(3)]
  for batch in batches:
    # With the statistics of the version that acted.
    loss = float(learner.loss(batch)[0])
    statistics = learner.update(batch, FRAMES).statistics
    assert statistics['finite'] and float(statistics['loss/total']) == pytest.approx(loss, rel=1e-5)
  return learner, batches


def test_statistics_are_those_of_all_new_experience(trained):
  learner, batches = trained
  new = B - REPLAYED
  seen = [np.float64(batch.observation['observation'])[1:, :new] for batch in batches]
  returns = [np.float64(batch.discounted_return)[1:, :new] for batch in batches]
  for name, found in (('observation', seen), (normalization.RETURN, returns)):
    part = learner.agent.normalizer.parts[name]
    found = np.concatenate(found).reshape(3 * T * new, -1)
    assert int(part.count) == len(found)
    np.testing.assert_allclose(part.mean, found.mean(axis=0), rtol=1e-10)
    np.testing.assert_allclose(part.variance, found.var(axis=0), rtol=1e-9)


def test_the_loss_is_that_of_normalised_observations_and_rewards(trained):
  learner, batches = trained
  plain = make_learner(PLAIN)
  pairs = zip(plain.agent.variables, learner.agent.trainable_variables, strict=True)
  for variable, value in pairs:
    variable.assign(value)
  parts = learner.agent.normalizer.parts
  shown = parts['observation']
  batch = batches[0]
  z = (batch.observation['observation'].numpy() - shown.mean) / np.sqrt(shown.variance + 1e-8)
  deviation = np.sqrt(parts[normalization.RETURN].variance.numpy()[0] + 1e-8)
  by_hand = batch._replace(
    observation={'observation': tf.constant(np.clip(z, -10, 10), tf.float32)},
    reward=batch.reward / np.float32(deviation),
  )
  np.testing.assert_allclose(learner.loss(batch)[0], plain.loss(by_hand)[0], rtol=1e-5)
  # Without, it is another one.
  assert abs(float(learner.loss(batch)[0] / plain.loss(batch)[0]) - 1) > 0.1


def test_a_batch_that_is_not_finite_moves_nothing(trained):
  learner, batches = trained
  before = values_of(learner)
  bad = batches[0]._replace(reward=batches[0].reward + np.nan)
  assert not learner.update(bad, FRAMES).statistics['finite']
  learners.ask_to_stop(learner, trajectory.specification(SUITE, T, learner.agent.initial_state(1)))
  for one, other in zip(before, values_of(learner), strict=True):
    np.testing.assert_array_equal(one, other)


def test_actors_here_and_elsewhere_decide_as_the_learner(trained):
  learner, batches = trained
  inputs = networks.AgentInput(
    observation={'observation': batches[0].observation['observation'][2]},
    last_action=batches[0].last_action[2],
    reward=batches[0].reward[2],
    done=batches[0].done[2],
  )
  state = learner.agent.initial_state(B)
  expected = policy.decide(learner.agent, SUITE, inputs, state, seed=1).logits
  snapshot = learner.snapshot()
  # What a remote actor gets.
  sent = b''.join(wire.split(snapshot.values.numpy().tobytes()))
  received = snapshot._replace(values=tf.constant(np.frombuffer(sent, np.float32)))
  for source in (snapshot, received):
    agent = networks.make_agent(CONFIG, SUITE)
    acting = policy.LocalPolicy(agent, SUITE, parameters.ParameterStore(source), seed=1)
    np.testing.assert_allclose(acting(inputs, state).logits, expected, rtol=1e-6, atol=1e-7)


def test_evaluation_and_resuming_see_the_same_numbers(trained, tmp_path):
  learner, _ = trained
  path = checkpoints.Checkpoints(tmp_path, learner).save(3)
  playing = players.make(CONFIG, SUITE, seed=5, deterministic=True)
  checkpoints.Checkpoints(tmp_path, playing.checkpointed).restore(path)
  # Evaluators elsewhere get the snapshot.
  np.testing.assert_array_equal(parameters.flatten(playing.variables), learner.snapshot().values)

  resumed = make_learner()
  checkpoints.Checkpoints(tmp_path, resumed).restore(path)
  for one, other in zip(values_of(learner), values_of(resumed), strict=True):
    np.testing.assert_array_equal(one, other)


def test_popart_and_normalised_rewards_are_refused():
  with pytest.raises(errors.UserError, match='normalize_rewards is True, expected false with pop'):
    make_config(popart=True).check()


def normalizer_in(folder, config, suite):
  """The statistics of the latest checkpoint, as evaluation restores them."""
  playing = players.make(config, suite, seed=0, deterministic=False)
  checkpoints.Checkpoints(folder / 'checkpoints', playing.checkpointed).restore()
  return playing.checkpointed.agent.normalizer


@pytest.mark.long
def test_every_step_of_a_run_counts_once_wherever_actors_are_and_after_resuming(tmp_path):
  flags = (
    f'--run_dir={tmp_path}/run',
    '--config.normalize_observations',
    '--config.normalize_rewards',
    '--config.lstm=false',
    '--config.evaluation_episodes=1',
  )
  programs.finish(programs.start('impala', *flags, '--total_frames=1600', '--actor_processes=1'))
  programs.finish(programs.start('impala', *flags, '--total_frames=3200', '--resume'))
  config = make_config()
  for part in normalizer_in(tmp_path / 'run', config, SUITE).parts.values():
    assert int(part.count) == 3200 == programs.rows(tmp_path / 'run')[-1]['frames']
    assert np.all(part.variance > 0)
