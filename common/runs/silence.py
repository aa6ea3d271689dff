"""Names those who hang while the others go on: once, and again when they go on."""

import logging
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple


class Silence(NamedTuple):
  """How long somebody has done nothing new."""

  name: str
  seconds: float
  describe: Callable[[], str]  # The name, with what it is doing.


class Register:
  """Remembers who has been named, and names nobody twice."""

  def __init__(self, seconds: float):
    """Nobody is silent yet; those who are for longer than `seconds` will be named."""
    self._seconds = seconds
    self._since: dict[str, float] = {}  # When those who were named fell silent.

  def look(self, silences: Iterable[Silence]) -> None:
    """Logs who has fallen silent, and who goes on, since the last call.

    Args:
      silences: Of everybody. Who is missing has left, and is forgotten.
    """
    now = time.monotonic()
    everybody = {silence.name: silence for silence in silences}
    silent = {name: each for name, each in everybody.items() if each.seconds > self._seconds}
    new = [each for name, each in silent.items() if name not in self._since]
    if new:
      described = '; '.join(each.describe() for each in new)
      logging.warning('Silent for more than %g s: %s', self._seconds, described)
    for name in everybody.keys() & self._since.keys() - silent.keys():
      logging.info('%s goes on, after %.0f s.', name, now - self._since[name])
    # What began before is kept: a member's seconds stop growing when nobody else goes on.
    self._since = {name: self._since.get(name, now - each.seconds) for name, each in silent.items()}
