"""Recurrent network parts shared by both systems: an LSTM with resets, an encoder of instructions.

Initial weights are those of IMPALA's released code, on Sonnet 1.23 and TensorFlow 1.9, where they
differ from Sonnet 2's defaults.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import sonnet as snt
import tensorflow as tf


def _lstm(input_size: int, hidden_size: int) -> snt.LSTM:
  """An LSTM with all of its variables, initialized as TensorFlow 1's LSTMBlockCell.

  The input's and the state's weights are one matrix there, `[input_size + hidden_size, 4 H]`, drawn
  from Glorot's uniform distribution; the forget gate's bias is 1, others 0.
  """
  limit = math.sqrt(6 / (input_size + hidden_size + 4 * hidden_size))
  uniform = snt.initializers.RandomUniform(-limit, limit)
  lstm = snt.LSTM(hidden_size, w_i_init=uniform, w_h_init=uniform)
  # Sonnet creates variables in the first call.
  lstm(tf.zeros([1, input_size]), lstm.initial_state(1))
  return lstm


# Longer unrolls are loops in the graph: TensorFlow takes ten seconds to optimise 100 steps in a
# row, and gains little.
_MOST_STEPS = 32


class ResettingLSTM(snt.Module):
  """An LSTM core whose state is zero at the start of every episode."""

  def __init__(self, input_size: int, hidden_size: int):
    super().__init__(name='resetting_lstm')
    self._lstm = _lstm(input_size, hidden_size)

  def initial_state(self, batch_size: int) -> snt.LSTMState:
    """A core state of zeros, `[batch_size, H]` each."""
    return self._lstm.initial_state(batch_size)

  def unroll(
    self, inputs: tf.Tensor, done: tf.Tensor, state: snt.LSTMState
  ) -> tuple[tf.Tensor, snt.LSTMState]:
    """Unrolls the core over time.

    Args:
      inputs: float32 `[T, B, D]`.
      done: bool `[T, B]`, true where the input is the first of an episode.
      state: The core state before the first step, `[B, H]` each.

    Returns:
      The outputs float32 `[T, B, H]`, and the core state after the last step.
    """
    # The inputs' share of the gates is one large product over all steps, [T, B, 4 H]; only the
    # recurrent share is left for the loop.
    gates = tf.tensordot(inputs, self._lstm.input_to_hidden, 1) + self._lstm.b
    keep = tf.cast(tf.logical_not(done), tf.float32)[..., tf.newaxis]  # [T, B, 1]

    weights = tf.convert_to_tensor(self._lstm.hidden_to_hidden)
    if inputs.shape[0] <= _MOST_STEPS:
      outputs, cell = _recur(gates, keep, state.hidden, state.cell, weights)
      return outputs, snt.LSTMState(hidden=outputs[-1], cell=cell)

    def step(state: snt.LSTMState, inputs: tuple[tf.Tensor, tf.Tensor]) -> snt.LSTMState:
      gates, keep = inputs
      after = _lstm_step(gates, keep, state.hidden, state.cell, weights)
      return snt.LSTMState(hidden=after.hidden, cell=after.cell)

    states = tf.scan(step, (gates, keep), initializer=state)
    return states.hidden, tf.nest.map_structure(lambda x: x[-1], states)

  def step(
    self, inputs: tf.Tensor, done: tf.Tensor, state: snt.LSTMState
  ) -> tuple[tf.Tensor, snt.LSTMState]:
    """One step, as `unroll` without the time axis: inputs `[B, D]` to outputs `[B, H]`."""
    gates = tf.matmul(inputs, self._lstm.input_to_hidden) + self._lstm.b
    keep = tf.cast(tf.logical_not(done), tf.float32)[..., tf.newaxis]  # [B, 1]
    step = _lstm_step(gates, keep, state.hidden, state.cell, self._lstm.hidden_to_hidden)
    return step.hidden, snt.LSTMState(hidden=step.hidden, cell=step.cell)


class _Step(NamedTuple):
  """One step of an LSTM, `[B, H]` each: what it began with, its gates, and what came out."""

  hidden_before: tf.Tensor
  cell_before: tf.Tensor
  i: tf.Tensor
  f: tf.Tensor
  g: tf.Tensor
  o: tf.Tensor
  cell: tf.Tensor
  tanh_cell: tf.Tensor
  hidden: tf.Tensor


def _lstm_step(
  gates: tf.Tensor, keep: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, weights: tf.Tensor
) -> _Step:
  """A step from the inputs' share of the gates `[B, 4 H]`; the state is reset where `keep` is 0."""
  hidden *= keep
  cell *= keep
  i, f, g, o = tf.split(gates + tf.matmul(hidden, weights), 4, axis=1)
  i, f, g, o = tf.sigmoid(i), tf.sigmoid(f), tf.tanh(g), tf.sigmoid(o)
  new_cell = f * cell + i * g
  tanh_cell = tf.tanh(new_cell)
  return _Step(hidden, cell, i, f, g, o, new_cell, tanh_cell, o * tanh_cell)


@tf.custom_gradient
def _recur(
  gates: tf.Tensor, keep: tf.Tensor, hidden: tf.Tensor, cell: tf.Tensor, weights: tf.Tensor
) -> Any:
  """The recurrent part of an LSTM over T steps.

  The graph has T steps and not a loop, whose bookkeeping takes longer than a small step. The
  weights' gradient is one product over all steps.

  Args:
    gates: float32 `[T, B, 4 H]`, the inputs' share of the gates.
    keep: float32 `[T, B, 1]`, 0 where the state is reset, otherwise 1.
    hidden: float32 `[B, H]`, before the first step.
    cell: float32 `[B, H]`, before the first step.
    weights: float32 `[H, 4 H]`.

  Returns:
    The outputs `[T, B, H]` and the last cell; and what gives the arguments' gradients.
  """
  keeps = tf.unstack(keep)
  steps = []
  for gates_t, keep_t in zip(tf.unstack(gates), keeps, strict=True):
    steps.append(_lstm_step(gates_t, keep_t, hidden, cell, weights))
    hidden, cell = steps[-1].hidden, steps[-1].cell

  def gradient(d_outputs: tf.Tensor, d_cell: tf.Tensor) -> list[tf.Tensor | None]:
    d_hidden = tf.zeros_like(d_cell)
    d_gates = []
    for step, keep_t, d_output in _reversed(steps, keeps, tf.unstack(d_outputs)):
      d_hidden, d_cell, d_gates_t = _step_gradient(
        step, keep_t, d_hidden + d_output, d_cell, weights
      )
      d_gates.append(d_gates_t)
    all_d_gates = tf.concat(d_gates, axis=0)  # [T * B, 4 H]
    all_hidden = tf.concat([step.hidden_before for step in reversed(steps)], axis=0)
    d_weights = tf.matmul(all_hidden, all_d_gates, transpose_a=True)
    return [tf.stack(d_gates[::-1]), None, d_hidden, d_cell, d_weights]

  return (tf.stack([step.hidden for step in steps]), cell), gradient


def _reversed(*sequences: Sequence[Any]) -> Iterator[tuple[Any, ...]]:
  """The elements of sequences of one length side by side, the last ones first."""
  return zip(*map(reversed, sequences), strict=True)


def _step_gradient(
  step: _Step, keep: tf.Tensor, d_hidden: tf.Tensor, d_cell: tf.Tensor, weights: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
  """The gradients by a step's state before it, and by its gates, from those by its results."""
  sigmoid_grad = tf.raw_ops.SigmoidGrad
  tanh_grad = tf.raw_ops.TanhGrad
  d_cell += tanh_grad(y=step.tanh_cell, dy=d_hidden * step.o)
  d_gates = tf.concat(
    [
      sigmoid_grad(y=step.i, dy=d_cell * step.g),
      sigmoid_grad(y=step.f, dy=d_cell * step.cell_before),
      tanh_grad(y=step.g, dy=d_cell * step.i),
      sigmoid_grad(y=step.o, dy=d_hidden * step.tanh_cell),
    ],
    axis=1,
  )
  d_hidden_before = tf.matmul(d_gates, weights, transpose_b=True) * keep
  return d_hidden_before, d_cell * step.f * keep, d_gates


class InstructionEncoder(snt.Module):
  """Hashed words to the last output of an LSTM (IMPALA, Figure 3 and released code)."""

  def __init__(self, buckets: int = 1000, embedding_size: int = 20, hidden_size: int = 64):
    super().__init__(name='instruction_encoder')
    normal = snt.initializers.TruncatedNormal(stddev=1 / math.sqrt(buckets))
    self._embed = snt.Embed(buckets, embedding_size, initializer=normal)
    self._lstm = _lstm(embedding_size, hidden_size)

  def __call__(self, words: tf.Tensor) -> tf.Tensor:
    """Encodes a batch of instructions.

    Args:
      words: int32 `[N, W]`, buckets of words, padded with -1.

    Returns:
      float32 `[N, hidden_size]`; zeros for an instruction without words.
    """
    # An instruction stays the same for a whole episode, so a batch has few distinct ones: M.
    distinct, index = tf.raw_ops.UniqueV2(x=words, axis=[0])  # [M, W], [N]
    lengths = tf.reduce_sum(tf.cast(distinct >= 0, tf.int32), axis=1)  # [M]

    # Padding is embedded as word 0. The LSTM reads it after the last word, which is too late.
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    embedded = self._embed(tf.maximum(distinct[:, :longest], 0))  # [M, longest, 20]
    outputs = _unroll_fused(self._lstm, tf.transpose(embedded, [1, 0, 2]))  # [longest, M, H]

    last_step = tf.maximum(lengths - 1, 0)
    at_last_step = tf.stack([last_step, tf.range(tf.shape(lengths)[0])], axis=1)
    last = tf.gather_nd(outputs, at_last_step)  # [M, H]
    return tf.gather(tf.where(lengths[:, tf.newaxis] > 0, last, 0.0), index)


def _unroll_fused(lstm: snt.LSTM, inputs: tf.Tensor) -> tf.Tensor:
  """Unrolls an LSTM from a state of zeros, in one operation.

  A loop over six words takes longer than all else that the policy of a small network does.

  Args:
    lstm: Its weights are used.
    inputs: float32 `[T, B, D]`.

  Returns:
    The outputs float32 `[T, B, H]`.
  """
  steps, batch_size = tf.unstack(tf.shape(inputs)[:2])
  state = lstm.initial_state(batch_size)
  no_peephole = tf.zeros([lstm.hidden_to_hidden.shape[0]])
  weights = tf.concat([lstm.input_to_hidden, lstm.hidden_to_hidden], axis=0)
  # Not BlockLSTMV2, which has Sonnet's order of gates: TensorFlow 2.21 computes its gradients as if
  # it had this one's.
  return tf.raw_ops.BlockLSTM(
    seq_len_max=tf.cast(steps, tf.int64),
    x=inputs,
    cs_prev=state.cell,
    h_prev=state.hidden,
    w=_candidate_second(weights),
    wci=no_peephole,
    wcf=no_peephole,
    wco=no_peephole,
    b=_candidate_second(lstm.b),
    forget_bias=0.0,
    cell_clip=-1.0,
  ).h


def _candidate_second(gates: tf.Tensor) -> tf.Tensor:
  """Weights `[..., 4 H]` in TensorFlow's order: input gate, candidate, forget gate, output gate."""
  i, f, g, o = tf.split(gates, 4, axis=-1)
  return tf.concat([i, g, f, o], axis=-1)
