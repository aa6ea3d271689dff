"""The agent's size, and that unrolling is stepping."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common.environments import suite as suites
from impala import networks

T, B, A = 7, 3, 9
DMLAB = suites.pixels_and_instruction(72, 96)


def make_inputs(seed: int, done: np.ndarray) -> networks.AgentInput:
  rng = np.random.default_rng(seed)
  instructions = [suites.hash_words(text) for text in ('pick the red ball', '', 'go')]
  words = np.stack([[instructions[rng.integers(3)] for _ in range(B)] for _ in range(T)])
  pixels = rng.integers(0, 256, (T, B, 72, 96, 3), np.uint8)
  return networks.AgentInput(
    {'observation': tf.constant(pixels), 'instruction': tf.constant(words)},
    tf.constant(rng.integers(0, A, (T, B)), tf.int32),
    tf.constant(3 * rng.normal(size=(T, B)), tf.float32),
    tf.constant(done),
  )


def take(inputs: networks.AgentInput, start: int, stop: int) -> networks.AgentInput:
  return tf.nest.map_structure(lambda x: x[start:stop], inputs)


# IMPALA, Figure 3: 1.6 and 1.2 million parameters, on DMLab's inputs with nine actions.
@pytest.mark.parametrize('torso, expected', [('deep', 1_628_010), ('shallow', 1_230_426)])
def test_parameter_counts_are_the_papers(torso, expected):
  agent = networks.Agent(DMLAB, A, torso, lstm=True, feedback=True)
  assert sum(v.shape.num_elements() for v in agent.trainable_variables) == expected


@pytest.mark.parametrize('torso', ['shallow', 'deep'])
@pytest.mark.parametrize('lstm', [False, True])
def test_unroll_equals_stepping_with_ends_at_any_step(torso, lstm):
  agent = networks.Agent(DMLAB, A, torso, lstm, feedback=True)
  done = np.random.default_rng(1).random((T, B)) < 0.4
  inputs = make_inputs(0, done)
  state = agent.initial_state(B)
  whole, last_state = agent.unroll(inputs, state)
  steps = []
  for t in range(T):
    output, state = agent.unroll(take(inputs, t, t + 1), state)
    steps.append(output)
  np.testing.assert_allclose(
    whole.policy_logits, tf.concat([s.policy_logits for s in steps], 0), atol=1e-5
  )
  np.testing.assert_allclose(whole.values, tf.concat([s.values for s in steps], 0), atol=1e-5)
  for a, b in zip(tf.nest.flatten(last_state), tf.nest.flatten(state), strict=True):
    np.testing.assert_allclose(a, b, atol=1e-5)


def test_nothing_before_an_episodes_start_is_remembered():
  agent = networks.Agent(DMLAB, A, 'shallow', lstm=True, feedback=True)
  done = np.zeros((T, B), bool)
  done[4, 1] = True
  inputs = make_inputs(0, done)
  other = make_inputs(5, done)
  # Another past up to step 4, the same present from there on.
  spliced = tf.nest.map_structure(lambda a, b: tf.concat([b[:4], a[4:]], 0), inputs, other)
  outputs = [
    agent.unroll(x, agent.initial_state(B))[0].policy_logits.numpy() for x in (inputs, spliced)
  ]
  np.testing.assert_allclose(outputs[0][4:, 1], outputs[1][4:, 1], atol=1e-6)
  assert (
    np.abs(outputs[0][4:, 0] - outputs[1][4:, 0]).max() > 1e-4
  )  # Column 0 went on: it does remember.


@pytest.mark.parametrize('part', ['observation', 'instruction', 'last_action', 'reward'])
def test_every_input_is_seen(part):
  agent = networks.Agent(DMLAB, A, 'shallow', lstm=True, feedback=True)
  inputs, other = make_inputs(0, np.zeros((T, B), bool)), make_inputs(9, np.zeros((T, B), bool))
  if part in ('observation', 'instruction'):
    changed = inputs._replace(observation={**inputs.observation, part: other.observation[part]})
  else:
    changed = inputs._replace(**{part: getattr(other, part)})
  before, after = (
    agent.unroll(x, agent.initial_state(B))[0].policy_logits for x in (inputs, changed)
  )
  assert np.abs(before - after).max() > 1e-5


def test_the_last_reward_is_clipped_to_one():
  agent = networks.Agent(DMLAB, A, 'shallow', lstm=False, feedback=True)
  inputs = make_inputs(0, np.zeros((T, B), bool))
  large, one = (inputs._replace(reward=tf.fill([T, B], value)) for value in (50.0, 1.0))
  np.testing.assert_array_equal(agent.unroll(large, ())[0].values, agent.unroll(one, ())[0].values)


def test_atari_networks_have_no_core_and_no_feedback():
  space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(0, 255, (84, 84, 4), np.uint8)}
  )
  agent = networks.Agent(space, 6, 'shallow', lstm=False, feedback=False)
  # conv 8x8x4x16, conv 4x4x16x32, 9*9*32 to 256, heads of 6 and 1, with biases.
  expected = (256 * 16 + 16) + (256 * 32 + 32) + (2592 * 256 + 256) + (256 * 7 + 7)
  assert sum(v.shape.num_elements() for v in agent.trainable_variables) == expected
  assert agent.initial_state(3) == ()
