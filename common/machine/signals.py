"""Signals as an event, so that a run can save and end in order."""

import contextlib
import logging
import signal
import threading
import time
import types
from typing import Iterator

# Ctrl-C, kill, a closed terminal, and the warnings of batch systems (Slurm's --signal).
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# One Ctrl-C may arrive twice, from the terminal and from a wrapper that passes it on. Signals this
# close together count as one.
_SAME_SIGNAL_SECONDS = 1.0


@contextlib.contextmanager
def setting(event: threading.Event) -> Iterator[None]:
  """Within the block, the first signal that asks to end sets the event; another one interrupts.

  These are SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2. One that is ignored stays ignored, as
  SIGHUP is under nohup.

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

  heeded = [number for number in _ENDING if signal.getsignal(number) != signal.SIG_IGN]
  before = {number: signal.signal(number, handle) for number in heeded}
  try:
    yield
  finally:
    for number, handler in before.items():
      signal.signal(number, handler)
