"""An actor's connection to its learner, wherever that is: brings data, fetches parameters.

When the learner is gone, the link waits for it. It may come back as another process with the
parameters of its last checkpoint; data collected for its predecessor are dropped, and counted.
"""

import logging
from typing import Any, Callable, Mapping

import numpy as np
import tensorflow as tf

from common import errors
from common.distributed import answers, cluster, notes, parameters, queues, rpc, wire
from common.distributed import delivery as deliveries
from common.distributed import session as sessions

# Callers need these beside the link itself.
Applicant = sessions.Applicant
Welcome = sessions.Welcome


class PlaceChanged(Exception):
  """The learner has assigned this actor another place: its tasks or epsilon are no longer right."""


class Link:
  """The connection of one actor or evaluator; a `parameters.Source`.

  Not thread-safe but for `stop`; a background thread sends heartbeats.

  Attributes:
    frames: Environment frames the learner had learned from when it last gave parameters.
  """

  def __init__(
    self,
    address: cluster.Address,
    applicant: Applicant,
    patience_seconds: float,
    token: str = '',
  ):
    """Connects to nothing yet.

    Args:
      address: Where the learner listens.
      applicant: Who joins.
      patience_seconds: How long to wait for a learner that does not answer.
      token: The run's, for a learner that is reached by TCP.
    """
    self.frames = 0
    self._session = sessions.Session(
      address, applicant, token, patience_seconds, dropped=lambda: self.dropped
    )
    self._delivery = deliveries.Delivery(self._session)
    self._snapshot: parameters.Snapshot | None = None
    # Whether data collected now stem from parameters of a learner that is gone.
    self._is_outdated = False

  @property
  def welcome(self) -> Welcome:
    """The learner's answer to the latest join. Raises RuntimeError before the first."""
    if self._session.welcome is None:
      raise RuntimeError('call join() first')
    return self._session.welcome

  @property
  def dropped(self) -> int:
    """How many puts were dropped because the learner was gone, or refused them."""
    return self._delivery.dropped

  def join(self) -> Welcome:
    """Joins the learner, waiting for one if there is none.

    Raises:
      UserError: If no learner comes, or it turns this process away.
      QueueClosed: If training is finished.
      PlaceChanged: If it was a member before and has not got its place back.
    """
    before = self._session.welcome
    welcome = self._session.join()
    self._delivery.restart()
    # The same version of another learner is another snapshot.
    self._snapshot = None
    self._is_outdated = before is not None
    if before is not None and before.assignment != welcome.assignment:
      raise PlaceChanged
    return welcome

  def latest(self) -> parameters.Snapshot:
    """The learner's latest parameters, as from a `ParameterStore`. Raises as `put`."""
    while True:
      self._rejoin_if_lost()
      try:
        snapshot = self._fetch()
      except rpc.Unreachable as reason:
        self._session.lose(reason)
        continue
      if snapshot is not None:
        self._snapshot = snapshot
        self._is_outdated = False
        return snapshot

  def put(self, payload: bytes) -> None:
    """Brings elements, as a `Codec` encodes them, to the learner's queue; waits while it is full.

    Raises:
      QueueClosed: If training is finished.
      PlaceChanged: If a learner that came back has given the place to another actor.
      UserError: If no learner comes back, or it refuses one put after the other.
    """
    self._rejoin_if_lost()
    if self._is_outdated:
      self._delivery.drop()
    else:
      self._delivery.deliver(payload)

  def infer(self, payload: bytes) -> tuple[int, bytes]:
    """Has the learner act on encoded inputs; returns its parameters' version and the outputs.

    Raises as `put`.
    """
    while True:
      self._rejoin_if_lost()
      try:
        answer, (decided,) = self._session.call('infer', payload)
      except rpc.Unreachable as reason:
        self._session.lose(reason)
        continue
      if answer['state'] == 'decided':
        return answer['version'], decided
      if answer['state'] == 'refused':
        raise errors.UserError(
          'the learner refuses to decide on what is seen here: '
          f'{notes.printable(answer["reason"], 400)}'
        )
      self._session.heed(answer)

  def begin(self) -> None:
    """Declares that data collected from now on are for the present learner. Raises as `put`.

    For actors that hold no parameters; for others, `latest` does the same.
    """
    self._rejoin_if_lost()
    self._is_outdated = False

  def report(self, **values: Any) -> None:
    """Sends an evaluator's results. Raises as `put`."""
    while True:
      self._rejoin_if_lost()
      try:
        answer = self._session.tell('report', **values)
        self._session.heed(answer)
        if answer['state'] == 'refused':
          reason = notes.printable(answer['reason'], 400)
          logging.warning('The learner refuses the results of an evaluation: %s', reason)
      except rpc.Unreachable as error:
        self._session.lose(error)
      if not self._session.is_lost():
        return

  def be_described_by(self, describe: Callable[[], str], crashes: Callable[[], int]) -> None:
    """Sets what heartbeats report: an activity, and the crashes since this call."""
    self._session.be_described_by(describe, crashes)

  def is_finished(self) -> bool:
    """Whether the learner has said that training is finished."""
    return self._session.is_finished()

  def is_ended(self) -> bool:
    """Whether there is nothing more to do: training is finished, or `stop` was called."""
    return self._session.is_ended()

  def wait(self, seconds: float) -> bool:
    """Waits, or returns early if there is nothing more to do; returns whether that is so."""
    return self._session.wait(seconds)

  def stop(self) -> None:
    """Ends all waiting; may be called from any thread."""
    self._session.stop()

  def close(self) -> None:
    """Leaves the learner."""
    self._session.close()

  def _rejoin_if_lost(self) -> None:
    if self._session.is_finished():
      raise queues.QueueClosed
    if self._session.is_lost():
      self.join()

  def _fetch(self) -> parameters.Snapshot | None:
    """Fetches the latest snapshot; None if the session was lost. Raises Unreachable."""
    # Starts again if the version is outdated before all of its parts are here.
    while not self._session.is_lost():
      first, parts = self._fetch_first()
      if first['state'] == 'known' and self._snapshot:
        return self._snapshot
      self._session.heed(first)
      if self._session.is_lost():
        return None
      try:
        values = self._fetch_values(first, parts)
      except wire.Malformed as error:
        raise self._session.odd(error) from error
      if values is not None:
        return parameters.Snapshot(first['version'], tf.constant(values))
    return None

  def _fetch_first(self) -> tuple[dict[str, Any], list[bytes]]:
    """Fetches the first part of the latest snapshot, unless that is the one already here."""
    if self._snapshot is None:
      answer, parts = self._session.call('parameters', version=0, part=0)
    else:
      answer, parts = self._session.call(
        'parameters', version=self._snapshot.version, part=0, known=True
      )
    self.frames = answer.get('frames', self.frames)
    return answer, parts

  def _fetch_values(self, first: Mapping[str, Any], parts: list[bytes]) -> np.ndarray | None:
    """Fetches the parts that follow the first one.

    Args:
      first: The answer that came with the first part.
      parts: The first part; the others are appended.

    Returns:
      All parameters, float32 `[P]`; None if the learner no longer has this version, or has gone.

    Raises:
      Malformed: If an answer is none to what was asked for.
    """
    answer, part = first, parts[0]
    while True:
      if answer['state'] == 'refused' or answer is first and answer['state'] != 'given':
        reason = answer.get('reason', 'there is no such snapshot')
        raise wire.Malformed(f'asked for parameters, it answers {answer["state"]}: {reason}')
      if answer['state'] != 'given':
        self._session.heed(answer)
        return None
      answers.check_part(first, answer, part)
      if len(parts) == first['parts']:
        break
      answer, (part,) = self._session.call('parameters', version=first['version'], part=len(parts))
      parts.append(part)

    values = np.frombuffer(b''.join(parts), np.float32)
    if not np.isfinite(values).all():
      raise wire.Malformed('its parameters hold numbers that are not finite')
    return values
