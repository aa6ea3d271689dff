"""DPG's networks, losses and gradients against plain NumPy in float64, and finite differences."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from apex import config as configs
from apex import dpg
from tests.apex import dpg_oracle as oracle

INPUT = oracle.INPUT
ACTIONS = oracle.ACTIONS
BATCH = oracle.BATCH
FORWARD = oracle.FORWARD
STEEP = oracle.STEEP


class TestReplica:
  def test_the_chain_rule_by_hand_is_that_of_finite_differences(self):
    replica = oracle.Replica.of(oracle.make_networks())
    x = oracle.vectors().astype(np.float64)
    a = oracle.bounded_actions().astype(np.float64)
    rng = np.random.default_rng(5)
    by_q = rng.normal(size=BATCH)
    by_action = rng.normal(size=(BATCH, ACTIONS))

    def value():
      return by_q @ replica.q(x, a)

    by_critic, by_inputs = replica.critic_gradients(x, a, by_q)
    oracle.assert_slopes(by_critic, oracle.differences(value, replica.critic), 1e-6)
    ((places, slopes),) = oracle.differences(value, [a])
    np.testing.assert_allclose([by_inputs[place] for place in places], slopes, rtol=1e-6)
    oracle.assert_slopes(
      replica.policy_gradients(x, by_action),
      oracle.differences(lambda: np.sum(by_action * replica.pi(x)), replica.policy),
      1e-6,
    )


class TestNetworks:
  def test_the_policy_equals_its_formula(self):
    networks = oracle.make_networks()
    x = oracle.vectors(200)
    actions = networks.policy(oracle.seen(x))
    assert actions.dtype == tf.float32 and actions.shape == [200, ACTIONS]
    expected = oracle.Replica.of(networks).pi(x.astype(np.float64))
    np.testing.assert_allclose(actions, expected, **FORWARD)
    assert np.ptp(actions) > 1.0

  def test_the_critic_equals_its_formula(self):
    networks = oracle.make_networks()
    x, a = oracle.vectors(200), oracle.bounded_actions(200)
    q = networks.critic(oracle.seen(x), tf.constant(a))
    assert q.dtype == tf.float32 and q.shape == [200]
    expected = oracle.Replica.of(networks).q(x.astype(np.float64), a.astype(np.float64))
    np.testing.assert_allclose(q, expected, **FORWARD)
    assert np.ptp(q) > 0.5 and np.ptp(networks.critic(oracle.seen(x), tf.constant(-a)) - q) > 0.1

  def test_actions_stay_within_the_bounds_and_finite_for_any_observation(self):
    for scale in (1e3, 1e30):
      actions = oracle.make_networks().policy(oracle.seen(scale * oracle.vectors(100)))
      assert np.all(np.abs(actions) <= 1.0)

  def test_for_the_humanoid_they_have_the_papers_sizes(self):
    # 21 actions and 67 features; 300 and 200 units for the policy, 400 and 300 for the critic,
    # which reads the action in its second layer. The config has no say in it.
    config = configs.Config(torso='vector', hidden_size=8)
    networks = dpg.make_networks(config, oracle.make_suite(67, 21))

    def shapes(network):
      return {tuple(variable.shape) for variable in network.trainable_variables}

    def count(network):
      return sum(variable.shape.num_elements() for variable in network.trainable_variables)

    assert shapes(networks.policy) == {(67, 300), (300,), (300, 200), (200,), (200, 21), (21,)}
    assert shapes(networks.critic) == {(67, 400), (400,), (421, 300), (300,), (300, 1), (1,)}
    policy = 67 * 300 + 300 + 300 * 200 + 200 + 200 * 21 + 21
    critic = 67 * 400 + 400 + 421 * 300 + 300 + 300 + 1
    assert count(networks.policy) == policy
    assert count(networks.critic) == critic
    assert count(networks) == policy + critic
    x = oracle.seen(tf.zeros([4, 67]))
    assert networks.policy(x).shape == [4, 21]
    assert networks.critic(x, tf.zeros([4, 21])).shape == [4]

  def test_all_variables_exist_once_they_are_constructed(self):
    networks = oracle.fresh_networks()
    before = oracle.values(networks.variables)
    assert len(before) == 12
    x = oracle.seen(oracle.vectors())
    networks.critic(x, networks.policy(x))
    oracle.assert_arrays_equal(networks.variables, before)

  def test_last_layers_begin_uniform_and_small(self):
    tf.random.set_seed(11)
    networks = oracle.fresh_networks(67, 21)
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
        assert stats.kstest(array, stats.uniform(-0.003, 0.006).cdf).pvalue > oracle.SIGNIFICANCE

    # So an agent begins with actions and values near zero, wherever it is.
    x = oracle.seen(oracle.vectors(50, 67))
    actions = networks.policy(x)
    assert np.abs(actions).max() < 0.15 and np.abs(networks.critic(x, actions)).max() < 0.15

  def test_networks_begin_with_parameters_of_their_own(self):
    one, other = oracle.fresh_networks(), oracle.fresh_networks()
    x = oracle.seen(oracle.vectors())
    assert np.all(one.policy(x) != other.policy(x))


class TestCriticLosses:
  def test_equal_the_formula_also_for_large_errors(self):
    networks, target_networks = oracle.make_networks(0), oracle.make_networks(1)
    sample = oracle.make_sample()
    sample = sample._replace(
      n_step_return=sample.n_step_return * [1.0, 1.0, 1.0, 300.0, 1.0, 1.0, 1.0, -300.0]
    )
    online, older = oracle.Replica.of(networks), oracle.Replica.of(target_networks)
    of = oracle.numbers(sample)
    q = online.q(of.x, of.a)
    targets = oracle.targets_by_hand(sample, older, older)

    td = dpg.critic_losses(networks, target_networks, sample)
    for part in td:
      assert part.dtype == tf.float32 and part.shape == [BATCH]
    np.testing.assert_allclose(td.q_values, q, **FORWARD)
    np.testing.assert_allclose(td.td_errors, targets - q, **FORWARD)
    np.testing.assert_allclose(td.losses, 0.5 * (targets - q) ** 2, rtol=5e-5, atol=1e-5)
    assert np.abs(targets - q).max() > 100.0

  def test_the_target_is_of_the_older_policy_and_the_older_critic(self):
    networks, target_networks = oracle.make_networks(0, STEEP), oracle.make_networks(1, STEEP)
    sample = oracle.make_sample()
    online, older = oracle.Replica.of(networks), oracle.Replica.of(target_networks)
    td = dpg.critic_losses(networks, target_networks, sample)
    targets = td.td_errors + td.q_values
    lives = oracle.numbers(sample).discount > 0.0
    assert 0 < np.sum(lives) < BATCH
    oracle.assert_arrays_close([targets], [oracle.targets_by_hand(sample, older, older)])

    # None of the three other combinations would do.
    for policy, critic in ((online, older), (older, online), (online, online)):
      others = oracle.targets_by_hand(sample, policy, critic)
      assert np.max(np.abs(targets - others)[lives]) > 0.1

  @pytest.mark.parametrize('same', [False, True], ids=['other_targets', 'themselves_as_targets'])
  def test_the_gradient_is_that_of_finite_differences(self, same):
    # Of the weighted mean, with targets held fixed: they carry no gradient even where the networks
    # are their own targets.
    networks, sample = oracle.make_networks(0), oracle.make_sample()
    target_networks = networks if same else oracle.make_networks(1)
    replica, older = oracle.Replica.of(networks), oracle.Replica.of(target_networks)
    of = oracle.numbers(sample)
    with tf.GradientTape() as tape:
      losses = dpg.critic_losses(networks, target_networks, sample).losses
      loss = tf.reduce_mean(sample.weight * losses)
    gradients = tape.gradient(loss, oracle.critic_variables(networks))
    targets = oracle.targets_by_hand(sample, older, older)

    def by_hand():
      return np.mean(of.weight * 0.5 * (targets - replica.q(of.x, of.a)) ** 2)

    np.testing.assert_allclose(loss, by_hand(), rtol=1e-5)
    oracle.assert_slopes(gradients, oracle.differences(by_hand, replica.critic))

  def test_neither_targets_nor_the_policy_get_a_gradient(self):
    networks, target_networks = oracle.make_networks(0), oracle.make_networks(1)
    sample = oracle.make_sample()
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(dpg.critic_losses(networks, target_networks, sample).losses)
    others = [*target_networks.trainable_variables, *networks.policy.trainable_variables]
    assert tape.gradient(loss, others) == [None] * 18

  @pytest.mark.parametrize('garbage', [-7.0, 1e30, -1e30])
  def test_after_an_episodes_end_next_observations_do_not_matter(self, garbage):
    networks, target_networks = oracle.make_networks(0), oracle.make_networks(1)
    sample = oracle.make_sample()
    ended = oracle.numbers(sample).discount == 0.0
    other = sample.next_observation['observation'].numpy()
    other[ended] = garbage

    outputs = []
    for next_observation in (sample.next_observation, oracle.seen(other)):
      replaced = sample._replace(next_observation=next_observation)
      with tf.GradientTape() as tape:
        td = dpg.critic_losses(networks, target_networks, replaced)
        loss = tf.reduce_mean(td.losses)
      outputs.append([*td, *tape.gradient(loss, networks.critic.trainable_variables)])
    oracle.assert_arrays_equal(*outputs)
    td_errors, q = outputs[0][1].numpy(), outputs[0][2].numpy()
    expected = sample.n_step_return.numpy()[ended] - q[ended]
    np.testing.assert_allclose(td_errors[ended], expected, **FORWARD)

  @pytest.mark.parametrize(
    'part', ['observation', 'action', 'n_step_return', 'discount', 'next_observation']
  )
  def test_a_part_of_another_rank_or_dtype_is_refused(self, part):
    # A column of returns beside a row of values would otherwise become a matrix of losses.
    networks, sample = oracle.make_networks(0), oracle.make_sample()

    def changed(change):
      return sample._replace(**{part: tf.nest.map_structure(change, getattr(sample, part))})

    with pytest.raises(ValueError):
      dpg.critic_losses(networks, networks, changed(lambda x: x[..., tf.newaxis]))
    with pytest.raises(TypeError):
      dpg.critic_losses(networks, networks, changed(lambda x: tf.cast(x, tf.float64)))


class TestPolicyGradients:
  def test_are_those_of_finite_differences_where_nothing_is_clipped(self):
    # The optimizer descends and is to climb q, so the gradient is that of -q.
    networks, x = oracle.make_networks(), oracle.vectors()
    replica, wide = oracle.Replica.of(networks), x.astype(np.float64)
    _, by_action = replica.critic_gradients(wide, replica.pi(wide), np.ones(BATCH))
    assert np.abs(by_action).max() < 1.0
    slopes = oracle.differences(lambda: -np.mean(replica.q(wide, replica.pi(wide))), replica.policy)
    oracle.assert_slopes(self.in_order(networks, x), slopes)

  @pytest.mark.parametrize('count', [1, BATCH])
  def test_go_through_a_dq_da_that_is_clipped_by_sample_and_action(self, count):
    networks, x = oracle.make_networks(critic_scale=STEEP), oracle.vectors(count)
    replica, wide = oracle.Replica.of(networks), x.astype(np.float64)
    actions = replica.pi(wide)
    _, by_action = replica.critic_gradients(wide, actions, np.ones(count))
    ((places, slopes),) = oracle.differences(
      lambda: replica.q(wide, actions).sum(), [actions], per_array=2 * count
    )
    np.testing.assert_allclose([by_action[place] for place in places], slopes, rtol=1e-5)
    if count > 1:
      kinds = (by_action > 1.5, by_action < -1.5, np.abs(by_action) < 0.9)
      assert min(np.sum(kind) for kind in kinds) >= 2
    else:
      assert np.any(np.abs(by_action) > 1.5)

    clipped = np.clip(by_action, -1.0, 1.0)
    gradients = self.in_order(networks, x)
    oracle.assert_arrays_close(gradients, replica.policy_gradients(wide, -clipped / count))
    slopes = oracle.differences(lambda: -np.sum(clipped * replica.pi(wide)) / count, replica.policy)
    oracle.assert_slopes(gradients, slopes)

  def test_do_not_grow_with_the_critic_beyond_the_clipping(self):
    # With a critic a hundred thousand times as steep, only signs are left.
    networks, x = oracle.make_networks(critic_scale=1e5), oracle.vectors()
    replica, wide = oracle.Replica.of(networks), x.astype(np.float64)
    _, by_action = replica.critic_gradients(wide, replica.pi(wide), np.ones(BATCH))
    assert np.abs(by_action).min() > 1.0
    expected = replica.policy_gradients(wide, -np.sign(by_action) / BATCH)
    oracle.assert_arrays_close(self.in_order(networks, x), expected)

  def test_point_uphill(self):
    networks, x = oracle.make_networks(critic_scale=STEEP), oracle.vectors()
    variables = networks.policy.trainable_variables
    x = oracle.seen(x)
    before = tf.reduce_mean(networks.critic(x, networks.policy(x)))
    gradients = dpg.policy_gradients(networks, x)
    for variable, gradient in zip(variables, gradients, strict=True):
      variable.assign_sub(1e-2 * gradient)
    assert tf.reduce_mean(networks.critic(x, networks.policy(x))) > before + 1e-3

  def test_of_a_batch_are_the_mean_of_those_of_its_samples(self):
    networks, x = oracle.make_networks(critic_scale=STEEP), oracle.vectors()
    alone = [self.in_order(networks, x[k : k + 1]) for k in range(BATCH)]
    means = [np.mean(parts, axis=0) for parts in zip(*alone, strict=True)]
    oracle.assert_arrays_close(self.in_order(networks, x), means)

  @staticmethod
  def in_order(networks, x):
    """The gradients in the order of a replica's arrays."""
    gradients = dpg.policy_gradients(networks, oracle.seen(x))
    ordered = oracle.policy_variables(networks)
    return oracle.gradients_in_order(networks.policy, gradients, ordered)
