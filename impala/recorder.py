"""The statistics of an IMPALA run: policy lag, the learner's waiting time, losses, episodes."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from common import environments
from common.runs import recorder as recorders
from impala import config as configs
from impala import learner as learners

_COLUMNS = (
  'policy_lag_mean',
  'policy_lag_max',
  'learner_wait_share',
  'queue_length',
  'crashes',
  'dropped_batches',
  'learning_rate',
  'gradient_norm',
  'entropy',
  'value',
  'importance_weight',
  'loss/total',
  'loss/policy_gradient',
  'loss/baseline',
  'loss/entropy',
)


class Episode(NamedTuple):
  """A training episode that has ended: its task's number, return, and length in agent steps."""

  task: int
  episode_return: float
  length: int


class Recorder:
  """Collects the statistics of updates.

  Attributes:
    base: Reports them.
  """

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: learners.Learner,
    supply: recorders.Supply,
    fresh: int,
  ):
    """Opens the files.

    Args:
      config: The run's settings.
      suite: The tasks.
      folder: The run's folder.
      learner: Holds the counters.
      supply: Where the learner's experience comes from.
      fresh: How many trajectories of an update are new. They come first.
    """
    self._tasks = suite.tasks
    self._learner = learner
    self._supply = supply
    self._fresh = fresh
    self._dropped = 0
    scales = learners.popart_columns(suite.tasks) if config.popart else []
    columns = [*_COLUMNS, *scales, *supply.host.columns]
    self.base = recorders.Recorder(
      config, suite, folder, learner, columns, self._gauges, self._note
    )

  def record(self, told: Any, update: learners.Update) -> None:
    """Adds the statistics of an update and of the episodes that ended in its batch.

    Args:
      told: What the update learned from says of itself, see `impala.material.Material`.
      update: The update's result.
    """
    self.base.start_clock()
    # The version that was updated: `updates` already counts this update.
    version = int(self._learner.updates) - 1
    lags = version - np.atleast_1d(told.parameter_version.numpy())[: self._fresh]
    # Batches whose losses are infinite or NaN are dropped, not recorded.
    statistics = {k: float(v) for k, v in update.statistics.items() if k != 'finite'}
    self.base.record(means=statistics, distributions={'policy_lag': lags.tolist()})
    self._add_episodes(told)

  def record_drop(self) -> None:
    """Counts a batch that was dropped."""
    self.base.start_clock()
    self._dropped += 1

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    del row
    return {**self._supply.gauges(), 'dropped_batches': self._dropped}

  def _note(self, row: Mapping[str, float]) -> str:
    return f'lag {row.get("policy_lag_mean", 0.0):.1f}{recorders.faults(row)}'

  def _add_episodes(self, told: Any) -> None:
    for ended in episodes_in(told, self._fresh):
      self.base.add_episode(self._tasks[ended.task], ended.episode_return, ended.length)


def episodes_in(told: Any, fresh: int) -> list[Episode]:
  """The episodes that ended in the new trajectories of an update, its first `fresh` ones."""
  # Entry 0 was entry T of the unroll before, and counted there. Replayed trajectories were
  # counted when they were fresh.
  lengths = told.episode_length.numpy()[1:, :fresh]  # [T, fresh]
  returns = told.episode_return.numpy()[1:, :fresh]
  tasks = told.task.numpy()
  return [
    Episode(int(tasks[column]), float(returns[step, column]), int(lengths[step, column]))
    for step, column in np.argwhere(lengths > 0)
  ]
