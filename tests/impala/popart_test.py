"""PopArt's statistics against a NumPy loop, what it preserves, and what it is for."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import sonnet as snt
import tensorflow as tf

from common import environments, errors
from common.environments import suite as suites
from impala import batching, networks, popart, trajectory
from impala import config as configs
from impala import learner as learners

TASKS, T, B, D = 3, 5, 4, 8
BETA = 0.2


def make_head() -> snt.Linear:
  head = snt.Linear(TASKS)
  head(tf.zeros([1, D]))
  head.b.assign([0.5, -1.0, 2.0])
  return head


def random_targets(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
  """Targets `[T, B]` of tasks whose sizes differ by a million, and the tasks `[B]`."""
  task = rng.integers(0, TASKS, B)
  size = 10.0 ** (3 * task - 3)  # 0.001, 1, 1000
  return (size * (2 + rng.normal(size=(T, B)))).astype(np.float32), task.astype(np.int32)


def make_update(statistics: popart.PopArt, head: snt.Linear):
  @tf.function
  def update(targets: tf.Tensor, task: tf.Tensor) -> None:
    statistics.update(statistics.moments(targets, task), head)

  return update


def updated(seed: int, updates: int) -> tuple[popart.PopArt, np.ndarray, np.ndarray]:
  """The statistics after some updates, and those of a loop over the steps in float64."""
  rng = np.random.default_rng(seed)
  statistics = popart.PopArt(TASKS, BETA)
  update = make_update(statistics, make_head())
  mean, second_moment = np.zeros(TASKS), np.ones(TASKS)
  for _ in range(updates):
    targets, task = random_targets(rng)
    update(tf.constant(targets), tf.constant(task))
    for i in range(TASKS):
      own = [float(targets[t, b]) for t in range(T) for b in range(B) if task[b] == i]
      if own:
        mean[i] += BETA * (sum(own) / len(own) - mean[i])
        second_moment[i] += BETA * (sum(x * x for x in own) / len(own) - second_moment[i])
  return statistics, mean, second_moment


@pytest.mark.parametrize('updates', [1, 40])
def test_the_statistics_are_those_of_a_loop(updates):
  statistics, mean, second_moment = updated(0, updates)
  np.testing.assert_allclose(statistics.mean, mean, rtol=1e-5)
  scale = np.clip(np.sqrt(second_moment - mean**2), 1e-4, 1e6)
  np.testing.assert_allclose(statistics.scale(), scale, rtol=1e-4)


def test_values_are_preserved_when_statistics_move():
  rng = np.random.default_rng(1)
  statistics = popart.PopArt(TASKS, BETA)
  head = make_head()
  features = tf.constant(rng.normal(size=(T, B, D)), tf.float32)
  every_task = [tf.fill([B], i) for i in range(TASKS)]
  update = make_update(statistics, head)

  def values() -> np.ndarray:
    outputs = snt.BatchApply(head)(features)
    own = [statistics.unnormalised(statistics.select(outputs, i), i) for i in every_task]
    return np.stack(own)  # [N, T, B]

  for _ in range(30):
    before = values()
    targets, task = random_targets(rng)
    update(tf.constant(targets), tf.constant(task))
    # Float32 resolves the largest number that takes part: the task's mean, or its scale.
    size = np.maximum(np.abs(statistics.mean.numpy()), statistics.scale().numpy())
    error = np.abs(values() - before) / np.maximum(size[:, None, None], np.abs(before))
    assert error.max() < 2e-6


def test_the_variance_of_large_targets_survives():
  statistics = popart.PopArt(1, BETA)
  head = snt.Linear(1)
  head(tf.zeros([1, D]))
  update = make_update(statistics, head)
  rng = np.random.default_rng(2)
  for _ in range(200):
    targets = tf.constant(1e5 + rng.normal(size=(T, B)), tf.float32)
    update(targets, tf.zeros([B], tf.int32))
  np.testing.assert_allclose(statistics.mean, [1e5], rtol=1e-4)
  np.testing.assert_allclose(statistics.scale(), [1.0], rtol=0.3)


def test_the_scale_has_bounds():
  statistics = popart.PopArt(2, 1.0)
  head = snt.Linear(2)
  head(tf.zeros([1, D]))
  targets = tf.constant([[7.0, -1e9], [7.0, 1e9]])
  statistics.update(statistics.moments(targets, tf.constant([0, 1])), head)
  np.testing.assert_allclose(statistics.scale(), [1e-4, 1e6], rtol=1e-6)


def cartpole(**settings) -> configs.Config:
  return dataclasses.replace(
    configs.PRESETS.preset('gym'),
    unroll_length=T,
    batch_size=B,
    total_frames=10_000,
    lstm=False,
    **settings,
  )


def test_with_frozen_statistics_one_task_is_learned_as_without():
  suite = environments.load('gym:CartPole-v1')
  rng = np.random.default_rng(3)
  found = []
  for settings in ({}, {'popart': True, 'popart_step_size': 0.0}):
    tf.random.set_seed(1)
    config = cartpole(**settings)
    learner = learners.Learner(config, suite, networks.make_agent(config, suite))
    rng = np.random.default_rng(3)
    for _ in range(3):
      update = learner.update(random_batch(rng, suite, np.zeros(B)), tf.constant(1, tf.int64))
    found.append(update.parameters)
  np.testing.assert_allclose(found[0], found[1], rtol=1e-6, atol=1e-7)


def random_batch(
  rng: np.random.Generator, suite: suites.Suite, task: np.ndarray
) -> trajectory.Trajectory:
  """Random steps `[T+1, B]` of feed-forward actors."""
  arrays = trajectory.empty(trajectory.specification(suite, T, ()), B)
  for name in ('actor', 'parameter_version', 'frame_start', 'episode_return', 'episode_length'):
    getattr(arrays, name)[...] = 0
  arrays.task[...] = task
  observation = arrays.observation['observation']
  observation[...] = rng.normal(size=observation.shape)
  arrays.last_action[...] = rng.integers(0, suite.num_actions, (B, T + 1))
  arrays.reward[...] = rng.normal(size=(B, T + 1))
  arrays.done[...] = rng.random((B, T + 1)) < 0.3
  arrays.behaviour_logits[...] = 0.0
  return batching.stack(batching.unstack(tf.nest.map_structure(tf.constant, arrays), B))


class Bandits:
  """Two tasks of one step and three actions each; the second pays a thousand times more.

  The first pays 1 for action 0, the second 1,000 for action 2. The observation is the task's.
  """

  # Nothing is played in the environments of the suite that this one is made from.
  SUITE = dataclasses.replace(
    environments.load('gym:CartPole-v1'),
    name='bandits',
    tasks=('small', 'large'),
    observation_space=gymnasium.spaces.Dict(
      observation=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    ),
    action_space=gymnasium.spaces.Discrete(3),
  )

  def __init__(self, **settings):
    tf.random.set_seed(1)
    self._config = dataclasses.replace(
      cartpole(reward_clipping='none', **settings), learning_rate=0.002, total_frames=10**9
    )
    agent = networks.make_agent(self._config, self.SUITE)
    self._learner = learners.Learner(self._config, self.SUITE, agent)
    self._unroll = tf.function(agent.unroll)
    self._rng = np.random.default_rng(4)
    self._task = np.arange(B) % 2

  def probabilities(self) -> np.ndarray:
    """Pi(a|task), `[2, 3]`."""
    return tf.nn.softmax(self._logits(np.eye(2))[0]).numpy()

  def learn(self, updates: int) -> None:
    """On-policy updates."""
    for _ in range(updates):
      self._learner.update(self._play(), tf.constant(1, tf.int64))

  def _logits(self, observation: np.ndarray) -> tf.Tensor:
    n = len(observation)
    inputs = networks.AgentInput(
      observation={'observation': tf.constant(observation[np.newaxis], tf.float32)},
      last_action=tf.zeros([1, n], tf.int32),
      reward=tf.zeros([1, n]),
      done=tf.ones([1, n], tf.bool),
    )
    return self._unroll(inputs, ())[0].policy_logits

  def _play(self) -> trajectory.Trajectory:
    batch = random_batch(self._rng, self.SUITE, self._task)
    logits = self._logits(np.eye(2)[self._task]).numpy()[0]  # [B, A]
    noise = self._rng.gumbel(size=(T + 1, B, 3))
    actions = np.argmax(logits + noise, axis=-1).astype(np.int32)
    pays = np.where(self._task == 0, actions == 0, 1000.0 * (actions == 2))
    observation = np.broadcast_to(np.eye(2, dtype=np.float32)[self._task], (T + 1, B, 2))
    return batch._replace(
      observation={'observation': tf.constant(observation)},
      last_action=tf.constant(actions),
      reward=tf.constant(pays, tf.float32),
      done=tf.ones([T + 1, B], tf.bool),
      behaviour_logits=tf.constant(np.broadcast_to(logits, (T, B, 3))),
    )


def test_tasks_whose_rewards_differ_a_thousandfold_are_both_learned():
  plain = Bandits()
  scaled = Bandits(popart=True, popart_step_size=0.05)
  for bandits in (plain, scaled):
    bandits.learn(300)
  assert scaled.probabilities()[0, 0] > 0.9
  assert scaled.probabilities()[1, 2] > 0.9
  # The large rewards leave nothing of the gradient for the small.
  assert plain.probabilities()[0, 0] < 0.6


def test_a_step_size_beyond_one_is_refused():
  with pytest.raises(errors.UserError, match='popart_step_size'):
    cartpole(popart=True, popart_step_size=1.5).check()
