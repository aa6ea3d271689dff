"""Several actions at once, and masks, against loops in NumPy."""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common import environments
from common import networks as parts
from common.distributed import parameters, wire
from impala import actions as acting
from impala import actor as actors
from impala import batching, losses, networks, policy, system, trajectory, vtrace
from impala import config as configs
from impala import learner as learners
from tests import structured

T, B = 5, 4
SIZES = [(3, 2, 4), (2, 2, 2), (5,), (1, 3)]
N = 6


def log_softmax(logits):
  logits = logits.astype(np.float64)
  return logits - np.log(np.sum(np.exp(logits - logits.max()))) - logits.max()


def log_probs_by_hand(logits, sizes):
  """Of one step: the log-probabilities of each component's actions."""
  return [log_softmax(part) for part in np.split(logits, np.cumsum(sizes)[:-1])]


def random_steps(sizes, seed=0):
  rng = np.random.default_rng(seed)
  logits = 2 * rng.normal(size=(T, B, sum(sizes))).astype(np.float32)
  actions = rng.integers(sizes, size=(T, B, len(sizes))).astype(np.int32)
  return logits, actions


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_log_probabilities_and_entropies_are_sums_over_the_choices(sizes):
  logits, actions = random_steps(sizes)
  log_probs = acting.log_prob(tf.constant(logits), tf.constant(actions), sizes)
  entropies = acting.entropy(tf.constant(logits), sizes)
  assert log_probs.shape == entropies.shape == (T, B)
  for t, b in np.ndindex(T, B):
    by_hand = log_probs_by_hand(logits[t, b], sizes)
    taken = sum(part[action] for part, action in zip(by_hand, actions[t, b], strict=True))
    entropy = -sum(np.sum(np.exp(part) * part) for part in by_hand)
    np.testing.assert_allclose(log_probs[t, b], taken, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(entropies[t, b], entropy, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_their_gradients_stay_within_each_choice(sizes):
  # d log pi(a) / d logits is one-hot minus softmax, choice by choice.
  logits, actions = random_steps(sizes)
  variable = tf.constant(logits)
  with tf.GradientTape() as tape:
    tape.watch(variable)
    total = tf.reduce_sum(acting.log_prob(variable, tf.constant(actions), sizes))
  gradient = tape.gradient(total, variable).numpy()
  for t, b in np.ndindex(T, B):
    expected = [-np.exp(part) for part in log_probs_by_hand(logits[t, b], sizes)]
    for part, action in zip(expected, actions[t, b], strict=True):
      part[action] += 1
    np.testing.assert_allclose(gradient[t, b], np.concatenate(expected), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('sizes', SIZES, ids=str)
def test_draws_have_the_probabilities_and_are_independent(sizes):
  count = 20_000
  logits, _ = random_steps(sizes)
  drawn = acting.sample(tf.tile(logits[0, :1], [count, 1]), sizes, seed=3).numpy()
  assert drawn.shape == (count, len(sizes)) and drawn.dtype == np.int32
  by_hand = [np.exp(part) for part in log_probs_by_hand(logits[0, 0], sizes)]
  for k, probabilities in enumerate(by_hand):
    frequencies = np.bincount(drawn[:, k], minlength=sizes[k]) / count
    # Five standard deviations of the most uncertain frequency.
    np.testing.assert_allclose(frequencies, probabilities, atol=5 * 0.5 / np.sqrt(count))
  if len(sizes) > 1:
    joint = np.mean((drawn[:, 0] == 0) & (drawn[:, 1] == 1))
    expected = by_hand[0][0] * by_hand[1][1]
    assert joint == pytest.approx(expected, abs=5 * 0.5 / np.sqrt(count))


def test_the_most_likely_actions_are_those_of_each_choice():
  logits = tf.constant([[0.0, 3.0, 1.0, 2.0, 1.0, -5.0, -4.0, -3.0, -9.0]])
  np.testing.assert_array_equal(acting.most_likely(logits, (3, 2, 4)), [[1, 0, 2]])
  np.testing.assert_array_equal(acting.most_likely(logits), [1])


def test_actions_become_ones_in_each_part():
  space = gymnasium.spaces.MultiDiscrete((3, 2, 4))
  hot = acting.one_hot(tf.constant([[2, 0, 3], [0, 1, 0]]), space)
  np.testing.assert_array_equal(hot, [[0, 0, 1, 1, 0, 0, 0, 0, 1], [1, 0, 0, 0, 1, 1, 0, 0, 0]])
  hot = acting.one_hot(tf.constant([2, 0]), gymnasium.spaces.Discrete(3))
  np.testing.assert_array_equal(hot, [[0, 0, 1], [1, 0, 0]])


def test_shapes_that_do_not_fit_are_refused():
  logits, actions = (tf.constant(x) for x in random_steps((3, 2, 4)))
  for sizes in (None, (3, 2), (3, 2, 3)):
    with pytest.raises(ValueError):
      vtrace.log_importance_weights(logits, logits, actions, sizes)
    with pytest.raises(ValueError):
      losses.policy_gradient_loss(logits, actions, tf.zeros([T, B]), sizes=sizes)


class TestMasks:
  """One state of four actions, of which the second and the fourth are illegal."""

  MASK = np.uint8([[1, 0, 1, 0]])

  def masked(self, logits):
    return parts.mask_illegal(logits, {'action_mask': tf.constant(self.MASK)})

  def test_illegal_actions_are_never_drawn(self):
    logits = self.masked(tf.constant([[0.0, 50.0, 1.0, 60.0]]))
    drawn = acting.sample(tf.tile(logits, [5000, 1]), None, seed=1).numpy()
    assert set(drawn) == {0, 2}
    assert acting.most_likely(logits)[0] == 2

  def test_the_entropy_is_that_of_the_legal_actions(self):
    entropy = acting.entropy(self.masked(tf.constant([[0.0, 50.0, 1.0, 60.0]])))
    probabilities = np.exp([0.0, 1.0]) / np.sum(np.exp([0.0, 1.0]))
    expected = -np.sum(probabilities * np.log(probabilities))
    np.testing.assert_allclose(entropy, [expected], rtol=1e-6)

  def test_masked_logits_get_no_gradient_and_the_others_that_of_a_smaller_policy(self):
    logits = tf.constant([[0.5, 50.0, 1.0, 60.0]])
    legal = tf.constant([[0.5, 1.0]])
    gradients = []
    for given, mask, action in ((logits, self.masked, 2), (legal, tf.identity, 1)):
      with tf.GradientTape() as tape:
        tape.watch(given)
        shown = mask(given)
        loss = acting.log_prob(shown, tf.constant([action])) + 0.1 * acting.entropy(shown)
      gradients.append(tape.gradient(loss, given).numpy()[0])
    assert gradients[0][1] == gradients[0][3] == 0.0
    np.testing.assert_allclose(gradients[0][[0, 2]], gradients[1], rtol=1e-6)
    assert np.all(gradients[1] != 0.0)

  def test_a_mask_of_another_size_is_refused(self):
    with pytest.raises(ValueError):
      parts.mask_illegal(tf.zeros([3, 1]), {'action_mask': tf.ones([3, 4], tf.uint8)})


@pytest.fixture(
  scope='module',
  params=[(True, True), (True, False), (False, True)],
  ids=['several_masked', 'several', 'masked'],
)
def run(request):
  """A suite, a learner with the actor's parameters, and an actor's unroll, `[T+1, N]`."""
  suite = structured.make_suite(*request.param)
  config = dataclasses.replace(
    configs.PRESETS.preset('gym'), unroll_length=2 * structured.LENGTH, batch_size=N
  )
  config.check_environment(suite)
  tf.random.set_seed(4)
  agent = networks.make_agent(config, suite)
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(agent.trainable_variables))
  )
  acts = policy.LocalPolicy(agent, suite, store, seed=2)
  actor = actors.Actor(0, suite, suite.tasks * N, acts, config.unroll_length, seed=1)
  collected = []
  actor.run(collected.append, lambda: len(collected) >= 2)
  unroll = tf.nest.map_structure(tf.constant, collected[-1])
  learner = learners.Learner(config, suite, agent)
  return suite, config, learner, batching.stack(batching.unstack(unroll, N))


def unrolled(run) -> tf.Tensor:
  """The learner's logits for the actor's unroll, `[T, N, A]`."""
  _, _, learner, batch = run
  inputs = networks.AgentInput(batch.observation, batch.last_action, batch.reward, batch.done)
  return learner.agent.unroll(inputs, batch.core_state)[0].policy_logits[:-1]


def test_the_learner_masks_the_logits_that_the_actor_masked(run):
  suite, _, _, batch = run
  np.testing.assert_allclose(unrolled(run), batch.behaviour_logits, atol=2e-5)
  if 'action_mask' in suite.observation_space.spaces:
    is_masked = batch.observation['action_mask'][:-1] == 0
    np.testing.assert_array_equal(batch.behaviour_logits == parts.ILLEGAL, is_masked)
    assert 0.2 < np.mean(is_masked) < 0.6


def test_importance_weights_are_exactly_one_for_equal_parameters(run):
  _, _, learner, batch = run
  # The same graph: actors unroll step by step, which rounds otherwise.
  _, statistics = learner.loss(batch._replace(behaviour_logits=unrolled(run)))
  assert statistics['importance_weight'] == 1.0
  _, statistics = learner.loss(batch)
  np.testing.assert_allclose(statistics['importance_weight'], 1.0, atol=1e-4)


def test_the_loss_is_the_papers_with_one_choice_or_several(run):
  suite, config, learner, batch = run
  rng = np.random.default_rng(0)
  noise = rng.normal(size=batch.behaviour_logits.shape).astype(np.float32)
  batch = batch._replace(behaviour_logits=batch.behaviour_logits + noise)
  loss, statistics = learner.loss(batch)
  expected, entropy = loss_by_hand(suite, config, learner.agent, batch)
  np.testing.assert_allclose(loss, expected, rtol=2e-4)
  np.testing.assert_allclose(statistics['entropy'], entropy, rtol=1e-4)


def loss_by_hand(suite, config, agent, batch):
  """Sections 4.1 and 4.2, one trajectory and one step at a time; and the mean entropy."""
  inputs = networks.AgentInput(batch.observation, batch.last_action, batch.reward, batch.done)
  output, _ = agent.unroll(inputs, batch.core_state)
  several = isinstance(suite.action_space, gymnasium.spaces.MultiDiscrete)
  sizes = structured.SIZES if several else (suite.num_actions,)
  mask = np.ones((*output.policy_logits.shape[:2], sum(sizes)))
  if 'action_mask' in batch.observation:
    mask = batch.observation['action_mask'].numpy()
  length = batch.reward.shape[0] - 1

  def log_policy(logits, t, b):
    """Log-probabilities of the legal actions, choice by choice."""
    ends = np.cumsum(sizes)[:-1]
    found = []
    for part, legal in zip(np.split(logits, ends), np.split(mask[t, b], ends), strict=True):
      full = np.full(len(part), -np.inf)
      full[legal > 0] = log_softmax(part[legal > 0])
      found.append(full)
    return found

  total = entropies = 0.0
  for b in range(N):
    values = output.values.numpy()[:, b].astype(np.float64)
    actions = batch.last_action.numpy()[1:, b].reshape(length, -1)
    rewards = batch.reward.numpy()[1:, b]
    gamma = config.discount * ~batch.done.numpy()[1:, b]
    log_pi = [log_policy(output.policy_logits.numpy()[t, b], t, b) for t in range(length)]
    log_mu = [log_policy(batch.behaviour_logits.numpy()[t, b], t, b) for t in range(length)]

    def taken(logs, t, actions=actions):
      return sum(part[action] for part, action in zip(logs[t], actions[t], strict=True))

    rho = np.exp([taken(log_pi, t) - taken(log_mu, t) for t in range(length)])
    clipped = np.minimum(1, rho)
    v = values.copy()
    for s in range(length):
      for t in range(s, length):
        weight = np.prod(gamma[s:t] * clipped[s:t]) * clipped[t]
        v[s] += weight * (rewards[t] + gamma[t] * values[t + 1] - values[t])
    for s in range(length):
      advantage = clipped[s] * (rewards[s] + gamma[s] * v[s + 1] - values[s])
      total -= taken(log_pi, s) * advantage
      total += config.baseline_cost * 0.5 * (v[s] - values[s]) ** 2
      for part in log_pi[s]:
        p = np.exp(part[np.isfinite(part)])
        total += config.entropy_cost * np.sum(p * np.log(p))
        entropies -= np.sum(p * np.log(p))
  return total, entropies / (length * N)


def test_every_part_of_the_observation_is_seen(run):
  _, _, learner, batch = run
  inputs = networks.AgentInput(batch.observation, batch.last_action, batch.reward, batch.done)
  before = learner.agent.unroll(inputs, batch.core_state)[0].values
  for name in ('observation', 'vector', 'instruction'):
    part = tf.random.shuffle(batch.observation[name], seed=1)
    other = inputs._replace(observation={**batch.observation, name: part})
    after = learner.agent.unroll(other, batch.core_state)[0].values
    assert np.abs(before - after).max() > 1e-4, name


def test_an_action_beyond_its_own_choice_is_refused_on_the_wire(run):
  suite, config, learner, batch = run
  spec = trajectory.specification(suite, config.unroll_length, learner.agent.initial_state(1))
  codec = wire.Codec(spec, trajectory.bounds(spec, suite, num_actors=1, version=lambda: 0))
  elements = trajectory.empty(spec, 2)
  tf.nest.map_structure(lambda x: np.copyto(x, np.zeros_like(x)), elements)
  # Masked logits are legal.
  elements.behaviour_logits[...] = parts.ILLEGAL
  decoded = codec.pack(codec.decode(codec.encode(elements)))
  np.testing.assert_array_equal(decoded.last_action, elements.last_action)
  if not acting.shape_of(suite.action_space):
    return
  # 3 is an action of the third choice only.
  elements.last_action[1, 4] = [0, 0, 3]
  codec.decode(codec.encode(elements))
  elements.last_action[1, 4] = [3, 0, 0]
  with pytest.raises(wire.Malformed, match=r'last_action\[..., 0\] holds 3, expected 0 to 2'):
    codec.decode(codec.encode(elements))


def test_an_actor_of_dynamic_batching_takes_several_actions(run):
  suite, _, learner, _ = run
  shared = policy.DynamicBatchingPolicy(learner.agent, suite, lambda: 0, N, timeout_ms=5, seed=1)
  decision = shared(policy.example_inputs(suite, N), learner.agent.initial_state(N))
  assert decision.actions.shape == (N, *acting.shape_of(suite.action_space))
  inputs, outputs = policy.central_codecs(suite, learner.agent.initial_state(1))
  fields = outputs.decode(outputs.encode(decision))
  np.testing.assert_array_equal(outputs.pack(fields).actions, decision.actions)
  example = (policy.example_inputs(suite, N), learner.agent.initial_state(N))
  assert len(inputs.decode(inputs.encode(example))) == len(tf.nest.flatten(example))


@pytest.mark.parametrize('deterministic', [False, True])
def test_players_take_the_most_likely_actions_only_if_asked(run, deterministic):
  suite, config, _, _ = run
  agent = system.IMPALA.make_playing_agent(config, suite, 3, deterministic)
  environment = suite.make(suite.tasks * N, False)
  observation, _ = environment.reset(seed=1)
  players = [
    system.IMPALA.make_playing_agent(config, suite, seed, deterministic) for seed in (3, 4, 5)
  ]
  actions = []
  for player in players:
    for variable, value in zip(player.variables, agent.variables, strict=True):
      variable.assign(value)
    act = player.make_player('digits', N)
    actions.append(act(observation, np.zeros(N, np.float32), np.ones(N, bool)))
  same = [np.array_equal(actions[0], other) for other in actions[1:]]
  assert all(same) if deterministic else not any(same)
  if deterministic and suite.is_discrete:
    network = agent.checkpointed.agent
    inputs = policy.example_inputs(suite, N)._replace(
      observation=observation, done=np.ones(N, bool)
    )
    inputs = tf.nest.map_structure(lambda x: tf.constant(x)[tf.newaxis], inputs)
    logits = network.unroll(inputs, network.initial_state(N))[0].policy_logits[0]
    np.testing.assert_array_equal(actions[0], np.argmax(logits, axis=1))


def test_a_plain_policy_has_no_operation_for_masks_vectors_or_choices():
  config = configs.PRESETS.preset('gym')
  cartpole = environments.load(config.env)
  plain = policy.traced_decide(networks.make_agent(config, cartpole), cartpole, 1)
  suite = structured.make_suite(several=True, masked=True)
  full = policy.traced_decide(networks.make_agent(config, suite), suite, 1)

  def kinds(lean):
    return {op.type for op in lean.graph.graph.get_operations()}

  # Masks select, instructions are read once each.
  assert not kinds(plain) & {'SelectV2', 'UniqueV2'}
  assert {'SelectV2', 'UniqueV2'} <= kinds(full)
