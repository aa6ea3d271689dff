"""Recurrent parts against plain loops in NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from common import recurrent

INPUT = 3
HIDDEN = 4
# Float32 sums of a few terms, over at most seven steps, of numbers below 1.
TOLERANCE = dict(rtol=1e-5, atol=1e-6)


def sigmoid(x):
  return 1 / (1 + np.exp(-x))


def lstm_step(x, hidden, cell, weights):
  """One step of one sequence, in float64; Sonnet's order is input, forget, candidate, output."""
  w_input, w_hidden, bias = weights
  i, f, g, o = np.split(x @ w_input + hidden @ w_hidden + bias, 4)
  cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
  return sigmoid(o) * np.tanh(cell), cell


def weights_of(module):
  """Gives an LSTM's weights, biases too, random values; returns them in float64."""
  rng, found = np.random.default_rng(2), {}
  for variable in module.trainable_variables:
    name = variable.name.split(':')[0].split('/')[-1]
    if name in ('w_i', 'w_h', 'b'):
      variable.assign(rng.normal(size=variable.shape) * 0.5)
      found[name] = variable.numpy().astype(np.float64)
  return found['w_i'], found['w_h'], found['b']


def reset_patterns(steps):
  """A column for each: no reset, one at each single step, at every step, and random ones."""
  randoms = np.random.default_rng(1).random((5, steps)) < 0.4
  patterns = [np.zeros((1, steps)), np.eye(steps), np.ones((1, steps)), randoms]
  return np.concatenate(patterns).T.astype(bool)


def problem(steps):
  """A core, inputs `[T, B, D]`, resets `[T, B]`, a non-zero first state, and a loop's outputs."""
  core = recurrent.ResettingLSTM(INPUT, HIDDEN)
  rng = np.random.default_rng(0)
  done = reset_patterns(steps)
  weights = weights_of(core)
  batch = done.shape[1]
  inputs = rng.normal(size=(steps, batch, INPUT)).astype(np.float32)
  state = tf.nest.map_structure(
    lambda x: tf.constant(rng.normal(size=x.shape), tf.float32), core.initial_state(batch)
  )
  outputs, cells = np.zeros((steps, batch, HIDDEN)), np.zeros((steps, batch, HIDDEN))
  for b in range(batch):
    hidden, cell = state.hidden[b].numpy(), state.cell[b].numpy()
    for t in range(steps):
      if done[t, b]:
        hidden, cell = np.zeros(HIDDEN), np.zeros(HIDDEN)
      hidden, cell = lstm_step(inputs[t, b], hidden, cell, weights)
      outputs[t, b], cells[t, b] = hidden, cell
  return core, tf.constant(inputs), tf.constant(done), state, outputs, cells


# Long unrolls are loops in the graph.
@pytest.mark.parametrize('steps, in_graph', [(1, False), (7, False), (7, True), (33, True)])
def test_unroll_is_a_loop_with_resets(steps, in_graph):
  core, inputs, done, state, outputs, cells = problem(steps)
  unroll = tf.function(core.unroll) if in_graph else core.unroll
  actual, last = unroll(inputs, done, state)
  np.testing.assert_allclose(actual, outputs, **TOLERANCE)
  np.testing.assert_allclose(last.hidden, outputs[-1], **TOLERANCE)
  np.testing.assert_allclose(last.cell, cells[-1], **TOLERANCE)


def test_learning_sees_what_acting_saw():
  """Step by step, as actors do, or all steps at once, as the learner does."""
  core, inputs, done, state, *_ = problem(7)
  outputs, last = core.unroll(inputs, done, state)
  for t in range(7):
    output, state = core.step(inputs[t], done[t], state)
    np.testing.assert_allclose(output, outputs[t], **TOLERANCE)
  for at_once, by_step in zip(tf.nest.flatten(last), tf.nest.flatten(state), strict=True):
    np.testing.assert_allclose(by_step, at_once, **TOLERANCE)


def test_gradients_are_those_of_stepping():
  """The unroll has a gradient of its own; that of single steps is TensorFlow's."""
  core, inputs, done, state, *_ = problem(5)
  weights = tf.constant(np.random.default_rng(2).normal(size=(5, inputs.shape[1], HIDDEN)))
  weights = tf.cast(weights, tf.float32)
  sources = [inputs, *tf.nest.flatten(state), *core.trainable_variables]
  found = []
  for by_step in (False, True):
    with tf.GradientTape() as tape:
      tape.watch(sources)
      if by_step:
        last = state
        outputs = []
        for t in range(5):
          output, last = core.step(inputs[t], done[t], last)
          outputs.append(output)
      else:
        outputs, last = core.unroll(inputs, done, state)
      loss = tf.reduce_sum(weights * tf.stack(outputs)) + tf.reduce_sum(last.cell * weights[0])
    found.append(tape.gradient(loss, sources))
  for ours, theirs in zip(*found, strict=True):
    assert np.any(theirs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_the_forget_gate_starts_open():
  """The bias of 1 that Sonnet gives it is where the loop has its forget gate."""
  core = recurrent.ResettingLSTM(INPUT, HIDDEN)
  bias = next(v for v in core.trainable_variables if v.shape.rank == 1)
  np.testing.assert_array_equal(bias, np.repeat([0, 1, 0, 0], HIDDEN))


def test_the_initial_state_is_zero_and_what_a_reset_gives():
  core, inputs, _, state, *_ = problem(1)
  initial = core.initial_state(inputs.shape[1])
  for part in tf.nest.flatten(initial):
    assert part.shape == (inputs.shape[1], HIDDEN) and not np.any(part)
  always, never = tf.ones(inputs.shape[:2], tf.bool), tf.zeros(inputs.shape[:2], tf.bool)
  np.testing.assert_array_equal(
    core.unroll(inputs, always, state)[0], core.unroll(inputs, never, initial)[0]
  )


def test_no_gradient_flows_back_over_a_reset():
  core, inputs, _, state, *_ = problem(4)
  done = np.zeros(inputs.shape[:2], bool)
  done[2] = True
  with tf.GradientTape() as tape:
    tape.watch([inputs, *tf.nest.flatten(state)])
    outputs, _ = core.unroll(inputs, tf.constant(done), state)
    last = tf.reduce_sum(outputs[-1])
  of_inputs, *of_state = tape.gradient(last, [inputs, *tf.nest.flatten(state)])
  assert not np.any(of_inputs[:2]) and not any(np.any(x) for x in of_state)
  assert np.all(np.any(of_inputs[2:] != 0, axis=-1))


BUCKETS = 50
EMBEDDING = 5
WORDS = 6


@pytest.fixture
def encoder():
  return recurrent.InstructionEncoder(BUCKETS, EMBEDDING, HIDDEN)


def padded(*instructions):
  return np.array([[*words, *[-1] * (WORDS - len(words))] for words in instructions], np.int32)


def embeddings_of(encoder):
  return next(v for v in encoder.trainable_variables if v.shape == (BUCKETS, EMBEDDING))


def in_graph_or_not(encoder, in_graph):
  if not in_graph:
    return encoder
  return tf.function(encoder, input_signature=[tf.TensorSpec([None, WORDS], tf.int32)])


def encoded_by_hand(encoder, words):
  weights = weights_of(encoder)
  embeddings = embeddings_of(encoder).numpy()
  outputs = []
  for instruction in words:
    hidden, cell = np.zeros(HIDDEN), np.zeros(HIDDEN)
    for word in instruction[instruction >= 0]:
      hidden, cell = lstm_step(embeddings[word], hidden, cell, weights)
    outputs.append(hidden)
  return np.array(outputs)


MIXED = padded([3, 1, 4], [], [7], [3, 1, 4], [0, 0], [1, 2, 3, 4, 5, 49], [4, 1, 3], [])


@pytest.mark.parametrize('in_graph', [False, True])
def test_instructions_are_read_word_by_word(encoder, in_graph):
  expected = encoded_by_hand(encoder, MIXED)
  encode = in_graph_or_not(encoder, in_graph)
  np.testing.assert_allclose(encode(tf.constant(MIXED)), expected, **TOLERANCE)


def test_no_words_give_zeros(encoder):
  weights_of(encoder)  # Gives it a bias, so that a word read by mistake would show.
  encoded = encoder(tf.constant(padded([2], [], [3])))
  np.testing.assert_array_equal(encoded[1], np.zeros(HIDDEN))
  assert np.all(np.any(encoded.numpy()[[0, 2]] != 0, axis=1))


@pytest.mark.parametrize('in_graph', [False, True])
def test_no_words_in_the_whole_batch(encoder, in_graph):
  encode = in_graph_or_not(encoder, in_graph)
  np.testing.assert_array_equal(encode(tf.constant(padded([], [], []))), np.zeros((3, HIDDEN)))


def test_rows_that_repeat_are_equal(encoder):
  encoded = encoder(tf.constant(padded([3, 1], [2], [3, 1], [3, 1]))).numpy()
  np.testing.assert_array_equal(encoded[[2, 3]], encoded[[0, 0]])
  assert np.any(encoded[1] != encoded[0])


def test_the_order_of_words_matters(encoder):
  first, second = encoder(tf.constant(padded([3, 1, 4], [4, 1, 3]))).numpy()
  assert np.any(np.abs(first - second) > 1e-4)


def test_the_order_of_the_batch_does_not_matter(encoder):
  order = np.random.default_rng(0).permutation(len(MIXED))
  np.testing.assert_allclose(
    encoder(tf.constant(MIXED[order])), encoder(tf.constant(MIXED)).numpy()[order], **TOLERANCE
  )


def test_neighbours_do_not_matter(encoder):
  """A longer instruction in the batch does not lengthen the others."""
  together = encoder(tf.constant(MIXED)).numpy()
  for i in (0, 2, 5):
    np.testing.assert_allclose(encoder(tf.constant(MIXED[i : i + 1]))[0], together[i], **TOLERANCE)


def test_each_occurrence_of_an_instruction_adds_to_the_gradient(encoder):
  """Each different one is read once, but weighs as often as it occurs."""

  def gradients(words):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(encoder(tf.constant(words)))
    return [
      tf.convert_to_tensor(g).numpy() for g in tape.gradient(loss, encoder.trainable_variables)
    ]

  once = gradients(padded([3, 1], [2]))
  three_times = gradients(padded([3, 1], [2], [3, 1], [2], [2], [3, 1]))
  for single, triple in zip(once, three_times, strict=True):
    np.testing.assert_allclose(triple, 3 * single, **TOLERANCE)


def test_padding_learns_nothing(encoder):
  """The embedding of bucket 0, which stands in for padding, gets no gradient from it."""
  with tf.GradientTape() as tape:
    loss = tf.reduce_sum(encoder(tf.constant(padded([3, 1, 4], [7]))))
  gradient = tf.convert_to_tensor(tape.gradient(loss, embeddings_of(encoder))).numpy()
  touched = np.flatnonzero(np.any(gradient != 0, axis=1))
  assert touched.tolist() == [1, 3, 4, 7]


def test_gradients_are_those_of_a_loop_over_words(encoder):
  words = padded([3, 1, 4], [7], [2, 2])
  lengths = [3, 1, 2]

  def read_in_a_loop():
    table = embeddings_of(encoder)
    rows = []
    for instruction, length in zip(words, lengths, strict=True):
      state = encoder._lstm.initial_state(1)
      for word in instruction[:length]:
        output, state = encoder._lstm(tf.gather(table, [int(word)]), state)
      rows.append(output)
    return tf.concat(rows, axis=0)

  weights = tf.constant(np.random.default_rng(3).normal(size=(3, HIDDEN)), tf.float32)
  found = []
  for read in (lambda: encoder(tf.constant(words)), read_in_a_loop):
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(weights * read())
    gradients = tape.gradient(loss, encoder.trainable_variables)
    found.append([tf.convert_to_tensor(g).numpy() for g in gradients])
  for ours, theirs in zip(*found, strict=True):
    assert np.any(theirs)
    np.testing.assert_allclose(ours, theirs, **TOLERANCE)
