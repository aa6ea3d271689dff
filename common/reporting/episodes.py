"""The mean returns that a run shows of its training episodes, and the window they are over."""

import collections
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# The one window of all that a run shows, on its progress line, in `metrics.csv`, in TensorBoard and
# in curves: the last episodes of a task that ended within a minute. In a long run of short
# episodes that is what the agent is worth now; a hundred of them may be half of a short run.
WINDOW_EPISODES = 100
WINDOW_SECONDS = 60.0
# Of episodes that take long, this many count however old they are: fewer say little.
_FEWEST = 10


class Recent(NamedTuple):
  """Means over the episodes of one task that are in the window.

  Attributes:
    mean_return: Undiscounted and unclipped.
    mean_length: In agent steps.
    episodes: How many they are.
  """

  mean_return: float
  mean_length: float
  episodes: int


class _Episode(NamedTuple):
  ended: float  # In seconds.
  episode_return: float
  length: int


class EpisodeWindow:
  """The newest episodes of each task.

  The window ends with a task's newest episode. It changes only when an episode ends, so that the
  progress line shows the last point of the curve.
  """

  def __init__(self, tasks: Sequence[str]):
    self._episodes: dict[str, collections.deque[_Episode]] = {
      task: collections.deque(maxlen=WINDOW_EPISODES) for task in tasks
    }
    self._fresh: set[str] = set()  # Tasks with an episode since the last report.

  def add(self, task: str, episode_return: float, length: int, now: float) -> None:
    """Adds a finished episode. One whose return is not a finite number counts for nothing.

    Args:
      task: Its task.
      episode_return: Undiscounted and unclipped.
      length: In agent steps.
      now: When it ended, in seconds of any clock.
    """
    if not math.isfinite(episode_return):
      return
    window = self._episodes[task]
    window.append(_Episode(now, episode_return, length))
    while len(window) > _FEWEST and window[0].ended < now - WINDOW_SECONDS:
      window.popleft()
    self._fresh.add(task)

  def recent(self) -> dict[str, Recent]:
    """The means of each task that has ended an episode."""
    means = {}
    for task, window in self._episodes.items():
      if window:
        _, mean_return, mean_length = np.mean(window, axis=0).tolist()
        means[task] = Recent(mean_return, mean_length, len(window))
    return means

  def recent_returns(self, episodes: int = 1) -> dict[str, float]:
    """Mean returns by task; omits tasks with fewer than `episodes` episodes in the window."""
    recent = self.recent()
    return {task: one.mean_return for task, one in recent.items() if one.episodes >= episodes}

  def report(self) -> dict[str, float]:
    """The means as columns `return/TASK`, `length/TASK` and `episodes/TASK`.

    Omits tasks that have ended no episode since the last call.
    """
    row: dict[str, float] = {}
    for task, one in self.recent().items():
      if task in self._fresh:
        row[f'return/{task}'] = one.mean_return
        row[f'length/{task}'] = one.mean_length
        row[f'episodes/{task}'] = one.episodes
    self._fresh.clear()
    return row
