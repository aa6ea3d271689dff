"""Network parts shared by both systems: torsos, and masks of illegal actions; see also `recurrent`.

Initial weights are those of IMPALA's released code, on Sonnet 1.23 and TensorFlow 1.9: Sonnet 2's
defaults, weights of a truncated normal with standard deviation 1/sqrt(fan-in), biases of zero.
"""

from collections.abc import Callable, Mapping, Sequence

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


def _convolved(x: tf.Tensor, convolutions: Sequence[snt.Conv2D]) -> tf.Tensor:
  """`[N, H, W, C]` through convolutions, each followed by a ReLU."""
  for convolution in convolutions:
    x = tf.nn.relu(convolution(x))
  return x


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
    x = _convolved(x, self._convolutions)
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
    return snt.flatten(_convolved(x, self._convolutions))


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
    x = _convolved(x, self._convolutions)
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
    x = _convolved(x, self._convolutions)
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
