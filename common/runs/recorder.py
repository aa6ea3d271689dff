"""Reports on a run in progress: the progress line, rows of metrics, TensorBoard."""

import contextlib
import logging
import pathlib
import threading
import time
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from common import environments
from common.config import settings
from common.distributed import queues
from common.reporting import episodes, metrics, progress, scores
from common.runs import counters, hosting
from common.runs import system as systems

_COLUMNS = ('frames', 'updates', 'seconds', 'frames_per_second')
# Episodes of a task before its mean return decides which checkpoint is the best.
_SETTLED = 10
# A default argument that nobody can change.
_NOTHING: Mapping = types.MappingProxyType({})

# Between two lines with the returns of all tasks.
_ALL_TASKS_SECONDS = 60.0


class Supply(NamedTuple):
  """Where a learner's experience comes from."""

  queue: queues.StructureQueue
  actors: Sequence[systems.Actor]  # Actors of this process.
  host: hosting.Host  # Serves the actors of other processes.

  def gauges(self) -> dict[str, float]:
    """Metrics of the queue and of all actors, here and elsewhere, at this moment."""
    crashes = sum(actor.games.crashes for actor in self.actors)
    return {
      'queue_length': self.queue.size(),
      'crashes': crashes + self.host.crashes,
      **self.host.gauges(),
    }


class Recorder:
  """Collects statistics and reports them every `log_every_seconds`.

  Any thread may add statistics; the main thread reports them.
  """

  def __init__(
    self,
    config: settings.Settings,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: counters.Counters,
    columns: Sequence[str],
    gauges: Callable[[Mapping[str, float]], Mapping[str, float]],
    note: Callable[[Mapping[str, float]], str],
  ):
    """Opens the files.

    Args:
      config: The run's settings.
      suite: The tasks, whose episodes are reported separately. If the suite has reference scores,
        human-normalised scores are reported too.
      folder: The run's folder.
      learner: Holds the counters.
      columns: The system's columns of `metrics.csv`; those of counters and episodes are added.
      gauges: Maps a row to further columns, measured at the time of the report.
      note: Maps a row to the system's part of the progress line.
    """
    self._config = config
    self._learner = learner
    self._gauges = gauges
    self._note = note
    self._tasks = suite.tasks
    self._references = suite.references
    self._reward_scales = suite.reward_scales
    self._writer = metrics.MetricsWriter(folder, self._all_columns(columns), int(learner.frames))
    self._episodes = episodes.EpisodeWindow(suite.tasks)
    # Guards everything that several threads touch: statistics, episodes, the clock.
    self._lock = threading.Lock()
    # When `seconds` was last brought up to date; None until there are data.
    self._clock: float | None = None
    self._all_told = 0.0  # When the returns of all tasks were last logged.
    # The names of blocks of `timed` that have not ended, and when they began.
    self._timed: dict[str, float] = {}
    self._updates_at_the_start = int(learner.updates)
    self._restart_interval(time.monotonic())
    if suite.note:
      logging.warning('All scores of this run: %s', suite.note)

  def start_clock(self) -> None:
    """Starts the clock if it is not running. Call it with the first data.

    The time before that, when graphs are traced and engines start, does not count as training.
    """
    with self._lock:
      if self._clock is None:
        self._clock = time.monotonic()
        self._all_told = self._clock
        self._restart_interval(self._clock)

  def record(
    self,
    means: Mapping[str, float] = _NOTHING,
    distributions: Mapping[str, Sequence[float]] = _NOTHING,
    totals: Mapping[str, float] = _NOTHING,
  ) -> None:
    """Adds statistics to the current interval, which becomes one row.

    Args:
      means: Scalars whose mean over the interval is reported.
      distributions: Values reported as `NAME_mean` and `NAME_max`, and in TensorBoard as a
        histogram.
      totals: Amounts whose sum per second is reported.
    """
    with self._lock:
      for name, value in means.items():
        self._means.setdefault(name, []).append(float(value))
      for name, values in distributions.items():
        # Without values there is no mean or maximum: the row's columns stay empty.
        if len(values):
          self._distributions.setdefault(name, []).extend(values)
      for name, value in totals.items():
        self._totals[name] = self._totals.get(name, 0.0) + float(value)

  @contextlib.contextmanager
  def timed(self, name: str) -> Iterator[None]:
    """Adds the seconds of the block to a total, each to the interval in which it passes.

    Per second, this is the share of time spent in the block. One thread at a time may time a name.
    """
    with self._lock:
      self._timed[name] = time.monotonic()
    try:
      yield
    finally:
      with self._lock:
        self._add_time(name, time.monotonic())
        del self._timed[name]

  def add_episode(self, task: str, episode_return: float, length: int) -> None:
    """Adds an episode that ended; its length is in agent steps."""
    with self._lock:
      self._episodes.add(task, episode_return, length, time.monotonic())

  def settled_returns(self) -> dict[str, float]:
    """Mean returns of recent episodes, of tasks with enough of them to compare checkpoints by."""
    with self._lock:
      return self._episodes.recent_returns(_SETTLED)

  def update_clock(self) -> None:
    """Brings the learner's `seconds`, which a checkpoint holds, up to date."""
    with self._lock:
      self._update_clock(time.monotonic())

  def report_if_due(self) -> None:
    """Reports if the interval is over. Only one thread may call this and `close`.

    An interval is over when it is as long as `log_every_seconds` and there has been an update in
    it. If updates take longer than that, intervals without any would alternate with some in which
    more was learned than time had passed for.
    """
    if self._clock is None:
      return
    is_long = time.monotonic() - self._interval_start > self._config.log_every_seconds
    if is_long and self._has_news():
      self._report()

  def close(self) -> None:
    """Reports remaining statistics, if any, and closes the files."""
    if self._clock is not None and (self._means or self._totals):
      self._report()
    self._writer.close()

  def _has_news(self) -> bool:
    """Whether there has been an update in this interval; before the first one, any data."""
    updates = int(self._learner.updates)
    if updates > self._updates_at_the_start:
      return updates > self._interval_updates
    return bool(self._means or self._distributions or self._totals)

  def _report(self) -> None:
    with self._lock:
      now = time.monotonic()
      self._update_clock(now)
      for name in self._timed:
        self._add_time(name, now)
      row = self._row(now)
      row |= self._episodes.report()
      distributions = self._distributions
      recent = self._episodes.recent()
      self._restart_interval(now)

    # Without the lock, so that slow files or gauges do not hold up training.
    row |= self._gauges(row)
    totals = self._scores({task: one.mean_return for task, one in recent.items()})
    self._writer.write(row | totals, distributions)
    is_single = len(self._tasks) == 1
    line = progress.line(
      int(row['frames']),
      self._config.total_frames,
      row['frames_per_second'],
      self._note(row),
      recent,
      None if is_single else self._comparable(recent),
    )
    logging.info('%s', line)
    if recent and not is_single and now >= self._all_told + _ALL_TASKS_SECONDS:
      self._all_told = now
      named = {name.removeprefix('score/'): value for name, value in totals.items()}
      logging.info('%s', progress.all_tasks(recent, named))

  def _comparable(self, recent: Mapping[str, episodes.Recent]) -> progress.Comparable:
    """Recent returns of all tasks in one unit."""
    returns = {task: one.mean_return for task, one in recent.items()}
    if self._references:
      return progress.Comparable(scores.normalised(self._references, returns), '%')
    scaled = {task: self._reward_scales.get(task, 1.0) * one for task, one in returns.items()}
    return progress.Comparable(scaled, '')

  def _row(self, now: float) -> dict[str, float]:
    """Counters and statistics of the interval that ends at `now`."""
    elapsed = now - self._interval_start
    frames = int(self._learner.frames)
    row = {
      'frames': frames,
      'updates': int(self._learner.updates),
      'seconds': float(self._learner.seconds),
      'frames_per_second': (frames - self._interval_frames) / elapsed,
    }
    row |= {name: float(np.mean(values)) for name, values in self._means.items()}
    row |= {f'{name}_mean': float(np.mean(v)) for name, v in self._distributions.items()}
    row |= {f'{name}_max': float(np.max(v)) for name, v in self._distributions.items()}
    row |= {name: total / elapsed for name, total in self._totals.items()}
    return row

  def _all_columns(self, columns: Sequence[str]) -> list[str]:
    # Any returns will do to learn the scores' names.
    score_columns = self._scores(dict.fromkeys(self._tasks, 0.0))
    kinds = ('return', 'length', 'episodes')
    episode_columns = [f'{kind}/{task}' for kind in kinds for task in self._tasks]
    return [*_COLUMNS, *columns, *score_columns, *episode_columns]

  def _scores(self, returns: Mapping[str, float]) -> dict[str, float]:
    """Human-normalised scores as columns; none until every task has finished an episode."""
    if not self._references or len(returns) < len(self._tasks):
      return {}
    summary = scores.summary(self._references, returns)
    return {f'score/{name}': value for name, value in summary.items()}

  def _add_time(self, name: str, now: float) -> None:
    """Adds the time since a block of `timed` began, or since the last report."""
    begin = max(self._timed[name], self._interval_start)
    self._totals[name] = self._totals.get(name, 0.0) + now - begin

  def _update_clock(self, now: float) -> None:
    if self._clock is not None:
      self._learner.seconds.assign_add(now - self._clock)
      self._clock = now

  def _restart_interval(self, now: float) -> None:
    self._interval_start = now
    self._interval_frames = int(self._learner.frames)
    self._interval_updates = int(self._learner.updates)
    self._means: dict[str, list[float]] = {}
    self._distributions: dict[str, list[float]] = {}
    self._totals: dict[str, float] = {}


def faults(row: Mapping[str, float]) -> str:
  """Number of actors and counts of what went wrong, for the progress line; may be empty."""
  names = ('crashes', 'actors_lost', 'actor_restarts', 'messages_refused', 'dropped_batches')
  actors = f', {row["actors"]} actors' if 'actors' in row else ''
  counts = (f', {name.replace("_", " ")} {row[name]}' for name in names if row.get(name))
  return actors + ''.join(counts)
