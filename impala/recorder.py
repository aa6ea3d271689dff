"""What an IMPALA run reports: policy lag, the learner's waiting, episodes of every task."""

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
  """Collects the statistics of updates; `base`, a `common.runs.recorder.Recorder`, reports them."""

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: learners.Learner,
    supply: recorders.Supply,
  ):
    """Opens the files. For the arguments, see `common.runs.recorder.Recorder`."""
    self._tasks = suite.tasks
    self._learner = learner
    self._supply = supply
    self._fresh = learner.batch_size - learner.replayed
    columns = [*_COLUMNS, *supply.host.columns]
    self.base = recorders.Recorder(
      config, suite, folder, learner, columns, self._gauges, self._note
    )

  def record(self, batch: trajectory.Trajectory, update: learners.Update, waited: float) -> None:
    """Adds an update on a batch `[T+1, B]`, for which the learner waited `waited` seconds."""
    self.base.start_clock()
    # The learner's version when it used the batch: one update ago.
    version = int(self._learner.updates) - 1
    lags = version - batch.parameter_version[: self._fresh].numpy()
    statistics = {k: float(v) for k, v in update.statistics.items() if k != 'finite'}
    self.base.record(
      means=statistics,
      distributions={'policy_lag': lags.tolist()},
      totals={'learner_wait_share': waited},
    )
    self._add_episodes(batch)

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    del row
    return self._supply.gauges()

  def _note(self, row: Mapping[str, float]) -> str:
    return f'lag {row.get("policy_lag_mean", 0.0):.1f}{recorders.faults(row)}'

  def _add_episodes(self, batch: trajectory.Trajectory) -> None:
    # Entry 0 was entry T of the unroll before, and counted then. Replayed trajectories, which come
    # after the fresh ones, were counted when they were new.
    lengths = batch.episode_length[1:, : self._fresh].numpy()
    returns = batch.episode_return[1:, : self._fresh].numpy()
    tasks = batch.task.numpy()
    for step, column in np.argwhere(lengths > 0):
      task = self._tasks[tasks[column]]
      self.base.add_episode(task, float(returns[step, column]), int(lengths[step, column]))
