"""Network parts shared by both systems: torsos, an LSTM with resets, masks of illegal actions.

Initial weights are those of IMPALA's released code, on Sonnet 1.23 and TensorFlow 1.9. Convolutions
and linear layers have them by Sonnet 2's defaults: weights of a truncated normal with standard
deviation 1/sqrt(fan-in), biases of zero. Embeddings and LSTMs differ, and are set here.
"""

import math
from typing import Callable, Mapping, Sequence

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
    self._layers = _SmallLayers()

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """Images uint8 `[N, H, W, C]` to features float32 `[N, 256]`."""
    return self._layers(tf.cast(images, tf.float32) / 255.0)


class GridTorso(snt.Module):
  """Embeds the symbols of each cell, then as `SmallTorso`; not in the papers.

  For MiniGrid and its like, whose cells hold the numbers of an object, a colour and a state. Each
  number has a vector, and a cell is the sum of its three, as in BabyAI 1.1.
  """

  _SYMBOLS = 32  # Of each kind. MiniGrid has 11 objects, 6 colours and 4 states.
  _EMBEDDING = 32

  def __init__(self) -> None:
    super().__init__(name='grid_torso')
    self._embed = snt.Embed(3 * self._SYMBOLS, self._EMBEDDING)
    self._layers = _SmallLayers()

  def __call__(self, cells: tf.Tensor) -> tf.Tensor:
    """Cells uint8 `[N, H, W, 3]` to features float32 `[N, 256]`."""
    # Each kind has rows of its own in the table. Numbers beyond a kind's share the last row.
    symbols = tf.minimum(tf.cast(cells, tf.int32), self._SYMBOLS - 1)
    rows = symbols + self._SYMBOLS * tf.range(3)
    return self._layers(tf.reduce_sum(self._embed(rows), axis=3))  # [N, H, W, 3, E] summed.


class _SmallLayers(snt.Module):
  """Two 3x3 convolutions and a linear layer."""

  def __init__(self) -> None:
    super().__init__(name='small_layers')
    self._convolutions = [snt.Conv2D(channels, 3) for channels in (16, 32)]
    self._linear = snt.Linear(256)

  def __call__(self, x: tf.Tensor) -> tf.Tensor:
    """Float32 `[N, H, W, C]` to `[N, 256]`."""
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
    keep = tf.cast(tf.logical_not(done), tf.float32)[:, :, tf.newaxis]  # [T, B, 1]

    if inputs.shape[0] == 1:
      # Actors unroll one step at a time, for which a loop would cost more than its body.
      state = self._step(state, (gates[0], keep[0]))
      return state.hidden[tf.newaxis], state

    states = tf.scan(self._step, (gates, keep), initializer=state)
    return states.hidden, tf.nest.map_structure(lambda x: x[-1], states)

  def _step(self, state: snt.LSTMState, inputs: tuple[tf.Tensor, tf.Tensor]) -> snt.LSTMState:
    gates, keep = inputs
    gates += tf.matmul(state.hidden * keep, self._lstm.hidden_to_hidden)
    i, f, g, o = tf.split(gates, 4, axis=1)
    cell = tf.sigmoid(f) * state.cell * keep + tf.sigmoid(i) * tf.tanh(g)
    return snt.LSTMState(hidden=tf.sigmoid(o) * tf.tanh(cell), cell=cell)


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

    # Padding is embedded as word 0, which `lengths` then keeps the LSTM from reading.
    longest = tf.maximum(tf.reduce_max(lengths), 1)
    embedded = self._embed(tf.maximum(distinct[:, :longest], 0))  # [M, longest, 20]
    outputs, _ = snt.dynamic_unroll(
      self._lstm,
      tf.transpose(embedded, [1, 0, 2]),
      self._lstm.initial_state(tf.shape(distinct)[0]),
      lengths,
    )  # [longest, M, 64]

    last_step = tf.maximum(lengths - 1, 0)
    at_last_step = tf.stack([last_step, tf.range(tf.shape(lengths)[0])], axis=1)
    last = tf.gather_nd(outputs, at_last_step)  # [M, 64]
    return tf.gather(tf.where(lengths[:, tf.newaxis] > 0, last, 0.0), index)
