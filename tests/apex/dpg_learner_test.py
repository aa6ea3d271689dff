"""DPG's agent and learner against a loop in plain NumPy: clipping, Adam, target networks, state."""

import copy

import numpy as np
import pytest
import tensorflow as tf

from apex import dpg
from apex import learner as learners
from tests.apex import dpg_oracle as oracle
from tests.common import adam

BATCH = oracle.BATCH
SEED = oracle.SEED
STEEP = oracle.STEEP


def make_agent(seed=SEED, critic_scale=1.0, **changes) -> dpg.Agent:
  """An agent with random parameters, and others in its target networks."""
  agent = dpg.make_agent(oracle.settings(**changes), oracle.make_suite())
  oracle.randomize(agent.networks, seed + 100, critic_scale)
  agent.copy_to_target()
  oracle.randomize(agent.networks, seed, critic_scale)
  return agent


def replicas_of_agent(seed=SEED, critic_scale=1.0):
  """Replicas of the networks and the target networks of `make_agent`."""
  online = oracle.Replica.of(oracle.make_networks(seed, critic_scale))
  older = oracle.Replica.of(oracle.make_networks(seed + 100, critic_scale))
  return online, older


def td_errors_and_gradients(sample, online, older):
  """TD errors by hand, the policy's gradients and the critic's before they are clipped by norm."""
  of = oracle.numbers(sample)
  td_errors = oracle.targets_by_hand(sample, older, older) - online.q(of.x, of.a)
  by_critic, _ = online.critic_gradients(of.x, of.a, -of.weight * td_errors / BATCH)
  _, by_action = online.critic_gradients(of.x, online.pi(of.x), np.ones(BATCH))
  by_policy = online.policy_gradients(of.x, -np.clip(by_action, -1.0, 1.0) / BATCH)
  return td_errors, by_policy, by_critic


class TestAgent:
  def gradients(self, agent, sample):
    """A step, and its gradients of policy and critic in the order of a replica's arrays."""
    step, networks = agent.step(sample), agent.networks
    policy = oracle.gradients_in_order(
      networks.policy, step.gradients.policy, oracle.policy_variables(networks)
    )
    critic = oracle.gradients_in_order(
      networks.critic, step.gradients.critic, oracle.critic_variables(networks)
    )
    return step, policy, critic

  def expected(self, sample, critic_scale=1.0):
    return td_errors_and_gradients(sample, *replicas_of_agent(critic_scale=critic_scale))

  @pytest.mark.parametrize('critic_scale', [1.0, STEEP])
  def test_a_step_has_both_gradients_and_statistics(self, critic_scale):
    agent = make_agent(critic_scale=critic_scale, max_gradient_norm=0.0)
    sample = oracle.make_sample()
    td_errors, by_policy, by_critic = self.expected(sample, critic_scale)
    step, policy, critic = self.gradients(agent, sample)
    oracle.assert_arrays_close(policy, by_policy)
    oracle.assert_arrays_close(critic, by_critic)
    np.testing.assert_allclose(step.td_errors, td_errors, rtol=1e-4, atol=1e-4)

    of = oracle.numbers(sample)
    expected = {
      'loss': np.mean(of.weight * 0.5 * td_errors**2),
      'gradient_norm': oracle.norm(by_critic),
      'policy_gradient_norm': oracle.norm(by_policy),
      'q_value': np.mean(oracle.Replica.of(agent.networks).q(of.x, of.a)),
    }
    assert set(dpg.STATISTICS) == set(step.statistics) == set(expected)
    for name, value in expected.items():
      assert step.statistics[name].shape == [] and step.statistics[name].dtype == tf.float32
      np.testing.assert_allclose(step.statistics[name], value, rtol=1e-4, atol=1e-6)

  def test_the_critics_gradients_alone_are_clipped_by_their_global_norm(self):
    sample = oracle.make_sample()
    _, by_policy, by_critic = self.expected(sample, STEEP)
    norm = oracle.norm(by_critic)
    limits = [0.5 * norm, 2.0 * norm, 1e-4]
    assert 1e-4 < oracle.norm(by_policy)
    for limit in limits:
      agent = make_agent(critic_scale=STEEP, max_gradient_norm=limit)
      step, policy, critic = self.gradients(agent, sample)
      oracle.assert_arrays_close(policy, by_policy)
      oracle.assert_arrays_close(critic, [array * min(1.0, limit / norm) for array in by_critic])
      np.testing.assert_allclose(step.statistics['gradient_norm'], norm, rtol=1e-4)

  def test_the_papers_limit_is_40(self):
    sample = oracle.make_sample(n_step_return=1e4 * np.ones(BATCH))
    _, _, critic = self.gradients(make_agent(), sample)
    np.testing.assert_allclose(oracle.norm(critic), 40.0, rtol=1e-5)

  def test_a_step_changes_nothing(self):
    agent = make_agent()
    before = oracle.values(agent.variables)
    agent.step(oracle.make_sample())
    oracle.assert_arrays_equal(agent.variables, before)

  def test_the_policys_gradient_depends_on_observations_and_the_networks_only(self):
    agent, sample, other = make_agent(), oracle.make_sample(), oracle.make_sample(seed=33)
    policy = self.gradients(agent, sample)[1]
    other = other._replace(observation=sample.observation)
    oracle.assert_arrays_equal(self.gradients(agent, other)[1], policy)

    # Importance weights, too, are for the critic alone.
    agent.copy_to_target()
    unweighted = sample._replace(weight=tf.zeros(BATCH))
    oracle.assert_arrays_equal(self.gradients(agent, unweighted)[1], policy)

  def test_the_critics_gradient_does_not_depend_on_the_policy(self):
    agent, sample = make_agent(), oracle.make_sample()
    step, _, critic = self.gradients(agent, sample)
    for variable in agent.networks.policy.trainable_variables:
      variable.assign(tf.random.stateless_normal(variable.shape, [1, 2]))
    other, _, again = self.gradients(agent, sample)
    oracle.assert_arrays_equal(again, critic)
    np.testing.assert_array_equal(other.td_errors, step.td_errors)

  @pytest.mark.parametrize('moved, still', [('policy', 'critic'), ('critic', 'policy')])
  def test_each_gradient_moves_its_own_network_and_no_target_network(self, moved, still):
    agent, sample = make_agent(), oracle.make_sample()
    variables = getattr(agent.networks, moved).trainable_variables
    others = getattr(agent.networks, still).trainable_variables
    before, others_before = oracle.values(variables), oracle.values(others)
    gradients = agent.step(sample).gradients
    # With gradients of zero, Adam's first step is none.
    zeros = [tf.zeros_like(part) for part in getattr(gradients, still)]
    gradients = gradients._replace(**{still: zeros})

    without_returns = sample._replace(n_step_return=tf.zeros(BATCH))
    older = agent.step(without_returns)
    agent.apply(gradients)
    oracle.assert_arrays_equal(others, others_before)
    for variable, value in zip(variables, before, strict=True):
      assert np.any(variable != value)

    # With the first parameters again, targets are what they were.
    for variable, value in zip(variables, before, strict=True):
      variable.assign(value)
    again = agent.step(without_returns)
    np.testing.assert_array_equal(again.td_errors, older.td_errors)

  def test_a_weight_of_zero_takes_a_sample_out_of_the_critics_gradient_alone(self):
    agent, sample = make_agent(max_gradient_norm=0.0), oracle.make_sample()
    weight = np.float32([0, 0, 0, 1, 0, 0, 0, 0])
    chosen = self.gradients(agent, sample._replace(weight=tf.constant(weight)))

    # Whatever the others hold.
    other = oracle.make_sample(seed=34, observation=sample.observation)
    mixed = {}
    for name in ('action', 'n_step_return', 'next_observation'):

      def mix(part, others):
        is_chosen = np.reshape(weight == 1, [-1] + [1] * (len(part.shape) - 1))
        return tf.constant(np.where(is_chosen, part, others))

      mixed[name] = tf.nest.map_structure(mix, getattr(sample, name), getattr(other, name))
    again = self.gradients(agent, sample._replace(weight=tf.constant(weight), **mixed))
    oracle.assert_arrays_close(again[2], chosen[2], 1e-6)
    oracle.assert_arrays_equal(again[1], chosen[1])
    # TD errors, which become priorities, are not weighted.
    np.testing.assert_array_equal(chosen[0].td_errors, agent.step(sample).td_errors)

  def test_weights_of_zero_leave_nothing_and_double_weights_twice(self):
    agent, sample = make_agent(max_gradient_norm=0.0), oracle.make_sample()
    none = self.gradients(agent, sample._replace(weight=tf.zeros(BATCH)))
    assert float(none[0].statistics['loss']) == 0.0 and all(not np.any(part) for part in none[2])
    once = self.gradients(agent, sample)
    twice = self.gradients(agent, sample._replace(weight=2.0 * sample.weight))
    oracle.assert_arrays_close(twice[2], [2.0 * part for part in once[2]], 1e-6)

  def test_target_networks_begin_as_the_networks(self):
    agent = dpg.make_agent(oracle.settings(), oracle.make_suite())
    sample = oracle.make_sample()
    before = agent.step(sample).td_errors
    agent.copy_to_target()
    np.testing.assert_array_equal(agent.step(sample).td_errors, before)

  def test_target_networks_are_copied_whole_and_stay_behind(self):
    agent, sample = make_agent(), oracle.make_sample()
    agent.copy_to_target()
    oracle.randomize(agent.networks, 77)
    online = oracle.Replica.of(agent.networks)
    older, _ = replicas_of_agent()
    of = oracle.numbers(sample)
    expected = oracle.targets_by_hand(sample, older, older) - online.q(of.x, of.a)
    np.testing.assert_allclose(agent.step(sample).td_errors, expected, **oracle.FORWARD)


class NumpyLearner:
  """Algorithm 2 with the losses of section 3.2: both optimizers step from the same parameters."""

  def __init__(self, online, older, config):
    self.online = online
    self.older = older
    self._config = config
    self._updates = 0
    self._policy_adam = adam.NumpyAdam(online.policy, config.learning_rate)
    self._critic_adam = adam.NumpyAdam(online.critic, config.learning_rate)

  def update(self, sample):
    """Takes one step of each network; returns the TD errors before it."""
    td_errors, by_policy, by_critic = td_errors_and_gradients(sample, self.online, self.older)
    shrink = min(1.0, self._config.max_gradient_norm / oracle.norm(by_critic))
    by_critic = [gradient * shrink for gradient in by_critic]
    self._policy_adam.apply(by_policy, self.online.policy)
    self._critic_adam.apply(by_critic, self.online.critic)
    self._updates += 1
    if self._updates % self._config.target_period == 0:
      self.older = copy.deepcopy(self.online)
    return td_errors


@pytest.fixture(scope='module')
def config():
  return oracle.settings(target_period=3, learning_rate=0.003, max_gradient_norm=20.0)


@pytest.fixture(scope='module')
def traced_learner(config) -> learners.Learner:
  """One learner for the module, as tracing its update takes seconds."""
  return learners.Learner(config, oracle.make_suite())


@pytest.fixture
def learner(traced_learner) -> learners.Learner:
  """A learner as after its construction, but with random parameters."""
  bring_to_the_start(traced_learner)
  return traced_learner


def bring_to_the_start(learner):
  for variable in learner.variables:
    variable.assign(tf.zeros_like(variable))
  oracle.randomize(learner.agent.networks, SEED, STEEP)
  learner.agent.copy_to_target()


class TestLearner:
  def test_updates_are_those_of_a_numpy_loop(self, learner, config):
    # Also the lag of the targets: copies are made after updates 3, 6 and 9.
    online = oracle.Replica.of(learner.agent.networks)
    by_hand = NumpyLearner(online, copy.deepcopy(online), config)
    rate = config.learning_rate
    for number in range(1, 11):
      sample = oracle.make_sample(seed=50 + number)
      weight = oracle.numbers(sample).weight
      expected = by_hand.update(sample)
      update = learner.update(sample)
      assert update.statistics['finite'] and int(learner.updates) == number
      scale = np.abs(expected).max()
      np.testing.assert_allclose(update.priorities, np.abs(expected), rtol=0.0, atol=1e-4 * scale)
      loss = np.mean(weight * 0.5 * expected**2)
      np.testing.assert_allclose(update.statistics['loss'], loss, rtol=1e-3)

      networks = learner.agent.networks
      ordered = [*oracle.policy_variables(networks), *oracle.critic_variables(networks)]
      for variable, array in zip(ordered, online.policy + online.critic, strict=True):
        error = np.abs(variable - array)
        # Adam divides a gradient by its size: where it cancels to rounding errors, the step's sign
        # is theirs.
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
    for number in range(2):  # The third update would copy to the targets.
      assert learner.update(oracle.make_sample(seed=60 + number)).statistics['finite']
    before = oracle.values(learner.variables)
    sample = oracle.make_sample(seed=62)

    def spoilt(x):
      return tf.where(tf.reshape(tf.range(len(x)) == 3, [-1] + [1] * (x.shape.rank - 1)), value, x)

    bad = tf.nest.map_structure(spoilt, getattr(sample, part))
    assert not learner.update(sample._replace(**{part: bad})).statistics['finite']
    oracle.assert_arrays_equal(learner.variables, before)

  def test_all_variables_exist_before_the_first_update(self):
    learner = learners.Learner(oracle.settings(), oracle.make_suite())
    before = {variable.ref() for variable in learner.variables}
    # Networks, target networks, and two moments of each of their variables; the optimizers' steps;
    # updates, frames and seconds.
    assert len(before) == 4 * 12 + 2 + 3
    learner.update(oracle.make_sample())
    assert {variable.ref() for variable in learner.variables} == before

  def test_a_checkpoint_holds_all_of_it(self, learner, tmp_path):
    for number in range(4):  # So that the targets are older than the networks.
      learner.update(oracle.make_sample(seed=70 + number))
    path = tf.train.Checkpoint(learner=learner).save(str(tmp_path / 'state'))
    saved = oracle.values(learner.variables)
    later = [oracle.make_sample(seed=80 + number) for number in range(3)]
    straight_on = [learner.update(sample).priorities for sample in later]

    bring_to_the_start(learner)
    tf.train.Checkpoint(learner=learner).restore(path).assert_consumed()
    oracle.assert_arrays_equal(learner.variables, saved)
    for sample, priorities in zip(later, straight_on, strict=True):
      np.testing.assert_array_equal(learner.update(sample).priorities, priorities)
