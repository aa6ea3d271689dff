"""What actors send: layout, overlap, one policy per unroll, statistics; on real environments."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from common import environments, errors
from common.distributed import parameters
from impala import actor as actors
from impala import batching, networks, policy, trajectory
from impala import config as configs
from scripts import processes

T, N = 20, 3


def make_actor(env: str, preset: str, **settings):
  config = configs.PRESETS.preset(preset)
  for name, value in settings.items():
    setattr(config, name, value)
  suite = environments.load(env)
  tf.random.set_seed(3)
  agent = networks.make_agent(config, suite)
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(agent.trainable_variables))
  )
  actor = actors.Actor(
    0,
    suite,
    environments.assign(suite.tasks, 0, 1, N),
    policy.LocalPolicy(agent, suite, store, 5),
    T,
    seed=1,
  )
  return suite, agent, store, actor


def collect(actor: actors.Actor, unrolls: int) -> list[trajectory.Trajectory]:
  collected = []
  actor.run(collected.append, lambda: len(collected) >= unrolls)
  return collected


def batched(unrolls: trajectory.Trajectory) -> trajectory.Trajectory:
  return batching.stack(
    [tf.nest.map_structure(lambda x, i=i: tf.constant(x[i]), unrolls) for i in range(N)]
  )


@pytest.fixture(
  scope='module',
  params=[
    ('gym:CartPole-v1', 'gym'),
    ('atari:breakout', 'atari_shallow'),
    ('doom:predict_position', 'doom'),
  ],
  ids=lambda p: p[0],
)
def run(request):
  suite, agent, _, actor = make_actor(*request.param)
  return suite, agent, collect(actor, 8)


def test_shapes_and_dtypes_are_the_specifications(run):
  suite, agent, unrolls = run
  spec = trajectory.specification(suite, T, agent.initial_state(1))
  for part, expected in zip(tf.nest.flatten(unrolls[0]), tf.nest.flatten(spec), strict=True):
    assert part.shape == (N, *expected.shape) and part.dtype == expected.dtype.as_numpy_dtype


def test_the_first_entry_repeats_the_last_of_the_unroll_before(run):
  suite, _, unrolls = run
  for before, after in zip(unrolls, unrolls[1:]):
    for name in ('last_action', 'reward', 'done', 'episode_length'):
      np.testing.assert_array_equal(getattr(before, name)[:, -1], getattr(after, name)[:, 0])
    np.testing.assert_array_equal(
      before.observation['observation'][:, -1],
      after.observation['observation'][:, suite.frame_stack - 1],
    )


def test_a_run_starts_with_done_and_no_reward(run):
  first = run[2][0]
  assert (
    first.done[:, 0].all() and not first.reward[:, 0].any() and not first.episode_length[:, 0].any()
  )


def test_the_learner_reproduces_the_behaviour_logits(run):
  # With the same parameters the network, unrolled over the rebuilt stacks from the sent core state, says what it said
  # when it acted: so the alignment of inputs, resets and stacks is right at every step, episode ends included.
  suite, agent, unrolls = run
  ends = 0
  for unroll in unrolls:
    batch = batched(unroll)
    inputs = networks.AgentInput(
      trajectory.restacked_observation(suite, batch), batch.last_action, batch.reward, batch.done
    )
    output, _ = agent.unroll(inputs, batch.core_state)
    np.testing.assert_allclose(output.policy_logits[:-1], batch.behaviour_logits, atol=2e-5)
    ends += int(tf.reduce_sum(tf.cast(batch.done[1:], tf.int32)))
  assert ends > 0


def test_episode_statistics_add_up(run):
  # CartPole pays 1 a step; the others' rewards are summed here, over the whole run, as the environment gave them.
  suite, _, unrolls = run
  scale = suite.reward_scales.get(suite.tasks[0], 1.0)
  over = np.concatenate([u.episode_length[:, 1:] for u in unrolls], axis=1)
  returns = np.concatenate([u.episode_return[:, 1:] for u in unrolls], axis=1)
  rewards = np.concatenate([u.reward[:, 1:] for u in unrolls], axis=1) / scale
  counted = 0
  for env in range(N):
    start = 0
    for end in np.flatnonzero(over[env]):
      assert over[env, end] == end + 1 - start
      np.testing.assert_allclose(returns[env, end], rewards[env, start : end + 1].sum(), rtol=1e-5)
      start, counted = end + 1, counted + 1
  assert counted > 0


def test_an_unroll_keeps_the_parameters_it_started_with():
  _, agent, store, actor = make_actor('gym:CartPole-v1', 'gym')
  other = parameters.Snapshot(7, store.latest().values + 1.0)
  collected, used = [], []

  def put(unroll):
    collected.append(unroll)
    used.append(parameters.flatten(agent.trainable_variables).numpy())
    store.publish(other)

  first = store.latest().values.numpy()
  actor.run(put, lambda: len(collected) >= 2)
  assert [set(u.parameter_version) for u in collected] == [{0}, {7}]
  np.testing.assert_array_equal(used[0], first)
  np.testing.assert_array_equal(used[1], other.values)


def test_actors_explore_differently():
  suite = environments.load('gym:CartPole-v1')
  agent = networks.make_agent(configs.PRESETS.preset('gym'), suite)
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(agent.trainable_variables))
  )
  inputs = networks.AgentInput(
    {'observation': np.zeros((64, 4), np.float32)},
    np.zeros(64, np.int32),
    np.zeros(64, np.float32),
    np.zeros(64, bool),
  )
  drawn = [
    policy.LocalPolicy(agent, suite, store, seed)(inputs, agent.initial_state(64)).actions.numpy()
    for seed in (1, 2)
  ]
  assert (drawn[0] != drawn[1]).any()


def test_a_crashed_game_is_started_again_and_its_unroll_dropped():
  suite, _, _, actor = make_actor('doom:basic', 'doom')
  collected = []

  def put(unroll):
    collected.append(unroll)
    if len(collected) == 2:
      processes.kill_engine()

  actor.run(put, lambda: len(collected) >= 4)
  assert actor.games.crashes == 1 and len(collected) == 4
  assert collected[2].done[:, 0].all()  # All environments of the actor start anew.


def test_a_game_that_crashes_for_ever_ends_the_run_with_its_name():
  _, _, _, actor = make_actor('doom:basic', 'doom')

  def crash(stopped):
    raise environments.EnvironmentCrashed('the game of doom:basic ended by itself')

  actor.unroll = crash
  with pytest.raises(errors.UserError, match='5 times in a row: the game of doom:basic'):
    actor.run(lambda unroll: None, lambda: False)


def test_dynamic_batching_decides_as_the_network_does():
  suite = environments.load('gym:CartPole-v1')
  agent = networks.make_agent(configs.PRESETS.preset('gym'), suite)
  shared = policy.DynamicBatchingPolicy(
    agent, suite, lambda: 3, max_batch_size=2 * N, timeout_ms=5, seed=1
  )
  collected = {i: [] for i in range(4)}
  made = [
    actors.Actor(i, suite, environments.assign(suite.tasks, 0, 1, N), shared, T, seed=i)
    for i in collected
  ]
  workers = [
    threading.Thread(
      target=actor.run, args=(collected[i].append, lambda i=i: len(collected[i]) >= 3)
    )
    for i, actor in enumerate(made)
  ]
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  for unrolls in collected.values():
    batch = batched(unrolls[-1])
    inputs = networks.AgentInput(batch.observation, batch.last_action, batch.reward, batch.done)
    output, _ = agent.unroll(inputs, batch.core_state)
    np.testing.assert_allclose(output.policy_logits[:-1], batch.behaviour_logits, atol=2e-5)
    assert set(unrolls[-1].parameter_version) == {3}
