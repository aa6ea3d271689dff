"""Lines of progress while episodes are played."""

import logging
import threading
import time

from common.evaluation import play
from common.reporting import progress


class Ticker:
  """Logs how far an evaluation is, a line every some seconds. Thread-safe."""

  def __init__(self, asked: int, seconds: float):
    """Starts the clock.

    Args:
      asked: Episodes to play, of all tasks together.
      seconds: Time between two lines.
    """
    self._asked = asked
    self._seconds = seconds
    self._started = time.monotonic()
    self._next = self._started + seconds
    self._lock = threading.Lock()
    self._standings: dict[str, play.Standing] = {}
    self._playing: dict[str, None] = {}  # A set that keeps its order.

  def note(self, name: str, standing: play.Standing, is_done: bool = False) -> None:
    """Takes note of the episodes of one task, and logs a line if it is time.

    Args:
      name: The task, with its player if there are several.
      standing: How far its episodes are.
      is_done: Whether these were the last ones.
    """
    with self._lock:
      self._standings[name] = standing
      self._playing[name] = None
      if is_done:
        del self._playing[name]
      if time.monotonic() < self._next:
        return
      self._next = time.monotonic() + self._seconds
      # Still with the lock, so that no later line comes first.
      logging.info('  %s', self._line())

  def line(self) -> str:
    """Episodes done of those asked for, agent steps, time left, and what is being played."""
    with self._lock:
      return self._line()

  def _line(self) -> str:
    standings = self._standings.values()
    episodes = sum(standing.episodes for standing in standings)
    steps = sum(standing.steps for standing in standings)
    line = f'{episodes:,} of {self._asked:,} episodes, {steps:,} steps, ETA {self._time_left()}'
    names = list(self._playing)
    more = f' and {len(names) - 3} more' if len(names) > 3 else ''
    return f'{line} (playing {", ".join(names[:3])}{more})' if names else line

  def _time_left(self) -> str:
    work = sum(standing.work for standing in self._standings.values())
    if not work:
      return 'unknown'
    elapsed = time.monotonic() - self._started
    left = progress.duration(elapsed * max(0.0, self._asked - work) / work)
    # Until an episode has ended, each is expected to take as many steps as it may.
    has_ended = any(standing.episodes for standing in self._standings.values())
    return left if has_ended else f'at most {left}'
