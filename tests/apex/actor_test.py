"""What actors send, on real environments, against a trace of what these environments really answered.

The trace is written by a wrapper around the vector environment, in the same run. Returns, discounts and bootstrap
states are taken from it by the formula of section 3.1 of the Ape-X paper (arXiv 1803.00933), step by step.
"""

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from apex import actor as actors
from apex import config as configs
from apex import dqn, exploration, transitions
from common import environments
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized, structures
from scripts import processes

N, SIGNIFICANCE = 3, 1e-3
# Falls after eight steps at the earliest, and is cut after twelve: both kinds of ends are frequent, and coincide.
SHORT = 'ShortCartPole-v0'
gymnasium.register(
  SHORT, 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=12
)


class Recorder(gymnasium.vector.VectorWrapper):
  """Notes down all that the environments are told and answer, in copies. `[T, N]`; one observation more at the end."""

  def __init__(self, env: gymnasium.vector.VectorEnv, trace: 'Trace'):
    super().__init__(env)
    self._trace = trace

  def reset(self, *, seed=None, options=None):
    observations, info = self.env.reset(seed=seed, options=options)
    self._trace.observations.append(observations['observation'].copy())
    return observations, info

  def step(self, actions):
    trace, step = self._trace, len(self._trace.actions)
    observations, rewards, terminated, truncated, info = self.env.step(actions)
    trace.actions.append(np.array(actions))
    trace.observations.append(observations['observation'].copy())
    trace.rewards.append(np.array(rewards, np.float64))
    trace.terminated.append(terminated.copy())
    trace.truncated.append(truncated.copy())
    trace.game_over.append(np.array(info.get('game_over', terminated | truncated)))
    for i in np.flatnonzero(truncated):
      trace.last[step, i] = info['final_obs'][i]['observation'].copy()
    trace.on_step(step + 1)
    return observations, rewards, terminated, truncated, info


class Trace:
  def __init__(self, on_step):
    self.on_step = on_step
    (
      self.observations,
      self.actions,
      self.rewards,
      self.terminated,
      self.truncated,
      self.game_over,
    ) = ([] for _ in range(6))
    self.last = {}  # By step and environment: the observation that a time limit ended.

  def transition(self, t, environment, n, discount, reward):
    """n-step return, its discount, and the state that it bootstraps from; None after an episode's end."""
    total = 0.0
    for k in range(n):
      total += discount**k * reward(self.rewards[t + k][environment])
      if self.terminated[t + k][environment]:
        return total, 0.0, None
      if self.truncated[t + k][environment]:
        return total, discount ** (k + 1), self.last[t + k, environment]
    return total, discount**n, self.observations[t + n][environment]

  def records(self, environment):
    """How many records an actor makes of an environment: one for each step, and one for each time limit."""
    cut = np.array(self.truncated)[:, environment] & ~np.array(self.terminated)[:, environment]
    return len(cut) + np.count_nonzero(cut)


class Run(NamedTuple):
  """An actor that has run, its trace, and what it put."""

  suite: suites.Suite
  config: configs.Config
  actor: actors.Actor
  policy: dqn.Policy
  network: dqn.DuelingNetwork  # The policy's.
  trace: Trace
  shipments: list[transitions.Shipment]
  put_after: list[int]  # Steps, for each shipment.


def make_policy(suite, config, epsilon=np.zeros(N, np.float32), seed=0):
  tf.random.set_seed(3)
  with tf.device('/cpu:0'):
    network = dqn.make_networks(config, suite)
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(network.trainable_variables))
  )
  return dqn.Policy(network, suite, store, epsilon, seed), network, store


def run_actor(suite, config, steps, epsilon, index=0, publish=None) -> Run:
  """Runs an actor for so many steps; `publish(store, values, steps)` after each of them."""
  config.check()
  actors_policy, network, store = make_policy(
    suite, config, np.float32(epsilon), config.seed + index
  )
  first = store.latest().values
  trace = Trace(lambda done: publish and publish(store, first, done))
  recorded = dataclasses.replace(
    suite, make=lambda *arguments: Recorder(suite.make(*arguments), trace)
  )
  actor = actors.Actor(
    index,
    recorded,
    [suite.tasks[0]] * config.envs_per_actor,
    actors_policy,
    config,
    seed=config.seed + index,
  )
  shipments, put_after = [], []

  def put(shipment):
    shipments.append(shipment)
    put_after.append(len(trace.actions))

  actor.run(put, lambda: len(trace.actions) >= steps)
  return Run(suite, config, actor, actors_policy, network, trace, shipments, put_after)


def settings(preset, **values):
  return dataclasses.replace(
    configs.PRESETS.preset(preset), **(dict(seed=5, envs_per_actor=N) | values)
  )


class Case(NamedTuple):
  """What is run, and how many ends of each kind it must have to say something."""

  env: str
  preset: str
  steps: int
  values: dict[str, Any]
  max_training_frames: int | None = None
  reward_scale: float = 1.0
  terminations: int = 0
  lost_lives: int = 0
  limits: int = 0


CASES = {
  **{
    f'cartpole_{n}_step': Case(
      f'gym:{SHORT}',
      'gym',
      300,
      dict(n_step=n, block_length=length, local_buffer=20),
      reward_scale=2.5,
      terminations=5,
      limits=20,
    )
    for n, length in ((1, 10), (3, 10), (5, 4))
  },
  'pong_limits': Case(
    'atari:pong', 'atari', 250, dict(block_length=10), 240, reward_scale=2.0, limits=9
  ),
  # Up to the end of a game.
  'pong_ends': Case(
    'atari:pong', 'atari', 1150, dict(block_length=50, envs_per_actor=1), terminations=1
  ),
  'breakout': Case(
    'atari:breakout',
    'atari',
    330,
    dict(block_length=20, local_buffer=40),
    640,
    reward_scale=0.5,
    terminations=1,
    lost_lives=12,
    limits=3,
  ),
}


@pytest.fixture(scope='module', params=CASES)
def case(request):
  return CASES[request.param]


@pytest.fixture(scope='module')
def run(case) -> Run:
  suite = environments.load(
    case.env, environments.Options(max_training_frames=case.max_training_frames)
  )
  suite = dataclasses.replace(suite, reward_scales={suite.tasks[0]: case.reward_scale})
  epsilons = np.ones(case.values.get('envs_per_actor', N))
  return run_actor(suite, settings(case.preset, **case.values), case.steps, epsilons)


def blocks_in_order(run):
  """Each shipped block: its environment and the block, in the order of their coming."""
  return [
    (int(shipment.environment[i]), tf.nest.map_structure(lambda x, i=i: x[i], shipment))
    for shipment in run.shipments
    for i in range(len(shipment.environment))
  ]


def steps_of_transitions(run):
  """For each block, for each of its places: the step in the trace, or -1 where there is no transition.

  Transitions of an environment come one after the other: the first is of step 0, and none is left out.
  """
  taken, steps = np.zeros(run.config.envs_per_actor, int), []
  for environment, shipment in blocks_in_order(run):
    valid = shipment.block.valid
    steps.append(np.where(valid, taken[environment] + np.cumsum(valid) - 1, -1))
    taken[environment] += valid.sum()
  return np.stack(steps)


def seen(run, observation):
  """As the network gets it."""
  return np.moveaxis(observation, 0, -1) if run.suite.frame_stack > 1 else observation


def paid(run):
  """What an actor makes of a reward."""
  scale = run.suite.reward_scales[run.suite.tasks[0]]
  return lambda reward: (
    np.clip(scale * reward, -1.0, 1.0) if run.config.clip_rewards else scale * reward
  )


def test_the_run_has_ends_of_all_its_kinds(run, case):
  trace = run.trace
  terminated, truncated, over = (
    np.array(x) for x in (trace.terminated, trace.truncated, trace.game_over)
  )
  assert np.sum(terminated & over) >= case.terminations
  assert np.sum(terminated & ~over) >= case.lost_lives
  assert np.sum(truncated & ~terminated) >= case.limits
  # It matters whether rewards are clipped, where they are, and whether they are scaled.
  scaled = np.array(trace.rewards) * case.reward_scale
  assert np.any(scaled != 0.0)
  assert np.any(np.abs(scaled) > 1.0) == (case.reward_scale > 1.0)


def test_shapes_and_dtypes_are_the_specifications(run):
  spec = transitions.specification(run.suite, run.config.block_length, run.config.n_step)
  for shipment in run.shipments:
    for part, expected in zip(tf.nest.flatten(shipment), tf.nest.flatten(spec), strict=True):
      assert part.shape == (len(shipment.environment), *expected.shape)
      assert part.dtype == expected.dtype.as_numpy_dtype


def test_all_that_was_gathered_is_sent_as_soon_as_a_block_is_full(run):
  # The first blocks begin with empty places, so that environments take turns.
  config, numbers = run.config, [environment for environment, _ in blocks_in_order(run)]
  for environment in range(config.envs_per_actor):
    empty = environment * config.block_length // config.envs_per_actor
    records = empty + run.trace.records(environment)
    assert 0 < numbers.count(environment) == (records - config.n_step) // config.block_length


def test_a_transition_read_from_the_replay_is_what_the_environment_emitted(run, case):
  config, steps = run.config, steps_of_transitions(run)
  replay = prioritized.PrioritizedReplay(
    transitions.specification(run.suite, config.block_length, config.n_step).block,
    steps.size,
    run.suite.frame_stack,
    alpha=0.0,
    beta=0.0,
    stratified=True,
  )
  for shipment in run.shipments:
    replay.add(shipment.block)
  assert replay.size() == np.sum(steps >= 0)
  # Alike and stratified, as many draws as there are transitions give each of them once.
  sample = replay.sample(replay.size())
  sample = structures.Sample(
    *(
      part.numpy()
      for part in sample._replace(
        observation=dqn.agent_observation(sample.observation, sample.frame_start),
        next_observation=dqn.agent_observation(sample.next_observation, sample.next_frame_start),
      )
    )
  )
  np.testing.assert_array_equal(np.sort(sample.leaf), np.flatnonzero(steps.ravel() >= 0))
  assert set(sample.leaf % config.block_length) == set(range(config.block_length))

  owners, bootstrapped = [environment for environment, _ in blocks_in_order(run)], 0
  for i, leaf in enumerate(sample.leaf):
    environment, step = owners[leaf // config.block_length], steps.ravel()[leaf]
    total, discount, end = run.trace.transition(
      step, environment, config.n_step, config.discount, paid(run)
    )
    assert np.array_equal(
      sample.observation[i], seen(run, run.trace.observations[step][environment])
    )
    assert sample.action[i] == run.trace.actions[step][environment]
    assert sample.n_step_return[i] == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert sample.discount[i] == pytest.approx(discount, rel=1e-6)
    if end is not None:
      assert np.array_equal(sample.next_observation[i], seen(run, end))
      bootstrapped += 1
  assert bootstrapped > 0 and (bootstrapped < len(sample.leaf)) == (case.terminations > 0)


def test_initial_priorities_are_the_td_errors_by_the_actors_q_values(run):
  # The parameters were never published anew: the policy says the same at the end as when it acted.
  steps = steps_of_transitions(run)
  observations = run.trace.observations
  q = np.concatenate(
    [
      run.policy.q_values(np.concatenate(observations[t : t + 100]))
      for t in range(0, len(observations), 100)
    ]
  )
  q = q.reshape(len(observations), -1, run.suite.num_actions)
  last = {
    key: run.policy.q_values(observation[np.newaxis])[0]
    for key, observation in run.trace.last.items()
  }
  for (environment, shipment), block_steps in zip(blocks_in_order(run), steps):
    for b, step in enumerate(block_steps):
      priority = shipment.block.priority[b]
      if step < 0:
        assert priority == 0.0
        continue
      # Of two passes through the network, with batches of other sizes.
      assert priority == pytest.approx(
        abs(td_error(run, step, environment, q, last)), rel=1e-5, abs=1e-5
      )


def td_error(run, t, environment, q, last):
  """R + gamma^n max q(S_{t+n}) - q(S_t, A_t); the q-values by step, and those of observations at a time limit."""
  total, discount, _ = run.trace.transition(
    t, environment, run.config.n_step, run.config.discount, paid(run)
  )
  taken = float(q[t][environment, run.trace.actions[t][environment]])
  if not discount:
    return total - taken
  for k in range(t, t + run.config.n_step):
    if run.trace.truncated[k][environment]:
      return total + discount * float(last[k, environment].max()) - taken
  return total + discount * float(q[t + run.config.n_step][environment].max()) - taken


def test_each_game_is_counted_once_in_its_own_units(run):
  over, rewards = np.array(run.trace.game_over), np.array(run.trace.rewards)
  returns, lengths = np.zeros(over.shape), np.zeros(over.shape, int)
  for environment in range(run.config.envs_per_actor):
    start = 0
    for end in np.flatnonzero(over[:, environment]):
      returns[end, environment] = rewards[start : end + 1, environment].sum()
      lengths[end, environment], start = end + 1 - start, end + 1
  counted = 0
  for (environment, shipment), steps in zip(blocks_in_order(run), steps_of_transitions(run)):
    there = steps >= 0
    assert not np.any(shipment.episode_length[~there])
    np.testing.assert_array_equal(
      shipment.episode_length[there], lengths[steps[there], environment]
    )
    np.testing.assert_array_equal(
      shipment.episode_return[there], returns[steps[there], environment]
    )
    counted += np.count_nonzero(shipment.episode_length)
  assert counted > 0


def other_values(first, version):
  """Parameters that differ for each version; those of version 0 are the first."""
  return tf.roll(first, 997 * version, axis=0)


@pytest.mark.parametrize(
  'env, preset, frames, period',
  [
    ('gym:CartPole-v1', 'gym', 20, 20),
    ('gym:CartPole-v1', 'gym', 7, 7),
    ('atari:pong', 'atari', 40, 10),
    ('atari:pong', 'atari', 2, 1),
  ],
)
def test_parameters_are_pulled_after_so_many_environment_frames(env, preset, frames, period):
  # After each step others are published. Without exploration, actions tell them: at step t, those of the last multiple
  # of the period.
  suite = environments.load(env)
  config = settings(preset, parameter_pull_frames=frames, block_length=1, local_buffer=2, n_step=1)
  run = run_actor(
    suite,
    config,
    65,
    np.zeros(N),
    publish=lambda store, first, steps: store.publish(
      parameters.Snapshot(steps, other_values(first, steps))
    ),
  )
  first, newest_would_differ = make_policy(suite, config)[2].latest().values, 0
  for step, actions in enumerate(run.trace.actions):
    greedy = {}
    for version in {step // period * period, step}:
      parameters.assign(run.network.trainable_variables, other_values(first, version))
      greedy[version] = run.policy.q_values(run.trace.observations[step]).argmax(axis=1)
    np.testing.assert_array_equal(actions, greedy[step // period * period])
    newest_would_differ += np.any(actions != greedy[step])
  assert newest_would_differ > 0 or period == 1
  assert len(run.shipments) > 60
  for shipment, steps in zip(run.shipments, run.put_after):
    np.testing.assert_array_equal(shipment.parameter_version, (steps - 1) // period * period)


def test_environments_of_an_actor_have_their_own_epsilons_and_numbers():
  suite, steps = environments.load('gym:CartPole-v1'), 1500
  epsilons = [0.0, 0.5, 1.0]
  run = run_actor(suite, settings('gym'), steps, epsilons, index=1)
  assert {environment for environment, _ in blocks_in_order(run)} == {N, N + 1, N + 2}
  greedy = np.stack(
    [run.policy.q_values(observation).argmax(axis=1) for observation in run.trace.observations[:-1]]
  )
  others = np.sum(np.array(run.trace.actions) != greedy, axis=0)
  assert others[0] == 0
  for count, epsilon in zip(others[1:], epsilons[1:]):
    assert (
      stats.binomtest(int(count), len(greedy), epsilon / suite.num_actions).pvalue > SIGNIFICANCE
    )


def test_an_actors_share_of_the_ladder_is_that_of_its_number():
  suite, config = environments.load('gym:CartPole-v1'), settings('gym', num_actors=3)
  _, _, store = make_policy(suite, config)
  made = dqn.make_policy(config, suite, store, actor=1, seed=0)
  np.testing.assert_array_equal(made._epsilon, exploration.epsilons(3 * N)[N : 2 * N])


def test_actors_of_other_numbers_play_other_games():
  suite = environments.load('gym:CartPole-v1')
  firsts = [
    run_actor(suite, settings('gym'), 1, np.ones(N), index=index).trace.observations[0]
    for index in (0, 0, 1)
  ]
  np.testing.assert_array_equal(firsts[0], firsts[1])
  assert np.all(np.any(firsts[0] != firsts[2], axis=1))


def test_a_crashed_game_starts_again_and_its_open_blocks_are_dropped():
  suite = environments.load('doom:basic')
  config = settings('atari', env='doom:basic', block_length=6, local_buffer=12, envs_per_actor=2)
  actors_policy, _, _ = make_policy(suite, config, np.ones(2, np.float32), seed=1)
  actor = actors.Actor(0, suite, suite.tasks * 2, actors_policy, config, seed=1)
  shipments = []

  def put(shipment):
    shipments.append(shipment)
    if len(shipments) == 3:
      processes.kill_engine()

  actor.run(put, lambda: len(shipments) >= 6)
  assert actor.games.crashes == 1
  # The environments take turns. The first block of the second begins with three empty places, then a game starts: so
  # it is after the crash, too.
  beginnings = []
  for shipment in shipments:
    places = np.flatnonzero(shipment.block.valid[0])
    beginnings.append((*shipment.environment, places[0], shipment.block.frame_start[0, places[0]]))
  once = [(1, 3, True), (0, 0, True), (1, 0, False)]
  assert beginnings == once + once


class TestPolicy:
  def test_stacks_are_read_as_channels(self):
    suite = environments.load('atari:pong')
    actors_policy, network, _ = make_policy(suite, settings('atari'))
    stacks = np.random.default_rng(0).integers(256, size=(5, 4, 84, 84), dtype=np.uint8)
    q_values = actors_policy.q_values(stacks)
    assert (
      isinstance(q_values, np.ndarray) and q_values.dtype == np.float32 and q_values.shape == (5, 6)
    )
    np.testing.assert_allclose(
      q_values, network(tf.constant(np.moveaxis(stacks, 1, -1))), rtol=1e-5, atol=1e-6
    )

  def test_vectors_are_read_as_they_are(self):
    suite = environments.load('gym:CartPole-v1')
    actors_policy, network, _ = make_policy(suite, settings('gym'))
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(
      actors_policy.q_values(observations), network(observations), rtol=1e-5, atol=1e-6
    )

  def test_parameters_change_only_when_it_refreshes(self):
    suite = environments.load('gym:CartPole-v1')
    actors_policy, network, store = make_policy(suite, settings('gym'))
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before, values = actors_policy.q_values(observations), other_values(store.latest().values, 7)
    store.publish(parameters.Snapshot(7, values))
    np.testing.assert_array_equal(actors_policy.q_values(observations), before)
    assert actors_policy.refresh() == 7
    np.testing.assert_array_equal(parameters.flatten(network.trainable_variables), values)
    assert np.all(actors_policy.q_values(observations) != before)

  def test_policies_of_one_store_have_parameters_of_their_own(self):
    suite, config = environments.load('gym:CartPole-v1'), settings('gym')
    one, _, store = make_policy(suite, config)
    other = dqn.Policy(dqn.make_networks(config, suite), suite, store, np.zeros(N, np.float32), 0)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = one.q_values(observations)
    np.testing.assert_array_equal(other.q_values(observations), before)
    store.publish(parameters.Snapshot(1, other_values(store.latest().values, 1)))
    other.refresh()
    np.testing.assert_array_equal(one.q_values(observations), before)
    assert np.all(other.q_values(observations) != before)
