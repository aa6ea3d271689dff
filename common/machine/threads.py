"""Threads with an owner: who are started together end together, and the first error among them is the one shown."""

import dataclasses
import threading
import time
from typing import Callable

from common.distributed import queues


@dataclasses.dataclass
class Pulse:
  """What a worker is doing and since when, for the word on who is silent."""

  name: str
  activity: str = 'starting'
  since: float = dataclasses.field(default_factory=time.monotonic)

  def enter(self, activity: str) -> None:
    self.since = (
      time.monotonic()
    )  # First: else who reads now takes the new activity for an old one.
    self.activity = activity

  def describe(self) -> str:
    return f'{self.name}: {self.activity} for {time.monotonic() - self.since:.0f} s'


class Crew:
  """Runs functions in threads until one fails or all return."""

  def __init__(self, close: Callable[[], None]):
    """`close` is called when a thread fails or when the crew is stopped: it must end all waiting of the threads."""
    self._close, self._threads, self._lock = close, [], threading.Lock()
    self.stop, self.error = threading.Event(), None

  def start(self, name: str, function: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=self._run, args=(function,), name=name, daemon=True)
    self._threads.append(thread)
    thread.start()
    return thread

  def end(self, seconds: float = 10.0) -> list[str]:
    """Stops and joins all threads. Idempotent.

    Returns:
      The names of threads that have not ended after so many seconds, as they hang in somebody else's code. They are
      daemons: they end with the process.
    """
    self.stop.set()
    self._close()
    deadline = time.monotonic() + seconds
    for thread in self._threads:
      thread.join(max(0.0, deadline - time.monotonic()))
    return [thread.name for thread in self._threads if thread.is_alive()]

  def _run(self, function: Callable[[], None]) -> None:
    try:
      function()
    except BaseException as error:  # Whatever it is, the owner of the crew gets it.
      if isinstance(error, queues.QueueClosed) and self.stop.is_set():
        return  # The crew is ending.
      with self._lock:
        self.error = self.error or error
      self.stop.set()
      self._close()
