"""What a run tells while it runs: progress on the terminal, rows of metrics."""

import logging
import pathlib
import threading
import time
from typing import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from common import metrics, progress, settings

_COLUMNS = ('frames', 'updates', 'seconds', 'frames_per_second')


class Recorder:
  """Collects, from any thread, what updates and finished episodes say; reports it every `log_every_seconds`."""

  def __init__(self, config: settings.Settings, tasks: Sequence[str], folder: pathlib.Path, learner: tf.Module,
               columns: Sequence[str], gauges: Callable[[float], Mapping[str, float]],
               note: Callable[[Mapping[str, float]], str]):
    """Opens the files.

    Args:
      config: of the run.
      tasks: whose episodes are told apart.
      folder: of the run.
      learner: whose `updates`, `frames` and `seconds` count.
      columns: of `metrics.csv`, beside the counters and the episodes'.
      gauges: from the seconds since the last report to columns that are read off when reporting.
      note: from a row to what the line of progress says of it.
    """
    self._config, self._learner, self._gauges, self._note = config, learner, gauges, note
    columns = [*_COLUMNS, *columns, *(f'{kind}/{task}' for kind in ('return', 'length') for task in tasks)]
    self._writer = metrics.MetricsWriter(folder, columns, int(learner.frames))
    self._episodes, self._lock = metrics.EpisodeWindow(tasks), threading.Lock()
    self._clock = None
    self._restart_interval()

  def start_clock(self) -> None:
    """Called when the first data are there: time before that is set-up (tracing, engines starting)."""
    with self._lock:
      if self._clock is None:
        self._clock = self._interval_start = time.monotonic()

  def record(self, statistics: Mapping[str, float], histograms: Mapping[str, Sequence[float]]) -> None:
    """Takes in one update's numbers, of which rows have means, and values to draw the distribution of."""
    with self._lock:
      for name, value in statistics.items():
        self._statistics.setdefault(name, []).append(float(value))
      for name, values in histograms.items():
        self._histograms.setdefault(name, []).extend(values)

  def add_episode(self, task: str, episode_return: float, length: int) -> None:
    with self._lock:
      self._episodes.add(task, episode_return, length)

  def recent_returns(self) -> dict[str, float]:
    with self._lock:
      return self._episodes.recent_returns()

  def update_clock(self) -> None:
    """Brings the learner's count of seconds, which is in its checkpoint, up to date."""
    with self._lock:
      self._update_clock()

  def report_if_due(self) -> None:
    """Reports if it is time to, once the clock runs. Called by one thread only, as `close` is."""
    if self._clock is not None and time.monotonic() - self._interval_start > self._config.log_every_seconds:
      self._report()

  def close(self) -> None:
    """Reports what is left, if anything, and closes the files."""
    if self._clock is not None and (self._statistics or int(self._learner.frames) > self._interval_frames):
      self._report()
    self._writer.close()

  def _report(self) -> None:
    with self._lock:
      self._update_clock()
      elapsed, frames = time.monotonic() - self._interval_start, int(self._learner.frames)
      row = {'frames': frames, 'updates': int(self._learner.updates), 'seconds': float(self._learner.seconds),
             'frames_per_second': (frames - self._interval_frames) / elapsed}
      row |= {name: float(np.mean(values)) for name, values in self._statistics.items()}
      row |= self._gauges(elapsed) | self._episodes.report()
      histograms, returns = self._histograms, self._episodes.recent_returns()
      self._restart_interval()
    self._writer.write(row, histograms)
    logging.info('%s', progress.line(
        frames, self._config.total_frames, row['frames_per_second'], self._note(row), returns))

  def _update_clock(self) -> None:
    if self._clock is not None:
      now = time.monotonic()
      self._learner.seconds.assign_add(now - self._clock)
      self._clock = now

  def _restart_interval(self) -> None:
    self._interval_start, self._interval_frames = time.monotonic(), int(self._learner.frames)
    self._statistics, self._histograms = {}, {}
