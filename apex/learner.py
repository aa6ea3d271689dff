"""The learner: samples to parameters and new priorities (Ape-X, algorithm 2)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from apex import algorithms
from apex import config as configs
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import structures
from common.runs import counters


class Update(NamedTuple):
  """What one update tells: scalars by name, the parameters after it as one vector, priorities float32 `[K]`."""

  statistics: dict[str, tf.Tensor]
  parameters: tf.Tensor
  priorities: tf.Tensor


class Learner(counters.Counters):
  """The agent and the counters; all of it is in a checkpoint."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__('learner')
    self._config = config
    self.agent = algorithms.module(config).Agent(config, suite)

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(
      int(self.updates), parameters.flatten(self.agent.networks.trainable_variables)
    )

  @tf.function
  def update(self, sample: structures.Sample) -> Update:
    """Takes one step on a sample `[K, ...]`.

    A sample whose losses or gradients are not finite changes nothing: `finite` in the statistics is then false.
    """
    step = self.agent.step(sample)
    finite = tf.reduce_all(tf.math.is_finite(list(step.statistics.values())))
    if finite:
      self.agent.apply(step.gradients)
      self.updates.assign_add(1)
      if self.updates % self._config.target_period == 0:
        self.agent.copy_to_target()
    priorities = tf.abs(step.td_errors)
    statistics = step.statistics | {
      'td_error': tf.reduce_mean(priorities),
      'weight': tf.reduce_mean(sample.weight),
      'finite': finite,
    }
    return Update(
      statistics, parameters.flatten(self.agent.networks.trainable_variables), priorities
    )


def warm_up(learner: Learner, spec: structures.Sample) -> None:
  """Traces and optimises `update` on a sample that changes nothing, as its returns are not finite."""
  sample = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
  learner.update(
    sample._replace(weight=sample.weight + 1.0, n_step_return=sample.n_step_return + np.nan)
  )
