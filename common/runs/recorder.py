"""What a run tells while it runs: progress on the terminal, rows of metrics."""

import logging
import pathlib
import threading
import time
import types
from typing import Any, Callable, Mapping, Sequence

import numpy as np

from common import environments
from common.config import settings
from common.reporting import metrics, progress, scores
from common.runs import counters, hosting

_COLUMNS = ('frames', 'updates', 'seconds', 'frames_per_second')
_SETTLED = 10  # Episodes.
_NOTHING = types.MappingProxyType({})


class Recorder:
  """Collects, from any thread, what updates and finished episodes say; reports it every `log_every_seconds`."""

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
      config: of the run.
      suite: whose tasks' episodes are told apart; where they have references, scores over all of them are told too.
      folder: of the run.
      learner: whose `updates`, `frames` and `seconds` count.
      columns: of `metrics.csv`, beside the counters and the episodes'.
      gauges: from a row to further columns, which are read off when reporting.
      note: from a row to what the line of progress says of it.
    """
    self._config, self._learner, self._gauges, self._note = config, learner, gauges, note
    self._tasks, self._references = suite.tasks, suite.references
    of_tasks = (f'{kind}/{task}' for kind in ('return', 'length') for task in suite.tasks)
    columns = [*_COLUMNS, *columns, *self._scores(dict.fromkeys(suite.tasks, 0.0)), *of_tasks]
    self._writer = metrics.MetricsWriter(folder, columns, int(learner.frames))
    self._episodes, self._lock = metrics.EpisodeWindow(suite.tasks), threading.Lock()
    self._clock = None
    self._restart_interval(time.monotonic())
    if suite.note:
      logging.warning('Of all scores of this run: %s', suite.note)

  def start_clock(self) -> None:
    """Called when the first data are there: time before that is set-up (tracing, engines starting)."""
    with self._lock:
      if self._clock is None:
        self._clock = self._interval_start = time.monotonic()

  def record(
    self,
    means: Mapping[str, float] = _NOTHING,
    distributions: Mapping[str, Sequence[float]] = _NOTHING,
    totals: Mapping[str, float] = _NOTHING,
  ) -> None:
    """Takes in numbers of what has just been done.

    Args:
      means: a row has the means of these over its interval.
      distributions: a row has `NAME_mean` and `NAME_max` of these, TensorBoard their histogram too.
      totals: a row has the sums of these, by second.
    """
    with self._lock:
      for name, value in means.items():
        self._means.setdefault(name, []).append(float(value))
      for name, values in distributions.items():
        if len(values):
          self._distributions.setdefault(name, []).extend(values)
      for name, value in totals.items():
        self._totals[name] = self._totals.get(name, 0.0) + float(value)

  def add_episode(self, task: str, episode_return: float, length: int) -> None:
    with self._lock:
      self._episodes.add(task, episode_return, length)

  def recent_returns(self) -> dict[str, float]:
    with self._lock:
      return self._episodes.recent_returns()

  def settled_returns(self) -> dict[str, float]:
    """As `recent_returns`, of tasks that have ended enough episodes to compare them."""
    with self._lock:
      return self._episodes.recent_returns(_SETTLED)

  def update_clock(self) -> None:
    """Brings the learner's count of seconds, which is in its checkpoint, up to date."""
    with self._lock:
      self._update_clock(time.monotonic())

  def report_if_due(self) -> None:
    """Reports if it is time to, once the clock runs. Called by one thread only, as `close` is."""
    if (
      self._clock is not None
      and time.monotonic() - self._interval_start > self._config.log_every_seconds
    ):
      self._report()

  def close(self) -> None:
    """Reports what is left, if anything, and closes the files."""
    if self._clock is not None and (self._means or self._totals):
      self._report()
    self._writer.close()

  def _report(self) -> None:
    with self._lock:
      now, frames = time.monotonic(), int(self._learner.frames)
      self._update_clock(now)
      elapsed = now - self._interval_start
      row = {
        'frames': frames,
        'updates': int(self._learner.updates),
        'seconds': float(self._learner.seconds),
        'frames_per_second': (frames - self._interval_frames) / elapsed,
      }
      row |= {name: float(np.mean(values)) for name, values in self._means.items()}
      row |= {
        f'{name}_mean': float(np.mean(values)) for name, values in self._distributions.items()
      }
      row |= {f'{name}_max': float(np.max(values)) for name, values in self._distributions.items()}
      row |= {name: total / elapsed for name, total in self._totals.items()}
      row |= self._episodes.report()
      distributions, returns = self._distributions, self._episodes.recent_returns()
      self._restart_interval(now)
    row |= self._gauges(row)
    totals = self._scores(returns)
    self._writer.write(row | totals, distributions)
    logging.info(
      '%s',
      progress.line(
        frames,
        self._config.total_frames,
        row['frames_per_second'],
        self._note(row),
        returns,
        {name.removeprefix('score/'): value for name, value in totals.items()},
      ),
    )

  def _scores(self, returns: Mapping[str, float]) -> dict[str, float]:
    """Human-normalised scores as columns, once every task has ended an episode."""
    if not self._references or len(returns) < len(self._tasks):
      return {}
    return {
      f'score/{name}': value for name, value in scores.summary(self._references, returns).items()
    }

  def _update_clock(self, now: float) -> None:
    if self._clock is not None:
      self._learner.seconds.assign_add(now - self._clock)
      self._clock = now

  def _restart_interval(self, now: float) -> None:
    self._interval_start, self._interval_frames = now, int(self._learner.frames)
    self._means, self._distributions, self._totals = {}, {}, {}


def actor_gauges(actors: Sequence[Any], host: hosting.Host) -> dict[str, float]:
  """Columns on the actors of this process (`actors`) and of others."""
  return {'crashes': sum(actor.games.crashes for actor in actors) + host.crashes, **host.gauges()}


def faults(row: Mapping[str, float]) -> str:
  """What went wrong so far, for the line of progress; empty if nothing did."""
  names = ('crashes', 'actors_lost', 'actor_restarts', 'messages_refused')
  actors = f', {row["actors"]} actors' if 'actors' in row else ''
  return actors + ''.join(
    f', {name.replace("_", " ")} {row[name]}' for name in names if row.get(name)
  )
