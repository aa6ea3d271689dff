"""Double Q-learning and dueling networks against NumPy in float64, and finite differences."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import dqn
from common import encoder as encoders
from common.environments import suite as suites
from common.replay import structures

INPUT = 3
HIDDEN = 8
ACTIONS = 4
BATCH = 6
# Float32 sums of up to 64 terms of order one, in three layers, against float64.
FORWARD = dict(rtol=1e-5, atol=2e-6)


def make_network(seed=0, observation=INPUT):
  """A network for vectors; all its parameters, biases too, are random."""
  space = gymnasium.spaces.Box(-np.inf, np.inf, (observation,), np.float32)
  encoder = encoders.ObservationEncoder(gymnasium.spaces.Dict({'observation': space}), 'vector')
  network = dqn.DuelingNetwork(encoder, ACTIONS, HIDDEN)
  rng = np.random.default_rng(seed)
  for variable in network.trainable_variables:
    scale = 1.0 / np.sqrt(variable.shape[0] if variable.shape.rank == 2 else 4.0)
    variable.assign(rng.normal(size=variable.shape, scale=scale))
  return network


def is_of_torso(variable):
  return 'torso' in variable.name


class Replica:
  """The network by its formulas, in float64.

  Two layers of tanh, two streams with a layer of ReLU each, and equation 9 of Wang et al. (2016).
  """

  def __init__(self, network):
    parts = network._encoder, network._value, network._advantage
    self._parts = [[self._weights(part, layer) for layer in range(2)] for part in parts]

  @staticmethod
  def _weights(part, layer):
    variables = {
      v.name.split(':')[0].split('/')[-2][-1] + v.name.split(':')[0][-1]: v
      for v in part.trainable_variables
    }
    return [variables[f'{layer}{kind}'].numpy().astype(np.float64) for kind in 'wb']

  @property
  def weights(self):
    """All arrays, which may be changed in place, in the order of `in_order`."""
    return [array for part in self._parts for layer in part for array in layer]

  def streams(self, x):
    torso, value, advantage = self._parts
    for w, b in torso:
      x = np.tanh(x @ w + b)
    outputs = []
    for (w0, b0), (w1, b1) in (value, advantage):
      outputs.append(np.maximum(x @ w0 + b0, 0.0) @ w1 + b1)
    return outputs

  def __call__(self, x):
    value, advantage = self.streams(x)
    q = np.zeros_like(advantage)
    for k, a in np.ndindex(*q.shape):
      q[k, a] = value[k, 0] + advantage[k, a] - sum(advantage[k]) / ACTIONS
    return q


def in_order(network):
  """The network's variables: torso, value, advantage; layer by layer; weights, then biases."""

  def layer_and_kind(variable):
    return variable.name.split('/')[-2], 'wb'.index(variable.name.split(':')[0][-1])

  ordered = []
  for part in (network._encoder, network._value, network._advantage):
    ordered += sorted(part.trainable_variables, key=layer_and_kind)
  return ordered


def seen(x):
  """Observations that have one part."""
  return {'observation': tf.constant(x)}


def vectors(count=BATCH, seed=1):
  return np.random.default_rng(seed).normal(size=(count, INPUT)).astype(np.float32)


def make_sample(seed=2, discount=None):
  """A sample of vectors; in two of its transitions the episode ends."""
  rng = np.random.default_rng(seed)
  indices = tf.range(BATCH, dtype=tf.int64)
  starts = tf.zeros([BATCH, 1], tf.bool)
  discounts = [0.97, 0.0, 0.9, 0.97, 0.0, 0.5] if discount is None else [discount] * BATCH

  def number(*shape):
    return tf.constant(rng.normal(size=shape), tf.float32)

  return structures.Sample(
    leaf=indices,
    stamp=indices,
    observation=seen(number(BATCH, 1, INPUT)),
    frame_start=starts,
    action=tf.constant(rng.integers(ACTIONS, size=BATCH), tf.int32),
    n_step_return=number(BATCH),
    discount=tf.constant(discounts),
    next_observation=seen(number(BATCH, 1, INPUT)),
    next_frame_start=starts,
    weight=tf.constant(rng.uniform(0.1, 1.0, BATCH), tf.float32),
    priority=tf.ones([BATCH]),
    age=indices,
  )


def targets_by_hand(sample, next_q, next_target_q):
  """G_t = R + gamma^n q(S_{t+n}, argmax_a q(S_{t+n}, a, theta), theta^-), sample by sample."""
  targets = np.zeros(len(next_q))
  for k, (online, older) in enumerate(zip(next_q, next_target_q, strict=True)):
    best = max(range(len(online)), key=online.__getitem__)
    targets[k] = float(sample.n_step_return[k]) + float(sample.discount[k]) * float(older[best])
  return targets


class TestDoubleQTargets:
  def test_the_network_chooses_and_the_target_network_values(self):
    target = dqn.double_q_targets(
      tf.constant([1.0, 1.0]),
      tf.constant([0.5, 0.0]),
      tf.constant([[3.0, 5.0, 4.0]] * 2),
      tf.constant([[70.0, 20.0, 90.0]] * 2),
    )
    np.testing.assert_array_equal(target, [11.0, 1.0])

  def test_equal_the_formula_sample_by_sample(self):
    sample, rng = make_sample(), np.random.default_rng(3)
    next_q, next_target_q = rng.normal(size=(2, BATCH, ACTIONS)).astype(np.float32)
    targets = dqn.double_q_targets(sample.n_step_return, sample.discount, next_q, next_target_q)
    assert targets.dtype == tf.float32 and targets.shape == [BATCH]
    np.testing.assert_allclose(
      targets, targets_by_hand(sample, next_q, next_target_q), rtol=1e-6, atol=1e-6
    )
    # Neither the target network's own best action nor the network's own value would do.
    alone = [targets_by_hand(sample, q, q) for q in (next_q, next_target_q)]
    assert all(np.any(np.abs(targets - other) > 0.1) for other in alone)

  def test_carry_no_gradient(self):
    sample = make_sample()
    inputs = [
      sample.n_step_return,
      sample.discount,
      *tf.random.stateless_normal([2, BATCH, ACTIONS], [1, 2]),
    ]
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      total = tf.reduce_sum(dqn.double_q_targets(*inputs))
    assert tape.gradient(total, inputs) == [None] * 4

  def test_without_discount_the_next_q_values_do_not_matter(self):
    returns = tf.constant([0.25, -3.0])
    garbage = tf.constant([[1e30, -1e30, 0.0], [-1e30, 1e30, 1e-30]])
    targets = dqn.double_q_targets(returns, tf.zeros(2), garbage, -garbage)
    np.testing.assert_array_equal(targets, returns)

  @pytest.mark.parametrize('argument', range(4))
  def test_arguments_of_another_rank_or_dtype_are_refused(self, argument):
    # A column of returns beside a row of values would otherwise become a matrix of targets.
    vector, matrix = tf.zeros([BATCH]), tf.zeros([BATCH, ACTIONS])
    arguments = [vector, vector, matrix, matrix]
    given = arguments[argument]
    with pytest.raises(ValueError):
      dqn.double_q_targets(*_replaced(arguments, argument, given[..., tf.newaxis]))
    with pytest.raises(TypeError):
      dqn.double_q_targets(*_replaced(arguments, argument, tf.cast(given, tf.float64)))


def _replaced(arguments, index, value):
  return [*arguments[:index], value, *arguments[index + 1 :]]


class TestTdLosses:
  def test_are_half_the_squared_error_also_of_large_errors(self):
    q = tf.constant([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    td = dqn.td_losses(q, tf.constant([1, 0, 1]), tf.constant([3.0, 2.0, 106.0]))
    np.testing.assert_array_equal(td.q_values, [2.0, 3.0, 6.0])
    np.testing.assert_array_equal(td.td_errors, [1.0, -1.0, 100.0])
    np.testing.assert_array_equal(td.losses, [0.5, 0.5, 5000.0])

  def test_the_gradient_of_the_weighted_mean_is_of_the_taken_q_values_alone(self):
    rng, sample = np.random.default_rng(4), make_sample()
    q = tf.constant(rng.normal(size=(BATCH, ACTIONS)), tf.float32)
    target = tf.constant(rng.normal(size=BATCH), tf.float32)
    with tf.GradientTape() as tape:
      tape.watch(q)
      loss = tf.reduce_mean(sample.weight * dqn.td_losses(q, sample.action, target).losses)
    expected = np.zeros((BATCH, ACTIONS))
    for k, action in enumerate(sample.action.numpy()):
      error = float(q[k, action]) - float(target[k])
      expected[k, action] = float(sample.weight[k]) * error / BATCH
    np.testing.assert_allclose(tape.gradient(loss, q), expected, rtol=1e-6, atol=1e-7)

  @pytest.mark.parametrize('argument', range(3))
  def test_arguments_of_another_rank_or_dtype_are_refused(self, argument):
    arguments = [tf.zeros([BATCH, ACTIONS]), tf.zeros([BATCH], tf.int32), tf.zeros([BATCH])]
    given = arguments[argument]
    with pytest.raises(ValueError):
      dqn.td_losses(*_replaced(arguments, argument, given[..., tf.newaxis]))
    with pytest.raises(TypeError):
      dqn.td_losses(*_replaced(arguments, argument, tf.cast(given, tf.float64)))


class TestDuelingNetwork:
  def test_equals_its_formulas(self):
    network, x = make_network(), vectors()
    q = network(seen(x))
    assert q.dtype == tf.float32 and q.shape == [BATCH, ACTIONS]
    np.testing.assert_allclose(q, Replica(network)(x.astype(np.float64)), **FORWARD)

  def test_the_mean_over_actions_is_the_value(self):
    network, x = make_network(), vectors()
    value, _ = Replica(network).streams(x.astype(np.float64))
    np.testing.assert_allclose(tf.reduce_mean(network(seen(x)), axis=1), value[:, 0], **FORWARD)

  def test_the_best_action_is_the_advantages(self):
    network, x = make_network(), vectors(200)
    _, advantage = Replica(network).streams(x.astype(np.float64))
    np.testing.assert_array_equal(tf.argmax(network(seen(x)), axis=1), advantage.argmax(axis=1))
    assert len(set(advantage.argmax(axis=1))) > 1

  def test_a_constant_added_to_all_advantages_changes_nothing(self):
    network, x = make_network(), vectors()
    before = network(seen(x))
    biases = [v for v in network._advantage.trainable_variables if v.shape == [ACTIONS]]
    assert len(biases) == 1
    biases[0].assign_add(tf.fill([ACTIONS], 3.0))
    np.testing.assert_allclose(network(seen(x)), before, **FORWARD)
    biases[0].assign_add([1.0, 0.0, 0.0, 0.0])  # To one of them: it does.
    np.testing.assert_allclose(
      network(seen(x)) - before, [[0.75, -0.25, -0.25, -0.25]] * BATCH, rtol=1e-5, atol=4e-6
    )

  def test_a_constant_added_to_the_value_is_added_to_all_q_values(self):
    network, x = make_network(), vectors()
    before = network(seen(x))
    biases = [v for v in network._value.trainable_variables if v.shape == [1]]
    biases[0].assign_add([3.0])
    np.testing.assert_allclose(network(seen(x)) - before, np.full((BATCH, ACTIONS), 3.0), rtol=1e-5)

  def test_all_variables_exist_once_it_is_constructed(self):
    network = make_network()
    torso = [(INPUT, 64), (64, 64)]
    streams = [(64, HIDDEN), (HIDDEN, 1), (64, HIDDEN), (HIDDEN, ACTIONS)]
    expected = sum(a * b + b for a, b in torso + streams)
    assert sum(v.shape.num_elements() for v in network.trainable_variables) == expected
    count = len(network.variables)
    network(seen(vectors()))
    assert len(network.variables) == count

  def test_the_gradient_into_the_torso_is_scaled_and_that_of_the_streams_is_not(self):
    # By 1 / sqrt(2), as there are two streams; compared with the same parts joined without scaling.
    network, x = make_network(), vectors()
    weights = tf.constant(np.random.default_rng(5).normal(size=(BATCH, ACTIONS)), tf.float32)
    variables, q_values, gradients = network.trainable_variables, [], []
    for scaled in (True, False):
      with tf.GradientTape() as tape:
        if scaled:
          q = network(seen(x))
        else:
          features = network._encoder(seen(x))
          advantage = network._advantage(features)
          mean = tf.reduce_mean(advantage, axis=1, keepdims=True)
          q = network._value(features) + advantage - mean
        total = tf.reduce_sum(weights * q)
      gradients.append(tape.gradient(total, variables))
      q_values.append(q)
    np.testing.assert_array_equal(*q_values)
    scales = {True: np.sqrt(0.5), False: 1.0}
    for variable, gradient, unscaled in zip(variables, *gradients, strict=True):
      assert np.any(unscaled.numpy() != 0.0)
      np.testing.assert_allclose(
        gradient, scales[is_of_torso(variable)] * unscaled, rtol=1e-5, atol=1e-6
      )
    assert sum(map(is_of_torso, variables)) == 4 and len(variables) == 12


class TestEvaluateSample:
  def test_targets_and_errors_are_the_formulas(self):
    network, target_network, sample = make_network(0), make_network(1), make_sample()
    replica, older = Replica(network), Replica(target_network)
    next_x = sample.next_observation['observation'][:, 0].numpy().astype(np.float64)
    targets = targets_by_hand(sample, replica(next_x), older(next_x))
    q = replica(sample.observation['observation'][:, 0].numpy().astype(np.float64))
    taken = np.array([q[k, action] for k, action in enumerate(sample.action.numpy())])
    evaluated = dqn.evaluate_sample(network, target_network, sample)
    np.testing.assert_allclose(evaluated.q_values, taken, **FORWARD)
    np.testing.assert_allclose(evaluated.td_errors, targets - taken, **FORWARD)
    np.testing.assert_allclose(evaluated.losses, 0.5 * (targets - taken) ** 2, rtol=2e-5, atol=2e-6)

  @pytest.mark.parametrize('same', [False, True], ids=['another_target', 'itself_as_target'])
  def test_the_gradient_is_that_of_finite_differences(self, same):
    # Of the weighted mean, with targets held fixed: they carry no gradient even where the network
    # is its own target. What reaches the torso is 1 / sqrt(2) of the loss's gradient.
    network, sample = make_network(0), make_sample()
    target_network = network if same else make_network(1)
    variables = in_order(network)
    with tf.GradientTape() as tape:
      losses = dqn.evaluate_sample(network, target_network, sample).losses
      loss = tf.reduce_mean(sample.weight * losses)
    gradients = tape.gradient(loss, variables)

    replica = Replica(network)
    next_x = sample.next_observation['observation'][:, 0].numpy().astype(np.float64)
    targets = targets_by_hand(sample, replica(next_x), Replica(target_network)(next_x))
    x, action = (
      sample.observation['observation'][:, 0].numpy().astype(np.float64),
      sample.action.numpy(),
    )
    weight = sample.weight.numpy().astype(np.float64)

    def loss_by_hand():
      return np.mean(weight * 0.5 * (targets - replica(x)[np.arange(BATCH), action]) ** 2)

    np.testing.assert_allclose(loss, loss_by_hand(), rtol=1e-5)
    step, rng, checked = 1e-5, np.random.default_rng(6), 0
    for variable, gradient, array in zip(variables, gradients, replica.weights, strict=True):
      scale = np.sqrt(0.5) if is_of_torso(variable) else 1.0
      for index in rng.permutation(list(np.ndindex(*array.shape)))[:40]:
        at, kept = tuple(index), array[tuple(index)]
        array[at] = kept + step
        above = loss_by_hand()
        array[at] = kept - step
        difference = (above - loss_by_hand()) / (2 * step)
        array[at] = kept
        np.testing.assert_allclose(gradient.numpy()[at], scale * difference, rtol=1e-4, atol=2e-6)
        checked += abs(difference) > 1e-3
    assert checked > 100

  def test_the_target_network_gets_no_gradient(self):
    network, target_network, sample = make_network(0), make_network(1), make_sample()
    with tf.GradientTape() as tape:
      loss = tf.reduce_mean(dqn.evaluate_sample(network, target_network, sample).losses)
    gradients = tape.gradient(loss, target_network.trainable_variables)
    assert all(gradient is None for gradient in gradients)

  def test_after_an_episodes_end_next_observations_do_not_matter(self):
    network, target_network = make_network(0), make_network(1)
    outputs = []
    for scale in (1.0, -1e6):
      sample = make_sample(discount=0.0)
      sample = sample._replace(
        next_observation=seen(scale * sample.next_observation['observation']),
        next_frame_start=tf.fill([BATCH, 1], scale < 0.0),
      )
      variables = network.trainable_variables
      with tf.GradientTape() as tape:
        evaluated = dqn.evaluate_sample(network, target_network, sample)
        loss = tf.reduce_mean(evaluated.losses)
      outputs.append([*evaluated, *tape.gradient(loss, variables)])
    for one, other in zip(*outputs, strict=True):
      np.testing.assert_array_equal(one, other)
    taken = tf.gather(
      network(seen(sample.observation['observation'][:, 0])), sample.action, batch_dims=1
    )
    np.testing.assert_allclose(outputs[0][1], sample.n_step_return - taken, **FORWARD)

  def test_stacks_of_both_ends_are_rebuilt_and_read(self):
    # As if the network were given stacks built by hand.
    suite = image_suite()
    config = configs.Config(torso='shallow', hidden_size=HIDDEN)
    network, target_network = (dqn.make_networks(config, suite) for _ in range(2))
    sample, rng = make_sample(), np.random.default_rng(7)
    frames, later = rng.integers(256, size=(2, BATCH, 4, 36, 36), dtype=np.uint8)
    starts, later_starts = rng.random((2, BATCH, 4)) < 0.3
    sample = sample._replace(
      observation=seen(frames),
      frame_start=tf.constant(starts),
      next_observation=seen(later),
      next_frame_start=tf.constant(later_starts),
    )
    evaluated = dqn.evaluate_sample(network, target_network, sample)
    now, after = stacks_by_hand(frames, starts), stacks_by_hand(later, later_starts)
    targets = targets_by_hand(
      sample, network(seen(after)).numpy(), target_network(seen(after)).numpy()
    )
    taken = network(seen(now)).numpy()[np.arange(BATCH), sample.action]
    np.testing.assert_allclose(evaluated.q_values, taken, **FORWARD)
    np.testing.assert_allclose(evaluated.td_errors, targets - taken, **FORWARD)


class TestMasks:
  """Networks of vectors with masks of actions beside them."""

  def make(self, seed):
    box = gymnasium.spaces.Box(-np.inf, np.inf, (INPUT,), np.float32)
    mask = gymnasium.spaces.Box(0, 1, (ACTIONS,), np.uint8)
    space = gymnasium.spaces.Dict({'observation': box, 'action_mask': mask})
    network = dqn.DuelingNetwork(encoders.ObservationEncoder(space, 'vector'), ACTIONS, HIDDEN)
    rng = np.random.default_rng(seed)
    for variable in network.trainable_variables:
      variable.assign(rng.normal(size=variable.shape))
    return network

  def masked_sample(self):
    """A sample in which the action taken was legal, and some of the next ones are."""
    sample, rng = make_sample(discount=0.9), np.random.default_rng(5)
    now, later = (rng.random((2, BATCH, 1, ACTIONS)) < 0.5).astype(np.uint8)
    now[np.arange(BATCH), 0, sample.action] = 1
    later[np.arange(BATCH), 0, rng.integers(ACTIONS, size=BATCH)] = 1
    return sample._replace(
      observation={**sample.observation, 'action_mask': tf.constant(now)},
      next_observation={**sample.next_observation, 'action_mask': tf.constant(later)},
    )

  def test_targets_are_of_the_best_legal_action_of_the_next_state(self):
    network, target_network, sample = self.make(0), self.make(1), self.masked_sample()
    next_x = sample.next_observation['observation'][:, 0].numpy().astype(np.float64)
    legal = sample.next_observation['action_mask'][:, 0].numpy() > 0
    next_q, next_target_q = Replica(network)(next_x), Replica(target_network)(next_x)
    best = [max(np.flatnonzero(legal[k]), key=next_q[k].__getitem__) for k in range(BATCH)]
    targets = sample.n_step_return + 0.9 * next_target_q[np.arange(BATCH), best]
    q = Replica(network)(sample.observation['observation'][:, 0].numpy().astype(np.float64))
    taken = q[np.arange(BATCH), sample.action]
    evaluated = dqn.evaluate_sample(network, target_network, sample)
    np.testing.assert_allclose(evaluated.q_values, taken, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(evaluated.td_errors, targets - taken, rtol=1e-4, atol=1e-4)
    # Masks matter: the best action of all is illegal in some of the next states.
    assert np.any(next_q.argmax(axis=1) != best)

  def test_illegal_actions_have_no_gradient(self):
    network, sample = self.make(0), self.masked_sample()
    observation = {name: part[:, 0] for name, part in sample.observation.items()}
    is_illegal = observation['action_mask'] == 0
    with tf.GradientTape() as tape:
      total = tf.reduce_sum(tf.boolean_mask(network(observation), is_illegal))
    gradients = tape.gradient(total, network.trainable_variables)
    assert all(gradient is None or not np.any(gradient) for gradient in gradients)


def image_suite():
  space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(0, 255, (4, 36, 36), np.uint8)}
  )
  return suites.Suite(
    'tiny', ('tiny',), space, gymnasium.spaces.Discrete(ACTIONS), 4, make=None, frame_stack=4
  )


def stacks_by_hand(frames, starts):
  """Frames `[K, 4, H, W]`, the newest last, as channels; zero where from before a game's start."""
  result = np.zeros((*frames.shape[:1], *frames.shape[2:], 4), np.uint8)
  for k in range(len(frames)):
    for slot in reversed(range(4)):
      result[k, ..., slot] = frames[k, slot]
      if starts[k, slot]:
        break
  return result


def test_observations_of_single_entries_are_taken_as_they_are():
  x = vectors()
  observation = agents.network_observation(
    seen(x[:, np.newaxis]), tf.constant([[True], [False]] * 3)
  )
  np.testing.assert_array_equal(observation['observation'], x)


def test_observations_of_frames_are_stacks_that_begin_with_their_game():
  # All 16 patterns of starts.
  starts = np.array(list(np.ndindex(2, 2, 2, 2)), bool)
  frames = np.random.default_rng(8).integers(1, 256, size=(16, 4, 5, 3), dtype=np.uint8)
  observation = agents.network_observation(seen(frames), tf.constant(starts))['observation']
  assert observation.dtype == tf.uint8
  np.testing.assert_array_equal(observation, stacks_by_hand(frames, starts))


def test_networks_of_stacked_frames_read_them_as_channels():
  network = dqn.make_networks(configs.Config(torso='shallow', hidden_size=HIDDEN), image_suite())
  assert network(seen(tf.zeros([2, 36, 36, 4], tf.uint8))).shape == [2, ACTIONS]
  kernels = [v.shape for v in network.trainable_variables if v.shape.rank == 4]
  assert kernels == [[8, 8, 4, 16], [4, 4, 16, 32]]


def test_the_papers_network_has_the_papers_size():
  # Three convolutions on 84x84x4 and two streams of 512 (Wang et al. 2016).
  space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(0, 255, (4, 84, 84), np.uint8)}
  )
  suite = suites.Suite(
    'game', ('game',), space, gymnasium.spaces.Discrete(18), 4, make=None, frame_stack=4
  )
  convolutions = (8 * 8 * 4 + 1) * 32 + (4 * 4 * 32 + 1) * 64 + (3 * 3 * 64 + 1) * 64
  streams = 2 * (7 * 7 * 64 + 1) * 512 + (512 + 1) * (1 + 18)
  network = dqn.make_networks(configs.Config(), suite)
  assert sum(v.shape.num_elements() for v in network.trainable_variables) == convolutions + streams
