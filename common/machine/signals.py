"""Ctrl-C and SIGTERM as an event, so that a run can save and end in order."""

import contextlib
import logging
import signal
import threading
import time
import types
from typing import Iterator

# One Ctrl-C may arrive twice, from the terminal and from a wrapper that passes it on. Signals this
# close together count as one.
_SAME_SIGNAL_SECONDS = 1.0


@contextlib.contextmanager
def setting(event: threading.Event) -> Iterator[None]:
  """Within the block, the first SIGINT or SIGTERM sets the event; another one interrupts.

  Raises:
    KeyboardInterrupt: In the main thread, at a signal a second or more after the first.
  """
  first = 0.0

  def handle(number: int, frame: types.FrameType | None) -> None:
    nonlocal first
    del frame
    if event.is_set():
      if time.monotonic() - first < _SAME_SIGNAL_SECONDS:
        return
      # If the block hangs while it unwinds, one more signal kills the process.
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
