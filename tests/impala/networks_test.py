"""The agent's size, its inputs, and that unrolling equals stepping."""

import math

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common import encoder as encoders
from common.environments import suite as suites
from impala import networks

T, B, A = 7, 3, 9
DMLAB = suites.pixels_and_instruction(72, 96)
ACTIONS = gymnasium.spaces.Discrete(A)


def make_agent(torso: str, lstm: bool = True) -> networks.Agent:
  """An agent for DMLab."""
  encoder = encoders.ObservationEncoder(DMLAB, torso)
  return networks.Agent(encoder, ACTIONS, core_size=256 * lstm, feedback=True)


def make_inputs(seed: int, done: np.ndarray) -> networks.AgentInput:
  rng = np.random.default_rng(seed)
  instructions = [suites.hash_words(text) for text in ('pick the red ball', '', 'go')]
  words = np.stack([[instructions[rng.integers(3)] for _ in range(B)] for _ in range(T)])
  pixels = rng.integers(0, 256, (T, B, 72, 96, 3), np.uint8)
  return networks.AgentInput(
    observation={'observation': tf.constant(pixels), 'instruction': tf.constant(words)},
    last_action=tf.constant(rng.integers(0, A, (T, B)), tf.int32),
    reward=tf.constant(3 * rng.normal(size=(T, B)), tf.float32),
    done=tf.constant(done),
  )


def policy_logits(agent: networks.Agent, inputs: networks.AgentInput) -> np.ndarray:
  """The logits `[T, B, A]` of an unroll from the initial state."""
  output, _ = agent.unroll(inputs, agent.initial_state(B))
  return output.policy_logits.numpy()


# IMPALA, Figure 3: 1.6 and 1.2 million parameters, for DMLab's inputs and nine actions.
@pytest.mark.parametrize('torso, expected', [('deep', 1_628_010), ('shallow', 1_230_426)])
def test_parameter_counts_are_the_papers(torso, expected):
  agent = make_agent(torso)
  assert sum(v.shape.num_elements() for v in agent.trainable_variables) == expected


def initial_values(torso: str) -> list[np.ndarray]:
  """The variables of a new agent for DMLab."""
  tf.random.set_seed(1)
  return [variable.numpy() for variable in make_agent(torso).trainable_variables]


def assert_drawn_from(values: np.ndarray, deviation: float, limit: float) -> None:
  """Mean, standard deviation and range are those of a symmetric distribution.

  Five standard errors are allowed; the measured deviation's is at most deviation / sqrt(2 N), that
  of a normal distribution.
  """
  tolerance = 5 * deviation / np.sqrt(values.size)
  assert abs(values.mean()) < tolerance
  assert abs(values.std() - deviation) < tolerance / np.sqrt(2)
  assert np.abs(values).max() <= limit * (1 + 1e-6)


# A normal distribution cut at two standard deviations has this standard deviation:
# 1 - 4 phi(2) / (2 Phi(2) - 1), and its root, where phi is the density and Phi its integral.
CUT = np.sqrt(1 - 4 * np.exp(-2) / np.sqrt(2 * np.pi) / math.erf(np.sqrt(2)))


@pytest.mark.parametrize('torso, layers', [('deep', 18), ('shallow', 5)])
def test_layers_begin_as_in_the_released_code(torso, layers):
  """Sonnet 1.23: a normal distribution cut at two deviations of 1/sqrt(fan-in); no bias."""
  # All but the embedding and what the two LSTMs have.
  others = {(1000, 20), (330, 1024), (256, 1024), (1024,), (20, 256), (64, 256)}
  found = [value for value in initial_values(torso) if value.shape not in others]
  weights = [value for value in found if value.ndim > 1]
  biases = [value for value in found if value.ndim == 1]
  # The instructions' LSTM has a bias of 256, as the linear layer has.
  biases = [value for value in biases if value.shape != (256,) or not value.any()]
  assert len(weights) == len(biases) == layers
  for value in weights:
    stddev = np.prod(value.shape[:-1]) ** -0.5
    assert_drawn_from(value, CUT * stddev, 2 * stddev)
  for value in biases:
    assert not value.any()


def test_the_embedding_begins_as_in_the_released_code():
  """Sonnet 1.23: as a linear layer with an input for each of the 1000 buckets."""
  (embedding,) = [v for v in initial_values('shallow') if v.shape == (1000, 20)]
  stddev = 1000**-0.5
  assert_drawn_from(embedding, CUT * stddev, 2 * stddev)


@pytest.mark.parametrize('inputs, units', [(256 + 1 + A + 64, 256), (20, 64)])
def test_lstms_begin_as_in_the_released_code(inputs, units):
  """TensorFlow 1.9: Glorot's uniform distribution over one matrix for input and state."""
  values = initial_values('shallow')
  (from_input,) = [v for v in values if v.shape == (inputs, 4 * units)]
  (from_state,) = [v for v in values if v.shape == (units, 4 * units)]
  limit = np.sqrt(6 / (inputs + units + 4 * units))
  for value in (from_input, from_state):
    assert_drawn_from(value, limit / np.sqrt(3), limit)
    assert np.abs(value).max() > 0.99 * limit
  forgetting = np.repeat([0, 1, 0, 0], units)
  assert sum(np.array_equal(value, forgetting) for value in values) == 1


@pytest.mark.parametrize('torso', ['shallow', 'deep'])
@pytest.mark.parametrize('lstm', [False, True])
def test_unroll_equals_stepping_with_ends_at_any_step(torso, lstm):
  agent = make_agent(torso, lstm)
  done = np.random.default_rng(1).random((T, B)) < 0.4
  inputs = make_inputs(0, done)
  state = agent.initial_state(B)
  whole, last_state = agent.unroll(inputs, state)
  for t in range(T):
    now = tf.nest.map_structure(lambda x, t=t: x[t], inputs)
    logits, state = agent.step(now, state)
    np.testing.assert_allclose(whole.policy_logits[t], logits, atol=1e-5)
  for a, b in zip(tf.nest.flatten(last_state), tf.nest.flatten(state), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_nothing_before_an_episodes_start_is_remembered():
  agent = make_agent('shallow')
  done = np.zeros((T, B), bool)
  done[4, 1] = True
  inputs = make_inputs(0, done)
  other = make_inputs(5, done)
  # A different past before step 4, the same inputs from there on.
  spliced = tf.nest.map_structure(lambda a, b: tf.concat([b[:4], a[4:]], 0), inputs, other)
  original = policy_logits(agent, inputs)
  changed = policy_logits(agent, spliced)
  np.testing.assert_allclose(original[4:, 1], changed[4:, 1], atol=1e-6)
  # Column 0's episode continued, so it does remember.
  assert np.abs(original[4:, 0] - changed[4:, 0]).max() > 1e-4


@pytest.mark.parametrize('part', ['observation', 'instruction', 'last_action', 'reward'])
def test_every_input_is_seen(part):
  agent = make_agent('shallow')
  inputs = make_inputs(0, np.zeros((T, B), bool))
  other = make_inputs(9, np.zeros((T, B), bool))
  if part in ('observation', 'instruction'):
    changed = inputs._replace(observation={**inputs.observation, part: other.observation[part]})
  else:
    changed = inputs._replace(**{part: getattr(other, part)})
  before = policy_logits(agent, inputs)
  after = policy_logits(agent, changed)
  assert np.abs(before - after).max() > 1e-5


def test_the_last_reward_is_clipped_to_one():
  agent = make_agent('shallow', lstm=False)
  inputs = make_inputs(0, np.zeros((T, B), bool))
  of_fifty, _ = agent.unroll(inputs._replace(reward=tf.fill([T, B], 50.0)), ())
  of_one, _ = agent.unroll(inputs._replace(reward=tf.fill([T, B], 1.0)), ())
  np.testing.assert_array_equal(of_fifty.values, of_one.values)


def test_atari_networks_have_no_core_and_no_feedback():
  frames = gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)
  space = gymnasium.spaces.Dict({'observation': frames})
  encoder = encoders.ObservationEncoder(space, 'shallow')
  agent = networks.Agent(encoder, gymnasium.spaces.Discrete(6), core_size=0, feedback=False)
  # conv 8x8x4x16, conv 4x4x16x32, 9*9*32 to 256, heads of 6 and 1, with biases.
  expected = (256 * 16 + 16) + (256 * 32 + 32) + (2592 * 256 + 256) + (256 * 7 + 7)
  assert sum(v.shape.num_elements() for v in agent.trainable_variables) == expected
  assert agent.initial_state(3) == ()
