"""The learner's loss against a NumPy loop, its counters, and its refusal of what is not finite."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import environments
from impala import batching, networks, trajectory
from impala import config as configs
from impala import learner as learners

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
  arrays = trajectory.empty(spec, B)
  for name in ('actor', 'parameter_version', 'task', 'episode_return', 'episode_length'):
    getattr(arrays, name)[...] = 0
  arrays.observation['observation'][...] = rng.normal(size=(B, T + 1, 4))
  tf.nest.map_structure(lambda x: np.copyto(x, rng.normal(size=x.shape)), arrays.core_state)
  arrays.frame_start[...] = False
  arrays.last_action[...] = rng.integers(0, 2, (B, T + 1))
  arrays.reward[...] = 3 * rng.normal(size=(B, T + 1))
  arrays.done[...] = rng.random((B, T + 1)) < 0.3
  arrays.behaviour_logits[...] = rng.normal(size=(B, T, 2))
  return batching.stack(batching.unstack(tf.nest.map_structure(tf.constant, arrays), B))


def log_softmax(logits: np.ndarray) -> np.ndarray:
  return logits - np.log(np.sum(np.exp(logits)))


class Column:
  """One trajectory in NumPy: step t is the action at x_t and what came of it."""

  def __init__(self, config, output, batch, b: int):
    self.log_pi = [log_softmax(output.policy_logits.numpy()[t, b]) for t in range(T)]
    self.values = output.values.numpy()[:, b]  # [T+1]
    self.actions = batch.last_action.numpy()[1:, b]
    self.rewards = batch.reward.numpy()[1:, b]
    if config.reward_clipping == 'abs_one':
      self.rewards = np.clip(self.rewards, -1, 1)
    self.gamma = config.discount * ~batch.done.numpy()[1:, b]

    log_mu = [log_softmax(batch.behaviour_logits.numpy()[t, b]) for t in range(T)]
    self.rho = np.ones(T)
    if config.correction in ('vtrace', 'one_step'):
      self.rho = np.exp([self.log_pi[t][a] - log_mu[t][a] for t, a in enumerate(self.actions)])

  def targets(self, trace: np.ndarray) -> np.ndarray:
    """v_0 to v_T by equation 1, with `trace` for both rho and c."""
    v = self.values.copy()
    for s in range(T):
      for t in range(s, T):
        weight = np.prod(self.gamma[s:t] * trace[s:t]) * trace[t]
        td_error = self.rewards[t] + self.gamma[t] * self.values[t + 1] - self.values[t]
        v[s] += weight * td_error
    return v


def oracle_loss(config, agent, batch) -> float:
  """Sections 4.1 and 4.2, one trajectory and one step at a time."""
  inputs = networks.AgentInput(
    observation=batch.observation,
    last_action=batch.last_action,
    reward=batch.reward,
    done=batch.done,
  )
  output, _ = agent.unroll(inputs, batch.core_state)
  epsilon = 1e-6 if config.correction == 'epsilon' else 0.0
  total = 0.0
  for b in range(B):
    column = Column(config, output, batch, b)
    is_vtrace = config.correction == 'vtrace'
    v = column.targets(np.minimum(1, column.rho) if is_vtrace else np.ones(T))
    for s in range(T):
      pi = np.exp(column.log_pi[s])
      q = column.rewards[s] + column.gamma[s] * v[s + 1]
      advantage = min(1, column.rho[s]) * (q - column.values[s])
      total -= np.log(pi[column.actions[s]] + epsilon) * advantage
      total += config.baseline_cost * 0.5 * (v[s] - column.values[s]) ** 2
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
    update = learner.update(batch, tf.constant(500, tf.int64))
    rates.append(float(update.statistics['learning_rate']))
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
  assert not update.statistics['finite'] and update.parameters_finite
  for variable, value in zip(learner.variables, before, strict=True):
    np.testing.assert_array_equal(variable, value)


def test_parameters_that_a_step_makes_infinite_are_noticed():
  learner = make_learner(make_config(learning_rate=3e38))
  update = learner.update(random_batch(0, learner.agent), tf.constant(1, tf.int64))
  assert update.statistics['finite'] and not update.parameters_finite


def test_hyperparameters_that_change_act_as_if_they_had_been_the_configs():
  """In the same graph, which is traced once."""
  others = dict(learning_rate=0.01, entropy_cost=0.2, rmsprop_epsilon=1e-4, max_gradient_norm=3.0)
  changed = make_learner(make_config(population=True))
  meant = make_learner(make_config(population=True, **others))
  batch = random_batch(0, changed.agent)
  frames = tf.constant(500, tf.int64)
  zero = changed.update(batch, frames, stop=True).parameters.numpy()
  changed.hyperparameters.assign(others)
  for _ in range(2):
    one = changed.update(batch, frames)
    other = meant.update(batch, frames)
    np.testing.assert_array_equal(one.parameters, other.parameters)
    # A population has no annealing.
    np.testing.assert_allclose(one.statistics['learning_rate'], 0.01)
  assert np.abs(one.parameters - zero).max() > 1e-3
  assert changed._update.experimental_get_tracing_count() == 1


def test_without_a_population_hyperparameters_are_the_configs():
  config = make_config()
  learner = make_learner(config)
  assert learner.hyperparameters.values() == pytest.approx(
    {name: getattr(config, name) for name in learner.hyperparameters.values()}, rel=1e-6
  )
  assert learner.tally is None
