"""The learner's loss, priorities and target network against NumPy; its counters; NaN samples."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from apex import config as configs
from apex import dqn
from apex import learner as learners
from common import environments
from common.distributed import wire
from common.replay import structures

K = 16
SUITE = environments.load('gym:CartPole-v1')


def make_learner(**settings) -> learners.Learner:
  tf.random.set_seed(1)
  config = dataclasses.replace(configs.PRESETS.preset('gym'), batch_size=K, **settings)
  return learners.Learner(config, SUITE)


def random_sample(seed: int) -> structures.Sample:
  rng = np.random.default_rng(seed)

  def vectors():
    return {'observation': tf.constant(rng.normal(size=(K, 1, 4)), tf.float32)}

  def floats(x):
    return tf.constant(x, tf.float32)

  return structures.Sample(
    leaf=tf.range(K, dtype=tf.int64),
    stamp=tf.zeros([K], tf.int64),
    observation=vectors(),
    frame_start=tf.zeros([K, 1], tf.bool),
    action=tf.constant(rng.integers(2, size=K), tf.int32),
    n_step_return=floats(3 * rng.normal(size=K)),
    discount=floats(0.97 * (rng.random(K) < 0.7)),
    next_observation=vectors(),
    next_frame_start=tf.zeros([K, 1], tf.bool),
    weight=floats(rng.random(K)),
    priority=tf.ones([K]),
    age=tf.zeros([K], tf.int64),
  )


def td_errors(network, target_network, sample) -> np.ndarray:
  """TD errors by section 3.1, one transition at a time."""
  observation, next_observation = (
    {'observation': entries['observation'][:, 0]}
    for entries in (sample.observation, sample.next_observation)
  )
  q = network(observation).numpy()
  next_q = network(next_observation).numpy()
  next_target_q = target_network(next_observation).numpy()
  result = np.zeros(K)
  for k in range(K):
    target = sample.n_step_return[k] + sample.discount[k] * next_target_q[k][np.argmax(next_q[k])]
    result[k] = target - q[k][sample.action[k]]
  return result


def copy_of(network: dqn.DuelingNetwork) -> dqn.DuelingNetwork:
  copied = dqn.make_networks(configs.PRESETS.preset('gym'), SUITE)
  for variable, value in zip(copied.trainable_variables, network.trainable_variables, strict=True):
    variable.assign(value)
  return copied


def test_loss_and_priorities_are_the_papers_while_the_target_network_lags():
  learner = make_learner(target_period=1000)
  # In so few updates the target network stays as it was.
  first = copy_of(learner.agent.networks)
  for seed in range(5):
    sample = random_sample(seed)
    expected = td_errors(copy_of(learner.agent.networks), first, sample)
    update = learner.update(sample)
    np.testing.assert_allclose(update.priorities, np.abs(expected), rtol=1e-4, atol=1e-5)
    loss = np.mean(sample.weight * 0.5 * expected**2)
    np.testing.assert_allclose(update.statistics['loss'], loss, rtol=1e-4)


def test_the_target_network_is_updated_every_target_period():
  learner = make_learner(target_period=3)
  older = copy_of(learner.agent.networks)
  for number in range(1, 8):
    sample = random_sample(number)
    expected = td_errors(copy_of(learner.agent.networks), older, sample)
    priorities = learner.update(sample).priorities
    np.testing.assert_allclose(priorities, np.abs(expected), rtol=1e-4, atol=1e-5)
    if number % 3 == 0:
      older = copy_of(learner.agent.networks)


def test_the_step_is_centered_rmsprops_on_the_weighted_mean_clipped_by_norm():
  learner = make_learner(max_gradient_norm=0.1, learning_rate=0.01)
  network, sample = copy_of(learner.agent.networks), random_sample(0)
  with tf.GradientTape() as tape:
    td = dqn.evaluate_sample(network, network, sample)
    loss = tf.reduce_mean(sample.weight * 0.5 * td.td_errors**2)
  gradients = [g.numpy() for g in tape.gradient(loss, network.trainable_variables)]
  norm = np.sqrt(sum(np.sum(g**2) for g in gradients))
  assert norm > 0.1
  learner.update(sample)
  updated = learner.agent.networks.trainable_variables
  for before, after, gradient in zip(network.trainable_variables, updated, gradients, strict=True):
    g = gradient * 0.1 / norm
    # The mean square starts at one, the mean at zero.
    variance = (0.95 + 0.05 * g**2) - (0.05 * g) ** 2
    expected = before - 0.01 * g / np.sqrt(variance + 1.5e-7)
    np.testing.assert_allclose(after, expected, rtol=1e-4, atol=1e-7)


def test_updates_are_counted_and_return_their_parameters():
  learner = make_learner()
  before = learner.snapshot()
  update = learner.update(random_sample(0))
  assert (before.version, learner.snapshot().version) == (0, 1)
  np.testing.assert_array_equal(update.parameters, learner.snapshot().values)
  assert np.abs(update.parameters - before.values).max() > 1e-6


def test_an_update_has_the_statistics_that_the_algorithm_names():
  learner = make_learner()
  statistics = learner.update(random_sample(0)).statistics
  assert list(statistics) == [*dqn.STATISTICS, 'td_error', 'weight', 'finite']


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_sample_that_is_not_finite_changes_nothing(bad):
  learner = make_learner(target_period=1)
  learner.update(random_sample(0))
  before = [v.numpy() for v in learner.variables]
  sample = random_sample(1)
  sample = sample._replace(n_step_return=tf.where(tf.range(K) == 3, bad, sample.n_step_return))
  assert not learner.update(sample).statistics['finite']
  for variable, value in zip(learner.variables, before, strict=True):
    np.testing.assert_array_equal(variable, value)


def at_most(observation):
  """An observation of the largest numbers that an actor may send."""
  return tf.nest.map_structure(lambda x: wire.LARGEST * tf.sign(x), observation)


def test_the_largest_numbers_that_actors_may_send_are_finite_in_loss_and_gradient():
  learner = make_learner()
  largest = random_sample(0)
  numbers = {
    'observation': at_most(largest.observation),
    'next_observation': at_most(largest.next_observation),
    'n_step_return': wire.LARGEST_SUM * tf.sign(largest.n_step_return),
    'weight': tf.ones([K]),
  }
  update = learner.update(largest._replace(**numbers))
  assert update.statistics['finite'] and update.parameters_finite
  assert update.statistics['loss'] > 1e23


def test_the_culprits_are_those_whose_squared_error_overflows():
  learner = make_learner()
  sample = random_sample(1)
  wrong = {3: np.nan, 7: 3e38, 9: -np.inf, 11: 1e20}
  returns = sample.n_step_return.numpy()
  for k, value in wrong.items():
    returns[k] = value
  update = learner.update(sample._replace(n_step_return=tf.constant(returns)))
  assert not update.statistics['finite'] and update.parameters_finite
  assert np.flatnonzero(learners.culprits(update)).tolist() == list(wrong)


def test_all_are_culprits_if_none_stands_out():
  learner = make_learner()
  sample = random_sample(1)
  # Their squares, 1e38, are finite, and their sum is not.
  update = learner.update(sample._replace(n_step_return=tf.fill([K], 1e19)))
  assert not update.statistics['finite'] and learners.culprits(update).all()


def test_parameters_that_a_step_makes_infinite_are_noticed():
  # Infinite in float32.
  learner = make_learner(learning_rate=1e39)
  update = learner.update(random_sample(0))
  assert update.statistics['finite'] and not update.parameters_finite


def test_warming_up_changes_nothing():
  learner = make_learner()
  before = [v.numpy() for v in learner.variables]
  sample = random_sample(0)
  learners.warm_up(
    learner, tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), sample)
  )
  for variable, value in zip(learner.variables, before, strict=True):
    np.testing.assert_array_equal(variable, value)
