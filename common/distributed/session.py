"""An actor's membership at its learner: joins, sends heartbeats, notices when that is gone."""

import contextlib
import logging
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np

from common import errors
from common.distributed import answers, cluster, gate, notes, queues, rpc, wire

BEAT_SECONDS = 3.0
CALL_SECONDS = 30.0
RETRY_SECONDS = 5.0
_LONGEST_REASON = 500  # Characters.

Welcome = answers.Welcome


class Applicant(NamedTuple):
  """Who wants to join; the counterpart of `membership.Identity`."""

  name: str
  role: str
  version: str  # Of the code.
  config: Mapping[str, Any]  # Only the settings that were asked for explicitly.


class Session:
  """A membership at a learner, and after that one is gone, at its successor.

  Not thread-safe but for `stop`; a background thread sends heartbeats.

  Attributes:
    welcome: The learner's answer to the latest join; None before the first.
  """

  def __init__(
    self,
    address: cluster.Address,
    applicant: Applicant,
    token: str,
    patience_seconds: float,
    dropped: Callable[[], int],
  ):
    """Connects to nothing yet.

    Args:
      address: Where the learner listens.
      applicant: Who joins.
      token: The run's, for a learner that is reached by TCP.
      patience_seconds: How long to wait for a learner that does not answer.
      dropped: The number of dropped puts so far, which heartbeats report.
    """
    self.welcome: Welcome | None = None
    self._address = address.address
    self._way = gate.way(address, token)
    self._applicant = applicant
    self._patience = patience_seconds
    self._client: rpc.Client | None = None

    self._lost = threading.Event()
    self._finished = threading.Event()
    self._closing = threading.Event()
    # Found by the background thread; raised by the next `join`.
    self._oddity: errors.UserError | None = None

    self._describe: Callable[[], str] = lambda: 'setting up'
    self._crashes: Callable[[], int] = lambda: 0
    self._crashes_before = 0  # Of earlier actors that this session belonged to.
    self._dropped = dropped
    # Totals of crashes and dropped puts that a learner knows: latest, and before this learner.
    self._reported = (0, 0)
    self._reported_before = (0, 0)
    self._beats = threading.Thread(target=self._beat, name='beats', daemon=True)

  def join(self) -> Welcome:
    """Joins the learner, waiting for one if there is none.

    Raises:
      UserError: If no learner comes, it turns this process away, or it answers oddly.
      QueueClosed: If training is finished.
    """
    if self._oddity:
      raise self._oddity
    is_first = self.welcome is None
    self.welcome = self._await_welcome()
    if is_first:
      self._beats.start()
    # The new session starts from zero: only what happens from now on is reported to it.
    self._reported_before = self._reported
    self._lost.clear()
    logging.info(
      'Joined the learner at %s as %s %d.',
      self._address,
      self._applicant.role,
      self.welcome.place,
    )
    return self.welcome

  def be_described_by(self, describe: Callable[[], str], crashes: Callable[[], int]) -> None:
    """Sets what heartbeats report: an activity, and the crashes since this call."""
    self._crashes_before += self._crashes()
    self._describe = describe
    self._crashes = crashes

  def is_finished(self) -> bool:
    """Whether the learner has said that training is finished."""
    return self._finished.is_set()

  def is_ended(self) -> bool:
    """Whether there is nothing more to do: training is finished, or `stop` was called."""
    return self._finished.is_set() or self._closing.is_set()

  def is_lost(self) -> bool:
    """Whether the learner is gone, or no longer knows this session: it takes another `join`."""
    return self._lost.is_set()

  def lose(self, reason: Exception) -> None:
    """Notes that the learner does not answer."""
    if not self._lost.is_set():
      logging.warning('The learner does not answer (%s).', reason)
    self._lost.set()

  def heed(self, answer: Mapping[str, Any]) -> None:
    """Notes what an answer says about the session.

    Raises:
      QueueClosed: If training is finished.
    """
    if answer['state'] in ('unknown', 'stopped'):
      self._lost.set()
    if answer['state'] == 'finished':
      self._finished.set()
      raise queues.QueueClosed

  def call(
    self, function: str, *payload: bytes, seconds: float | None = None, **header: Any
  ) -> tuple[dict[str, Any], list[bytes]]:
    """Calls a function of the learner in this session.

    Args:
      function: Its name.
      *payload: Byte strings that follow the header.
      seconds: How long to wait, `CALL_SECONDS` by default.
      **header: The request's values.

    Returns:
      The answer, as `answers.read` checks it, and the byte strings that follow it.

    Raises:
      Unreachable: If the learner does not answer.
      UserError: If its answer is none that a learner gives.
    """
    if self._client is None or self.welcome is None:
      raise RuntimeError('call join() first')
    request = wire.to_json(session=self.welcome.session, **header)
    seconds = CALL_SECONDS if seconds is None else seconds
    kind = header.get('kind', function)
    return self._exchange(kind, function, request, *payload, seconds=seconds)

  def odd(self, reason: Exception) -> errors.UserError:
    """The error to raise for an answer that cannot be used; `reason` says what is wrong with it."""
    return errors.UserError(
      f'the learner at {self._address} does not answer as a learner of this code does: '
      f'{notes.printable(reason)}. Is --learner the address of this run, and does the learner run '
      'the same code?'
    )

  def tell(self, kind: str, seconds: float | None = None, **values: Any) -> dict[str, Any]:
    """Sends a short request of some kind; returns its answer. Raises as `call`."""
    return self.call('tell', seconds=seconds, kind=kind, **values)[0]

  def wait(self, seconds: float) -> bool:
    """Waits, or returns early if there is nothing more to do; returns whether that is so."""
    return self._closing.wait(seconds) or self.is_ended()

  def is_stopped_within(self, seconds: float) -> bool:
    """Waits, or returns early if `stop` was called; returns whether it was."""
    return self._closing.wait(seconds)

  def stop(self) -> None:
    """Ends all waiting; may be called from any thread."""
    self._closing.set()

  def close(self) -> None:
    """Leaves the learner. Idempotent."""
    self.stop()
    if self._beats.is_alive():
      self._beats.join()
    if self.welcome is not None and not self._lost.is_set():
      # A learner that misses it drops this member when the lease ends.
      with contextlib.suppress(rpc.Unreachable, errors.UserError):
        self.tell('leave', BEAT_SECONDS)
      self._lost.set()
    self._way.close()

  def _await_welcome(self) -> Welcome:
    """Tries to join until it succeeds. Raises as `join`."""
    started = time.monotonic()
    shown: set[str] = set()
    while True:
      try:
        return self._try_to_join()
      except rpc.Unreachable as error:
        left = self._patience - (time.monotonic() - started)
        if left < 0:
          raise errors.UserError(
            f'no learner has answered at {self._address} for {self._patience:.0f} s '
            f'({error}). Is --learner its address, and does it listen beyond its own machine '
            '(--listen=0.0.0.0:PORT)?'
          ) from error
        reason = str(error)
        logging.info(
          'No learner at %s%s. Trying again every %.0f s, %.0f s more.',
          self._address,
          '' if reason in shown else f' ({reason})',
          RETRY_SECONDS,
          left,
        )
        shown.add(reason)
      if self._closing.wait(RETRY_SECONDS):
        raise queues.QueueClosed

  def _try_to_join(self) -> Welcome:
    """Raises Unreachable, UserError or QueueClosed."""
    self._way.knock()
    try:
      self._client = rpc.Client(self._way.path, CALL_SECONDS)
    except rpc.Failed as error:
      raise self.odd(error) from error

    me = self._applicant
    request = wire.to_json(
      kind='join',
      name=me.name,
      role=me.role,
      version=me.version,
      config=dict(me.config),
      place=self.welcome.place if self.welcome else -1,
    )
    answer, _ = self._exchange('join', 'tell', request, seconds=CALL_SECONDS)
    if answer['state'] in ('turned away', 'refused'):
      raise errors.UserError(
        f'the learner at {self._address} turns this {me.role} away: '
        f'{notes.printable(answer["reason"], _LONGEST_REASON)}'
      )
    self.heed(answer)
    if answer['state'] != 'joined':
      raise rpc.Unreachable(f'it is {answer["state"]}')
    try:
      return answers.welcome(answer)
    except wire.Malformed as error:
      raise self.odd(error) from error

  def _exchange(
    self, kind: str, function: str, *arguments: bytes, seconds: float
  ) -> tuple[dict[str, Any], list[bytes]]:
    """Calls a function; returns its checked answer, and what follows it. Raises as `call`."""
    assert self._client
    outputs = answers.OUTPUTS[function]
    try:
      message, *rest = self._client.call(function, *arguments, outputs=outputs, seconds=seconds)
      return answers.read(kind, message), rest
    except (rpc.Failed, wire.Malformed) as error:
      raise self.odd(error) from error

  def _beat(self) -> None:
    """The background thread."""
    while not self._closing.wait(BEAT_SECONDS):
      if self._lost.is_set():
        continue
      try:
        self._send_beat()
      except (rpc.Unreachable, queues.QueueClosed):
        pass  # The actor's thread notices by itself, at its next call.
      except errors.UserError as error:
        self._oddity = error
        self._lost.set()

  def _send_beat(self) -> None:
    """Sends a heartbeat. Raises as `call` and `heed`."""
    totals = self._crashes_before + self._crashes(), self._dropped()
    crashes, dropped = np.subtract(totals, self._reported_before).tolist()
    answer = self.tell(
      'beat',
      BEAT_SECONDS,
      activity=self._describe(),
      crashes=crashes,
      dropped=dropped,
    )
    self.heed(answer)
    self._reported = totals
