"""Ape-X DPG against plain NumPy in float64, by section 3.2 and appendix D of the Ape-X paper (arXiv 1803.00933).

Gradients are held against finite differences, and over several updates against a chain rule written out by hand.
"""

import copy
import dataclasses
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from apex import actor as actors
from apex import config as configs
from apex import dpg, transitions
from apex import learner as learners
from common import environments, optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized, structures

INPUT, ACTIONS, BATCH = 3, 2, 8
# Float32 sums of up to 402 terms of order one, in three layers, beside float64.
FORWARD = dict(rtol=2e-5, atol=5e-6)
# A draw as unlikely as this fails a test; seeds are fixed, so that it is decided once.
SIGNIFICANCE = 1e-3
# What q is multiplied with for many dq/da to lie beyond 1 and -1, and as many between: in networks of seed `SEED`.
STEEP, SEED = 120.0, 14


def make_suite(inputs=INPUT, actions=ACTIONS) -> suites.Suite:
  space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (inputs,), np.float32)}
  )
  return suites.Suite('tiny', ('tiny',), space, suites.continuous_actions(actions), 1, make=None)


def randomize(networks, seed, critic_scale=1.0):
  """Gives all parameters, biases too, random numbers of a fixed seed; `critic_scale`: of q, and so of dq/da."""
  rng = np.random.default_rng(seed)
  for network, last in ((networks.policy, ACTIONS), (networks.critic, 1)):
    for variable in network.trainable_variables:
      scale = 1.0 / np.sqrt(variable.shape[0] if variable.shape.rank == 2 else 4.0)
      if network is networks.critic and variable.shape[-1] == last:
        scale *= critic_scale
      variable.assign(rng.normal(size=variable.shape, scale=scale))
  return networks


def make_networks(seed=SEED, critic_scale=1.0) -> dpg.Networks:
  return randomize(dpg.Networks(INPUT, ACTIONS), seed, critic_scale)


def in_order(network, *sizes):
  """A network's variables: weights and biases, layer by layer; `sizes`: of the input, and of each layer's output."""
  variables = {tuple(variable.shape): variable for variable in network.trainable_variables}
  shapes = []
  for i, width in enumerate(sizes[1:]):
    entering = (
      ACTIONS if sizes[1] == 400 and i == 1 else 0
    )  # The critic's second layer reads the action, too.
    shapes += [(sizes[i] + entering, width), (width,)]
  assert set(variables) == set(shapes) and len(network.trainable_variables) == len(shapes)
  return [variables[shape] for shape in shapes]


def policy_variables(networks):
  return in_order(networks.policy, INPUT, 300, 200, ACTIONS)


def critic_variables(networks):
  return in_order(networks.critic, INPUT, 400, 300, 1)


class Replica:
  """Both networks by their formulas, and the chain rule by hand; all arrays float64, to be changed in place."""

  def __init__(self, policy, critic):
    """`policy` and `critic`: variables, weights and biases of three layers."""
    self.policy, self.critic = (
      [np.array(variable, np.float64) for variable in part] for part in (policy, critic)
    )

  @classmethod
  def of(cls, networks):
    return cls(policy_variables(networks), critic_variables(networks))

  def pi(self, x):
    return self._policy_layers(x)[-1]

  def q(self, x, a):
    return self._critic_layers(x, a)[-1][:, 0]

  def _policy_layers(self, x):
    w0, b0, w1, b1, w2, b2 = self.policy
    first = np.tanh(x @ w0 + b0)
    second = np.maximum(first @ w1 + b1, 0.0)
    return first, second, np.tanh(second @ w2 + b2)

  def _critic_layers(self, x, a):
    w0, b0, w1, b1, w2, b2 = self.critic
    first = np.concatenate([np.tanh(x @ w0 + b0), a], axis=1)
    second = np.maximum(first @ w1 + b1, 0.0)
    return first, second, second @ w2 + b2

  def critic_gradients(self, x, a, by_q):
    """Of sum_k by_q[k] q(x_k, a_k) with respect to the critic's parameters, and to the actions."""
    _, _, w1, _, w2, _ = self.critic
    first, second, _ = self._critic_layers(x, a)
    by_second = by_q[:, np.newaxis] * w2[:, 0] * (second > 0.0)
    by_first = by_second @ w1.T
    features = first[:, :400]
    by_features = by_first[:, :400] * (1.0 - features**2)
    gradients = [
      x.T @ by_features,
      by_features.sum(axis=0),
      first.T @ by_second,
      by_second.sum(axis=0),
      second.T @ by_q[:, np.newaxis],
      by_q.sum(keepdims=True),
    ]
    return gradients, by_first[:, 400:]

  def policy_gradients(self, x, by_action):
    """Of sum_k by_action[k] . pi(x_k) with respect to the policy's parameters."""
    _, _, w1, _, w2, _ = self.policy
    first, second, actions = self._policy_layers(x)
    by_output = by_action * (1.0 - actions**2)
    by_second = (by_output @ w2.T) * (second > 0.0)
    by_first = (by_second @ w1.T) * (1.0 - first**2)
    return [
      x.T @ by_first,
      by_first.sum(axis=0),
      first.T @ by_second,
      by_second.sum(axis=0),
      second.T @ by_output,
      by_output.sum(axis=0),
    ]


def vectors(count=BATCH, size=INPUT, seed=1):
  return np.random.default_rng(seed).normal(size=(count, size)).astype(np.float32)


def bounded_actions(count=BATCH, seed=2):
  return np.random.default_rng(seed).uniform(-1.0, 1.0, (count, ACTIONS)).astype(np.float32)


def make_sample(seed=3, **parts) -> structures.Sample:
  """A random sample, of which about a third are of an episode's end; `parts` replaces some of it."""
  rng = np.random.default_rng(seed)
  number = lambda *shape: tf.constant(rng.normal(size=shape), tf.float32)
  indices, starts = tf.range(BATCH, dtype=tf.int64), tf.zeros([BATCH, 1], tf.bool)
  sample = structures.Sample(
    leaf=indices,
    stamp=indices,
    observation=number(BATCH, 1, INPUT),
    frame_start=starts,
    action=tf.constant(rng.uniform(-1.0, 1.0, (BATCH, ACTIONS)), tf.float32),
    n_step_return=3.0 * number(BATCH),
    discount=tf.constant(0.97 * (rng.permutation(BATCH) % 3 > 0), tf.float32),
    next_observation=number(BATCH, 1, INPUT),
    next_frame_start=starts,
    weight=tf.constant(rng.uniform(0.1, 1.0, BATCH), tf.float32),
    priority=tf.ones([BATCH]),
    age=indices,
  )
  return sample._replace(
    **{name: tf.constant(part, getattr(sample, name).dtype) for name, part in parts.items()}
  )


class Numbers(NamedTuple):
  """What counts of a sample, in float64."""

  x: np.ndarray
  a: np.ndarray
  n_step_return: np.ndarray
  discount: np.ndarray
  next_x: np.ndarray
  weight: np.ndarray


def numbers(sample) -> Numbers:
  wide = lambda part: part.numpy().astype(np.float64)
  return Numbers(
    wide(sample.observation)[:, 0],
    wide(sample.action),
    wide(sample.n_step_return),
    wide(sample.discount),
    wide(sample.next_observation)[:, 0],
    wide(sample.weight),
  )


def targets_by_hand(sample, policy, critic):
  """G_t = R + gamma^n q(S_{t+n}, pi(S_{t+n})), with the policy of one replica and the critic of another."""
  of, targets = numbers(sample), np.zeros(len(sample.leaf))
  for k in range(len(targets)):
    x = of.next_x[k : k + 1]
    targets[k] = of.n_step_return[k] + of.discount[k] * critic.q(x, policy.pi(x))[0]
  return targets


def differences(function, arrays, per_array=25, seed=4):
  """Central differences of a function of these arrays: for each of them, some places and what belongs there."""
  step, rng, results = 1e-6, np.random.default_rng(seed), []
  for array in arrays:
    places = [tuple(place) for place in rng.permutation(list(np.ndindex(*array.shape)))[:per_array]]
    slopes = []
    for place in places:
      kept = array[place]
      array[place] = kept + step
      above = function()
      array[place] = kept - step
      slopes.append((above - function()) / (2 * step))
      array[place] = kept
    results.append((places, np.array(slopes)))
  return results


def assert_slopes(gradients, slopes, tolerance=1e-4):
  """Gradients are finite differences, up to a part of the largest of their array; and many of them are not zero."""
  for gradient, (places, slope) in zip(gradients, slopes, strict=True):
    gradient = np.asarray(gradient)
    scale = np.abs(slope).max()
    assert scale > 0.0
    np.testing.assert_allclose(
      [gradient[place] for place in places], slope, rtol=0.0, atol=tolerance * scale
    )
  assert sum(np.count_nonzero(slope) for _, slope in slopes) > 60


def assert_arrays_close(ones, others, tolerance=2e-5):
  """Up to a part of the largest number of each array."""
  for one, other in zip(ones, others, strict=True):
    assert np.shape(one) == np.shape(other)
    np.testing.assert_allclose(
      one, other, rtol=0.0, atol=tolerance * max(np.abs(other).max(), 1e-30)
    )


def assert_arrays_equal(ones, others):
  for one, other in zip(ones, others, strict=True):
    np.testing.assert_array_equal(one, other)


def values(variables):
  return [variable.numpy() for variable in variables]


class TestReplica:
  def test_the_chain_rule_by_hand_is_that_of_finite_differences(self):
    replica, x = Replica.of(make_networks()), vectors().astype(np.float64)
    a, rng = bounded_actions().astype(np.float64), np.random.default_rng(5)
    by_q, by_action = rng.normal(size=BATCH), rng.normal(size=(BATCH, ACTIONS))
    by_critic, by_inputs = replica.critic_gradients(x, a, by_q)
    value = lambda: by_q @ replica.q(x, a)
    assert_slopes(by_critic, differences(value, replica.critic), 1e-6)
    ((places, slopes),) = differences(value, [a])
    np.testing.assert_allclose([by_inputs[place] for place in places], slopes, rtol=1e-6)
    assert_slopes(
      replica.policy_gradients(x, by_action),
      differences(lambda: np.sum(by_action * replica.pi(x)), replica.policy),
      1e-6,
    )


class TestNetworks:
  def test_the_policy_equals_its_formula(self):
    networks, x = make_networks(), vectors(200)
    actions = networks.policy(tf.constant(x))
    assert actions.dtype == tf.float32 and actions.shape == [200, ACTIONS]
    np.testing.assert_allclose(actions, Replica.of(networks).pi(x.astype(np.float64)), **FORWARD)
    assert np.ptp(actions) > 1.0

  def test_the_critic_equals_its_formula(self):
    networks, x, a = make_networks(), vectors(200), bounded_actions(200)
    q = networks.critic(tf.constant(x), tf.constant(a))
    assert q.dtype == tf.float32 and q.shape == [200]
    np.testing.assert_allclose(
      q, Replica.of(networks).q(x.astype(np.float64), a.astype(np.float64)), **FORWARD
    )
    assert np.ptp(q) > 0.5 and np.ptp(networks.critic(tf.constant(x), tf.constant(-a)) - q) > 0.1

  def test_actions_stay_within_the_bounds_and_finite_for_any_observation(self):
    for scale in (1e3, 1e30):
      actions = make_networks().policy(tf.constant(scale * vectors(100)))
      assert np.all(np.abs(actions) <= 1.0)

  def test_of_the_humanoid_have_the_papers_sizes(self):
    # 21 actions and 67 features; 300 and 200 units for the policy, 400 and 300 for the critic, which reads the action
    # in its second layer. The config has no say in it.
    networks = dpg.make_networks(configs.Config(torso='vector', hidden_size=8), make_suite(67, 21))
    shapes = lambda network: {tuple(variable.shape) for variable in network.trainable_variables}
    assert shapes(networks.policy) == {(67, 300), (300,), (300, 200), (200,), (200, 21), (21,)}
    assert shapes(networks.critic) == {(67, 400), (400,), (421, 300), (300,), (300, 1), (1,)}
    count = lambda network: sum(
      variable.shape.num_elements() for variable in network.trainable_variables
    )
    policy, critic = (
      67 * 300 + 300 + 300 * 200 + 200 + 200 * 21 + 21,
      67 * 400 + 400 + 421 * 300 + 300 + 300 + 1,
    )
    assert (count(networks.policy), count(networks.critic), count(networks)) == (
      policy,
      critic,
      policy + critic,
    )
    assert networks.policy(tf.zeros([4, 67])).shape == [4, 21]
    assert networks.critic(tf.zeros([4, 67]), tf.zeros([4, 21])).shape == [4]

  def test_all_variables_exist_once_they_are_constructed(self):
    networks = dpg.Networks(INPUT, ACTIONS)
    before = values(networks.variables)
    assert len(before) == 12
    networks.critic(vectors(), networks.policy(vectors()))
    assert_arrays_equal(networks.variables, before)

  def test_last_layers_begin_uniform_and_small(self):
    tf.random.set_seed(11)
    networks = dpg.Networks(67, 21)
    last = [
      variable.numpy().ravel()
      for network, size in ((networks.policy, 21), (networks.critic, 1))
      for variable in network.trainable_variables
      if variable.shape[-1] == size
    ]
    assert sorted(map(len, last)) == [1, 21, 300, 4200]
    for array in last:
      assert np.all(np.abs(array) <= 0.003)
      if len(array) in (300, 4200):
        assert stats.kstest(array, stats.uniform(-0.003, 0.006).cdf).pvalue > SIGNIFICANCE
    # So an agent begins with actions and values near zero, wherever it is.
    x = vectors(50, 67)
    actions = networks.policy(x)
    assert np.abs(actions).max() < 0.15 and np.abs(networks.critic(x, actions)).max() < 0.15

  def test_networks_begin_with_parameters_of_their_own(self):
    one, other = dpg.Networks(INPUT, ACTIONS), dpg.Networks(INPUT, ACTIONS)
    x = vectors()
    assert np.all(one.policy(x) != other.policy(x))


class TestCriticLosses:
  def test_equal_the_formula_also_for_large_errors(self):
    networks, target_networks, sample = make_networks(0), make_networks(1), make_sample()
    sample = sample._replace(
      n_step_return=sample.n_step_return * [1.0, 1.0, 1.0, 300.0, 1.0, 1.0, 1.0, -300.0]
    )
    online, older, of = Replica.of(networks), Replica.of(target_networks), numbers(sample)
    q, targets = online.q(of.x, of.a), targets_by_hand(sample, older, older)
    loss = dpg.critic_losses(networks, target_networks, sample)
    for part in loss:
      assert part.dtype == tf.float32 and part.shape == [BATCH]
    np.testing.assert_allclose(loss.q_values, q, **FORWARD)
    np.testing.assert_allclose(loss.td_errors, targets - q, **FORWARD)
    np.testing.assert_allclose(loss.losses, 0.5 * (targets - q) ** 2, rtol=5e-5, atol=1e-5)
    assert np.abs(targets - q).max() > 100.0

  def test_the_target_is_of_the_older_policy_and_the_older_critic(self):
    # None of the three other combinations would do.
    networks, target_networks, sample = (
      make_networks(0, STEEP),
      make_networks(1, STEEP),
      make_sample(),
    )
    online, older = Replica.of(networks), Replica.of(target_networks)
    loss = dpg.critic_losses(networks, target_networks, sample)
    targets, lives = loss.td_errors + loss.q_values, numbers(sample).discount > 0.0
    assert 0 < np.sum(lives) < BATCH
    assert_arrays_close([targets], [targets_by_hand(sample, older, older)])
    for policy, critic in ((online, older), (older, online), (online, online)):
      assert np.max(np.abs(targets - targets_by_hand(sample, policy, critic))[lives]) > 0.1

  @pytest.mark.parametrize('same', [False, True], ids=['other_targets', 'themselves_as_targets'])
  def test_the_gradient_is_that_of_finite_differences(self, same):
    # Of the weighted mean, with targets held fixed: they carry no gradient even where the networks are their own.
    networks, sample = make_networks(0), make_sample()
    target_networks = networks if same else make_networks(1)
    replica, older, of = Replica.of(networks), Replica.of(target_networks), numbers(sample)
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(
        sample.weight * dpg.critic_losses(networks, target_networks, sample).losses
      )
    gradients = tape.gradient(loss, critic_variables(networks))
    targets = targets_by_hand(sample, older, older)
    by_hand = lambda: np.mean(of.weight * 0.5 * (targets - replica.q(of.x, of.a)) ** 2)
    np.testing.assert_allclose(loss, by_hand(), rtol=1e-5)
    assert_slopes(gradients, differences(by_hand, replica.critic))

  def test_neither_targets_nor_the_policy_get_a_gradient(self):
    networks, target_networks, sample = make_networks(0), make_networks(1), make_sample()
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(dpg.critic_losses(networks, target_networks, sample).losses)
    others = [*target_networks.trainable_variables, *networks.policy.trainable_variables]
    assert tape.gradient(loss, others) == [None] * 18

  @pytest.mark.parametrize('garbage', [-7.0, 1e30, -1e30])
  def test_after_an_episodes_end_next_observations_do_not_matter(self, garbage):
    networks, target_networks, sample = make_networks(0), make_networks(1), make_sample()
    ended = numbers(sample).discount == 0.0
    other = sample.next_observation.numpy()
    other[ended] = garbage
    outputs = []
    for next_observation in (sample.next_observation, tf.constant(other)):
      variables = networks.critic.trainable_variables
      with tf.GradientTape() as tape:
        evaluated = dpg.critic_losses(
          networks, target_networks, sample._replace(next_observation=next_observation)
        )
        loss = tf.reduce_mean(evaluated.losses)
      outputs.append([*evaluated, *tape.gradient(loss, variables)])
    assert_arrays_equal(*outputs)
    td_errors, q = outputs[0][1].numpy(), outputs[0][2].numpy()
    np.testing.assert_allclose(
      td_errors[ended], sample.n_step_return.numpy()[ended] - q[ended], **FORWARD
    )


class TestPolicyGradients:
  def test_are_those_of_finite_differences_where_nothing_is_clipped(self):
    # Descending, the optimizer climbs q: the gradient is that of -q.
    networks, x = make_networks(), vectors()
    replica, wide = Replica.of(networks), x.astype(np.float64)
    _, by_action = replica.critic_gradients(wide, replica.pi(wide), np.ones(BATCH))
    assert np.abs(by_action).max() < 1.0
    slopes = differences(lambda: -np.mean(replica.q(wide, replica.pi(wide))), replica.policy)
    assert_slopes(self.in_order(networks, x), slopes)

  @pytest.mark.parametrize('count', [1, BATCH])
  def test_go_through_a_dq_da_that_is_clipped_by_sample_and_action(self, count):
    networks, x = make_networks(critic_scale=STEEP), vectors(count)
    replica, wide = Replica.of(networks), x.astype(np.float64)
    actions = replica.pi(wide)
    _, by_action = replica.critic_gradients(wide, actions, np.ones(count))
    ((places, slopes),) = differences(
      lambda: replica.q(wide, actions).sum(), [actions], per_array=2 * count
    )
    np.testing.assert_allclose([by_action[place] for place in places], slopes, rtol=1e-5)
    if count > 1:
      assert (
        min(np.sum(by_action > 1.5), np.sum(by_action < -1.5), np.sum(np.abs(by_action) < 0.9)) >= 2
      )
    else:
      assert np.any(np.abs(by_action) > 1.5)
    clipped = np.clip(by_action, -1.0, 1.0)
    gradients = self.in_order(networks, x)
    assert_arrays_close(gradients, replica.policy_gradients(wide, -clipped / count))
    assert_slopes(
      gradients, differences(lambda: -np.sum(clipped * replica.pi(wide)) / count, replica.policy)
    )

  def test_do_not_grow_with_the_critic_beyond_the_clipping(self):
    # A hundred thousand times as steep, only signs are left.
    networks, x = make_networks(critic_scale=1e5), vectors()
    replica, wide = Replica.of(networks), x.astype(np.float64)
    _, by_action = replica.critic_gradients(wide, replica.pi(wide), np.ones(BATCH))
    assert np.abs(by_action).min() > 1.0
    assert_arrays_close(
      self.in_order(networks, x), replica.policy_gradients(wide, -np.sign(by_action) / BATCH)
    )

  def test_point_uphill(self):
    networks, x = make_networks(critic_scale=STEEP), vectors()
    variables = networks.policy.trainable_variables
    before = tf.reduce_mean(networks.critic(x, networks.policy(x)))
    for variable, gradient in zip(
      variables, dpg.policy_gradients(networks, tf.constant(x)), strict=True
    ):
      variable.assign_sub(1e-2 * gradient)
    assert tf.reduce_mean(networks.critic(x, networks.policy(x))) > before + 1e-3

  def test_of_a_batch_are_the_mean_of_those_of_its_samples(self):
    networks, x = make_networks(critic_scale=STEEP), vectors()
    alone = [self.in_order(networks, x[k : k + 1]) for k in range(BATCH)]
    assert_arrays_close(
      self.in_order(networks, x), [np.mean(parts, axis=0) for parts in zip(*alone)]
    )

  @staticmethod
  def in_order(networks, x):
    """The gradients in the order of a replica's arrays; they come in that of the policy's own variables."""
    gradients = dpg.policy_gradients(networks, tf.constant(x))
    by_shape = {
      tuple(variable.shape): np.asarray(gradient)
      for variable, gradient in zip(networks.policy.trainable_variables, gradients, strict=True)
    }
    return [by_shape[tuple(variable.shape)] for variable in policy_variables(networks)]


def settings(**changes) -> configs.Config:
  return dataclasses.replace(
    configs.PRESETS.preset('gym_continuous'), **(dict(batch_size=BATCH) | changes)
  )


def make_agent(seed=SEED, critic_scale=1.0, **changes) -> dpg.Agent:
  """With random parameters, and others as older copies."""
  agent = dpg.Agent(settings(**changes), make_suite())
  randomize(agent.networks, seed + 100, critic_scale)
  agent.copy_to_target()
  randomize(agent.networks, seed, critic_scale)
  return agent


def replicas_of_agent(seed=SEED, critic_scale=1.0):
  """The parameters of `make_agent`, and the older ones."""
  return (Replica.of(make_networks(part, critic_scale)) for part in (seed, seed + 100))


class TestAgent:
  def gradients(self, agent, sample):
    """Of policy and critic, in the order of a replica's arrays."""
    step, networks = agent.step(sample), agent.networks
    results = []
    for gradients, network, ordered in (
      (step.gradients.policy, networks.policy, policy_variables(networks)),
      (step.gradients.critic, networks.critic, critic_variables(networks)),
    ):
      by_shape = {
        tuple(variable.shape): np.asarray(gradient)
        for variable, gradient in zip(network.trainable_variables, gradients, strict=True)
      }
      results.append([by_shape[tuple(variable.shape)] for variable in ordered])
    return step, *results

  def expected(self, sample, critic_scale=1.0):
    """TD errors, and the gradients before those of the critic are clipped."""
    (online, older), of = replicas_of_agent(critic_scale=critic_scale), numbers(sample)
    td_errors = targets_by_hand(sample, older, older) - online.q(of.x, of.a)
    critic, _ = online.critic_gradients(of.x, of.a, -of.weight * td_errors / BATCH)
    actions = online.pi(of.x)
    _, by_action = online.critic_gradients(of.x, actions, np.ones(BATCH))
    return td_errors, online.policy_gradients(of.x, -np.clip(by_action, -1.0, 1.0) / BATCH), critic

  @pytest.mark.parametrize('critic_scale', [1.0, STEEP])
  def test_a_step_has_both_gradients_and_statistics(self, critic_scale):
    agent, sample = make_agent(critic_scale=critic_scale, max_gradient_norm=0.0), make_sample()
    td_errors, by_policy, by_critic = self.expected(sample, critic_scale)
    step, policy, critic = self.gradients(agent, sample)
    assert_arrays_close(policy, by_policy)
    assert_arrays_close(critic, by_critic)
    np.testing.assert_allclose(step.td_errors, td_errors, rtol=1e-4, atol=1e-4)
    norm = lambda arrays: np.sqrt(sum(np.sum(array**2) for array in arrays))
    of = numbers(sample)
    expected = dict(
      loss=np.mean(of.weight * 0.5 * td_errors**2),
      gradient_norm=norm(by_critic),
      policy_gradient_norm=norm(by_policy),
      q_value=np.mean(Replica.of(agent.networks).q(of.x, of.a)),
    )
    assert set(dpg.STATISTICS) == set(step.statistics) == set(expected)
    for name, value in expected.items():
      assert step.statistics[name].shape == [] and step.statistics[name].dtype == tf.float32
      np.testing.assert_allclose(step.statistics[name], value, rtol=1e-4, atol=1e-6)

  def test_the_critics_gradients_alone_are_clipped_by_their_global_norm(self):
    sample = make_sample()
    _, by_policy, by_critic = self.expected(sample, STEEP)
    norm = np.sqrt(sum(np.sum(array**2) for array in by_critic))
    limits = [0.5 * norm, 2.0 * norm, 1e-4]
    assert 1e-4 < np.sqrt(sum(np.sum(array**2) for array in by_policy))
    for limit in limits:
      step, policy, critic = self.gradients(
        make_agent(critic_scale=STEEP, max_gradient_norm=limit), sample
      )
      assert_arrays_close(policy, by_policy)
      assert_arrays_close(critic, [array * min(1.0, limit / norm) for array in by_critic])
      np.testing.assert_allclose(step.statistics['gradient_norm'], norm, rtol=1e-4)

  def test_the_papers_limit_is_40(self):
    sample = make_sample(n_step_return=1e4 * np.ones(BATCH))
    _, _, critic = self.gradients(make_agent(), sample)
    np.testing.assert_allclose(np.sqrt(sum(np.sum(array**2) for array in critic)), 40.0, rtol=1e-5)

  def test_a_step_changes_nothing(self):
    agent = make_agent()
    before = values(agent.variables)
    agent.step(make_sample())
    assert_arrays_equal(agent.variables, before)

  def test_the_policys_gradient_depends_on_observations_and_the_networks_only(self):
    # Importance weights, too, are for the critic alone.
    agent, sample, other = make_agent(), make_sample(), make_sample(seed=33)
    policy = self.gradients(agent, sample)[1]
    assert_arrays_equal(
      self.gradients(agent, other._replace(observation=sample.observation))[1], policy
    )
    agent.copy_to_target()
    assert_arrays_equal(self.gradients(agent, sample._replace(weight=tf.zeros(BATCH)))[1], policy)

  def test_the_critics_gradient_does_not_depend_on_the_policy(self):
    agent, sample = make_agent(), make_sample()
    step, _, critic = self.gradients(agent, sample)
    for variable in agent.networks.policy.trainable_variables:
      variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]))
    other, _, again = self.gradients(agent, sample)
    assert_arrays_equal(again, critic)
    np.testing.assert_array_equal(other.td_errors, step.td_errors)

  def test_each_gradient_moves_its_own_network_and_no_older_copy(self):
    # Of gradients of zero, Adam's first step is none.
    sample = make_sample()
    for moved in ('policy', 'critic'):
      agent = make_agent()
      gradients = agent.step(sample).gradients
      still = {'policy': 'critic', 'critic': 'policy'}[moved]
      gradients = gradients._replace(
        **{still: [tf.zeros_like(part) for part in getattr(gradients, still)]}
      )
      before = {
        name: values(getattr(agent.networks, name).trainable_variables) for name in (moved, still)
      }
      older = agent.step(sample._replace(n_step_return=tf.zeros(BATCH)))
      agent.apply(gradients)
      assert_arrays_equal(getattr(agent.networks, still).trainable_variables, before[still])
      for variable, value in zip(getattr(agent.networks, moved).trainable_variables, before[moved]):
        assert np.any(variable != value)
      # With the first parameters again, targets are what they were.
      for variable, value in zip(getattr(agent.networks, moved).trainable_variables, before[moved]):
        variable.assign(value)
      again = agent.step(sample._replace(n_step_return=tf.zeros(BATCH)))
      np.testing.assert_array_equal(again.td_errors, older.td_errors)

  def test_a_weight_of_zero_takes_a_sample_out_of_the_critics_gradient_alone(self):
    agent, sample = make_agent(max_gradient_norm=0.0), make_sample()
    weight = np.float32([0, 0, 0, 1, 0, 0, 0, 0])
    chosen = self.gradients(agent, sample._replace(weight=tf.constant(weight)))
    # Whatever the others hold.
    other = make_sample(seed=34, observation=sample.observation)
    mixed = {
      name: np.where(
        np.reshape(weight == 1, [-1] + [1] * (len(part.shape) - 1)), part, getattr(other, name)
      )
      for name, part in sample._asdict().items()
      if name in ('action', 'n_step_return', 'next_observation')
    }
    again = self.gradients(agent, sample._replace(weight=tf.constant(weight), **mixed))
    assert_arrays_close(again[2], chosen[2], 1e-6)
    assert_arrays_equal(again[1], chosen[1])
    # TD errors, of which priorities are made, are not weighted.
    np.testing.assert_array_equal(chosen[0].td_errors, agent.step(sample).td_errors)

  def test_weights_of_zero_leave_nothing_and_double_weights_twice(self):
    agent, sample = make_agent(max_gradient_norm=0.0), make_sample()
    none = self.gradients(agent, sample._replace(weight=tf.zeros(BATCH)))
    assert float(none[0].statistics['loss']) == 0.0 and all(not np.any(part) for part in none[2])
    once, twice = (
      self.gradients(agent, sample._replace(weight=factor * sample.weight)) for factor in (1.0, 2.0)
    )
    assert_arrays_close(twice[2], [2.0 * part for part in once[2]], 1e-6)

  def test_older_copies_begin_as_the_networks(self):
    agent, sample = dpg.Agent(settings(), make_suite()), make_sample()
    before = agent.step(sample).td_errors
    agent.copy_to_target()
    np.testing.assert_array_equal(agent.step(sample).td_errors, before)

  def test_copies_are_whole_and_stay_behind(self):
    agent, sample = make_agent(), make_sample()
    agent.copy_to_target()
    randomize(agent.networks, 77)
    online, older, of = Replica.of(agent.networks), next(replicas_of_agent()), numbers(sample)
    expected = targets_by_hand(sample, older, older) - online.q(of.x, of.a)
    np.testing.assert_allclose(agent.step(sample).td_errors, expected, **FORWARD)


class NumpyAdam:
  """Adam as at the end of section 2 of its paper (arXiv 1412.6980), in float64."""

  def __init__(self, arrays, learning_rate):
    self._first, self._second = ([np.zeros_like(array) for array in arrays] for _ in range(2))
    self._steps, self._learning_rate = 0, learning_rate

  def apply(self, gradients, arrays):
    self._steps += 1
    rate = self._learning_rate * np.sqrt(1.0 - 0.999**self._steps) / (1.0 - 0.9**self._steps)
    for array, gradient, first, second in zip(
      arrays, gradients, self._first, self._second, strict=True
    ):
      first[...] = 0.9 * first + 0.1 * gradient
      second[...] = 0.999 * second + 0.001 * gradient**2
      array -= rate * first / (np.sqrt(second) + 1e-8)


class TestAdam:
  SHAPES = [(2, 3), (4,), ()]
  RATE = 0.01

  def variables(self):
    rng = np.random.default_rng(40)
    return [tf.Variable(rng.normal(size=shape), dtype=tf.float32) for shape in self.SHAPES]

  def gradients(self, steps, seed=41):
    """Of all sizes, down to those beside which epsilon counts."""
    rng = np.random.default_rng(seed)
    scales = [rng.choice([1e-9, 1e-7, 1e-2, 10.0], size=shape) for shape in self.SHAPES]
    return [
      [
        tf.constant(scale * rng.normal(size=shape), tf.float32)
        for scale, shape in zip(scales, self.SHAPES)
      ]
      for _ in range(steps)
    ]

  def test_equals_the_formula(self):
    variables = self.variables()
    arrays = [np.array(variable, np.float64) for variable in variables]
    adam, by_hand = optimizers.Adam(variables, self.RATE), NumpyAdam(arrays, self.RATE)
    for gradients in self.gradients(30):
      adam.apply(gradients, variables)
      by_hand.apply([np.float64(gradient) for gradient in gradients], arrays)
      for variable, array in zip(variables, arrays, strict=True):
        np.testing.assert_allclose(variable, array, rtol=0.0, atol=2e-3 * self.RATE)

  def test_all_it_holds_exists_before_the_first_step_and_is_in_checkpoints(self, tmp_path):
    variables, straight_on = self.variables(), self.variables()
    one, other = optimizers.Adam(variables, self.RATE), optimizers.Adam(straight_on, self.RATE)
    shapes = sorted(tuple(slot.shape) for slot in one.variables)
    assert shapes == sorted([(), *self.SHAPES, *self.SHAPES])
    # At the start, and after three steps.
    gradients = self.gradients(6)
    for done in (0, 3):
      for step in gradients[:done]:
        one.apply(step, variables)
        other.apply(step, straight_on)
      assert len(one.variables) == len(shapes)
      path = tf.train.Checkpoint(adam=one, variables=variables).save(
        str(tmp_path / f'after_{done}')
      )
      assert sum(name.startswith('adam/') for name, _ in tf.train.list_variables(path)) >= len(
        shapes
      )
      again = [tf.Variable(tf.zeros(shape)) for shape in self.SHAPES]
      restored = optimizers.Adam(again, self.RATE)
      tf.train.Checkpoint(adam=restored, variables=again).restore(path).assert_consumed()
    for step in gradients[3:]:
      restored.apply(step, again)
      other.apply(step, straight_on)
    assert_arrays_equal(again, values(straight_on))


class NumpyLearner:
  """Algorithm 2 with the losses of section 3.2: the two optimizers step together, from the same parameters."""

  def __init__(self, online, older, config):
    self.online, self.older, self._config, self._updates = online, older, config, 0
    self._adams = [
      NumpyAdam(arrays, config.learning_rate) for arrays in (online.policy, online.critic)
    ]

  def update(self, sample):
    """Returns the TD errors."""
    of, online, config = numbers(sample), self.online, self._config
    td_errors = targets_by_hand(sample, self.older, self.older) - online.q(of.x, of.a)
    critic, _ = online.critic_gradients(of.x, of.a, -of.weight * td_errors / BATCH)
    norm = np.sqrt(sum(np.sum(gradient**2) for gradient in critic))
    critic = [gradient * min(1.0, config.max_gradient_norm / norm) for gradient in critic]
    _, by_action = online.critic_gradients(of.x, online.pi(of.x), np.ones(BATCH))
    policy = online.policy_gradients(of.x, -np.clip(by_action, -1.0, 1.0) / BATCH)
    for adam, gradients, arrays in zip(
      self._adams, (policy, critic), (online.policy, online.critic), strict=True
    ):
      adam.apply(gradients, arrays)
    self._updates += 1
    if self._updates % config.target_period == 0:
      self.older = copy.deepcopy(online)
    return td_errors


@pytest.fixture(scope='module')
def learner() -> learners.Learner:
  """One whose target networks are copied to at every third update; tests bring it to the start."""
  return learners.Learner(
    settings(target_period=3, learning_rate=0.003, max_gradient_norm=20.0), make_suite()
  )


def bring_to_the_start(learner):
  """As after its construction, but with random parameters."""
  for variable in learner.variables:
    variable.assign(tf.zeros_like(variable))
  randomize(learner.agent.networks, SEED, STEEP)
  learner.agent.copy_to_target()


class TestLearner:
  def test_updates_are_those_of_a_numpy_loop(self, learner):
    # Also the lag of the targets: copies are made after updates 3, 6 and 9.
    bring_to_the_start(learner)
    config = learner.agent._config
    online = Replica.of(learner.agent.networks)
    by_hand, rate = NumpyLearner(online, copy.deepcopy(online), config), config.learning_rate
    for number in range(1, 11):
      sample = make_sample(seed=50 + number)
      of = numbers(sample)
      expected = by_hand.update(sample)
      update = learner.update(sample)
      assert update.statistics['finite'] and int(learner.updates) == number
      scale = np.abs(expected).max()
      np.testing.assert_allclose(update.priorities, np.abs(expected), rtol=0.0, atol=1e-4 * scale)
      np.testing.assert_allclose(
        update.statistics['loss'], np.mean(of.weight * 0.5 * expected**2), rtol=1e-3
      )
      ordered = [
        *policy_variables(learner.agent.networks),
        *critic_variables(learner.agent.networks),
      ]
      for variable, array in zip(ordered, online.policy + online.critic, strict=True):
        error = np.abs(variable - array)
        # Adam divides a gradient by its size: where it cancels to rounding errors, the step's sign is theirs.
        assert np.mean(error > 0.01 * rate) < 1e-3 and error.max() < 3 * rate * number
    assert learner.updates == 10

  @pytest.mark.parametrize(
    'part, value',
    [
      ('n_step_return', np.nan),
      ('n_step_return', -np.inf),
      ('n_step_return', 1e30),
      ('observation', np.nan),
      ('action', np.inf),
      ('discount', np.nan),
      ('weight', np.inf),
    ],
  )
  def test_a_sample_that_is_not_finite_changes_nothing(self, learner, part, value):
    bring_to_the_start(learner)
    for number in range(2):  # The third update would copy to the targets.
      assert learner.update(make_sample(seed=60 + number)).statistics['finite']
    before, sample = values(learner.variables), make_sample(seed=62)
    bad = getattr(sample, part).numpy()
    bad[3] = value
    assert not learner.update(sample._replace(**{part: tf.constant(bad)})).statistics['finite']
    assert_arrays_equal(learner.variables, before)

  def test_all_variables_exist_before_the_first_update(self):
    learner = learners.Learner(settings(), make_suite())
    before = {variable.ref() for variable in learner.variables}
    # Networks, their older copies, and two moments of each; the optimizers' steps; updates, frames and seconds.
    assert len(before) == 4 * 12 + 2 + 3
    learner.update(make_sample())
    assert {variable.ref() for variable in learner.variables} == before

  def test_a_checkpoint_holds_all_of_it(self, learner, tmp_path):
    bring_to_the_start(learner)
    for number in range(4):  # So that the targets are older than the networks.
      learner.update(make_sample(seed=70 + number))
    path = tf.train.Checkpoint(learner=learner).save(str(tmp_path / 'state'))
    saved, later = values(learner.variables), [make_sample(seed=80 + number) for number in range(3)]
    straight_on = [learner.update(sample).priorities for sample in later]
    bring_to_the_start(learner)
    tf.train.Checkpoint(learner=learner).restore(path).assert_consumed()
    assert_arrays_equal(learner.variables, saved)
    for sample, priorities in zip(later, straight_on, strict=True):
      np.testing.assert_array_equal(learner.update(sample).priorities, priorities)


def make_policy(networks, sigma, seed=0, suite=None) -> dpg.Policy:
  """A policy of these parameters in networks of its own."""
  suite = suite or make_suite()
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(networks.trainable_variables))
  )
  return dpg.Policy(dpg.make_networks(settings(), suite), suite, store, sigma, seed)


def quiet_networks() -> dpg.Networks:
  """Whose policy always says zero, so that actions are the noise alone."""
  networks = make_networks()
  for variable in policy_variables(networks)[-2:]:
    variable.assign(tf.zeros_like(variable))
  return networks


def bonferroni(p_values):
  """Of many tests: whether none of them is too unlikely to be chance."""
  p_values = np.ravel(p_values)
  return p_values.min() * p_values.size > SIGNIFICANCE


class TestNoise:
  STEPS, ENVIRONMENTS, SIGMA = 1500, 4, 0.1

  @pytest.fixture(scope='class')
  def noise(self):
    """`[T, N, A]`: actions without what the policy says; nothing is clipped at ten standard deviations."""
    networks = make_networks()
    for variable in policy_variables(networks)[-2:]:
      variable.assign(0.1 * variable)
    policy, replica = make_policy(networks, self.SIGMA, seed=7), Replica.of(networks)
    x = vectors(self.STEPS * self.ENVIRONMENTS, seed=8).reshape(
      self.STEPS, self.ENVIRONMENTS, INPUT
    )
    actions = np.stack([policy(observation).actions for observation in x])
    pi = replica.pi(x.reshape(-1, INPUT).astype(np.float64)).reshape(actions.shape)
    assert np.abs(actions).max() < 1.0 and np.std(pi) > 0.02
    return actions - pi

  def test_is_normal_with_the_standard_deviation_asked_for(self, noise):
    assert stats.kstest(noise.ravel(), stats.norm(0.0, self.SIGMA).cdf).pvalue > SIGNIFICANCE
    columns = noise.reshape(self.STEPS, -1)
    assert bonferroni(stats.ttest_1samp(columns, 0.0).pvalue)
    tail = stats.chi2(self.STEPS).cdf(np.sum(columns**2, axis=0) / self.SIGMA**2)
    assert bonferroni(2 * np.minimum(tail, 1.0 - tail))

  @pytest.mark.parametrize('lag', [1, 2, 3, 10])
  def test_is_uncorrelated_in_time(self, noise, lag):
    columns = noise.reshape(self.STEPS, -1)
    assert bonferroni([stats.pearsonr(column[:-lag], column[lag:]).pvalue for column in columns.T])

  def test_is_uncorrelated_between_environments_and_between_actions(self, noise):
    columns = noise.reshape(self.STEPS, -1).T
    assert bonferroni(
      [stats.pearsonr(columns[i], columns[j]).pvalue for i in range(len(columns)) for j in range(i)]
    )

  def test_is_no_less_in_any_step_or_environment(self, noise):
    # The noise of actors is not annealed.
    halves = np.sum(noise[: self.STEPS // 2] ** 2), np.sum(noise[self.STEPS // 2 :] ** 2)
    f = stats.f(noise.size // 2, noise.size // 2).cdf(halves[0] / halves[1])
    assert 2 * min(f, 1.0 - f) > SIGNIFICANCE

  def test_what_leaves_the_bounds_lies_on_them(self):
    policy = make_policy(quiet_networks(), 1.0, seed=9)
    actions = np.stack([policy(vectors(50)).actions for _ in range(40)])
    for bound in (-1.0, 1.0):
      count = np.sum(actions == bound)
      assert stats.binomtest(int(count), actions.size, stats.norm.cdf(-1.0)).pvalue > SIGNIFICANCE
    inside = actions[np.abs(actions) < 1.0]
    assert stats.kstest(inside, stats.truncnorm(-1.0, 1.0).cdf).pvalue > SIGNIFICANCE

  def test_of_other_seeds_is_another(self):
    one, again, other = (
      make_policy(quiet_networks(), 0.2, seed)(vectors()).actions for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.all(one != other)


class TestPolicy:
  def test_values_are_of_the_clipped_noisy_action_and_of_the_noiseless_one(self):
    # The same seed gives the same noise to a policy that says nothing itself, which shows it.
    networks, x, count = make_networks(critic_scale=10.0), vectors(20), 20
    policy_variables(networks)[-1].assign([1.5, -1.5])
    policy, noise, replica = (
      make_policy(networks, 0.2),
      make_policy(quiet_networks(), 0.2),
      Replica.of(networks),
    )
    wide, beyond = x.astype(np.float64), np.zeros(2, int)
    for _ in range(10):
      decision, added = policy(x), noise(x).actions.astype(np.float64)
      for part, shape in zip(decision, ((count, ACTIONS), (count,), (count,)), strict=True):
        assert isinstance(part, np.ndarray) and part.dtype == np.float32 and part.shape == shape
      unclipped = replica.pi(wide) + added
      actions = np.clip(unclipped, -1.0, 1.0)
      beyond += [np.sum(unclipped > 1.0), np.sum(unclipped < -1.0)]
      np.testing.assert_allclose(decision.actions, actions, **FORWARD)
      assert np.abs(decision.actions).max() <= 1.0
      np.testing.assert_allclose(decision.q_taken, replica.q(wide, actions), rtol=1e-4, atol=1e-4)
      np.testing.assert_allclose(
        decision.bootstrap_value, replica.q(wide, replica.pi(wide)), rtol=1e-4, atol=1e-4
      )
      for other in (unclipped, replica.pi(wide)):
        assert np.abs(replica.q(wide, other) - decision.q_taken).max() > 0.01
      assert np.abs(replica.q(wide, actions) - decision.bootstrap_value).max() > 0.01
    assert np.all(beyond > 10)

  def test_bootstrap_values_are_of_any_number_of_observations_without_noise(self):
    networks = make_networks()
    policy, replica = make_policy(networks, 0.5), Replica.of(networks)
    for count in (1, 3, 40):
      x = vectors(count, seed=count)
      wide = x.astype(np.float64)
      for _ in range(2):
        value = policy.bootstrap_value(x)
        assert (
          isinstance(value, np.ndarray) and value.dtype == np.float32 and value.shape == (count,)
        )
        np.testing.assert_allclose(value, replica.q(wide, replica.pi(wide)), **FORWARD)

  def test_without_noise_both_values_are_the_same(self):
    networks, x = make_networks(), vectors()
    decision = make_policy(networks, 0.0)(x)
    np.testing.assert_allclose(decision.actions, networks.policy(x), rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(decision.q_taken, decision.bootstrap_value, rtol=1e-6, atol=1e-6)

  def test_parameters_change_only_when_it_refreshes(self):
    first, second, x = make_networks(0), make_networks(1), vectors()
    store = parameters.ParameterStore(
      parameters.Snapshot(0, parameters.flatten(first.trainable_variables))
    )
    policy = dpg.Policy(dpg.Networks(INPUT, ACTIONS), make_suite(), store, 0.0, 0)
    before = policy(x)
    store.publish(parameters.Snapshot(7, parameters.flatten(second.trainable_variables)))
    assert_arrays_equal(policy(x), before)
    assert policy.refresh() == 7
    np.testing.assert_allclose(policy(x).actions, second.policy(x), **FORWARD)
    np.testing.assert_allclose(
      policy.bootstrap_value(x), second.critic(x, second.policy(x)), **FORWARD
    )

  def test_an_actors_noise_is_the_configs_whatever_its_number(self):
    networks, suite, x = make_networks(), make_suite(), vectors()
    store = parameters.ParameterStore(
      parameters.Snapshot(0, parameters.flatten(networks.trainable_variables))
    )
    expected = make_policy(networks, 0.17, seed=5)(x)
    for actor in (0, 3):
      made = dpg.make_policy(settings(noise_sigma=0.17), suite, store, actor, seed=5)
      for part, other in zip(made(x), expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-6, atol=1e-6)

  def test_all_environments_are_shown(self):
    shown = dpg.shown_environments(settings(num_actors=3, envs_per_actor=5))
    assert shown.dtype == bool and shown.shape == (15,) and np.all(shown)


def test_players_for_evaluation_are_noiseless_and_deterministic():
  networks, x, count = make_networks(), vectors(5), 5
  replica = Replica.of(networks)
  for seed in (0, 1):
    player = dpg.make_player(networks, settings(noise_sigma=0.3), make_suite(), seed)('tiny', count)
    for _ in range(3):
      actions = player({'observation': x}, np.zeros(count, np.float32), np.ones(count, bool))
      assert isinstance(actions, np.ndarray) and actions.dtype == np.float32
      np.testing.assert_allclose(actions, replica.pi(x.astype(np.float64)), **FORWARD)


POINT = 'DpgPoint-v0'


class Point(gymnasium.Env):
  """A point that is pushed about, until it leaves a square: then nothing comes after."""

  observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
  action_space = gymnasium.spaces.Box(np.float32([-2.0, 0.0]), np.float32([1.0, 3.0]))

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._position = self.np_random.uniform(-0.3, 0.3, 2)
    return self._position.astype(np.float32), {}

  def step(self, action):
    self._position = (
      self._position + 0.3 * (action - [-0.5, 1.5]) + self.np_random.normal(scale=0.1, size=2)
    )
    reward = float(self._position[0] - 0.2 * action[1])
    return (
      self._position.astype(np.float32),
      reward,
      bool(np.abs(self._position).max() > 1.0),
      False,
      {},
    )


# Both kinds of ends are frequent.
gymnasium.register(POINT, Point, max_episode_steps=7)


class Trace(gymnasium.vector.VectorWrapper):
  """Notes down all that the environments are told and answer, in copies: `[T, N]`; one observation more at the end."""

  def __init__(self, env: gymnasium.vector.VectorEnv, notes: 'Notes'):
    super().__init__(env)
    self._notes = notes

  def reset(self, *, seed=None, options=None):
    observations, info = self.env.reset(seed=seed, options=options)
    self._notes.observations.append(observations['observation'].copy())
    return observations, info

  def step(self, actions):
    notes, step = self._notes, len(self._notes.actions)
    observations, rewards, terminated, truncated, info = self.env.step(actions)
    notes.actions.append(np.array(actions))
    notes.observations.append(observations['observation'].copy())
    notes.rewards.append(np.array(rewards, np.float64))
    notes.terminated.append(terminated.copy())
    notes.truncated.append(truncated.copy())
    for i in np.flatnonzero(terminated | truncated):
      notes.last[step, i] = info['final_obs'][i]['observation'].copy()
    return observations, rewards, terminated, truncated, info


class Notes:
  def __init__(self):
    self.observations, self.actions, self.rewards, self.terminated, self.truncated = (
      [] for _ in range(5)
    )
    self.last = {}  # By step and environment: what was seen last of an episode.

  def transition(self, t, environment, n, discount, scale):
    """The n-step return, its discount, and the observation that it bootstraps from; None after an episode's end."""
    total = 0.0
    for k in range(n):
      total += discount**k * scale * self.rewards[t + k][environment]
      if self.terminated[t + k][environment]:
        return total, 0.0, None
      if self.truncated[t + k][environment]:
        return total, discount ** (k + 1), self.last[t + k, environment]
    return total, discount**n, self.observations[t + n][environment]


class Case(NamedTuple):
  """What is run, and how many ends of each kind it must have to say something."""

  env: str
  steps: int
  n_step: int
  block_length: int
  terminations: int
  limits: int


CASES = {
  'pendulum': Case('Pendulum-v1', 430, 3, 10, 0, 4),
  'point_3_step': Case(POINT, 120, 3, 10, 15, 10),
  'point_1_step': Case(POINT, 120, 1, 4, 15, 10),
  'point_5_step': Case(POINT, 120, 5, 3, 15, 10),
}
ENVIRONMENTS, SCALE = 2, 0.5  # SCALE: of rewards.


class Run(NamedTuple):
  """An actor that has run, what its environments answered, and what it put."""

  suite: suites.Suite
  config: configs.Config
  networks: dpg.Networks  # Whose parameters it had.
  notes: Notes
  shipments: list[transitions.Shipment]

  def transitions(self):
    """Each one alone, as `(step, environment, block of one)`, in the order of their coming.

    Those of an environment come one after the other: the first is of step 0, and none is left out.
    """
    taken = np.zeros(ENVIRONMENTS, int)
    for shipment in self.shipments:
      alone = transitions.separate(shipment.block)
      owners = np.repeat(shipment.environment, np.sum(shipment.block.valid, axis=1))
      assert len(owners) == len(alone.action)
      for k, environment in enumerate(owners):
        yield (
          taken[environment],
          int(environment),
          structures.TransitionBlock(*(part[k] for part in alone)),
        )
        taken[environment] += 1
    assert np.all(taken >= len(self.notes.actions) - self.config.n_step - self.config.block_length)


@pytest.fixture(scope='module', params=CASES)
def case(request) -> Case:
  return CASES[request.param]


@pytest.fixture(scope='module')
def run(case) -> Run:
  suite = environments.load(f'gym:{case.env}')
  suite = dataclasses.replace(suite, reward_scales={suite.tasks[0]: SCALE})
  config = settings(
    env=suite.name,
    n_step=case.n_step,
    block_length=case.block_length,
    local_buffer=2 * case.block_length,
    envs_per_actor=ENVIRONMENTS,
    discount=0.9,
  )
  config.check()
  # Of an observation of another size: as the networks begin, but with last layers of which much comes.
  tf.random.set_seed(90)
  networks = dpg.make_networks(config, suite)
  for variable in networks.trainable_variables:
    if variable.shape[-1] in (1, suite.action_space.shape[0]):
      variable.assign(
        300.0 * variable if variable.shape.rank == 2 else tf.zeros_like(variable) + 0.1
      )
  policy, notes, shipments = make_policy(networks, config.noise_sigma, 91, suite), Notes(), []
  recorded = dataclasses.replace(
    suite, make=lambda *arguments: Trace(suite.make(*arguments), notes)
  )
  actor = actors.Actor(0, recorded, [suite.tasks[0]] * ENVIRONMENTS, policy, config, seed=92)
  actor.run(shipments.append, lambda: len(notes.actions) >= case.steps)
  return Run(suite, config, networks, notes, shipments)


class TestActor:
  def test_the_run_has_ends_of_its_kinds(self, run, case):
    terminated, truncated = np.array(run.notes.terminated), np.array(run.notes.truncated)
    assert np.sum(terminated) >= case.terminations and np.any(terminated) == (case.terminations > 0)
    assert np.sum(truncated & ~terminated) >= case.limits

  def test_actions_of_the_environments_are_clipped(self, run):
    actions = np.stack(run.notes.actions)
    assert actions.dtype == np.float32 and np.abs(actions).max() == 1.0
    assert actions.shape[1:] == (ENVIRONMENTS, *run.suite.action_space.shape)

  def test_shapes_and_dtypes_of_shipments_are_the_specifications(self, run):
    spec = transitions.specification(run.suite, run.config.block_length, run.config.n_step)
    for shipment in run.shipments:
      for part, expected in zip(tf.nest.flatten(shipment), tf.nest.flatten(spec), strict=True):
        assert part.shape == (len(shipment.environment), *expected.shape)
        assert part.dtype == expected.dtype.as_numpy_dtype

  def test_each_transition_alone_is_what_the_environment_answered(self, run, case):
    spec, ended, cut, there = transitions.single_specification(run.suite), 0, 0, 0
    for step, environment, alone in run.transitions():
      for part, expected in zip(alone, spec, strict=True):
        assert part.shape == expected.shape and part.dtype == expected.dtype.as_numpy_dtype
      total, discount, end = run.notes.transition(
        step, environment, run.config.n_step, run.config.discount, SCALE
      )
      assert alone.valid[0] and alone.end[0] == 1
      np.testing.assert_array_equal(alone.observation[0], run.notes.observations[step][environment])
      np.testing.assert_array_equal(alone.action[0], run.notes.actions[step][environment])
      assert alone.n_step_return[0] == pytest.approx(total, rel=1e-5, abs=1e-5)
      assert alone.discount[0] == pytest.approx(discount, rel=1e-6)
      if end is None:
        ended += 1
      else:
        np.testing.assert_array_equal(alone.observation[1], end)
        cut += any(end is last for last in run.notes.last.values())
      there += 1
    assert there > 1.5 * case.steps and cut >= case.limits * run.config.n_step // 2
    assert (ended >= case.terminations) and (ended > 0) == (case.terminations > 0)

  def test_initial_priorities_are_the_td_errors_by_the_actors_networks(self, run):
    # Its networks both act and value: it has no older ones. What it bootstraps from is without noise.
    replica = self.replica(run)
    value = lambda x: float(replica.q(x[np.newaxis], replica.pi(x[np.newaxis]))[0])
    priorities, expected = [], []
    for step, environment, alone in run.transitions():
      total, discount, end = run.notes.transition(
        step, environment, run.config.n_step, run.config.discount, SCALE
      )
      x, a = (
        np.float64(part[step][environment]) for part in (run.notes.observations, run.notes.actions)
      )
      target = total + (discount * value(np.float64(end)) if end is not None else 0.0)
      expected.append(abs(target - float(replica.q(x[np.newaxis], a[np.newaxis])[0])))
      priorities.append(float(alone.priority[0]))
    np.testing.assert_allclose(priorities, expected, rtol=2e-5, atol=2e-5)
    assert np.std(priorities) > 0.1

  def test_a_learner_of_the_same_parameters_finds_the_same_priorities(self, run):
    # Through the replay from which transitions leave one by one; with the networks as their own older copies.
    spec = transitions.single_specification(run.suite)
    replay = prioritized.PrioritizedReplay(
      spec, 2000, 1, alpha=0.6, beta=0.4, stratified=True, alpha_evict=-0.4
    )
    count = 0
    for shipment in run.shipments:
      alone = transitions.separate(shipment.block)
      replay.add(alone)
      count += len(alone.action)
    assert replay.size() == count
    sample = replay.sample(64)
    loss = dpg.critic_losses(run.networks, run.networks, sample)
    np.testing.assert_allclose(np.abs(loss.td_errors), sample.priority, rtol=1e-4, atol=1e-4)

  @staticmethod
  def replica(run) -> Replica:
    size, actions = (
      run.suite.observation_space['observation'].shape[0],
      run.suite.action_space.shape[0],
    )
    by_shape = lambda network: {
      tuple(variable.shape): variable for variable in network.trainable_variables
    }
    policy, critic = by_shape(run.networks.policy), by_shape(run.networks.critic)
    return Replica(
      [
        policy[shape]
        for shape in ((size, 300), (300,), (300, 200), (200,), (200, actions), (actions,))
      ],
      [
        critic[shape]
        for shape in ((size, 400), (400,), (400 + actions, 300), (300,), (300, 1), (1,))
      ],
    )
