"""Operations are counted as by hand."""

import pytest
import tensorflow as tf

from common import environments, networks, recurrent
from impala import batching, trajectory
from impala import config as configs
from impala import learner as learners
from impala import networks as agents
from scripts import flops


def count(function, *shapes):
  specs = [tf.TensorSpec(shape, tf.float32) for shape in shapes]
  graph = tf.function(function, autograph=False).get_concrete_function(*specs).graph
  return flops.of_graph(graph)


@pytest.mark.parametrize('turned', [False, True])
def test_matrices(turned):
  left = [7, 3] if turned else [3, 7]
  assert count(lambda x, y: tf.matmul(x, y, transpose_a=turned), left, [7, 5]) == 2 * 3 * 7 * 5
  batches = [[4, *left], [4, 7, 5]]
  batched = count(lambda x, y: tf.matmul(x, y, transpose_a=turned), *batches)
  assert batched == 4 * 2 * 3 * 7 * 5


def test_convolutions_and_their_gradients():
  forward = 2 * (2 * 4 * 4 * 6) * (3 * 3 * 5)  # Numbers out, and weights that lead to each.

  def convolve(x, weights):
    return tf.nn.conv2d(x, weights, 2, 'SAME')

  shapes = [2, 8, 8, 5], [3, 3, 5, 6]
  assert count(convolve, *shapes) == forward

  def gradients(x, weights):
    with tf.GradientTape() as tape:
      tape.watch([x, weights])
      loss = tf.reduce_sum(tf.square(convolve(x, weights)))
    return tape.gradient(loss, [x, weights])

  assert count(gradients, *shapes) == 3 * forward


def test_the_shallow_torso():
  torso = networks.ShallowTorso()
  torso(tf.zeros([1, 72, 96, 3]))
  first = 17 * 23 * 16 * (8 * 8 * 3)
  second = 7 * 10 * 32 * (4 * 4 * 16)
  linear = 7 * 10 * 32 * 256
  assert count(torso, [5, 72, 96, 3]) == 5 * 2 * (first + second + linear)


def test_a_fused_lstm_and_its_gradients():
  lstm = recurrent.ResettingLSTM(5, 7)._lstm
  forward = 2 * (3 * 2) * (5 + 7) * (4 * 7)

  def unroll(x):
    return recurrent._unroll_fused(lstm, x)

  def gradients(x):
    with tf.GradientTape() as tape:
      tape.watch(x)
      loss = tf.reduce_sum(unroll(x))
    return tape.gradient(loss, [x, *lstm.trainable_variables])

  assert count(unroll, [3, 2, 5]) == forward
  assert count(gradients, [3, 2, 5]) == 3 * forward


def test_the_instructions_are_left_out_and_loops_refused():
  encoder = recurrent.InstructionEncoder()
  encoder(tf.zeros([1, 4], tf.int32))
  assert count(lambda x: encoder(tf.cast(x, tf.int32)), [9, 4]) == 0
  with pytest.raises(ValueError, match='loop'):
    count(lambda x: tf.while_loop(lambda y: y[0, 0] < 9.0, lambda y: [y @ y], [x]), [2, 2])


def test_an_update_of_a_vector_agent():
  """Forwards, and backwards by inputs and by weights, but for what nothing is learned behind."""
  config = configs.PRESETS.preset('gym')
  config.lstm = False
  config.feedback = False
  suite = environments.load(config.env)
  agent = agents.make_agent(config, suite)
  learner = learners.Learner(config, suite, agent)
  spec = trajectory.specification(suite, config.unroll_length, agent.initial_state(1))
  batch = tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape], s.dtype), spec)
  graph = (
    tf.function(learner.gradients, autograph=False)
    .get_concrete_function(batching.of_unroll(batch))
    .graph
  )
  entries = config.unroll_length + 1
  first, second, heads = 4 * 64, 64 * 64, 64 * 3
  assert flops.of_graph(graph) == 2 * entries * (2 * first + 3 * second + 3 * heads)


def test_the_peak_is_that_of_a_machine():
  assert 1e9 < flops.peak() < 1e13
