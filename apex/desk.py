"""The desk of an evaluator that is a thread of the learner's process."""

import pathlib
import threading
from typing import Any, Callable

from common.distributed import parameters
from common.evaluation import ticker
from common.machine import threads
from common.runs import hosting


class Desk:
  """Hands out parameters after every so many frames; see `common.runs.evaluating.Desk`.

  Attributes:
    frames: Environment frames learned from when `latest` was last called.
    pulse: What the evaluator is doing.
  """

  def __init__(
    self,
    period: int,
    frames: Callable[[], int],
    store: parameters.ParameterStore,
    folder: pathlib.Path,
    stop: threading.Event,
  ):
    """Opens it.

    Args:
      period: Frames between two rounds.
      frames: The run's frames so far.
      store: Holds the latest parameters.
      folder: The run's, which gets the results.
      stop: Set when the run ends.
    """
    self.frames = frames()
    self.pulse = threads.Pulse('evaluator')
    self._period = period
    self._now = frames
    self._store = store
    self._folder = folder
    self._stop = stop
    self._due = self.frames + period
    self._snapshot: parameters.Snapshot | None = None

  def begin(self, watch: ticker.Ticker) -> None:
    """Notes that a round has begun."""
    self.pulse.enter('playing', watch.line)

  def latest(self) -> parameters.Snapshot | None:
    """The parameters for the next round once its frames have passed, else those of the last."""
    frames = self._now()
    if frames >= self._due:
      self.frames = frames
      self._due = frames + self._period
      self._snapshot = self._store.latest()
    return self._snapshot

  def wait(self, seconds: float) -> bool:
    """Waits; returns whether the run ends."""
    self.pulse.enter('waiting for the next round')
    return self._stop.wait(seconds)

  def is_ended(self) -> bool:
    """Whether the run ends. Asked after every step, which shows that none hangs."""
    self.pulse.enter(self.pulse.activity, self.pulse.detail)
    return self._stop.is_set()

  def report(self, **row: Any) -> None:
    """Writes the result of one task."""
    hosting.write_report(self._folder, row)
