"""What the single-actor baselines change in the agents, against NumPy: targets, losses, layers."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import dpg, dqn, exploration
from apex import learner as learners
from common import encoder as encoders
from tests.apex import dpg_oracle as oracle
from tests.common import adam

RATES = dict(learning_rate=0.003, critic_learning_rate=0.01)


@pytest.fixture(scope='module')
def agent() -> dpg.Agent:
  """DDPG's agent on a tiny suite; its own target networks lag behind."""
  config = dataclasses.replace(configs.PRESETS.preset('ddpg'), batch_size=oracle.BATCH, **RATES)
  tf.random.set_seed(2)
  return dpg.make_agent(config, oracle.make_suite())


def layers_of(network, first, second, last):
  """Weights and biases of three layers, in float64, from the shapes of their weights."""
  by_shape = {tuple(v.shape): v.numpy().astype(np.float64) for v in network.trainable_variables}
  assert len(by_shape) == len(network.trainable_variables) == 6
  return [by_shape[shape] for weights in (first, second, last) for shape in (weights, weights[1:])]


def relu(x):
  return np.maximum(x, 0.0)


def test_ddpgs_layers_are_relu_of_400_and_300_units(agent):
  x = oracle.vectors(5).astype(np.float64)
  a = oracle.bounded_actions(5).astype(np.float64)
  w0, b0, w1, b1, w2, b2 = layers_of(
    agent.networks.policy, (oracle.INPUT, 400), (400, 300), (300, oracle.ACTIONS)
  )
  pi = np.tanh(relu(relu(x @ w0 + b0) @ w1 + b1) @ w2 + b2)
  seen = oracle.seen(oracle.vectors(5))
  np.testing.assert_allclose(agent.networks.policy(seen), pi, **oracle.FORWARD)

  w0, b0, w1, b1, w2, b2 = layers_of(
    agent.networks.critic, (oracle.INPUT, 400), (400 + oracle.ACTIONS, 300), (300, 1)
  )
  first = np.concatenate([relu(x @ w0 + b0), a], axis=1)
  q = (relu(first @ w1 + b1) @ w2 + b2)[:, 0]
  found = agent.networks.critic(seen, tf.constant(a, tf.float32))
  np.testing.assert_allclose(found, q, **oracle.FORWARD)


def test_the_critics_l2_adds_its_weights_and_no_bias_to_the_gradient(agent):
  sample = oracle.make_sample()
  variables = agent.networks.critic.trainable_variables
  with tf.GradientTape() as tape:
    td = dpg.critic_losses(agent.networks, agent._target_networks, sample)
    loss = tf.reduce_mean(sample.weight * td.losses)
  plain = tape.gradient(loss, variables)
  step = agent.step(sample)
  for variable, gradient, found in zip(variables, plain, step.gradients.critic, strict=True):
    decay = 0.01 * variable.numpy() if variable.shape.rank == 2 else 0.0
    np.testing.assert_allclose(found, gradient + decay, rtol=1e-4, atol=1e-6)
  # The loss that is reported is that of the errors.
  np.testing.assert_allclose(step.statistics['loss'], loss, rtol=1e-5)


def test_without_a_limit_dq_da_is_not_clipped():
  networks = oracle.make_networks(critic_scale=oracle.STEEP)
  x = oracle.vectors()
  replica = oracle.Replica.of(networks)
  wide = x.astype(np.float64)
  _, by_action = replica.critic_gradients(wide, replica.pi(wide), np.ones(oracle.BATCH))
  assert np.abs(by_action).max() > 1.5
  found = dpg.policy_gradients(networks, oracle.seen(x), max_action_gradient=0.0)
  ordered = oracle.policy_variables(networks)
  found = oracle.gradients_in_order(networks.policy, found, ordered)
  oracle.assert_arrays_close(found, replica.policy_gradients(wide, -by_action / oracle.BATCH))


def test_each_network_has_its_own_learning_rate(agent):
  # Adam's first step is its learning rate, whatever the gradient's size.
  before = [oracle.values(part.trainable_variables) for part in _parts(agent)]
  ones = [[tf.ones_like(v) for v in part.trainable_variables] for part in _parts(agent)]
  by_hand = [adam.NumpyAdam(old, rate) for old, rate in zip(before, (0.003, 0.01), strict=True)]
  agent.apply(dpg.Gradients(policy=ones[0], critic=ones[1]))
  for part, old, gradients, optimizer in zip(_parts(agent), before, ones, by_hand, strict=True):
    expected = [np.array(array, np.float64) for array in old]
    optimizer.apply([gradient.numpy() for gradient in gradients], expected)
    for variable, array in zip(part.trainable_variables, expected, strict=True):
      np.testing.assert_allclose(variable, array, rtol=1e-5, atol=1e-6)


def _parts(agent):
  return agent.networks.policy, agent.networks.critic


def test_targets_follow_by_a_share_of_the_way_at_every_update():
  config = dataclasses.replace(
    configs.PRESETS.preset('ddpg'), batch_size=oracle.BATCH, target_tau=0.1
  )
  learner = learners.Learner(config, oracle.make_suite())
  networks, targets = learner.agent.networks, learner.agent._target_networks
  expected = [np.float64(v) for v in oracle.values(targets.trainable_variables)]
  for number in range(3):
    assert learner.update(oracle.make_sample(seed=number)).statistics['finite']
    online = oracle.values(networks.trainable_variables)
    expected = [0.9 * old + 0.1 * new for old, new in zip(expected, online, strict=True)]
  for variable, array in zip(targets.trainable_variables, expected, strict=True):
    np.testing.assert_allclose(variable, array, rtol=1e-5, atol=1e-7)
  assert any(
    np.any(a != b) for a, b in zip(online, oracle.values(targets.trainable_variables), strict=True)
  )


def vector_encoder():
  space = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
  return encoders.ObservationEncoder(gymnasium.spaces.Dict({'observation': space}), 'vector', (7,))


def test_the_plain_network_is_one_stream():
  network = dqn.PlainNetwork(vector_encoder(), 4, 8)
  shapes = {tuple(v.shape) for v in network.trainable_variables}
  assert shapes == {(3, 7), (7,), (7, 8), (8,), (8, 4), (4,)}
  by_shape = {tuple(v.shape): v.numpy().astype(np.float64) for v in network.trainable_variables}
  x = oracle.vectors(5).astype(np.float64)
  features = np.tanh(x @ by_shape[3, 7] + by_shape[7,])
  hidden = relu(features @ by_shape[7, 8] + by_shape[8,])
  expected = hidden @ by_shape[8, 4] + by_shape[4,]
  np.testing.assert_allclose(network(oracle.seen(oracle.vectors(5))), expected, **oracle.FORWARD)


def test_plain_targets_are_the_largest_values_of_the_target_network():
  sample = oracle.make_sample(action=np.zeros(oracle.BATCH, np.int32))
  sample = sample._replace(action=tf.zeros([oracle.BATCH], tf.int32))
  network, other = (dqn.PlainNetwork(vector_encoder(), 4, 8) for _ in range(2))
  x, next_x = (
    entry['observation'][:, 0] for entry in (sample.observation, sample.next_observation)
  )
  largest = other(oracle.seen(next_x)).numpy().max(axis=1)
  target = sample.n_step_return.numpy() + sample.discount.numpy() * largest
  expected = target - network(oracle.seen(x)).numpy()[:, 0]
  td = dqn.evaluate_sample(network, other, sample, double=False)
  np.testing.assert_allclose(td.td_errors, expected, rtol=1e-5, atol=1e-6)
  double = dqn.evaluate_sample(network, other, sample)
  assert np.any(np.abs(double.td_errors - expected) > 1e-3)


def test_the_gradient_of_a_large_error_is_that_of_the_clipped_one():
  q = tf.constant([0.0, 0.0, 0.0, 0.0])
  targets = tf.constant([0.5, -0.5, 7.0, -30.0])
  with tf.GradientTape() as tape:
    tape.watch(q)
    td = agents.td_losses(q, targets, max_error=2.0)
  np.testing.assert_allclose(tape.gradient(td.losses, q), [-0.5, 0.5, -2.0, 2.0])
  np.testing.assert_allclose(td.losses, [0.125, 0.125, 12.0, 58.0])
  # Priorities are of the errors as they are.
  np.testing.assert_array_equal(td.td_errors, targets)


def test_epsilon_falls_linearly_and_stays():
  frames = [0, 1_000, 2_500_000, 4_000_000, 9_000_000]
  found = [exploration.annealed(number, 4_000_000, 0.1, 3) for number in frames]
  expected = [np.interp(number, [0, 4_000_000], [1.0, 0.1]) for number in frames]
  np.testing.assert_allclose(np.array(found), np.outer(expected, np.ones(3)), rtol=1e-6)
  assert found[0].dtype == np.float32


def test_a_policys_epsilon_falls_with_the_runs_frames():
  config = configs.PRESETS.preset('gym_dqn')
  suite = oracle.make_suite()
  suite = dataclasses.replace(suite, action_space=gymnasium.spaces.Discrete(2))
  agent = dqn.make_agent(config, suite)
  assert isinstance(agent.networks, dqn.PlainNetwork)
  snapshot = learners.Learner(config, suite).snapshot()
  frames = 0
  policy = dqn.make_policy(config, suite, _Store(snapshot), 0, 0, lambda: frames)
  start = np.zeros(2_000, bool)
  x = {'observation': oracle.vectors(2_000)}
  for number, epsilon in ((0, 1.0), (5_000, 0.525), (10**6, 0.05)):
    frames = number
    policy.refresh()
    np.testing.assert_allclose(policy._epsilon, [epsilon], rtol=1e-6)
  policy._epsilon = np.full(2_000, 0.05, np.float32)
  greedy = policy.q_values(x).argmax(axis=1)
  assert np.mean(policy(x, start).actions != greedy) < 0.06
  np.testing.assert_array_equal(dqn.shown_environments(config), [True])


class _Store:
  """A source of parameters that never change."""

  def __init__(self, snapshot):
    self._snapshot = snapshot

  def latest(self):
    return self._snapshot
