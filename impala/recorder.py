"""What a run tells while it runs: progress on the terminal, rows of metrics."""

import logging
import pathlib
import time
from typing import Sequence

import numpy as np
import tensorflow as tf

from common import environments, metrics, progress
from common.distributed import queues
from impala import actor as actors, config as configs, learner as learners, trajectory

_COLUMNS = ('frames', 'updates', 'seconds', 'frames_per_second', 'policy_lag_mean', 'policy_lag_max',
            'learner_wait_share', 'queue_length', 'crashes', 'learning_rate', 'gradient_norm', 'entropy', 'value',
            'importance_weight', 'loss/total', 'loss/policy_gradient', 'loss/baseline', 'loss/entropy')


class Recorder:
  """Collects what updates and finished episodes say, and reports it every `log_every_seconds`."""

  def __init__(self, config: configs.Config, suite: environments.Suite, folder: pathlib.Path,
               learner: learners.Learner, queue: queues.StructureQueue, actors_: Sequence[actors.Actor]):
    self._config, self._tasks, self._learner, self._queue, self._actors = config, suite.tasks, learner, queue, actors_
    columns = [*_COLUMNS, *(f'{kind}/{task}' for kind in ('return', 'length') for task in suite.tasks)]
    self._writer = metrics.MetricsWriter(folder, columns, int(learner.frames))
    self._episodes = metrics.EpisodeWindow(suite.tasks)
    self._fresh = config.batch_size - config.replayed_per_batch
    self._clock = None
    self._restart_interval()

  def record(self, batch: trajectory.Trajectory, update: learners.Update, waited: float) -> None:
    """Takes in one update, and reports if it is time to."""
    if self._clock is None:  # Time before the first batch is set-up: tracing, engines starting.
      self._clock = self._interval_start = time.monotonic()
    version = int(self._learner.updates) - 1  # The learner's before this update, which the batch was used for.
    self._lags.extend((version - batch.parameter_version[:self._fresh].numpy()).tolist())
    self._waited += waited
    self._statistics.append({name: float(value) for name, value in update.statistics.items() if name != 'finite'})
    self._add_episodes(batch)
    if time.monotonic() - self._interval_start > self._config.log_every_seconds:
      self.report()

  def recent_returns(self) -> dict[str, float]:
    return self._episodes.recent_returns()

  def update_clock(self) -> None:
    """Brings the learner's count of seconds, which is in its checkpoint, up to date."""
    if self._clock is not None:
      now = time.monotonic()
      self._learner.seconds.assign_add(now - self._clock)
      self._clock = now

  def report(self) -> None:
    """Writes a row and a line about the time since the last one."""
    self.update_clock()
    elapsed, frames = time.monotonic() - self._interval_start, int(self._learner.frames)
    row = {
        'frames': frames, 'updates': int(self._learner.updates), 'seconds': float(self._learner.seconds),
        'frames_per_second': (frames - self._interval_frames) / elapsed,
        'policy_lag_mean': float(np.mean(self._lags)), 'policy_lag_max': max(self._lags),
        'learner_wait_share': self._waited / elapsed, 'queue_length': self._queue.size(),
        'crashes': sum(actor.crashes for actor in self._actors)}
    row |= {name: float(np.mean([s[name] for s in self._statistics])) for name in self._statistics[0]}
    row |= self._episodes.report()
    self._writer.write(row, {'policy_lag': self._lags})
    logging.info('%s', progress.line(frames, self._config.total_frames, row['frames_per_second'],
                                     row['policy_lag_mean'], self.recent_returns()))
    self._restart_interval()

  def close(self) -> None:
    """Reports what is left, if anything, and closes the files."""
    if self._statistics:
      self.report()
    self._writer.close()

  def _restart_interval(self) -> None:
    self._interval_start, self._interval_frames = time.monotonic(), int(self._learner.frames)
    self._lags, self._statistics, self._waited = [], [], 0.0

  def _add_episodes(self, batch: trajectory.Trajectory) -> None:
    # Entry 0 was entry T of the unroll before: counted then. Replayed trajectories were counted when they were new.
    lengths = batch.episode_length[1:, :self._fresh].numpy()
    returns, tasks = batch.episode_return[1:, :self._fresh].numpy(), batch.task.numpy()
    for step, column in np.argwhere(lengths > 0):
      self._episodes.add(self._tasks[tasks[column]], float(returns[step, column]), int(lengths[step, column]))
