"""Ape-X with observations of many parts: actors, replay, DQN and DPG."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import actor as actors
from apex import agent as agents
from apex import config as configs
from apex import dpg, dqn, transitions
from apex import noise as noises
from apex import replay as replays
from common import errors
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized, saving, structures
from tests import structured

N = 3
STACK = 4
SUITE = structured.make_suite(several=False, masked=True)


def settings(**changes):
  preset = configs.PRESETS.preset('gym')
  values = dict(n_step=1, envs_per_actor=N, num_actors=1, replay_capacity=1000, min_replay=1)
  return dataclasses.replace(preset, **(values | changes))


@pytest.fixture(scope='module')
def shipments():
  """What an actor puts that acts at random, among the legal actions, but for one environment."""
  config = settings()
  config.check_environment(SUITE)
  network = dqn.make_networks(config, SUITE)
  values = parameters.flatten(network.trainable_variables)
  store = parameters.ParameterStore(parameters.Snapshot(0, values))
  # The task raises an error at an illegal action, so acting is tested here too.
  acts = dqn.Policy(network, SUITE, store, lambda: np.float32([1.0, 1.0, 0.0]), seed=1)
  actor = actors.Actor(0, SUITE, SUITE.tasks * N, acts, config, seed=1)
  collected = []
  actor.run(collected.append, lambda: len(collected) >= 12)
  return collected


def filled(config, shipments):
  replay = replays.make(config, SUITE)
  for shipment in shipments:
    replays.insert(config, replay, tf.nest.map_structure(tf.constant, shipment))
  return replay


def digits_of(observation):
  """The number of the right action, from pixels, vector and words `[K, ...]`."""
  words = {tuple(suites.hash_words(f'press {word}')): i for i, word in enumerate(structured.WORDS)}
  digits = (
    observation['observation'][:, 0, :, 0].argmax(axis=1),
    observation['vector'].argmax(axis=1),
    np.array([words[tuple(row)] for row in observation['instruction']]),
  )
  return np.ravel_multi_index(digits, structured.SIZES)


@pytest.mark.parametrize('eviction', ['oldest', 'by_priority'])
def test_all_parts_of_a_transition_belong_together(shipments, eviction):
  # The reward tells the right action, and pixels, vector and words together name it; the actions
  # taken are legal by the mask beside them.
  replay = filled(settings(eviction=eviction), shipments)
  sample = replay.sample(300)
  observation = agents.network_observation(sample.observation, sample.frame_start)
  observation = {name: part.numpy() for name, part in observation.items()}
  right = digits_of(observation)
  np.testing.assert_array_equal(sample.n_step_return, right == sample.action)
  assert 0 < np.sum(sample.n_step_return) < 300
  rows = np.arange(300)
  assert np.all(observation['action_mask'][rows, sample.action] == 1)
  assert np.all(observation['action_mask'][rows, right] == 1)
  assert observation['action_mask'].mean() < 0.7
  # And those of the next state.
  following = agents.network_observation(sample.next_observation, sample.next_frame_start)
  following = {name: part.numpy() for name, part in following.items()}
  assert np.all(following['action_mask'][rows, digits_of(following)] == 1)
  assert np.any(digits_of(following) != right)


def test_a_saved_replay_is_restored_with_all_parts(shipments, tmp_path):
  replay = filled(settings(), shipments)
  saving.Saver(replay, tmp_path / 'replay').save(7)
  restored = replays.make(settings(), SUITE)
  assert saving.restore(restored, tmp_path / 'replay') == 7
  assert restored.size() == replay.size()
  # Restored blocks lie in the order of their age, from the first slot on.
  blocks = [made.read(np.arange(5))[1] for made in (replay, restored)]
  tf.nest.map_structure(np.testing.assert_array_equal, *blocks)
  assert set(blocks[0]['observation']) == set(SUITE.observation_space.spaces)

  other = replays.make(settings(), structured.make_suite(several=False, masked=False))
  with pytest.raises(errors.UserError, match='checkpoint_replay=false'):
    saving.restore(
      replays.make(settings(), suite_with(vector=gymnasium.spaces.Box(-1, 1, (3,), np.float32))),
      tmp_path / 'replay',
    )
  assert saving.restore(other, tmp_path / 'replay') == 7  # It does not ask for masks.


def suite_with(**spaces):
  return dataclasses.replace(
    SUITE, observation_space=gymnasium.spaces.Dict({**SUITE.observation_space.spaces, **spaces})
  )


def test_a_block_with_nan_in_any_part_is_refused(shipments):
  block = tf.nest.map_structure(np.array, shipments[0].block)
  assert not structures.refused(block).any()
  block.observation['vector'][0, 3, 1] = np.nan
  assert structures.refused(block).tolist() == [True] + [False] * (len(block.priority) - 1)


def test_single_frames_of_a_stack_stay_beside_their_vectors():
  # Frames and vectors number their step.
  frame_space = gymnasium.spaces.Box(0, 255, (STACK, 2, 3), np.uint8)
  suite = dataclasses.replace(
    suite_with(observation=frame_space),
    frame_stack=STACK,
    observation_space=gymnasium.spaces.Dict(
      {'observation': frame_space, 'vector': gymnasium.spaces.Box(-9, 999, (1,), np.float32)}
    ),
  )
  length, n = 5, 2
  accumulator = transitions.Accumulator(suite, 0, 1, length, n)
  accumulator.restart()
  spec = transitions.specification(suite, length, n).block
  assert spec.observation['observation'].shape == (STACK - 1 + length + n, 2, 3)
  replay = prioritized.PrioritizedReplay(spec, 100, STACK, alpha=0.0, beta=0.0, stratified=True)
  for step in range(2 * length + n):
    records = transitions.Records(
      observation={
        'observation': np.full((1, 2, 3), step + 1, np.uint8),
        'vector': np.full((1, 1), step + 1, np.float32),
      },
      start=step in (0, 6),
      action=step + 1,
      q_taken=0.0,
      bootstrap_value=0.0,
      reward=0.0,
      discount=0.9,
      final=False,
      episode_return=0.0,
      episode_length=0,
    )
    shipment = accumulator.add(np.array([0]), records, 0)
    if shipment:
      replay.add(shipment.block)
  assert replay.size() == 2 * length
  sample = replay.sample(2 * length)
  observation = agents.network_observation(sample.observation, sample.frame_start)
  following = agents.network_observation(sample.next_observation, sample.next_frame_start)
  np.testing.assert_array_equal(np.sort(sample.action), 1 + np.arange(2 * length))
  for found, step in ((observation, sample.action), (following, sample.action + n)):
    np.testing.assert_array_equal(found['vector'][:, 0], step)
    for stack, number in zip(found['observation'].numpy()[:, 0, 0], step.numpy(), strict=True):
      first = 7 if number >= 7 else 1
      expected = [k if k >= first else 0 for k in range(number - STACK + 1, number + 1)]
      assert stack.tolist() == expected


class TestDpg:
  """A continuous action, chosen from pixels, a vector and words."""

  SPACES = {name: SUITE.observation_space[name] for name in ('vector', 'instruction')}
  PIXELS = gymnasium.spaces.Box(0, 255, (24, 24, 3), np.uint8)

  def make_suite(self):
    return dataclasses.replace(
      SUITE,
      observation_space=gymnasium.spaces.Dict({**self.SPACES, 'observation': self.PIXELS}),
      action_space=suites.continuous_actions(2),
    )

  def make_sample(self, count=5):
    rng = np.random.default_rng(3)

    def observation():
      return {
        'observation': tf.constant(rng.integers(256, size=(count, 1, 24, 24, 3), dtype=np.uint8)),
        'vector': tf.constant(rng.normal(size=(count, 1, 2)), tf.float32),
        'instruction': tf.constant(rng.integers(-1, 50, (count, 1, 32)), tf.int32),
      }

    def number(*shape):
      return tf.constant(rng.normal(size=shape), tf.float32)

    indices = tf.range(count, dtype=tf.int64)
    starts = tf.zeros([count, 1], tf.bool)
    return structures.Sample(
      leaf=indices,
      stamp=indices,
      observation=observation(),
      frame_start=starts,
      action=number(count, 2),
      n_step_return=number(count),
      discount=tf.fill([count], 0.9),
      next_observation=observation(),
      next_frame_start=starts,
      weight=tf.ones([count]),
      priority=tf.ones([count]),
      age=indices,
    )

  def settings(self):
    return dataclasses.replace(configs.PRESETS.preset('gym_continuous_images'), env='digits')

  def test_policy_and_critic_have_torsos_of_their_own_and_learn_all_of_them(self):
    config, suite = self.settings(), self.make_suite()
    config.check_environment(suite)
    assert config.torso_for(suite) == 'shallow'
    agent = dpg.make_agent(config, suite)
    step = agent.step(self.make_sample())
    for network, gradients in zip(
      (agent.networks.policy, agent.networks.critic), step.gradients, strict=True
    ):
      kernels = [v for v in network.trainable_variables if v.shape.rank == 4]
      assert [v.shape for v in kernels] == [[8, 8, 3, 16], [4, 4, 16, 32]]
      # 256 of the torso, 2 of the vector as it is, 64 of the words.
      (first,) = [v for v in network.trainable_variables if v.shape[0] == 256 + 2 + 64]
      assert first.shape[1] in (300, 400)
      for variable, gradient in zip(network.trainable_variables, gradients, strict=True):
        assert np.any(tf.convert_to_tensor(gradient) != 0), variable.name
    policy, critic = (
      {v.ref() for v in network.trainable_variables}
      for network in (agent.networks.policy, agent.networks.critic)
    )
    assert not policy & critic

  def test_a_policy_acts(self):
    config, suite = self.settings(), self.make_suite()
    networks = dpg.make_networks(config, suite)
    values = parameters.flatten(networks.trainable_variables)
    store = parameters.ParameterStore(parameters.Snapshot(0, values))
    policy = dpg.Policy(networks, suite, store, noises.Gaussian(2, 0.1, seed=0))
    sample = self.make_sample()
    observation = {name: part[:, 0].numpy() for name, part in sample.observation.items()}
    decision = policy(observation, np.zeros(5, bool))
    assert decision.actions.shape == (5, 2) and np.all(np.abs(decision.actions) <= 1)
    q = networks.critic(observation, decision.actions)
    np.testing.assert_allclose(decision.q_taken, q, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(
      policy.bootstrap_value(observation), decision.bootstrap_value, rtol=1e-4, atol=1e-6
    )


def test_several_actions_at_once_are_refused_and_impala_is_named():
  suite = structured.make_suite(several=True, masked=False)
  message = r'digits takes several discrete actions at once, MultiDiscrete.*IMPALA takes them'
  with pytest.raises(errors.UserError, match=message):
    settings().check_environment(suite)


def test_an_image_cannot_be_evicted_by_priority():
  config = dataclasses.replace(TestDpg().settings(), eviction='by_priority')
  with pytest.raises(errors.UserError, match="eviction is 'by_priority', expected 'oldest'"):
    config.check_environment(TestDpg().make_suite())
