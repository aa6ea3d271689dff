"""Threads that start and end together; the first error among them is reported to their owner."""

import dataclasses
import threading
import time
from typing import Callable

from common.distributed import queues
from common.machine import exits


@dataclasses.dataclass
class Pulse:
  """What a worker is doing and since when, for reports about stalled runs.

  Attributes:
    name: The worker's name.
    activity: What it is doing.
    since: When it began that, by `time.monotonic()`.
    detail: Says more about the activity; called by any thread.
  """

  name: str
  activity: str = 'starting'
  since: float = dataclasses.field(default_factory=time.monotonic)
  detail: Callable[[], str] = str

  def enter(self, activity: str, detail: Callable[[], str] = str) -> None:
    """Begins an activity. One that only waits for other threads begins with `waiting`."""
    # Set first: a reader between the lines would otherwise report the new activity with the old
    # one's duration, and so as stalled.
    self.since = time.monotonic()
    self.activity = activity
    self.detail = detail

  def seconds_at_work(self) -> float:
    """How long the activity has gone on; 0 if the worker waits for others."""
    return 0.0 if self.activity.startswith('waiting') else time.monotonic() - self.since

  def describe(self) -> str:
    detail = self.detail()
    more = f' ({detail})' if detail else ''
    return f'{self.name}: {self.activity} for {time.monotonic() - self.since:.0f} s{more}'


class Crew:
  """Runs functions in threads until one of them fails or all have returned.

  Attributes:
    stop: Set when a thread fails or the crew is ended; the threads should return soon after.
    error: The first exception that a thread raised, if any.
    patience: Seconds that `end` waits for the threads, all together.
  """

  def __init__(self, close: Callable[[], None]):
    """Makes a crew without threads.

    Args:
      close: Called when a thread fails or the crew is ended, maybe several times. Must unblock all
        threads, for example by closing the queues that they wait for.
    """
    self.stop = threading.Event()
    self.error: BaseException | None = None
    self.patience = 10.0
    self._close = close
    self._threads: list[threading.Thread] = []
    self._lock = threading.Lock()  # Guards `error`.

  def start(self, name: str, function: Callable[[], None]) -> threading.Thread:
    """Runs a function in a thread of the crew."""
    thread = threading.Thread(target=self._run, args=(function,), name=name, daemon=True)
    self._threads.append(thread)
    exits.may_hang(thread)
    thread.start()
    return thread

  def end(self) -> list[str]:
    """Stops and joins all threads. Idempotent.

    Returns:
      The names of threads that have not ended in time, because they hang in foreign code. They are
      daemons and end with the process, see `exits.leave`.
    """
    self.stop.set()
    self._close()
    deadline = time.monotonic() + self.patience
    for thread in self._threads:
      thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in self._threads if thread.is_alive()]

  def _run(self, function: Callable[[], None]) -> None:
    """The body of every thread."""
    try:
      function()
    except BaseException as error:  # Of any kind: the crew's owner decides what to do with it.
      # An ending crew closes the queues that its threads wait for.
      if isinstance(error, queues.QueueClosed) and self.stop.is_set():
        return
      with self._lock:
        # Later errors are mostly consequences of the first.
        self.error = self.error or error
      self.stop.set()
      self._close()
