"""The hyperparameters that a population adapts, as variables of the learner."""

from collections.abc import Mapping

import tensorflow as tf

from common import optimizers
from impala import config as configs

NAMES = ('learning_rate', 'entropy_cost', 'rmsprop_epsilon', 'max_gradient_norm')


class Hyperparameters(tf.Module):
  """Four settings of the config that can change without tracing the learner's graph again.

  They are part of its checkpoints. A run that is no population's member always has its config's.

  Attributes:
    learning_rate: float32 `[]`; without a population, that of frame 0.
    entropy_cost: float32 `[]`.
    rmsprop_epsilon: float32 `[]`.
    max_gradient_norm: float32 `[]`; 0: gradients are not clipped.
  """

  def __init__(self, config: configs.Config):
    super().__init__(name='hyperparameters')
    self._is_annealed = not config.population
    self._total_frames = config.total_frames
    # On the CPU, as the counters.
    with tf.device('/cpu:0'):
      self.learning_rate = tf.Variable(config.learning_rate, trainable=False)
      self.entropy_cost = tf.Variable(config.entropy_cost, trainable=False)
      self.rmsprop_epsilon = tf.Variable(config.rmsprop_epsilon, trainable=False)
      self.max_gradient_norm = tf.Variable(config.max_gradient_norm, trainable=False)

  def learning_rate_at(self, frames: tf.Tensor) -> tf.Tensor:
    """float32 `[]`. Falls to 0 over the run; a population has no annealing (Figure F.1)."""
    if not self._is_annealed:
      return tf.convert_to_tensor(self.learning_rate)
    return optimizers.linear_decay(self.learning_rate, frames, self._total_frames)

  def values(self) -> dict[str, float]:
    """The values by name."""
    return {name: float(getattr(self, name)) for name in NAMES}

  def assign(self, values: Mapping[str, float]) -> None:
    """Sets all of them."""
    for name in NAMES:
      getattr(self, name).assign(values[name])

  def follow(self, config: configs.Config) -> None:
    """Sets all of them to the config's values."""
    self.assign({name: getattr(config, name) for name in NAMES})
