"""From an observation's parts to one vector of features: what the networks of all systems share."""

from collections.abc import Mapping, Sequence

import gymnasium
import numpy as np
import sonnet as snt
import tensorflow as tf

from common import networks, normalization, recurrent
from common.config import settings
from common.environments import suite as suites


class ObservationEncoder(snt.Module):
  """Reads `observation` with a torso and, where they exist, `vector` and `instruction` beside it.

  Features are the outputs of the three side by side. `action_mask` is not read: it is applied to
  what the heads say of the actions.

  Attributes:
    space: The observation space that it reads, without a batch axis.
    normalizer: The statistics by which vectors are normalised before they are read; None for none.
  """

  def __init__(
    self,
    space: gymnasium.spaces.Dict,
    torso: str,
    vector_sizes: Sequence[int] = (64, 64),
    instruction_size: int = 64,
    normalizer: normalization.Normalizer | None = None,
  ):
    """Makes the parts; their variables come with the first call.

    Args:
      space: One environment's observations as networks read them: images are `[H, W, C]`.
      torso: A name in `common.networks.TORSOS`.
      vector_sizes: The layers that read vectors, as `observation` or beside it.
      instruction_size: The units of the instructions' LSTM.
      normalizer: Statistics, perhaps shared with other networks.
    """
    super().__init__(name='observation_encoder')
    self.space = space
    self.normalizer = normalizer

    def vector_network() -> networks.VectorTorso:
      return networks.VectorTorso(vector_sizes)

    self._torso = vector_network() if torso == 'vector' else networks.TORSOS[torso]()
    self._vector = vector_network() if 'vector' in space.spaces else None
    self._instruction = None
    if 'instruction' in space.spaces:
      self._instruction = recurrent.InstructionEncoder(hidden_size=instruction_size)

  def __call__(self, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Observations by name, `[N, ...]`, to features float32 `[N, D]`.

    Raises:
      ValueError: A part has another shape than the space says.
      TypeError: A part has another dtype.
    """
    self._check(observation)
    if self.normalizer:
      observation = self.normalizer.observation(observation)
    parts = [self._torso(observation['observation'])]
    if self._vector:
      parts.append(self._vector(observation['vector']))
    if self._instruction:
      parts.append(self._instruction(observation['instruction']))
    return tf.concat(parts, axis=1) if len(parts) > 1 else parts[0]

  def _check(self, observation: Mapping[str, tf.Tensor]) -> None:
    """Compares with the space while a graph is traced, which adds no operation to it."""
    for name, space in self.space.spaces.items():
      part = observation[name]
      tf.debugging.assert_type(part, tf.as_dtype(space.dtype))
      shape = tuple(part.shape)[1:]
      if shape != space.shape:
        raise ValueError(f'{name} has shape [N, *{shape}], expected [N, *{space.shape}]')


def make(
  config: settings.Settings,
  suite: suites.Suite,
  normalizer: normalization.Normalizer | None = None,
) -> ObservationEncoder:
  """The encoder that the settings ask for, for a suite's observations.

  Args:
    config: The run's settings.
    suite: The environments.
    normalizer: Another network's statistics, to share; None for new ones, if settings ask for them.
  """
  return ObservationEncoder(
    suites.network_space(suite),
    config.torso_for(suite),
    config.vector_layers(),
    config.instruction_size,
    normalizer or normalization.make(config, suite),
  )


def zeros(space: gymnasium.spaces.Dict, leading: tuple[int, ...]) -> dict[str, tf.Tensor]:
  """Observations of zeros, `[*leading, ...]`, to create variables and trace graphs with."""
  observation = {}
  for name, part in space.spaces.items():
    assert part.shape is not None  # Suites observe boxes.
    observation[name] = tf.zeros((*leading, *part.shape), tf.as_dtype(np.dtype(part.dtype)))
  return observation
