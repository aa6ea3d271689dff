"""The statistics of an IMPALA run: policy lag, the learner's waiting time, losses, episodes."""

import pathlib
from collections.abc import Mapping

import numpy as np

from common import environments
from common.runs import recorder as recorders
from impala import config as configs
from impala import learner as learners
from impala import trajectory

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
  ):
    """Opens the files; for the arguments, see `common.runs.recorder.Recorder`."""
    self._tasks = suite.tasks
    self._learner = learner
    self._supply = supply
    # Fresh trajectories come first in a batch.
    self._fresh = learner.batch_size - learner.replayed
    self._dropped = 0
    scales = learners.popart_columns(suite.tasks) if config.popart else []
    columns = [*_COLUMNS, *scales, *supply.host.columns]
    self.base = recorders.Recorder(
      config, suite, folder, learner, columns, self._gauges, self._note
    )

  def record(self, batch: trajectory.Trajectory, update: learners.Update) -> None:
    """Adds the statistics of an update and of the episodes that ended in its batch.

    Args:
      batch: The update's batch, `[T+1, B]`.
      update: The update's result.
    """
    self.base.start_clock()
    # The version that was updated: `updates` already counts this update.
    version = int(self._learner.updates) - 1
    lags = version - batch.parameter_version[: self._fresh].numpy()
    # Batches whose losses are infinite or NaN are dropped, not recorded.
    statistics = {k: float(v) for k, v in update.statistics.items() if k != 'finite'}
    self.base.record(means=statistics, distributions={'policy_lag': lags.tolist()})
    self._add_episodes(batch)

  def record_drop(self) -> None:
    """Counts a batch that was dropped."""
    self.base.start_clock()
    self._dropped += 1

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    del row
    return {**self._supply.gauges(), 'dropped_batches': self._dropped}

  def _note(self, row: Mapping[str, float]) -> str:
    return f'lag {row.get("policy_lag_mean", 0.0):.1f}{recorders.faults(row)}'

  def _add_episodes(self, batch: trajectory.Trajectory) -> None:
    # Entry 0 was entry T of the unroll before, and counted there. Replayed trajectories were
    # counted when they were fresh.
    lengths = batch.episode_length[1:, : self._fresh].numpy()  # [T, fresh]
    returns = batch.episode_return[1:, : self._fresh].numpy()
    tasks = batch.task.numpy()
    for step, column in np.argwhere(lengths > 0):
      task = self._tasks[tasks[column]]
      self.base.add_episode(task, float(returns[step, column]), int(lengths[step, column]))
