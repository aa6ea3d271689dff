"""The learner: samples to parameters and new priorities (Ape-X, algorithm 2)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from apex import config as configs, dqn
from common import optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import prioritized


class Update(NamedTuple):
  """What one update tells: scalars by name, the parameters after it as one vector, priorities float32 `[K]`."""
  statistics: dict[str, tf.Tensor]
  parameters: tf.Tensor
  priorities: tf.Tensor


class Learner(tf.Module):
  """The network, its older copy, the optimizer and the counters; all of it is in a checkpoint."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__(name='learner')
    self._config = config
    self.network, self._target_network = (
        dqn.make_network(suite, config.torso, config.hidden_size) for _ in range(2))
    self._optimizer = optimizers.RMSProp(config.rmsprop_decay, config.rmsprop_epsilon, centered=True)
    self._optimizer.create_slots(self.network.trainable_variables)
    self._copy_to_target()
    with tf.device('/cpu:0'):
      self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.frames = tf.Variable(0, dtype=tf.int64, trainable=False)  # Environment frames that actors have sent.
      self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)  # Of training, over all resumed parts.

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(int(self.updates), parameters.flatten(self.network.trainable_variables))

  @tf.function
  def update(self, sample: prioritized.Sample) -> Update:
    """Takes one step on a sample `[K, ...]`; the loss is the mean over it, importance weighted.

    A sample whose loss or gradients are not finite changes nothing: `finite` in the statistics is then false.
    """
    variables = self.network.trainable_variables
    with tf.GradientTape() as tape:
      targets = dqn.evaluate_sample(self.network, self._target_network, sample)
      loss = tf.reduce_mean(sample.weight * targets.losses)
    gradients, norm = optimizers.clip_by_global_norm(
        tape.gradient(loss, variables), self._config.max_gradient_norm)
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
    if finite:
      self._optimizer.apply(gradients, variables, self._config.learning_rate)
      self.updates.assign_add(1)
      if self.updates % self._config.target_period == 0:
        self._copy_to_target()
    priorities = tf.abs(targets.td_errors)
    statistics = {
        'loss': loss, 'gradient_norm': norm, 'q_value': tf.reduce_mean(targets.q_values),
        'td_error': tf.reduce_mean(priorities), 'weight': tf.reduce_mean(sample.weight), 'finite': finite}
    return Update(statistics, parameters.flatten(variables), priorities)

  def _copy_to_target(self) -> None:
    """theta^- <- theta."""
    for target, variable in zip(self._target_network.trainable_variables, self.network.trainable_variables,
                                strict=True):
      target.assign(variable)


def warm_up(learner: Learner, spec: prioritized.Sample) -> None:
  """Traces and optimises `update` on a sample that changes nothing, as its returns are not finite."""
  sample = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
  learner.update(sample._replace(weight=sample.weight + 1.0, n_step_return=sample.n_step_return + np.nan))
