"""The learner: turns samples into parameters and new priorities (Ape-X, algorithm 2)."""

from typing import NamedTuple

import numpy as np
import tensorflow as tf

from apex import agent as agents
from apex import algorithms, transitions
from apex import config as configs
from common import control_flow, normalization
from common.distributed import parameters
from common.environments import suite as suites
from common.replay import structures
from common.runs import counters


class Update(NamedTuple):
  """The result of one update.

  Attributes:
    statistics: Scalars by name; all float32, except `finite`, a bool.
    parameters: float32 `[P]`, all parameters after the update as one vector.
    parameters_finite: bool `[]`, whether all of them are finite.
    priorities: float32 `[K]`, the sample's new priorities.
  """

  statistics: dict[str, tf.Tensor]
  parameters: tf.Tensor
  parameters_finite: tf.Tensor
  priorities: tf.Tensor


class Learner(counters.Counters):
  """The agent and the counters: everything a checkpoint holds.

  Attributes:
    agent: Trained networks, target networks and optimizers.
  """

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__('learner')
    self._config = config
    self._older_frames = suite.frame_stack - 1
    self.agent = algorithms.module(config).make_agent(config, suite)
    normalizer = self.agent.networks.normalizer
    self._gathering = normalization.Gathering(normalizer) if normalizer else None

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(int(self.updates), self._flat_parameters())

  def gather(self, arrived: transitions.Shipment) -> None:
    """Takes note of new experience, for the running statistics; in any one thread.

    Args:
      arrived: Shipments, `[M, ...]`.
    """
    if not self._gathering:
      return
    valid = arrived.block.valid  # [M, B]
    # One entry for each transition; those before and behind them are others' too.
    own = slice(self._older_frames, self._older_frames + valid.shape[1])
    values = {name: part[:, own] for name, part in arrived.block.observation.items()}
    values[normalization.RETURN] = arrived.discounted_return
    self._gathering.add(values, valid)

  def merge_gathered(self) -> None:
    """Moves the running statistics by what was gathered; while no update runs."""
    if self._gathering:
      self._gathering.merge()

  @tf.function(autograph=False)
  def update(self, sample: structures.Sample) -> Update:
    """Takes one optimizer step on a sample `[K, ...]`.

    If a loss or a gradient is not finite, no variable changes and the statistic `finite` is false.
    """
    # A sum of rewards over their deviation is the sum of normalised rewards.
    returns = agents.in_units_of_values(self.agent.networks, sample.n_step_return)
    step = self.agent.step(sample._replace(n_step_return=returns))
    # Among the statistics are the loss and the gradients' norms, so they show every NaN.
    finite = tf.reduce_all(tf.math.is_finite(list(step.statistics.values())))

    def copy_to_target() -> None:
      self.agent.copy_to_target(self._config.target_tau)

    def apply() -> None:
      self.agent.apply(step.gradients)
      self.updates.assign_add(1)
      control_flow.do_if(self.updates % self._config.target_period == 0, copy_to_target)

    control_flow.do_if(finite, apply)

    priorities = tf.abs(step.td_errors)
    statistics = step.statistics | {
      'td_error': tf.reduce_mean(priorities),
      'weight': tf.reduce_mean(sample.weight),
      'finite': finite,
    }
    values = self._flat_parameters()
    # The loss need not show it: TensorFlow's fused ReLU turns NaN into 0 on CPUs.
    parameters_finite = tf.reduce_all(tf.math.is_finite(values))
    return Update(statistics, values, parameters_finite, priorities)

  def _flat_parameters(self) -> tf.Tensor:
    return parameters.flatten(parameters.published(self.agent.networks))


def warm_up(learner: Learner, spec: structures.Sample) -> None:
  """Traces and optimises `update` without changing a variable.

  Args:
    learner: The learner to warm up.
    spec: The `tf.TensorSpec`s of a sample.
  """
  sample = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
  # Returns of NaN make the loss NaN, and `update` then leaves all variables as they are.
  learner.update(
    sample._replace(weight=sample.weight + 1.0, n_step_return=sample.n_step_return + np.nan)
  )


def culprits(update: Update) -> np.ndarray:
  """Which transitions keep an update's loss or gradient from being finite, bool `[K]`.

  Those whose squared error is not finite. If all are, no single one can be told from the others,
  and it is all of them.
  """
  with np.errstate(over='ignore'):
    squares = np.square(update.priorities.numpy())
  found = ~np.isfinite(squares)
  return found if found.any() else np.ones_like(found)
