"""What actors put: layout, overlap, one policy per unroll, statistics; on real environments."""

import itertools
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

T = 20
N = 3


def make_store(agent: networks.Agent) -> parameters.ParameterStore:
  values = parameters.flatten(agent.trainable_variables)
  return parameters.ParameterStore(parameters.Snapshot(0, values))


def make_actor(env: str, preset: str):
  config = configs.PRESETS.preset(preset)
  suite = environments.load(env)
  tf.random.set_seed(3)
  agent = networks.make_agent(config, suite)
  store = make_store(agent)
  tasks = environments.assign(suite.tasks, 0, 1, N)
  actor = actors.Actor(0, suite, tasks, policy.LocalPolicy(agent, suite, store, 5), T, seed=1)
  return suite, agent, store, actor


def collect(actor: actors.Actor, unrolls: int) -> list[trajectory.Trajectory]:
  collected = []
  actor.run(collected.append, lambda: len(collected) >= unrolls)
  return collected


def batched(unroll: trajectory.Trajectory) -> trajectory.Trajectory:
  """The batch `[T+1, N]` of an unroll's trajectories `[N, ...]`."""
  return batching.stack(
    [tf.nest.map_structure(lambda x, i=i: tf.constant(x[i]), unroll) for i in range(N)]
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
  for before, after in itertools.pairwise(unrolls):
    for name in ('last_action', 'reward', 'done', 'episode_length'):
      np.testing.assert_array_equal(getattr(before, name)[:, -1], getattr(after, name)[:, 0])
    np.testing.assert_array_equal(
      before.observation['observation'][:, -1],
      after.observation['observation'][:, suite.frame_stack - 1],
    )


def test_a_run_starts_with_done_and_no_reward(run):
  first = run[2][0]
  assert first.done[:, 0].all()
  assert not first.reward[:, 0].any() and not first.episode_length[:, 0].any()


def test_the_learner_reproduces_the_behaviour_logits(run):
  # With the same parameters, the network unrolled over the rebuilt stacks from the recorded core
  # state computes the same logits as when it acted only if inputs, resets and stacks are aligned at
  # every step, episode ends included.
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
  # Sums the rewards of the whole run, without the suite's scaling.
  suite, _, unrolls = run
  scale = suite.reward_scales.get(suite.tasks[0], 1.0)
  # [N, steps of the run]; entry 0 of an unroll repeats the last entry of the one before.
  over = np.concatenate([u.episode_length[:, 1:] for u in unrolls], axis=1)
  returns = np.concatenate([u.episode_return[:, 1:] for u in unrolls], axis=1)
  rewards = np.concatenate([u.reward[:, 1:] for u in unrolls], axis=1) / scale
  counted = 0
  for env in range(N):
    start = 0
    for end in np.flatnonzero(over[env]):
      assert over[env, end] == end + 1 - start
      np.testing.assert_allclose(returns[env, end], rewards[env, start : end + 1].sum(), rtol=1e-5)
      start = end + 1
      counted += 1
  assert counted > 0


def test_an_unroll_keeps_the_parameters_it_started_with():
  _, agent, store, actor = make_actor('gym:CartPole-v1', 'gym')
  other = parameters.Snapshot(7, store.latest().values + 1.0)
  collected = []
  used = []

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
  store = make_store(agent)
  inputs = networks.AgentInput(
    observation={'observation': np.zeros((64, 4), np.float32)},
    last_action=np.zeros(64, np.int32),
    reward=np.zeros(64, np.float32),
    done=np.zeros(64, bool),
  )

  def draw(seed):
    acting = policy.LocalPolicy(agent, suite, store, seed)
    return acting(inputs, agent.initial_state(64)).actions.numpy()

  assert (draw(1) != draw(2)).any()


def test_a_crashed_game_is_restarted_and_its_unroll_dropped():
  suite, _, _, actor = make_actor('doom:basic', 'doom')
  collected = []

  def put(unroll):
    collected.append(unroll)
    if len(collected) == 2:
      processes.kill_engine()

  actor.run(put, lambda: len(collected) >= 4)
  assert actor.games.crashes == 1 and len(collected) == 4
  # All environments of the actor start new games.
  assert collected[2].done[:, 0].all()


def test_a_game_that_always_crashes_ends_the_run_with_its_name():
  _, _, _, actor = make_actor('doom:basic', 'doom')

  def crash(actions):
    raise environments.EnvironmentCrashed('the game of doom:basic ended by itself')

  actor.games.step = crash
  with pytest.raises(errors.UserError, match='5 times in a row: the game of doom:basic'):
    actor.run(lambda unroll: None, lambda: False)


def test_dynamic_batching_computes_the_networks_logits():
  suite = environments.load('gym:CartPole-v1')
  agent = networks.make_agent(configs.PRESETS.preset('gym'), suite)
  shared = policy.DynamicBatchingPolicy(
    agent, suite, lambda: 3, max_batch_size=2 * N, timeout_ms=5, seed=1
  )
  collected = {i: [] for i in range(4)}
  tasks = environments.assign(suite.tasks, 0, 1, N)

  def act(i):
    actor = actors.Actor(i, suite, tasks, shared, T, seed=i)
    actor.run(collected[i].append, lambda: len(collected[i]) >= 3)

  workers = [threading.Thread(target=act, args=(i,)) for i in collected]
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


def test_each_batched_policy_of_a_process_has_its_own_largest_batch():
  suite = environments.load('gym:CartPole-v1')
  agent = networks.make_agent(configs.PRESETS.preset('gym'), suite)
  for num_envs in (2, 6):
    shared = policy.DynamicBatchingPolicy(agent, suite, lambda: 0, num_envs, timeout_ms=5, seed=1)
    decision = shared(policy.example_inputs(suite, num_envs), agent.initial_state(num_envs))
    assert decision.actions.shape == (num_envs,)


def test_actions_exist_though_the_environment_has_paid_nan():
  config = configs.PRESETS.preset('gym')
  suite = environments.load('gym:CartPole-v1')
  agent = networks.make_agent(config, suite)
  inputs = policy.example_inputs(suite, N)
  inputs = inputs._replace(reward=tf.fill([N], np.nan))
  decision = policy.decide(agent, suite, inputs, agent.initial_state(N), seed=1)
  assert np.isnan(decision.logits).all()
  assert set(decision.actions.numpy()) <= set(range(suite.num_actions))
