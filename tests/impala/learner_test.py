"""The learner's loss against a NumPy loop, its counters, its refusal of what is not finite, and its batches."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import environments
from common.distributed import queues
from common.replay import uniform
from impala import config as configs
from impala import learner as learners
from impala import networks, trajectory

T, B = 6, 4
SUITE = environments.load('gym:CartPole-v1')


def make_config(**settings) -> configs.Config:
  return dataclasses.replace(
    configs.PRESETS.preset('gym'), unroll_length=T, batch_size=B, total_frames=1000, **settings
  )


def make_learner(config: configs.Config) -> learners.Learner:
  tf.random.set_seed(1)
  return learners.Learner(config, SUITE, networks.make_agent(config, SUITE))


def random_batch(seed: int, agent: networks.Agent) -> trajectory.Trajectory:
  rng = np.random.default_rng(seed)
  spec = trajectory.specification(SUITE, T, agent.initial_state(1))
  batch = trajectory.empty(spec, B)
  for name in ('actor', 'parameter_version', 'task', 'episode_return', 'episode_length'):
    getattr(batch, name)[...] = 0
  batch.observation['observation'][...] = rng.normal(size=(B, T + 1, 4))
  tf.nest.map_structure(lambda x: np.copyto(x, rng.normal(size=x.shape)), batch.core_state)
  batch.frame_start[...] = False
  batch.last_action[...] = rng.integers(0, 2, (B, T + 1))
  batch.reward[...] = 3 * rng.normal(size=(B, T + 1))
  batch.done[...] = rng.random((B, T + 1)) < 0.3
  batch.behaviour_logits[...] = rng.normal(size=(B, T, 2))
  return learners.stack_trajectories(
    [tf.nest.map_structure(lambda x, i=i: tf.constant(x[i]), batch) for i in range(B)]
  )


def oracle_loss(config, agent, batch) -> float:
  """Sections 4.1 and 4.2, one trajectory and one step at a time."""
  inputs = networks.AgentInput(batch.observation, batch.last_action, batch.reward, batch.done)
  output, _ = agent.unroll(inputs, batch.core_state)
  log_softmax = lambda x: x - np.log(np.sum(np.exp(x)))
  total = 0.0
  for b in range(B):
    logits, values = output.policy_logits.numpy()[:, b], output.values.numpy()[:, b]
    rewards = batch.reward.numpy()[:, b]
    if config.reward_clipping == 'abs_one':
      rewards = np.clip(rewards, -1, 1)
    actions, done = batch.last_action.numpy()[:, b], batch.done.numpy()[:, b]
    rho = np.array(
      [
        np.exp(
          log_softmax(logits[t])[actions[t + 1]]
          - log_softmax(batch.behaviour_logits.numpy()[t, b])[actions[t + 1]]
        )
        for t in range(T)
      ]
    )
    if config.correction in ('none', 'epsilon'):
      rho[:] = 1.0
    trace = np.ones(T) if config.correction == 'one_step' else np.minimum(1, rho)
    gamma = [config.discount * (not done[t + 1]) for t in range(T)]
    v = np.append(np.zeros(T), values[T])
    for s in range(T):
      v[s] = values[s]
      for t in range(s, T):
        weight = np.prod([gamma[i] * trace[i] for i in range(s, t)])
        v[s] += weight * trace[t] * (rewards[t + 1] + gamma[t] * values[t + 1] - values[t])
    for s in range(T):
      pi = np.exp(log_softmax(logits[s]))
      advantage = min(1, rho[s]) * (rewards[s + 1] + gamma[s] * v[s + 1] - values[s])
      epsilon = 1e-6 if config.correction == 'epsilon' else 0.0
      total -= np.log(pi[actions[s + 1]] + epsilon) * advantage
      total += config.baseline_cost * 0.5 * (v[s] - values[s]) ** 2
      total += config.entropy_cost * np.sum(pi * np.log(pi))
  return total


@pytest.mark.parametrize('correction', configs.CORRECTIONS)
@pytest.mark.parametrize('clipping', ['none', 'abs_one'])
def test_loss_is_the_papers(correction, clipping):
  config = make_config(correction=correction, reward_clipping=clipping)
  learner = make_learner(config)
  for seed in range(3):
    batch = random_batch(seed, learner.agent)
    loss, _ = learner.loss(batch)
    np.testing.assert_allclose(loss, oracle_loss(config, learner.agent, batch), rtol=2e-4)


def test_updates_count_frames_and_anneal_to_zero():
  learner = make_learner(make_config())
  batch = random_batch(0, learner.agent)
  rates = []
  for _ in range(3):
    rates.append(
      float(learner.update(batch, tf.constant(500, tf.int64)).statistics['learning_rate'])
    )
  assert (int(learner.updates), int(learner.frames)) == (3, 1500)
  np.testing.assert_allclose(rates, [0.002, 0.001, 0.0])


def test_an_update_returns_the_parameters_after_it():
  learner = make_learner(make_config())
  before = learner.snapshot().values.numpy()
  update = learner.update(random_batch(0, learner.agent), tf.constant(1, tf.int64))
  np.testing.assert_array_equal(update.parameters, learner.snapshot().values)
  assert np.abs(update.parameters.numpy() - before).max() > 1e-5


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_a_batch_that_is_not_finite_changes_nothing(bad):
  learner = make_learner(make_config(reward_clipping='none'))
  batch = random_batch(0, learner.agent)
  before = [v.numpy() for v in learner.variables]
  batch = batch._replace(reward=tf.where(tf.range(T + 1)[:, None] == 3, bad, batch.reward))
  update = learner.update(batch, tf.constant(1, tf.int64))
  assert not update.statistics['finite']
  for variable, value in zip(learner.variables, before, strict=True):
    np.testing.assert_array_equal(variable, value)


def numbered(spec, number: int) -> trajectory.Trajectory:
  return tf.nest.map_structure(
    lambda s: np.full((1, *s.shape), number, s.dtype.as_numpy_dtype), spec
  )


def test_batches_are_time_major_in_the_order_of_the_queue():
  learner = make_learner(make_config())
  spec = trajectory.specification(SUITE, T, learner.agent.initial_state(1))
  queue = queues.StructureQueue(spec, 100)
  for number in range(2 * B):
    queue.put_many(numbered(spec, number))
  batches = learners.batches(queue, B, None, 0)
  for start in (0, B):
    batch = next(batches)
    assert batch.reward.shape == (T + 1, B) and batch.observation['observation'].shape == (
      T + 1,
      B,
      4,
    )
    assert batch.core_state.hidden.shape == (B, networks.CORE_SIZE)
    np.testing.assert_array_equal(batch.reward[0], np.arange(start, start + B))
    np.testing.assert_array_equal(batch.task, np.arange(start, start + B))
  queue.close()
  assert list(batches) == []


def test_replay_fills_its_share_of_a_batch_with_what_was_new_before():
  learner = make_learner(make_config())
  spec = trajectory.specification(SUITE, T, learner.agent.initial_state(1))
  queue, replay = queues.StructureQueue(spec, 100), uniform.UniformReplay(spec, 3)
  for number in range(1, 9):
    queue.put_many(numbered(spec, number))
  batches = learners.batches(queue, B, replay, 2)
  for step in range(4):
    tasks = next(batches).task.numpy()
    np.testing.assert_array_equal(tasks[:2], [2 * step + 1, 2 * step + 2])
    # Of the newest three, the two just added among them.
    assert set(tasks[2:]) <= set(range(max(1, 2 * step), 2 * step + 3))
  queue.close()
  list(batches)
