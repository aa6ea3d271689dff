"""Ctrl-C and SIGTERM as an event, so that a run ends in order."""

import contextlib
import logging
import signal
import threading
import time
from typing import Iterator


@contextlib.contextmanager
def setting(event: threading.Event) -> Iterator[None]:
  """While it lasts, a first SIGINT or SIGTERM sets the event, and another one, a second or more later, interrupts.

  One Ctrl-C may arrive twice, from the terminal and from a wrapper that passes it on: that counts once.
  """
  first = 0.0

  def handle(number, frame):
    nonlocal first
    del frame
    if event.is_set():
      if time.monotonic() - first < 1.0:
        return
      signal.signal(number, signal.SIG_DFL)
      raise KeyboardInterrupt
    first = time.monotonic()
    logging.info('Stopping: waiting for what is under way to end. Again to stop at once.')
    event.set()

  before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
