"""What all of a learner's functions have in common: counting messages, and refusing bad ones."""

import collections
import logging
import threading
from typing import Any, Callable, Sequence

from common.distributed import notes, wire
from common.distributed import roster as rosters

_LOGGED = 10  # Refusals that are all logged; after those, each tenfold number is.


class Traffic:
  """Counts a learner's messages, and answers those that cannot be carried out; thread-safe."""

  def __init__(self, roster: rosters.Roster):
    """`roster`: to name the senders of refused messages."""
    self._roster = roster
    self._lock = threading.Lock()
    self._counts: collections.Counter[str] = collections.Counter()

  def add(self, name: str, amount: int = 1) -> int:
    """Increments a count; returns its new value."""
    with self._lock:
      self._counts[name] += amount
      return self._counts[name]

  def count(self, name: str) -> int:
    """The value of a count; 0 if nothing was added to it."""
    with self._lock:
      return self._counts[name]

  def guarded(
    self, what: str, handle: Callable[..., Sequence[Any]], nothing: Sequence[Any] = ()
  ) -> Callable[..., Sequence[Any]]:
    """Wraps a handler of requests so that it answers strangers and malformed messages.

    Args:
      what: The kind of its messages, for the log.
      handle: From a header, and perhaps a payload, to the answer and further results. May raise
        `roster.Unknown` and `wire.Malformed`.
      nothing: The further results in these cases.
    """

    def answer(header: bytes, *payload: bytes) -> Sequence[Any]:
      try:
        return handle(header, *payload)
      except rosters.Unknown:
        return wire.to_json(state='unknown'), *nothing
      except wire.Malformed as error:
        reason = notes.printable(error, 400)
        self._log_refusal(header, what, reason)
        return wire.to_json(state='refused', reason=reason), *nothing

    return answer

  def _log_refusal(self, header: bytes, what: str, reason: str) -> None:
    """Counts a refusal, and logs it unless there were many."""
    count = self.add('refused')
    is_power_of_ten = str(count).strip('0') == '1'
    if count <= _LOGGED or is_power_of_ten:
      suffix = f' ({count:,} refused so far)' if count > 1 else ''
      logging.warning('A %s from %s is refused: %s%s', what, self._sender(header), reason, suffix)

  def _sender(self, header: bytes) -> str:
    """The sender of a message as far as it is known: gRPC hides the caller's address."""
    try:
      session = wire.from_json(header, {'session': str})['session']
      return self._roster.find(session).title()
    except (wire.Malformed, rosters.Unknown):
      return 'a process that has not joined'
