"""DPG's behaviour policy and an actor with it: noise, values, transitions, initial priorities."""

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
from apex import noise as noises
from common import environments
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized
from tests.apex import dpg_oracle as oracle
from tests.apex import traces

INPUT = oracle.INPUT
ACTIONS = oracle.ACTIONS
FORWARD = oracle.FORWARD
SIGNIFICANCE = oracle.SIGNIFICANCE


def store_of(networks) -> parameters.ParameterStore:
  values = parameters.flatten(networks.trainable_variables)
  return parameters.ParameterStore(parameters.Snapshot(0, values))


def make_policy(networks, sigma, seed=0, suite=None) -> dpg.Policy:
  """A policy of these parameters, in networks of its own."""
  suite = suite or oracle.make_suite()
  own = dpg.make_networks(oracle.settings(), suite)
  gaussian = noises.Gaussian(suite.action_space.shape[0], sigma, seed)
  return dpg.Policy(own, suite, store_of(networks), gaussian)


def no_start(count=oracle.BATCH):
  """No game starts."""
  return np.zeros(count, bool)


def quiet_networks() -> dpg.Networks:
  """Networks whose policy always outputs zero, so that actions are the noise alone."""
  networks = oracle.make_networks()
  for variable in oracle.policy_variables(networks)[-2:]:
    variable.assign(tf.zeros_like(variable))
  return networks


def bonferroni(p_values):
  """Whether none of many tests is too unlikely to be chance."""
  p_values = np.ravel(p_values)
  return p_values.min() * p_values.size > SIGNIFICANCE


class TestNoise:
  STEPS = 1500
  ENVIRONMENTS = 4
  SIGMA = 0.1

  @pytest.fixture(scope='class')
  def noise(self):
    """Actions minus the policy's output, `[T, N, A]`; bounds are ten standard deviations away."""
    networks = oracle.make_networks()
    for variable in oracle.policy_variables(networks)[-2:]:
      variable.assign(0.1 * variable)
    policy, replica = make_policy(networks, self.SIGMA, seed=7), oracle.Replica.of(networks)
    x = oracle.vectors(self.STEPS * self.ENVIRONMENTS, seed=8)
    x = x.reshape(self.STEPS, self.ENVIRONMENTS, INPUT)
    start = no_start(self.ENVIRONMENTS)
    actions = np.stack([policy(oracle.seen(observation), start).actions for observation in x])
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
    pairs = [(columns[i], columns[j]) for i in range(len(columns)) for j in range(i)]
    assert bonferroni([stats.pearsonr(*pair).pvalue for pair in pairs])

  def test_is_not_annealed(self, noise):
    early = np.sum(noise[: self.STEPS // 2] ** 2)
    late = np.sum(noise[self.STEPS // 2 :] ** 2)
    f = stats.f(noise.size // 2, noise.size // 2).cdf(early / late)
    assert 2 * min(f, 1.0 - f) > SIGNIFICANCE

  def test_what_leaves_the_bounds_lies_on_them(self):
    policy = make_policy(quiet_networks(), 1.0, seed=9)
    actions = np.stack(
      [policy(oracle.seen(oracle.vectors(50)), no_start(50)).actions for _ in range(40)]
    )
    for bound in (-1.0, 1.0):
      count = np.sum(actions == bound)
      assert stats.binomtest(int(count), actions.size, stats.norm.cdf(-1.0)).pvalue > SIGNIFICANCE
    inside = actions[np.abs(actions) < 1.0]
    assert stats.kstest(inside, stats.truncnorm(-1.0, 1.0).cdf).pvalue > SIGNIFICANCE

  def test_depends_on_the_seed(self):
    one, again, other = (
      make_policy(quiet_networks(), 0.2, seed)(oracle.seen(oracle.vectors()), no_start()).actions
      for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert np.all(one != other)


class TestPolicy:
  def test_values_are_of_the_clipped_noisy_action_and_of_the_noiseless_one(self):
    networks, x, count = oracle.make_networks(critic_scale=10.0), oracle.vectors(20), 20
    oracle.policy_variables(networks)[-1].assign([1.5, -1.5])
    policy, replica = make_policy(networks, 0.2), oracle.Replica.of(networks)
    # The same seed gives the same noise to a policy that outputs zero, which shows the noise.
    noisy = make_policy(quiet_networks(), 0.2)
    wide, beyond = x.astype(np.float64), np.zeros(2, int)
    for _ in range(10):
      decision = policy(oracle.seen(x), no_start(count))
      added = noisy(oracle.seen(x), no_start(count)).actions.astype(np.float64)
      for part, shape in zip(decision, ((count, ACTIONS), (count,), (count,)), strict=True):
        assert isinstance(part, np.ndarray) and part.dtype == np.float32 and part.shape == shape

      preferred = replica.pi(wide)
      unclipped = preferred + added
      actions = np.clip(unclipped, -1.0, 1.0)
      beyond += [np.sum(unclipped > 1.0), np.sum(unclipped < -1.0)]
      np.testing.assert_allclose(decision.actions, actions, **FORWARD)
      assert np.abs(decision.actions).max() <= 1.0

      q_taken, bootstrap_value = replica.q(wide, actions), replica.q(wide, preferred)
      np.testing.assert_allclose(decision.q_taken, q_taken, rtol=1e-4, atol=1e-4)
      np.testing.assert_allclose(decision.bootstrap_value, bootstrap_value, rtol=1e-4, atol=1e-4)
      # Neither the values of other actions, nor one value for the other, would do.
      for other in (unclipped, preferred):
        assert np.abs(replica.q(wide, other) - decision.q_taken).max() > 0.01
      assert np.abs(q_taken - decision.bootstrap_value).max() > 0.01
    assert np.all(beyond > 10)

  def test_bootstrap_values_are_of_any_number_of_observations_without_noise(self):
    networks = oracle.make_networks()
    policy, replica = make_policy(networks, 0.5), oracle.Replica.of(networks)
    for count in (1, 3, 40):
      x = oracle.vectors(count, seed=count)
      wide = x.astype(np.float64)
      for _ in range(2):
        value = policy.bootstrap_value(oracle.seen(x))
        assert isinstance(value, np.ndarray)
        assert value.dtype == np.float32 and value.shape == (count,)
        np.testing.assert_allclose(value, replica.q(wide, replica.pi(wide)), **FORWARD)

  def test_without_noise_both_values_are_the_same(self):
    networks, x = oracle.make_networks(), oracle.vectors()
    decision = make_policy(networks, 0.0)(oracle.seen(x), no_start(len(x)))
    np.testing.assert_allclose(
      decision.actions, networks.policy(oracle.seen(x)), rtol=1e-6, atol=1e-6
    )
    np.testing.assert_allclose(decision.q_taken, decision.bootstrap_value, rtol=1e-6, atol=1e-6)

  def test_parameters_change_only_when_it_refreshes(self):
    first, second = oracle.make_networks(0), oracle.make_networks(1)
    x = oracle.seen(oracle.vectors())
    store = store_of(first)
    policy = dpg.Policy(
      oracle.fresh_networks(), oracle.make_suite(), store, noises.Gaussian(ACTIONS, 0.0, 0)
    )
    before = policy(x, no_start())
    store.publish(parameters.Snapshot(7, parameters.flatten(second.trainable_variables)))
    oracle.assert_arrays_equal(policy(x, no_start()), before)
    assert policy.refresh() == 7
    actions = second.policy(x)
    np.testing.assert_allclose(policy(x, no_start()).actions, actions, **FORWARD)
    np.testing.assert_allclose(policy.bootstrap_value(x), second.critic(x, actions), **FORWARD)

  def test_an_actors_noise_is_the_configs_whatever_its_number(self):
    networks, x = oracle.make_networks(), oracle.seen(oracle.vectors())
    config, suite = oracle.settings(noise_sigma=0.17), oracle.make_suite()
    expected = make_policy(networks, 0.17, seed=5)(x, no_start())
    for actor in (0, 3):
      made = dpg.make_policy(config, suite, store_of(networks), actor, seed=5, frames=lambda: 0)
      for part, other in zip(made(x, no_start()), expected, strict=True):
        np.testing.assert_allclose(part, other, rtol=1e-6, atol=1e-6)

  def test_all_environments_are_shown(self):
    shown = dpg.shown_environments(oracle.settings(num_actors=3, envs_per_actor=5))
    assert shown.dtype == bool and shown.shape == (15,) and np.all(shown)


def test_players_for_evaluation_are_noiseless_and_deterministic():
  networks, x, count = oracle.make_networks(), oracle.vectors(5), 5
  replica, config = oracle.Replica.of(networks), oracle.settings(noise_sigma=0.3)
  for seed in (0, 1):
    player = dpg.make_player(networks, config, oracle.make_suite(), seed)('tiny', count)
    for _ in range(3):
      actions = player({'observation': x}, np.zeros(count, np.float32), np.ones(count, bool))
      assert isinstance(actions, np.ndarray) and actions.dtype == np.float32
      np.testing.assert_allclose(actions, replica.pi(x.astype(np.float64)), **FORWARD)


POINT = 'DpgPoint-v0'


class Point(gymnasium.Env):
  """A point that is pushed about until it leaves a square, which ends the episode."""

  observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
  action_space = gymnasium.spaces.Box(np.float32([-2.0, 0.0]), np.float32([1.0, 3.0]))

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._position = self.np_random.uniform(-0.3, 0.3, 2)
    return self._position.astype(np.float32), {}

  def step(self, action):
    wind = self.np_random.normal(scale=0.1, size=2)
    self._position = self._position + 0.3 * (action - [-0.5, 1.5]) + wind
    reward = float(self._position[0] - 0.2 * action[1])
    outside = bool(np.abs(self._position).max() > 1.0)
    return self._position.astype(np.float32), reward, outside, False, {}


# Both kinds of ends are frequent.
gymnasium.register(POINT, Point, max_episode_steps=7)


class Case(NamedTuple):
  """What is run, and the least number of ends of each kind for the run to mean something."""

  env: str
  steps: int
  n_step: int
  block_length: int
  terminations: int
  limits: int


CASES = {
  'pendulum': Case('Pendulum-v1', steps=430, n_step=3, block_length=10, terminations=0, limits=4),
  'point_3_step': Case(POINT, steps=120, n_step=3, block_length=10, terminations=15, limits=10),
  'point_1_step': Case(POINT, steps=120, n_step=1, block_length=4, terminations=15, limits=10),
  'point_5_step': Case(POINT, steps=120, n_step=5, block_length=3, terminations=15, limits=10),
}
ENVIRONMENTS = 2
REWARD_SCALE = 0.5


class Run(NamedTuple):
  """An actor that has run, the trace of its environments, and what it put."""

  suite: suites.Suite
  config: configs.Config
  networks: dpg.Networks  # Has the parameters that it acted with.
  trace: traces.Trace
  shipments: list[transitions.Shipment]

  def separate_transitions(self):
    """Each transition as `(step, environment, block of one)`, in the order of their arrival.

    Those of an environment follow one another: the first starts at step 0, and none is left out.
    """
    taken = np.zeros(ENVIRONMENTS, int)
    for shipment in self.shipments:
      blocks, origins = transitions.separate(shipment.block)
      owners = np.repeat(shipment.environment, np.sum(shipment.block.valid, axis=1))
      np.testing.assert_array_equal(shipment.environment[origins], owners)
      for k, environment in enumerate(owners):
        block = tf.nest.map_structure(lambda part, k=k: part[k], blocks)
        yield taken[environment], int(environment), block
        taken[environment] += 1
    assert np.all(taken >= len(self.trace.actions) - self.config.n_step - self.config.block_length)

  def expected(self, step, environment):
    """A transition by the trace: its return, discount, and the observation to bootstrap from."""
    config = self.config
    return self.trace.transition(
      step, environment, config.n_step, config.discount, lambda reward: REWARD_SCALE * reward
    )


@pytest.fixture(scope='module', params=CASES)
def case(request) -> Case:
  return CASES[request.param]


@pytest.fixture(scope='module')
def run(case) -> Run:
  suite = environments.load(f'gym:{case.env}')
  suite = dataclasses.replace(suite, reward_scales={suite.tasks[0]: REWARD_SCALE})
  config = oracle.settings(
    env=suite.name,
    n_step=case.n_step,
    block_length=case.block_length,
    local_buffer=2 * case.block_length,
    envs_per_actor=ENVIRONMENTS,
    discount=0.9,
  )
  config.check()

  networks = lively_networks(config, suite)
  policy = make_policy(networks, config.noise_sigma, 91, suite)
  trace, shipments = traces.Trace(), []
  recorded = dataclasses.replace(
    suite, make=lambda *arguments: traces.Recorder(suite.make(*arguments), trace)
  )
  actor = actors.Actor(0, recorded, [suite.tasks[0]] * ENVIRONMENTS, policy, config, seed=92)
  actor.run(shipments.append, lambda: len(trace.actions) >= case.steps)
  return Run(suite, config, networks=networks, trace=trace, shipments=shipments)


def lively_networks(config, suite) -> dpg.Networks:
  """New networks, with last layers that are large enough for actions and values to vary."""
  tf.random.set_seed(90)
  networks = dpg.make_networks(config, suite)
  for variable in networks.trainable_variables:
    if variable.shape[-1] in (1, suite.action_space.shape[0]):
      is_weight = variable.shape.rank == 2
      variable.assign(300.0 * variable if is_weight else tf.zeros_like(variable) + 0.1)
  return networks


class TestActor:
  def test_the_run_has_ends_of_its_kinds(self, run, case):
    terminated, truncated = np.array(run.trace.terminated), np.array(run.trace.truncated)
    assert np.sum(terminated) >= case.terminations and np.any(terminated) == (case.terminations > 0)
    assert np.sum(truncated & ~terminated) >= case.limits

  def test_actions_of_the_environments_are_clipped(self, run):
    actions = np.stack(run.trace.actions)
    assert actions.dtype == np.float32 and np.abs(actions).max() == 1.0
    assert actions.shape[1:] == (ENVIRONMENTS, *run.suite.action_space.shape)

  def test_shapes_and_dtypes_of_shipments_are_the_specifications(self, run):
    spec = transitions.specification(run.suite, run.config.block_length, run.config.n_step)
    for shipment in run.shipments:
      for part, expected in zip(tf.nest.flatten(shipment), tf.nest.flatten(spec), strict=True):
        assert part.shape == (len(shipment.environment), *expected.shape)
        assert part.dtype == expected.dtype.as_numpy_dtype

  def test_each_transition_alone_is_what_the_environment_answered(self, run, case):
    spec = transitions.single_specification(run.suite)
    ended, cut, there = 0, 0, 0
    for step, environment, block in run.separate_transitions():
      for part, expected in zip(tf.nest.flatten(block), tf.nest.flatten(spec), strict=True):
        assert part.shape == expected.shape and part.dtype == expected.dtype.as_numpy_dtype
      total, discount, end = run.expected(step, environment)
      assert block.valid[0] and block.end[0] == 1
      np.testing.assert_array_equal(
        block.observation['observation'][0], run.trace.observations[step][environment]
      )
      np.testing.assert_array_equal(block.action[0], run.trace.actions[step][environment])
      assert block.n_step_return[0] == pytest.approx(total, rel=1e-5, abs=1e-5)
      assert block.discount[0] == pytest.approx(discount, rel=1e-6)
      if end is None:
        ended += 1
      else:
        np.testing.assert_array_equal(block.observation['observation'][1], end)
        cut += any(end is last for last in run.trace.last.values())
      there += 1
    assert there > 1.5 * case.steps and cut >= case.limits * run.config.n_step // 2
    assert (ended >= case.terminations) and (ended > 0) == (case.terminations > 0)

  def test_initial_priorities_are_the_td_errors_by_the_actors_networks(self, run):
    # Its networks both act and value: it has no target networks. It bootstraps without noise.
    inputs = run.suite.observation_space['observation'].shape[0]
    replica = oracle.Replica.of(run.networks, inputs, run.suite.action_space.shape[0])

    def q(x, a):
      return float(replica.q(x[np.newaxis], a[np.newaxis])[0])

    priorities, expected = [], []
    for step, environment, block in run.separate_transitions():
      target, discount, end = run.expected(step, environment)
      if end is not None:
        end = np.float64(end)
        target += discount * q(end, replica.pi(end[np.newaxis])[0])
      x = np.float64(run.trace.observations[step][environment])
      a = np.float64(run.trace.actions[step][environment])
      expected.append(abs(target - q(x, a)))
      priorities.append(float(block.priority[0]))
    np.testing.assert_allclose(priorities, expected, rtol=2e-5, atol=2e-5)
    assert np.std(priorities) > 0.1

  def test_a_learner_of_the_same_parameters_finds_the_same_priorities(self, run):
    # Through the replay from which transitions leave one by one.
    spec = transitions.single_specification(run.suite)
    replay = prioritized.PrioritizedReplay(
      spec, 2000, 1, alpha=0.6, beta=0.4, stratified=True, alpha_evict=-0.4
    )
    count = 0
    for shipment in run.shipments:
      blocks, origins = transitions.separate(shipment.block)
      replay.add(blocks, shipment.environment[origins])
      count += len(blocks.action)
    assert replay.size() == count

    sample = replay.sample(64)
    # With the networks as their own target networks, as the actor has them.
    td = dpg.critic_losses(run.networks, run.networks, sample)
    np.testing.assert_allclose(np.abs(td.td_errors), sample.priority, rtol=1e-4, atol=1e-4)
