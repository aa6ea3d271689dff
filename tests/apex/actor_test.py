"""What actors put, on real environments, against a trace of what these environments returned.

A wrapper around the vector environment records the trace in the same run. Returns, discounts and
bootstrap states are computed from it step by step, by the formula of section 3.1 of the Ape-X paper
(arXiv 1803.00933).
"""

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from apex import actor as actors
from apex import agent as agents
from apex import config as configs
from apex import dqn, exploration, transitions
from common import environments
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized, structures
from scripts import processes
from tests.apex import traces

N = 3
SIGNIFICANCE = 1e-3
# Falls after eight steps at the earliest and is cut after twelve, so that both kinds of ends are
# frequent and sometimes coincide.
SHORT = 'ShortCartPole-v0'
gymnasium.register(
  SHORT, 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=12
)


class Run(NamedTuple):
  """An actor that has run, the trace of its environments, and what it put."""

  suite: suites.Suite
  config: configs.Config
  actor: actors.Actor
  policy: dqn.Policy
  network: dqn.DuelingNetwork  # The policy's.
  trace: traces.Trace
  shipments: list[transitions.Shipment]
  put_after: list[int]  # The number of steps taken before each shipment.


def make_policy(suite, config, epsilon=np.zeros(N, np.float32), seed=0):
  """A policy, its network, and the store that it takes parameters from."""
  tf.random.set_seed(3)
  with tf.device('/cpu:0'):
    network = dqn.make_networks(config, suite)
  values = parameters.flatten(network.trainable_variables)
  store = parameters.ParameterStore(parameters.Snapshot(0, values))
  return dqn.Policy(network, suite, store, lambda: epsilon, seed), network, store


def run_actor(suite, config, steps, epsilon, index=0, publish=None) -> Run:
  """Runs an actor for `steps` steps; calls `publish(store, first_values, step)` after each."""
  config.check()
  seed = config.seed + index
  actors_policy, network, store = make_policy(suite, config, np.float32(epsilon), seed)
  first = store.latest().values
  trace = traces.Trace(lambda done: publish and publish(store, first, done))
  recorded = dataclasses.replace(
    suite, make=lambda *arguments: traces.Recorder(suite.make(*arguments), trace)
  )
  tasks = [suite.tasks[0]] * config.envs_per_actor
  actor = actors.Actor(index, recorded, tasks, actors_policy, config, seed)
  shipments = []
  put_after = []

  def put(shipment):
    shipments.append(shipment)
    put_after.append(len(trace.actions))

  actor.run(put, lambda: len(trace.actions) >= steps)
  return Run(
    suite=suite,
    config=config,
    actor=actor,
    policy=actors_policy,
    network=network,
    trace=trace,
    shipments=shipments,
    put_after=put_after,
  )


def settings(preset, **values):
  values = {'seed': 5, 'envs_per_actor': N, **values}
  return dataclasses.replace(configs.PRESETS.preset(preset), **values)


class Case(NamedTuple):
  """What is run, and how many ends of each kind the run must have for the tests to mean much."""

  env: str
  preset: str
  steps: int
  values: dict[str, Any]
  max_training_frames: int | None = None
  reward_scale: float = 1.0
  terminations: int = 0
  lost_lives: int = 0
  limits: int = 0


def short_cartpole(n_step, block_length):
  return Case(
    env=f'gym:{SHORT}',
    preset='gym',
    steps=300,
    values={'n_step': n_step, 'block_length': block_length, 'local_buffer': 20},
    reward_scale=2.5,
    terminations=5,
    limits=20,
  )


CASES = {
  'cartpole_1_step': short_cartpole(1, 10),
  'cartpole_3_step': short_cartpole(3, 10),
  'cartpole_5_step': short_cartpole(5, 4),
  'pong_limits': Case(
    env='atari:pong',
    preset='atari',
    steps=250,
    values={'block_length': 10},
    max_training_frames=240,
    reward_scale=2.0,
    limits=9,
  ),
  # Long enough for the end of a game.
  'pong_ends': Case(
    env='atari:pong',
    preset='atari',
    steps=1150,
    values={'block_length': 50, 'envs_per_actor': 1},
    terminations=1,
  ),
  'breakout': Case(
    env='atari:breakout',
    preset='atari',
    steps=330,
    values={'block_length': 20, 'local_buffer': 40},
    max_training_frames=640,
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
  """Pairs of an environment's number and its part of a shipment, in the order of arrival."""
  pairs = []
  for shipment in run.shipments:
    for i, environment in enumerate(shipment.environment):
      pairs.append((int(environment), tf.nest.map_structure(lambda x, i=i: x[i], shipment)))
  return pairs


def steps_of_transitions(run):
  """The step in the trace of each transition, `[blocks, B]`; -1 at places without a transition.

  An environment's transitions arrive in order, from step 0 on, with none left out.
  """
  taken = np.zeros(run.config.envs_per_actor, int)
  steps = []
  for environment, shipment in blocks_in_order(run):
    valid = shipment.block.valid
    steps.append(np.where(valid, taken[environment] + np.cumsum(valid) - 1, -1))
    taken[environment] += valid.sum()
  return np.stack(steps)


def shown(observation):
  """Observations that have one part."""
  return {'observation': observation}


def seen(run, observation):
  """An observation as the network sees it."""
  return np.moveaxis(observation, 0, -1) if run.suite.frame_stack > 1 else observation


def paid(run):
  """The function from an environment's reward to the one that the actor records."""
  scale = run.suite.reward_scales[run.suite.tasks[0]]
  return lambda reward: (
    np.clip(scale * reward, -1.0, 1.0) if run.config.clip_rewards else scale * reward
  )


def test_the_run_has_ends_of_every_kind(run, case):
  trace = run.trace
  terminated, truncated, over = (
    np.array(x) for x in (trace.terminated, trace.truncated, trace.game_over)
  )
  assert np.sum(terminated & over) >= case.terminations
  assert np.sum(terminated & ~over) >= case.lost_lives
  assert np.sum(truncated & ~terminated) >= case.limits
  # Clipping and scaling make a difference where they are tested.
  scaled = np.array(trace.rewards) * case.reward_scale
  assert np.any(scaled != 0.0)
  assert np.any(np.abs(scaled) > 1.0) == (case.reward_scale > 1.0)


def test_shapes_and_dtypes_are_the_specifications(run):
  spec = transitions.specification(run.suite, run.config.block_length, run.config.n_step)
  for shipment in run.shipments:
    for part, expected in zip(tf.nest.flatten(shipment), tf.nest.flatten(spec), strict=True):
      assert part.shape == (len(shipment.environment), *expected.shape)
      assert part.dtype == expected.dtype.as_numpy_dtype


def test_a_block_is_put_as_soon_as_it_is_full(run):
  # The first blocks begin with empty places, so that environments take turns.
  config = run.config
  numbers = [environment for environment, _ in blocks_in_order(run)]
  for environment in range(config.envs_per_actor):
    empty = environment * config.block_length // config.envs_per_actor
    records = empty + run.trace.records(environment)
    assert 0 < numbers.count(environment) == (records - config.n_step) // config.block_length


def sample_every_transition(run, count):
  """Puts the shipments in a replay and samples each of their `count` transitions once."""
  config = run.config
  replay = prioritized.PrioritizedReplay(
    transitions.specification(run.suite, config.block_length, config.n_step).block,
    len(blocks_in_order(run)) * config.block_length,
    run.suite.frame_stack,
    alpha=0.0,
    beta=0.0,
    stratified=True,
  )
  for shipment in run.shipments:
    replay.add(shipment.block)
  assert replay.size() == count
  # With equal priorities, as many stratified draws as transitions yield each of them once.
  sample = replay.sample(count)
  sample = sample._replace(
    observation=read(sample.observation, sample.frame_start),
    next_observation=read(sample.next_observation, sample.next_frame_start),
  )
  return structures.Sample(*(part.numpy() for part in sample))


def read(entries, frame_start):
  """The images or vectors that the network reads."""
  return agents.network_observation(entries, frame_start)['observation']


def test_a_transition_read_from_the_replay_is_what_the_environment_returned(run, case):
  config = run.config
  steps = steps_of_transitions(run)
  sample = sample_every_transition(run, np.sum(steps >= 0))
  np.testing.assert_array_equal(np.sort(sample.leaf), np.flatnonzero(steps.ravel() >= 0))
  assert set(sample.leaf % config.block_length) == set(range(config.block_length))

  owners = [environment for environment, _ in blocks_in_order(run)]
  bootstrapped = 0
  for i, leaf in enumerate(sample.leaf):
    environment = owners[leaf // config.block_length]
    step = steps.ravel()[leaf]
    total, discount, end = run.trace.transition(
      step, environment, config.n_step, config.discount, paid(run)
    )
    observation = run.trace.observations[step][environment]
    assert np.array_equal(sample.observation[i], seen(run, observation))
    assert sample.action[i] == run.trace.actions[step][environment]
    assert sample.n_step_return[i] == pytest.approx(total, rel=1e-6, abs=1e-6)
    assert sample.discount[i] == pytest.approx(discount, rel=1e-6)
    if end is not None:
      assert np.array_equal(sample.next_observation[i], seen(run, end))
      bootstrapped += 1
  assert bootstrapped > 0 and (bootstrapped < len(sample.leaf)) == (case.terminations > 0)


def test_initial_priorities_are_the_td_errors_by_the_actors_q_values(run):
  # No other parameters were published, so that the policy computes the same as when it acted.
  steps = steps_of_transitions(run)
  observations = run.trace.observations
  batches = [np.concatenate(observations[t : t + 100]) for t in range(0, len(observations), 100)]
  q = np.concatenate([run.policy.q_values(shown(batch)) for batch in batches])
  q = q.reshape(len(observations), -1, run.suite.num_actions)  # [T+1, N, A]
  last = {
    key: run.policy.q_values(shown(observation[np.newaxis]))[0]
    for key, observation in run.trace.last.items()
  }
  for (environment, shipment), block_steps in zip(blocks_in_order(run), steps, strict=True):
    for b, step in enumerate(block_steps):
      priority = shipment.block.priority[b]
      if step < 0:
        assert priority == 0.0
        continue
      # The two passes through the network had batches of different sizes, hence the tolerance.
      expected = abs(td_error(run, step, environment, q, last))
      assert priority == pytest.approx(expected, rel=1e-5, abs=1e-5)


def td_error(run, t, environment, q, last):
  """R + gamma^n max q(S_{t+n}) - q(S_t, A_t).

  Args:
    run: The run.
    t: The step in the trace.
    environment: The environment's number.
    q: The q-values of all observations in the trace, `[T+1, N, A]`.
    last: The q-values `[A]` of the last observations before a time limit, by step and environment.
  """
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
  over = np.array(run.trace.game_over)
  rewards = np.array(run.trace.rewards)
  returns = np.zeros(over.shape)
  lengths = np.zeros(over.shape, int)
  for environment in range(run.config.envs_per_actor):
    start = 0
    for end in np.flatnonzero(over[:, environment]):
      returns[end, environment] = rewards[start : end + 1, environment].sum()
      lengths[end, environment] = end + 1 - start
      start = end + 1

  counted = 0
  blocks = blocks_in_order(run)
  for (environment, shipment), steps in zip(blocks, steps_of_transitions(run), strict=True):
    valid = steps >= 0
    assert not np.any(shipment.episode_length[~valid])
    steps = steps[valid]
    np.testing.assert_array_equal(shipment.episode_length[valid], lengths[steps, environment])
    np.testing.assert_array_equal(shipment.episode_return[valid], returns[steps, environment])
    counted += np.count_nonzero(shipment.episode_length)
  assert counted > 0


def other_values(first, version):
  """Parameters that differ for each version; version 0 has the first ones."""
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
def test_parameters_are_pulled_every_so_many_environment_frames(env, preset, frames, period):
  # After each step, other parameters are published. Greedy actions reveal which ones are in use: at
  # step t, those published at the last multiple of the period.
  suite = environments.load(env)
  config = settings(preset, parameter_pull_frames=frames, block_length=1, local_buffer=2, n_step=1)

  def publish(store, first, steps):
    store.publish(parameters.Snapshot(steps, other_values(first, steps)))

  run = run_actor(suite, config, 65, np.zeros(N), publish=publish)
  _, _, store = make_policy(suite, config)
  first = store.latest().values
  newest_would_differ = 0
  for step, actions in enumerate(run.trace.actions):
    greedy = {}
    for version in {step // period * period, step}:
      parameters.assign(run.network.trainable_variables, other_values(first, version))
      greedy[version] = run.policy.q_values(shown(run.trace.observations[step])).argmax(axis=1)
    np.testing.assert_array_equal(actions, greedy[step // period * period])
    newest_would_differ += np.any(actions != greedy[step])
  assert newest_would_differ > 0 or period == 1
  assert len(run.shipments) > 60
  for shipment, steps in zip(run.shipments, run.put_after, strict=True):
    np.testing.assert_array_equal(shipment.parameter_version, (steps - 1) // period * period)


def test_environments_of_an_actor_have_their_own_epsilons_and_numbers():
  suite = environments.load('gym:CartPole-v1')
  epsilons = [0.0, 0.5, 1.0]
  run = run_actor(suite, settings('gym'), 1500, epsilons, index=1)
  assert {environment for environment, _ in blocks_in_order(run)} == {N, N + 1, N + 2}
  greedy = np.stack(
    [
      run.policy.q_values(shown(observation)).argmax(axis=1)
      for observation in run.trace.observations[:-1]
    ]
  )
  others = np.sum(np.array(run.trace.actions) != greedy, axis=0)
  assert others[0] == 0
  for count, epsilon in zip(others[1:], epsilons[1:], strict=True):
    test = stats.binomtest(int(count), len(greedy), epsilon / suite.num_actions)
    assert test.pvalue > SIGNIFICANCE


def test_an_actors_number_determines_its_epsilons():
  suite = environments.load('gym:CartPole-v1')
  config = settings('gym', num_actors=3)
  _, _, store = make_policy(suite, config)
  made = dqn.make_policy(config, suite, store, actor=1, seed=0, frames=lambda: 0)
  np.testing.assert_array_equal(made._epsilon, exploration.epsilons(3 * N)[N : 2 * N])


def test_actors_with_other_seeds_play_other_games():
  suite = environments.load('gym:CartPole-v1')
  firsts = [
    run_actor(suite, settings('gym'), 1, np.ones(N), index=index).trace.observations[0]
    for index in (0, 0, 1)
  ]
  np.testing.assert_array_equal(firsts[0], firsts[1])
  assert np.all(np.any(firsts[0] != firsts[2], axis=1))


def test_a_crashed_game_is_restarted_and_its_unfinished_blocks_are_dropped():
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
  # The environments take turns: the first block of the second one begins with three empty places,
  # then its game starts. After the crash this repeats.
  beginnings = []
  for shipment in shipments:
    places = np.flatnonzero(shipment.block.valid[0])
    beginnings.append((*shipment.environment, places[0], shipment.block.frame_start[0, places[0]]))
  once = [(1, 3, True), (0, 0, True), (1, 0, False)]
  assert beginnings == once + once


class TestPolicy:
  def test_stacks_become_channels(self):
    suite = environments.load('atari:pong')
    actors_policy, network, _ = make_policy(suite, settings('atari'))
    stacks = np.random.default_rng(0).integers(256, size=(5, 4, 84, 84), dtype=np.uint8)
    q_values = actors_policy.q_values(shown(stacks))
    assert isinstance(q_values, np.ndarray)
    assert q_values.dtype == np.float32 and q_values.shape == (5, 6)
    np.testing.assert_allclose(
      q_values, network(shown(tf.constant(np.moveaxis(stacks, 1, -1)))), rtol=1e-5, atol=1e-6
    )

  def test_vectors_are_unchanged(self):
    suite = environments.load('gym:CartPole-v1')
    actors_policy, network, _ = make_policy(suite, settings('gym'))
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    np.testing.assert_allclose(
      actors_policy.q_values(shown(observations)),
      network(shown(observations)),
      rtol=1e-5,
      atol=1e-6,
    )

  def test_parameters_change_only_when_it_refreshes(self):
    suite = environments.load('gym:CartPole-v1')
    actors_policy, network, store = make_policy(suite, settings('gym'))
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = actors_policy.q_values(shown(observations))
    values = other_values(store.latest().values, 7)
    store.publish(parameters.Snapshot(7, values))
    np.testing.assert_array_equal(actors_policy.q_values(shown(observations)), before)
    assert actors_policy.refresh() == 7
    np.testing.assert_array_equal(parameters.flatten(network.trainable_variables), values)
    assert np.all(actors_policy.q_values(shown(observations)) != before)

  def test_policies_of_one_store_have_their_own_parameters(self):
    suite = environments.load('gym:CartPole-v1')
    config = settings('gym')
    one, _, store = make_policy(suite, config)
    network = dqn.make_networks(config, suite)
    other = dqn.Policy(network, suite, store, lambda: np.zeros(N, np.float32), 0)
    observations = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    before = one.q_values(shown(observations))
    np.testing.assert_array_equal(other.q_values(shown(observations)), before)
    store.publish(parameters.Snapshot(1, other_values(store.latest().values, 1)))
    other.refresh()
    np.testing.assert_array_equal(one.q_values(shown(observations)), before)
    assert np.all(other.q_values(shown(observations)) != before)
