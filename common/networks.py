"""Network parts that both systems use: torsos for pixels and vectors, an LSTM that starts anew with each episode."""

import sonnet as snt
import tensorflow as tf


class ShallowTorso(snt.Module):
  """A3C's two convolutions and a layer of 256 (IMPALA, Figure 3 left).

  VALID padding: only then does the DMLab network have the 1.2 million parameters that the figure's caption states.
  """

  def __init__(self):
    super().__init__(name='shallow_torso')
    self._convolutions = [
      snt.Conv2D(16, 8, 4, padding='VALID'),
      snt.Conv2D(32, 4, 2, padding='VALID'),
    ]
    self._linear = snt.Linear(256)

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """uint8 `[N, H, W, C]` to float32 `[N, 256]`."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return tf.nn.relu(self._linear(snt.flatten(x)))


class NatureTorso(snt.Module):
  """DQN's three convolutions, without a layer after them (Mnih et al. 2015; Ape-X has streams on top of it)."""

  def __init__(self):
    super().__init__(name='nature_torso')
    self._convolutions = [
      snt.Conv2D(channels, kernel, stride, padding='VALID')
      for channels, kernel, stride in ((32, 8, 4), (64, 4, 2), (64, 3, 1))
    ]

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """uint8 `[N, H, W, C]` to float32 `[N, D]`; D is 3136 for 84x84."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution in self._convolutions:
      x = tf.nn.relu(convolution(x))
    return snt.flatten(x)


class DeepTorso(snt.Module):
  """Three sections of a convolution, a pooling and two residual blocks; 15 convolutions (IMPALA, Figure 3 right)."""

  def __init__(self):
    super().__init__(name='deep_torso')
    self._sections = [
      (snt.Conv2D(channels, 3), [[snt.Conv2D(channels, 3) for _ in range(2)] for _ in range(2)])
      for channels in (16, 32, 32)
    ]
    self._linear = snt.Linear(256)

  def __call__(self, images: tf.Tensor) -> tf.Tensor:
    """uint8 `[N, H, W, C]` to float32 `[N, 256]`."""
    x = tf.cast(images, tf.float32) / 255.0
    for convolution, blocks in self._sections:
      x = tf.nn.max_pool2d(convolution(x), 3, 2, 'SAME')
      for first, second in blocks:
        x += second(tf.nn.relu(first(tf.nn.relu(x))))
    return tf.nn.relu(self._linear(snt.flatten(tf.nn.relu(x))))


class VectorTorso(snt.Module):
  """Two layers of 64, for environments that are observed as vectors. Not in the papers."""

  def __init__(self):
    super().__init__(name='vector_torso')
    self._mlp = snt.nets.MLP([64, 64], activation=tf.nn.tanh, activate_final=True)

  def __call__(self, vectors: tf.Tensor) -> tf.Tensor:
    """float32 `[N, D]` to float32 `[N, 64]`."""
    return self._mlp(vectors)


TORSOS = {'shallow': ShallowTorso, 'deep': DeepTorso, 'nature': NatureTorso, 'vector': VectorTorso}


class ResettingLSTM(snt.Module):
  """An LSTM core that starts from a zero state wherever an episode starts."""

  def __init__(self, input_size: int, hidden_size: int):
    super().__init__(name='resetting_lstm')
    self._lstm = snt.LSTM(hidden_size)
    self._lstm(tf.zeros([1, input_size]), self._lstm.initial_state(1))  # Creates its variables.

  def initial_state(self, batch_size: int) -> snt.LSTMState:
    """Zeros, `[batch_size, H]` each."""
    return self._lstm.initial_state(batch_size)

  def unroll(
    self, inputs: tf.Tensor, done: tf.Tensor, state: snt.LSTMState
  ) -> tuple[tf.Tensor, snt.LSTMState]:
    """Runs over time. The inputs' part of the gates is one product over all steps; the loop has the recurrent part.

    Args:
      inputs: `[T, B, D]` float32.
      done: `[T, B]` bool: the input at that step is the first of an episode.
      state: at the start, `[B, H]` each.

    Returns:
      The outputs `[T, B, H]`, and the state after the last step.
    """
    gates = tf.tensordot(inputs, self._lstm.input_to_hidden, 1) + self._lstm.b
    keep = tf.cast(tf.logical_not(done), tf.float32)[:, :, tf.newaxis]
    if inputs.shape[0] == 1:  # Acting: no loop.
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
  """Words' buckets to an embedding of 20 to the last output of an LSTM of 64 (IMPALA, Figure 3 and released code)."""

  def __init__(self, buckets: int = 1000, embedding_size: int = 20, hidden_size: int = 64):
    super().__init__(name='instruction_encoder')
    self._embed = snt.Embed(buckets, embedding_size)
    self._lstm = snt.LSTM(hidden_size)
    self._lstm(tf.zeros([1, embedding_size]), self._lstm.initial_state(1))

  def __call__(self, words: tf.Tensor) -> tf.Tensor:
    """int32 `[N, W]`, filled up with -1, to float32 `[N, 64]`; zeros for an instruction without words.

    Instructions repeat for whole episodes, so each different one is read once.
    """
    distinct, index = tf.raw_ops.UniqueV2(x=words, axis=[0])
    lengths = tf.reduce_sum(tf.cast(distinct >= 0, tf.int32), axis=1)
    embedded = self._embed(tf.maximum(distinct[:, : tf.maximum(tf.reduce_max(lengths), 1)], 0))
    outputs, _ = snt.dynamic_unroll(
      self._lstm,
      tf.transpose(embedded, [1, 0, 2]),
      self._lstm.initial_state(tf.shape(distinct)[0]),
      lengths,
    )
    last = tf.gather_nd(
      outputs, tf.stack([tf.maximum(lengths - 1, 0), tf.range(tf.shape(lengths)[0])], axis=1)
    )
    return tf.gather(tf.where(lengths[:, tf.newaxis] > 0, last, 0.0), index)
