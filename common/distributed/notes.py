"""Lines of a log that other processes have a say in: short, harmless, and not too many."""

import logging
import threading
import time
from typing import Callable

_BURST = 5  # Warnings of one kind that are shown in a period.
_PERIOD_SECONDS = 60.0


def printable(text: object, most: int = 200) -> str:
  r"""What another process has sent, as one line that cannot forge a log or steer a terminal.

  Control characters, line ends, halves of surrogate pairs and what reorders text are shown as
  `\x1b`, `\n` and so on.

  Args:
    text: What was sent, or a text that contains it.
    most: The most characters of the result; a longer text ends in three dots.
  """
  words = str(text)
  # Cut before as well: what was sent may have megabytes.
  shown = ''.join(
    letter if letter.isprintable() else letter.encode('unicode_escape').decode()
    for letter in words[:most]
  )
  is_whole = len(words) <= most and len(shown) <= most
  return shown if is_whole else f'{shown[: most - 3]}...'


class Limited:
  """Warnings that other processes can cause at will: a few in each minute, the rest is counted.

  Thread-safe.
  """

  def __init__(self, what: str, clock: Callable[[], float] = time.monotonic):
    """Logs nothing yet.

    Args:
      what: What the warnings are about, in the plural, for the line that counts them.
      clock: Time in seconds.
    """
    self._what = what
    self._clock = clock
    self._lock = threading.Lock()
    self._began = -float('inf')  # The present period.
    self._shown = 0  # Warnings in it.
    self._hidden = 0

  def warn(self, message: str) -> None:
    """Logs a warning, or counts it if there were many in this minute."""
    with self._lock:
      self._renew()
      if self._shown < _BURST:
        self._shown += 1
        logging.warning('%s', message)
      else:
        self._hidden += 1

  def look_after(self) -> None:
    """Says how many warnings were not shown, after their minute; to be called now and then."""
    with self._lock:
      self._renew()

  def _renew(self) -> None:
    """Begins a new period if the last one is over."""
    now = self._clock()
    if now - self._began < _PERIOD_SECONDS:
      return
    if self._hidden:
      logging.warning('%s more %s were not shown.', f'{self._hidden:,}', self._what)
    self._began = now
    self._shown = 0
    self._hidden = 0
