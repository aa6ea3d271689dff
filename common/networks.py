"""Network parts shared by both systems: torsos, an LSTM with resets, masks of illegal actions.

Initial weights are those of IMPALA's released code, on Sonnet 1.23 and TensorFlow 1.9. Convolutions
and linear layers have them by Sonnet 2's defaults: weights of a truncated normal with standard
deviation 1/sqrt(fan-in), biases of zero. Embeddings and LSTMs differ, and are set here.
"""

import math
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import sonnet as snt
import tensorflow as tf

# The logit or value of an illegal action. Finite: times a probability of zero it is zero. Logits
# are sent, and `common.distributed.wire` refuses numbers beyond 1e9.
ILLEGAL = -1e8


def mask_illegal(values: tf.Tensor, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
  """Logits or values of actions, those of illegal ones replaced by `ILLEGAL`.

  No gradient flows into what is replaced.

  Args:
    values: float32 `[..., A]`.
    observation: If it has no `action_mask`, uint8 `[..., A]`, all actions are legal.
  """
  if 'action_mask' not in observation:
    return values
  mask = observation['action_mask']
  values.shape.assert_is_compatible_with(mask.shape)  # `where` would broadcast.
  return tf.where(mask > 0, values, ILLEGAL)


class ShallowTorso(snt.Module):
  """A3C's two convolutions and a linear layer of 256 (IMPALA, Figure 3 left).

  VALID padding: only then does the DMLab network have the 1.2 million parameters of the figure's
  caption.
  """

  def __init__(self) -> None:
    super().__init__(name='shallow_torso')
    self._convolutions = [
      snt.Conv2D(16, 8, 4, padding='VALID'),
      snt.Conv2D(32, 4, 2, padding='VALID'),
    ]
    self._linear = snt.Linear(256)

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """Images uint8 `[N, H, W, C]` to features float32 `[N, 256]`."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return tf.nn.relu(self._linear(snt.flatten(x)))


class NatureTorso(snt.Module):
  """DQN's three convolutions (Mnih et al. 2015), without the linear layer.

  Ape-X puts the two dueling streams in its place.
  """

  def __init__(self) -> None:
    super().__init__(name='nature_torso')
    self._convolutions = [
      snt.Conv2D(channels, kernel, stride, padding='VALID')
      for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    ]

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """Images uint8 `[N, H, W, C]` to features float32 `[N, D]`; D is 3136 for 84x84."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return snt.flatten(x)


class DeepTorso(snt.Module):
  """15 convolutions in three sections, and a linear layer of 256 (IMPALA, Figure 3 right).

  A section is a convolution, max-pooling that halves the image, and two residual blocks.
  """

  def __init__(self) -> None:
    super().__init__(name='deep_torso')
    self._sections = [
      (snt.Conv2D(channels, 3), [[snt.Conv2D(channels, 3) for _ in range(2)] for _ in range(2)])
      for channels in (16, 32, 32)
    ]
    self._linear = snt.Linear(256)

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """Images uint8 `[N, H, W, C]` to features float32 `[N, 256]`."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution, blocks in self._sections:
      x = tf.nn.max_pool2d(convolution(x), 3, 2, 'SAME')
      for first, second in blocks:
        x += second(tf.nn.relu(first(tf.nn.relu(x))))
    return tf.nn.relu(self._linear(snt.flatten(tf.nn.relu(x))))


class SmallTorso(snt.Module):
  """Two 3x3 convolutions and a linear layer of 256; not in the papers.

  For images too small for the other torsos. SAME padding: even a single pixel can be read.
  """

  def __init__(self) -> None:
    super().__init__(name='small_torso')
    self._convolutions = [snt.Conv2D(channels, 3) for channels in (16, 32)]
    self._linear = snt.Linear(256)

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """Images uint8 `[N, H, W, C]` to features float32 `[N, 256]`."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return tf.nn.relu(self._linear(snt.flatten(x)))


class GridTorso(snt.Module):
  """Embeds the symbols of each cell, then two 3x3 convolutions and a linear layer of 64.

  For MiniGrid and its like, whose cells hold the numbers of an object, a colour and a state; not in
  the papers. Each number has a vector, and a cell is the sum of its three, as in BabyAI 1.1. The
  convolutions have stride 2: a view of 7x7 takes 0.24 million operations.
  """

  _SYMBOLS = 32  # Of each kind. MiniGrid has 11 objects, 6 colours and 4 states.
  _EMBEDDING = 8

  def __init__(self) -> None:
    super().__init__(name='grid_torso')
    self._embed = snt.Embed(3 * self._SYMBOLS, self._EMBEDDING)
    self._convolutions = [snt.Conv2D(32, 3, stride=2) for _ in range(2)]
    self._linear = snt.Linear(64)

  def __call__(self, cells: tf.Tensor) -> tf.Tensor:
    """Cells uint8 `[N, H, W, 3]` to features float32 `[N, 64]`."""
    # Each kind has rows of its own in the table. Numbers beyond a kind's share the last row.
    symbols = tf.minimum(cells, self._SYMBOLS - 1)
    # A product with ones in three columns adds the three rows. With its gradient it takes 0.4 of
    # the time of looking them up.
    ones = tf.reshape(tf.one_hot(symbols, self._SYMBOLS), [-1, 3 * self._SYMBOLS])
    x = tf.matmul(ones, self._embed.embeddings)  # [N * H * W, E]
    x = tf.reshape(x, [-1, *cells.shape[1:3], self._EMBEDDING])
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return tf.nn.relu(self._linear(snt.flatten(x)))


class VectorTorso(snt.Module):
  """Layers of tanh for vector observations; not in the papers."""

  def __init__(self, sizes: Sequence[int] = (64, 64)):
    """Makes the layers; without sizes there are none, and features are the vectors themselves."""
    super().__init__(name='vector_torso')
    self._mlp = (
      snt.nets.MLP(sizes, activation=tf.nn.tanh, activate_final=True) if sizes else tf.identity
    )

  def __call__(self, vectors: tf.Tensor) -> tf.Tensor:
    """Vectors float32 `[N, D]` to features float32 `[N, F]`, F the last layer's size."""
    return self._mlp(vectors)


TORSOS: dict[str, Callable[[], snt.Module]] = {
  'shallow': ShallowTorso,
  'deep': DeepTorso,
  'nature': NatureTorso,
  'small': SmallTorso,
  'grid': GridTorso,
  'vector': VectorTorso,
}


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
  no_peephole = tf.zeros_like(state.hidden[0])
  return tf.raw_ops.BlockLSTMV2(
    seq_len_max=tf.cast(steps, tf.int64),
    x=inputs,
    cs_prev=state.cell,
    h_prev=state.hidden,
    w=tf.concat([lstm.input_to_hidden, lstm.hidden_to_hidden], axis=0),
    wci=no_peephole,
    wcf=no_peephole,
    wco=no_peephole,
    b=lstm.b,
    cell_clip=-1.0,
  ).h
