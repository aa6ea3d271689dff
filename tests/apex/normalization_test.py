"""Learner, target networks, actors, evaluation and resuming normalise by the same statistics."""

import dataclasses
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import actor as actors
from apex import algorithms, players, transitions
from apex import config as configs
from apex import learner as learners
from common import environments, errors, normalization
from common.distributed import parameters
from common.replay import structures
from common.runs import checkpoints
from tests.apex import traces
from tests.common import programs

K = 16
N = 2
STEPS = 60
# Both kinds of ends: episodes that fall after about 20 steps, and a limit at 12.
SHORT = 'ShortCartPoleToNormalise-v0'
gymnasium.register(
  SHORT, 'gymnasium.envs.classic_control.cartpole:CartPoleEnv', max_episode_steps=12
)


class Case(NamedTuple):
  """An algorithm's run: its settings, its learner, and what an actor has put."""

  config: configs.Config
  suite: Any
  learner: learners.Learner
  policy: Any
  trace: traces.Trace
  shipments: list[transitions.Shipment]


def make_config(preset, **settings):
  values = {'normalize_observations': True, 'normalize_rewards': True, **settings}
  return dataclasses.replace(
    configs.PRESETS.preset(preset),
    num_actors=1,
    envs_per_actor=N,
    batch_size=K,
    block_length=10,
    target_period=1000,
    seed=5,
    **values,
  )


def plain(config):
  return dataclasses.replace(config, normalize_observations=False, normalize_rewards=False)


@pytest.fixture(
  scope='module',
  params=[('gym', f'gym:{SHORT}'), ('gym_continuous', 'gym:Pendulum-v1')],
  ids=['dqn', 'dpg'],
)
def case(request):
  preset, env = request.param
  config = make_config(preset, env=env)
  suite = environments.load(env, config.environment_options())
  tf.random.set_seed(1)
  learner = learners.Learner(config, suite)
  # As after some training: what actors get differs from fresh statistics.
  parts = learner.agent.networks.normalizer.parts
  parts['observation'].mean.assign(np.full(parts['observation'].mean.shape, 0.3))
  parts[normalization.RETURN].variance.assign([25.0])
  store = parameters.ParameterStore(learner.snapshot())
  policy = algorithms.module(config).make_policy(config, suite, store, 0, seed=2, frames=lambda: 0)

  trace, shipments = traces.Trace(), []
  recorded = dataclasses.replace(
    suite, make=lambda *arguments: traces.Recorder(suite.make(*arguments), trace)
  )
  actor = actors.Actor(0, recorded, suite.tasks * N, policy, config, seed=3)
  actor.run(shipments.append, lambda: len(trace.actions) >= STEPS)
  return Case(config, suite, learner, policy, trace, shipments)


def own_steps(case):
  """(environment, its steps in blocks so far) for every shipment, with the block's valid steps."""
  at = [0] * N
  for shipment in case.shipments:
    for k, environment in enumerate(shipment.environment):
      block = tf.nest.map_structure(lambda x, k=k: x[k], shipment)
      for b in np.flatnonzero(block.block.valid):
        yield environment, at[environment], b, block
        at[environment] += 1


def test_actors_report_the_discounted_return_of_each_step(case):
  expected = np.zeros((STEPS, N))
  for environment in range(N):
    total = 0.0
    for t in range(STEPS):
      total = case.config.discount * total + case.trace.rewards[t][environment]
      expected[t, environment] = total
      if case.trace.terminated[t][environment] or case.trace.truncated[t][environment]:
        total = 0.0
  count = 0
  for environment, t, b, shipment in own_steps(case):
    assert shipment.discounted_return[b] == pytest.approx(expected[t, environment], rel=1e-5)
    count += 1
  assert count > 0.8 * N * STEPS


def test_initial_priorities_are_of_normalised_rewards(case):
  """Block by block: the sums that are sent are not normalised, the values are of such that are."""
  shown = 0
  for environment, t, b, shipment in own_steps(case):
    block = shipment.block
    first = {'observation': block.observation['observation'][b : b + 1]}
    end = {'observation': block.observation['observation'][block.end[b]][np.newaxis]}
    networks = case.policy._network if case.suite.is_discrete else case.policy._networks
    if case.suite.is_discrete:
      taken = networks(first).numpy()[0, block.action[b]]
    else:
      taken = networks.critic(first, block.action[b][np.newaxis]).numpy()[0]
    target = block.n_step_return[b] / np.sqrt(25.0 + 1e-8)
    target += block.discount[b] * case.policy.bootstrap_value(end)[0]
    assert block.priority[b] == pytest.approx(abs(target - taken), rel=1e-3, abs=1e-4)
    shown += abs(block.n_step_return[b]) > 1
    raw, _, _ = case.trace.transition(
      t, environment, case.config.n_step, case.config.discount, lambda reward: reward
    )
    assert block.n_step_return[b] == pytest.approx(raw, rel=1e-5)
  assert shown > 0.5 * N * STEPS


def test_statistics_are_those_of_all_transitions(case):
  learner = learners.Learner(case.config, case.suite)
  for shipment in case.shipments:
    learner.gather(shipment)
  before = learner.snapshot().values
  learner.merge_gathered()
  assert not np.array_equal(before, learner.snapshot().values)
  learner.merge_gathered()
  found = {'observation': [], normalization.RETURN: []}
  for environment, t, b, shipment in own_steps(case):
    found['observation'].append(np.float64(case.trace.observations[t][environment]))
    found[normalization.RETURN].append([np.float64(shipment.discounted_return[b])])
  for name, part in learner.agent.networks.normalizer.parts.items():
    vectors = np.array(found[name])
    assert int(part.count) == len(vectors)
    np.testing.assert_allclose(part.mean, vectors.mean(axis=0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(part.variance, vectors.var(axis=0), rtol=1e-7)


def draw_sample(case, seed, vectors):
  """A sample whose observations `vectors(rng)` draws."""
  rng = np.random.default_rng(seed)
  size = case.suite.observation_space['observation'].shape[0]
  if case.suite.is_discrete:
    action = tf.constant(rng.integers(2, size=K), tf.int32)
  else:
    action = tf.constant(rng.uniform(-1, 1, (K, 1)), tf.float32)
  drawn = [tf.constant(vectors(rng.normal(size=(K, 1, size))), tf.float32) for _ in range(2)]
  return structures.Sample(
    leaf=tf.range(K, dtype=tf.int64),
    stamp=tf.zeros([K], tf.int64),
    observation={'observation': drawn[0]},
    frame_start=tf.zeros([K, 1], tf.bool),
    action=action,
    n_step_return=tf.constant(rng.normal(size=K), tf.float32),
    discount=tf.constant(0.97 * (rng.random(K) < 0.7), tf.float32),
    next_observation={'observation': drawn[1]},
    next_frame_start=tf.zeros([K, 1], tf.bool),
    weight=tf.ones([K]),
    priority=tf.ones([K]),
    age=tf.zeros([K], tf.int64),
  )


@pytest.fixture
def eager():
  """Functions are run as they stand, as tracing an update takes seconds."""
  tf.config.run_functions_eagerly(True)
  yield
  tf.config.run_functions_eagerly(False)


def test_online_and_target_networks_see_what_plain_ones_see_in_normalised_samples(case, eager):
  tf.random.set_seed(1)
  learner = learners.Learner(case.config, case.suite)
  tf.random.set_seed(1)
  other = learners.Learner(plain(case.config), case.suite)
  ours = learner.agent.networks.trainable_variables
  for mine, its in zip(ours, other.agent.networks.trainable_variables, strict=True):
    its.assign(mine)
  other.agent.copy_to_target()
  rng = np.random.default_rng(0)
  size = case.suite.observation_space['observation'].shape[0]
  for seed in range(4):
    # Statistics move between updates; the target networks, which are never copied, go along.
    learner._gathering.add(
      {
        'observation': np.float32(seed + (seed + 1) * rng.normal(size=(50, size))),
        normalization.RETURN: np.float32(7.0 * rng.normal(size=50)),
      }
    )
    learner.merge_gathered()
    parts = learner.agent.networks.normalizer.parts
    mean = parts['observation'].mean.numpy()
    deviation = np.sqrt(parts['observation'].variance.numpy() + 1e-8)
    scale = np.sqrt(parts[normalization.RETURN].variance.numpy()[0] + 1e-8)
    raw = draw_sample(case, seed, lambda z, m=mean, d=deviation: m + d * z)
    raw = raw._replace(n_step_return=raw.n_step_return * np.float32(scale))
    update = learner.update(raw)
    expected = other.update(draw_sample(case, seed, lambda z: z))
    np.testing.assert_allclose(update.priorities, expected.priorities, rtol=2e-4, atol=2e-4)


def test_actors_evaluation_and_resuming_see_the_same_numbers(case, tmp_path):
  learner = case.learner
  path = checkpoints.Checkpoints(tmp_path, learner).save(3)
  published = learner.snapshot().values
  playing = players.make(case.config, case.suite, seed=5)
  checkpoints.Checkpoints(tmp_path, playing.checkpointed).restore(path)
  np.testing.assert_array_equal(parameters.flatten(playing.variables), published)

  resumed = learners.Learner(case.config, case.suite)
  checkpoints.Checkpoints(tmp_path, resumed).restore(path)
  assert len(resumed.variables) == len(learner.variables)
  for one, other in zip(learner.variables, resumed.variables, strict=True):
    np.testing.assert_array_equal(one, other)

  networks = case.policy._network if case.suite.is_discrete else case.policy._networks
  np.testing.assert_array_equal(parameters.flatten(parameters.published(networks)), published)
  np.testing.assert_allclose(case.policy.rewards(np.float32([10.0])), [2.0], rtol=1e-6)


def test_clipped_rewards_are_refused():
  config = make_config('gym', clip_rewards=True)
  with pytest.raises(errors.UserError, match='clip_rewards is True, expected false with normalize'):
    config.check()


@pytest.mark.long
def test_every_transition_of_a_run_counts_once_wherever_actors_are_and_after_resuming(tmp_path):
  flags = (
    f'--run_dir={tmp_path}/run',
    '--config.min_replay=500',
    '--config.normalize_observations',
    '--config.normalize_rewards',
    '--config.evaluation_episodes=1',
  )
  programs.finish(programs.start('apex', *flags, '--total_frames=1600', '--actor_processes=2'))
  programs.finish(programs.start('apex', *flags, '--total_frames=3200', '--resume'))
  config = make_config('gym')
  suite = environments.load(config.env, config.environment_options())
  playing = players.make(config, suite, seed=0)
  checkpoints.Checkpoints(tmp_path / 'run' / 'checkpoints', playing.checkpointed).restore()
  frames = programs.rows(tmp_path / 'run')[-1]['frames']
  for part in playing.checkpointed.agent.networks.normalizer.parts.values():
    assert int(part.count) == frames >= 3200 and np.all(part.variance > 0)
