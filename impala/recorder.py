"""What an IMPALA run tells: policy lag, how long the learner waited, episodes of all tasks."""

import pathlib
from typing import Mapping, Sequence

import numpy as np

from common import environments
from common.distributed import queues
from common.runs import hosting
from common.runs import recorder as recorders
from impala import actor as actors
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
  """Gathers what updates say; see `common.runs.recorder` for when it is reported."""

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: learners.Learner,
    queue: queues.StructureQueue,
    actors_: Sequence[actors.Actor],
    host: hosting.Host,
  ):
    """`actors_` are those of this process, `host` has the others."""
    self._tasks, self._learner, self._queue, self._actors, self._host = (
      suite.tasks,
      learner,
      queue,
      actors_,
      host,
    )
    self._fresh = learner.batch_size - learner.replayed
    self.base = recorders.Recorder(
      config, suite, folder, learner, [*_COLUMNS, *host.columns], self._gauges, self._note
    )

  def record(self, batch: trajectory.Trajectory, update: learners.Update, waited: float) -> None:
    """Takes in one update, for whose batch the learner waited so many seconds."""
    self.base.start_clock()
    version = (
      int(self._learner.updates) - 1
    )  # The learner's before this update, which the batch was used for.
    lags = version - batch.parameter_version[: self._fresh].numpy()
    self.base.record(
      {name: float(value) for name, value in update.statistics.items() if name != 'finite'},
      {'policy_lag': lags.tolist()},
      {'learner_wait_share': waited},
    )
    self._add_episodes(batch)

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    del row
    return {'queue_length': self._queue.size(), **recorders.actor_gauges(self._actors, self._host)}

  def _note(self, row: Mapping[str, float]) -> str:
    return f'lag {row.get("policy_lag_mean", 0.0):.1f}{recorders.faults(row)}'

  def _add_episodes(self, batch: trajectory.Trajectory) -> None:
    # Entry 0 was entry T of the unroll before: counted then. Replayed trajectories were counted when they were new.
    lengths = batch.episode_length[1:, : self._fresh].numpy()
    returns, tasks = batch.episode_return[1:, : self._fresh].numpy(), batch.task.numpy()
    for step, column in np.argwhere(lengths > 0):
      self.base.add_episode(
        self._tasks[tasks[column]], float(returns[step, column]), int(lengths[step, column])
      )
