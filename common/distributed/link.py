"""An actor's side of the wire: joins a learner anywhere, brings it what was collected, fetches its parameters.

A learner that is gone is waited for; it may come back as another process, with the parameters of its last checkpoint.
What was collected for the one before is dropped then, and counted.
"""

import contextlib
import itertools
import logging
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple

import numpy as np
import tensorflow as tf

from common import errors
from common.distributed import parameters, queues, rpc, wire

_BEAT_SECONDS, _CALL_SECONDS, _POLL_SECONDS, _RETRY_SECONDS = 3.0, 30.0, 1.0, 5.0
_PUT_SECONDS, _MOST_PUT_SECONDS = (
  5.0,
  80.0,
)  # The more, the longer a message takes; who waits for room can ask.
_MOST_REFUSED = 20  # In a row.


class PlaceChanged(Exception):
  """The learner has given this actor another place than it had: other tasks, or another epsilon."""


class Welcome(NamedTuple):
  """What a learner tells one that joins."""

  session: str
  place: int
  assignment: int  # Of the run's actors the one whose tasks or epsilon it has.
  seed: int
  config: Mapping[str, Any]


class Applicant(NamedTuple):
  """Who wants to join: see `server.Identity`. `config` holds only the settings that were asked for here."""

  name: str
  role: str
  version: str
  token: str
  config: Mapping[str, Any]


class Link:
  """The connection of one actor or evaluator. Its methods are for one thread; it has another, that tells it is alive."""

  def __init__(self, host: str, port: int, applicant: Applicant, patience_seconds: float):
    """Connects to nothing yet.

    Args:
      host: of the learner.
      port: of the learner.
      applicant: this one.
      patience_seconds: a learner that does not answer is waited for so long.
    """
    self._host, self._port, self._applicant, self._patience = (
      host,
      port,
      applicant,
      patience_seconds,
    )
    self._client: rpc.Client | None = None
    self.welcome: Welcome | None = None
    self._snapshot: parameters.Snapshot | None = None
    self._sequence, self._refused_in_a_row, self.dropped = 0, 0, 0
    self.frames = 0  # That the learner had when it last gave parameters.
    self._outlived = (
      False  # What is collected now was begun with parameters of a learner that is gone.
    )
    self._lost, self._finished, self._closing = (
      threading.Event(),
      threading.Event(),
      threading.Event(),
    )
    self._describe, self._crashes, self._crashes_before = (lambda: 'setting up'), (lambda: 0), 0
    self._told, self._told_before = (
      (0, 0),
      (0, 0),
    )  # Crashes and dropped puts, by now and before this session.
    self._beats = threading.Thread(target=self._beat, name='beats', daemon=True)

  def join(self) -> Welcome:
    """Joins the learner; waits for one if there is none.

    Raises:
      UserError: if none comes, or it turns this one away.
      QueueClosed: if training is finished.
      PlaceChanged: if it was a member before, and has not got its place back.
    """
    started, reasons = time.monotonic(), set()
    while True:
      try:
        welcome = self._try_to_join()
        break
      except rpc.Unreachable as reason:
        left = self._patience - (time.monotonic() - started)
        if left < 0:
          raise errors.UserError(
            f'no learner has answered at {self._host}:{self._port} for {self._patience:.0f} s ({reason}). Is '
            '--learner its address, and does it listen beyond its own machine (--listen=0.0.0.0:PORT)?'
          ) from reason
        new = '' if str(reason) in reasons else f' ({reason})'
        logging.info(
          'No learner at %s:%d%s. Trying again every %.0f s, %.0f s more.',
          self._host,
          self._port,
          new,
          _RETRY_SECONDS,
          left,
        )
        reasons.add(str(reason))
      if self._closing.wait(_RETRY_SECONDS):
        raise queues.QueueClosed
    before, self.welcome = self.welcome, welcome
    if before is None:
      self._beats.start()
    self._sequence, self._snapshot, self._outlived = 0, None, before is not None
    self._told_before = self._told
    self._lost.clear()
    logging.info(
      'Joined the learner at %s:%d as %s %d.',
      self._host,
      self._port,
      self._applicant.role,
      welcome.place,
    )
    if before is not None and before.assignment != welcome.assignment:
      raise PlaceChanged
    return welcome

  def be_described_by(self, describe: Callable[[], str], crashes: Callable[[], int]) -> None:
    """Sets what the learner is told: what this one is doing, and how many engines have crashed since this call."""
    self._crashes_before += self._crashes()
    self._describe, self._crashes = describe, crashes

  def is_finished(self) -> bool:
    """Whether the learner has said that training is finished."""
    return self._finished.is_set()

  def is_ended(self) -> bool:
    """Whether there is nothing more to do."""
    return self._finished.is_set() or self._closing.is_set()

  def latest(self) -> parameters.Snapshot:
    """The learner's latest parameters, as a `ParameterStore` gives them. Raises as `put`."""
    while True:
      self._rejoin_if_lost()
      try:
        snapshot = self._fetch()
      except rpc.Unreachable as reason:
        self._lose(reason)
        continue
      if snapshot is not None:
        self._snapshot, self._outlived = snapshot, False
        return snapshot

  def put(self, payload: bytes) -> None:
    """Brings what a `Codec` made of elements to the learner's queue; waits while that has no room.

    Raises:
      QueueClosed: if training is finished.
      PlaceChanged: if a learner that came back has given the place to another.
      UserError: if no learner comes back, or it refuses what is brought again and again.
    """
    self._rejoin_if_lost()
    if self._outlived:
      self.dropped += 1
      return
    self._sequence += 1
    try:
      answer = self._delivered(wire.split(payload))
    except rpc.Unreachable as reason:
      self._lose(reason)
      answer = {'state': 'lost'}
    self._heed(answer)
    self._refused_in_a_row = self._refused_in_a_row + 1 if answer['state'] == 'refused' else 0
    if answer['state'] == 'refused':
      logging.warning('The learner refuses what was collected: %s', answer['reason'])
    if self._refused_in_a_row == _MOST_REFUSED:
      raise errors.UserError(
        f'the learner has refused the last {_MOST_REFUSED} times what was collected here, the '
        f'last time as {answer["reason"]}'
      )
    if answer['state'] != 'taken':
      self.dropped += 1

  def infer(self, payload: bytes) -> tuple[int, bytes]:
    """Has the learner decide on what environments show; returns its parameters' version, and what it has decided.

    Raises as `put`.
    """
    while True:
      self._rejoin_if_lost()
      try:
        header = wire.to_json(session=self.welcome.session)
        answer, decided = self._client.call('infer', header, payload, seconds=_CALL_SECONDS)
      except rpc.Unreachable as reason:
        self._lose(reason)
        continue
      answer = wire.from_json(answer, {'state': str})
      if answer['state'] == 'decided':
        return answer['version'], decided
      if answer['state'] == 'refused':
        raise errors.UserError(
          f'the learner refuses to decide on what is seen here: {answer["reason"]}'
        )
      self._heed(answer)

  def begin(self) -> None:
    """What is collected from now on is for the learner that there is now."""
    self._rejoin_if_lost()
    self._outlived = False

  def report(self, **values: Any) -> None:
    """Tells the learner what an evaluator has found. Raises as `put`."""
    while True:
      self._rejoin_if_lost()
      try:
        self._heed(self._tell(_CALL_SECONDS, kind='report', **values))
      except rpc.Unreachable as reason:
        self._lose(reason)
      if not self._lost.is_set():
        return

  def wait(self, seconds: float) -> bool:
    """Waits for so long, or until there is nothing more to do; whether that is so."""
    return self._closing.wait(seconds) or self.is_ended()

  def stop(self) -> None:
    """Ends all waiting; for any thread."""
    self._closing.set()

  def close(self) -> None:
    """Leaves the learner."""
    self.stop()
    if self._beats.is_alive():
      self._beats.join()
    if self.welcome is not None and not self._lost.is_set():
      with contextlib.suppress(rpc.Unreachable):  # Then it finds out by itself.
        self._tell(_BEAT_SECONDS, kind='leave')

  def _try_to_join(self) -> Welcome:
    """Raises Unreachable, UserError, QueueClosed."""
    if not rpc.reaches(self._host, self._port):
      raise rpc.Unreachable('nobody listens there')
    self._client, me = rpc.Client(self._host, self._port, _CALL_SECONDS), self._applicant
    answer = self._call_tell(
      _CALL_SECONDS,
      kind='join',
      name=me.name,
      role=me.role,
      token=me.token,
      version=me.version,
      config=dict(me.config),
      place=self.welcome.place if self.welcome else -1,
    )
    if answer['state'] in ('turned away', 'refused'):
      raise errors.UserError(
        f'the learner at {self._host}:{self._port} turns this {me.role} away: {answer["reason"]}'
      )
    self._heed(answer)
    if answer['state'] != 'joined':
      raise rpc.Unreachable(f'it is {answer["state"]}')
    return Welcome(
      answer['session'], answer['place'], answer['assignment'], answer['seed'], answer['config']
    )

  def _beat(self) -> None:
    """The other thread: tells that this one is alive."""
    while not self._closing.wait(_BEAT_SECONDS):
      with contextlib.suppress(
        rpc.Unreachable, queues.QueueClosed
      ):  # Whoever needs the learner next finds out.
        if not self._lost.is_set():
          totals = self._crashes_before + self._crashes(), self.dropped
          crashes, dropped = np.subtract(totals, self._told_before).tolist()
          self._heed(
            self._tell(
              _BEAT_SECONDS,
              kind='beat',
              activity=self._describe(),
              crashes=crashes,
              dropped=dropped,
            )
          )
          self._told = totals

  def _rejoin_if_lost(self) -> None:
    if self._finished.is_set():
      raise queues.QueueClosed
    if self._lost.is_set():
      self.join()

  def _lose(self, reason: Exception) -> None:
    if not self._lost.is_set():
      logging.warning('The learner does not answer (%s).', reason)
    self._lost.set()

  def _heed(self, answer: Mapping[str, Any]) -> None:
    """Does what an answer asks of whoever gets it: to join again, or to end. Raises QueueClosed."""
    if answer['state'] in ('unknown', 'stopped'):
      self._lost.set()
    if answer['state'] == 'finished':
      self._finished.set()
      raise queues.QueueClosed

  def _fetch(self) -> parameters.Snapshot | None:
    """The latest snapshot; None if the session was lost meanwhile."""
    while not self._lost.is_set():
      known = {} if self._snapshot is None else {'known': True}
      answer, message = self._parameters(
        0 if self._snapshot is None else self._snapshot.version, 0, **known
      )
      self.frames = answer.get('frames', self.frames)
      if answer['state'] == 'known':
        return self._snapshot
      parts = [message]
      while answer['state'] == 'given' and len(parts) < answer['parts']:
        answer, message = self._parameters(answer['version'], len(parts))
        parts.append(message)
      if answer['state'] == 'given':
        return parameters.Snapshot(
          answer['version'], tf.constant(np.frombuffer(b''.join(parts), np.float32))
        )
      self._heed(answer)
    return None

  def _parameters(self, version: int, part: int, **known: bool) -> tuple[dict[str, Any], bytes]:
    answer, message = self._client.call(
      'parameters',
      wire.to_json(session=self.welcome.session, version=version, part=part, **known),
      seconds=_CALL_SECONDS,
    )
    return wire.from_json(answer, {'state': str}), message

  def _delivered(self, parts: list[bytes]) -> dict[str, Any]:
    """Sends a put until it is known what has become of it. Raises Unreachable."""
    for attempt in itertools.count():
      try:
        answer = self._send(parts, min(_PUT_SECONDS * 2**attempt, _MOST_PUT_SECONDS))
      except rpc.Unreachable:  # It may have come, and may wait for room there.
        answer = self._tell(_CALL_SECONDS, kind='asked', sequence=self._sequence)
      while answer['state'] == 'waiting' and not self._closing.wait(_POLL_SECONDS):
        answer = self._tell(_CALL_SECONDS, kind='asked', sequence=self._sequence)
      if answer['state'] != 'missing':
        return answer

  def _send(self, parts: list[bytes], seconds: float) -> dict[str, Any]:
    for i, part in enumerate(parts):
      header = wire.to_json(
        session=self.welcome.session, sequence=self._sequence, part=i, parts=len(parts)
      )
      answer = wire.from_json(
        self._client.call('put', header, part, seconds=seconds)[0], {'state': str}
      )
      if answer['state'] != 'more':
        break
    return answer

  def _tell(self, seconds: float, **values: Any) -> dict[str, Any]:
    return self._call_tell(seconds, session=self.welcome.session, **values)

  def _call_tell(self, seconds: float, **values: Any) -> dict[str, Any]:
    return wire.from_json(
      self._client.call('tell', wire.to_json(**values), seconds=seconds)[0], {'state': str}
    )
