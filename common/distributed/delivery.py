"""Bringing puts to a learner: numbered, sent in parts, asked after, and counted when dropped."""

import itertools
import logging
from typing import Any

from common import errors
from common.distributed import notes, rpc, wire
from common.distributed import session as sessions

_POLL_SECONDS = 1.0  # Between two questions after a put that waits for room.
# How long to wait for the answer to a put, first and at most. Asking after it is cheap if it only
# waits for room; a message that a slow network carries for longer must be sent again.
_PUT_SECONDS = 5.0
_MOST_PUT_SECONDS = 80.0
_MOST_REFUSED = 20  # In a row.


class Delivery:
  """Delivers puts, each at most once.

  Attributes:
    dropped: How many puts were not delivered.
  """

  def __init__(self, session: sessions.Session):
    self.dropped = 0
    self._session = session
    self._sequence = 0  # Of the latest put in this session.
    self._refused_in_a_row = 0

  def restart(self) -> None:
    """Numbers puts from 1 again, as a new session requires."""
    self._sequence = 0

  def drop(self) -> None:
    """Counts a put that is not worth delivering."""
    self.dropped += 1

  def deliver(self, payload: bytes) -> None:
    """Delivers a put, waiting while the learner's queue is full.

    It is dropped if the learner goes meanwhile, or refuses it.

    Raises:
      QueueClosed: If training is finished.
      UserError: If the learner refuses one put after the other.
    """
    self._sequence += 1
    try:
      answer = self._settle(wire.split(payload))
    except rpc.Unreachable as reason:
      self._session.lose(reason)
      answer = {'state': 'lost'}
    self._session.heed(answer)
    self._check_refused(answer)
    if answer['state'] != 'taken':
      self.dropped += 1

  def _settle(self, parts: list[bytes]) -> dict[str, Any]:
    """Sends a put until its fate is known; returns the last answer. Raises Unreachable."""
    answer: dict[str, Any] = {'state': 'missing'}
    for attempt in itertools.count():
      try:
        answer = self._send(parts, min(_PUT_SECONDS * 2**attempt, _MOST_PUT_SECONDS))
      except rpc.Unreachable:
        # It may have arrived nevertheless, and may be waiting for room.
        answer = self._ask()
      while answer['state'] == 'waiting' and not self._session.is_stopped_within(_POLL_SECONDS):
        answer = self._ask()
      if answer['state'] != 'missing':
        break
    return answer

  def _send(self, parts: list[bytes], seconds: float) -> dict[str, Any]:
    """Sends the parts, up to one that does not ask for more; returns the last answer."""
    answer: dict[str, Any] = {}
    for i, part in enumerate(parts):
      answer, _ = self._session.call(
        'put', part, seconds=seconds, sequence=self._sequence, part=i, parts=len(parts)
      )
      if answer['state'] != 'more':
        break
    return answer

  def _ask(self) -> dict[str, Any]:
    return self._session.tell('asked', sequence=self._sequence)

  def _check_refused(self, answer: dict[str, Any]) -> None:
    """Raises UserError if too many puts in a row were refused."""
    if answer['state'] != 'refused':
      self._refused_in_a_row = 0
      return
    self._refused_in_a_row += 1
    reason = notes.printable(answer['reason'], 400)
    logging.warning('The learner refuses what was collected: %s', reason)
    if self._refused_in_a_row == _MOST_REFUSED:
      raise errors.UserError(
        f'the learner has refused the last {_MOST_REFUSED} times what was collected here, the '
        f'last time as {reason}'
      )
