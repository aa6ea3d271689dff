"""The members' short requests: joining, heartbeats, questions, evaluators' reports, leaving."""

import itertools
import logging
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import graphs, notes, traffic, wire
from common.distributed import roster as rosters

_JOIN = {'name': str, 'role': str, 'version': str, 'config': dict}
_BEAT = {'session': str, 'activity': str, 'crashes': int, 'dropped': int}
_LONGEST_REASON = 500  # Characters.


class Identity(NamedTuple):
  """What an actor must have in common with its learner."""

  version: str  # Of the code.
  config: Mapping[str, Any]


class Membership:
  """Answers the members' short requests.

  Attributes:
    state: `working`; `finished` once training is, so that members end; `stopped` when the learner
      ends earlier, so that members wait for another one.
  """

  def __init__(
    self,
    identity: Identity,
    assignments: Sequence[int],
    seed_of: Callable[[int], int],
    on_report: Callable[[dict[str, Any]], None],
    roster: rosters.Roster,
    counts: traffic.Traffic,
  ):
    """Starts in the state `working`.

    Args:
      identity: What members must have in common with the learner.
      assignments: The numbers of the run's actors that work here, one for each place.
      seed_of: From the number of a join, 1, 2, ..., to the actor's seed.
      on_report: Takes an evaluator's report; may raise `wire.Malformed`.
      roster: Keeps the members.
      counts: Counts refused messages.
    """
    self.state = 'working'
    self._roster = roster
    self._counts = counts
    self._identity = identity
    self._assignments = assignments
    self._seed_of = seed_of
    self._on_report = on_report
    self._turned_away = notes.Limited('processes that were turned away')
    self._joins = itertools.count(1)  # `next` is atomic.
    self._handlers = {
      'join': self._join,
      'beat': self._beat,
      'asked': self._asked,
      'report': self._report,
      'leave': self._leave,
    }

  def graph(self) -> tf.types.experimental.PolymorphicFunction:
    """The server's function `tell`: from a request, a string `[]`, to its answer."""
    return graphs.of_strings(self._counts.guarded('message', self._tell), 1)

  def look_after(self) -> None:
    """Logs what was held back; to be called now and then."""
    self._turned_away.look_after()

  def _tell(self, message: bytes) -> Sequence[bytes]:
    """Dispatches a request. Raises Unknown or Malformed."""
    request = wire.from_json(message, {'kind': str})
    kind = request['kind']
    if kind not in self._handlers:
      raise wire.Malformed(f'kind is {kind[:40]!r}, expected {", ".join(self._handlers)}')
    return (self._handlers[kind](request),)

  def _join(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, _JOIN)
    name = notes.printable(request['name'])
    role = request['role']
    if role not in ('actor', 'evaluator'):
      raise wire.Malformed(f'role is {role[:40]!r}, expected actor or evaluator')

    mismatch = notes.printable(self._mismatch(request), _LONGEST_REASON)
    if mismatch:
      self._turned_away.warn(f'{role} {name} is turned away: {mismatch}')
      return wire.to_json(state='turned away', reason=mismatch)
    if self.state != 'working':
      return wire.to_json(state=self.state)

    member = self._roster.join(name, role, request.get('place'))
    logging.info('%s %d joins: %s', role, member.place, name)
    return wire.to_json(
      state='joined',
      session=member.session,
      place=member.place,
      assignment=self._assignments[member.place % len(self._assignments)],
      seed=self._seed_of(next(self._joins)),
      config=self._identity.config,
    )

  def _mismatch(self, request: Mapping[str, Any]) -> str:
    """Why an applicant does not belong to this run; empty if it does."""
    own = self._identity
    if request['version'] != own.version:
      return (
        f"its code is version {request['version'][:20]}, the learner's is {own.version}: run both "
        'from the same checkout'
      )

    for field, value in request['config'].items():
      if field not in own.config or own.config[field] != value:
        return (
          f"its setting {field[:60]} is {str(value)[:80]!r}, the learner's "
          f'{own.config.get(field)!r}: leave it out, actors take the settings of their learner'
        )
    return ''

  def _beat(self, request: dict[str, Any]) -> bytes:
    """A heartbeat; the answer says whether to go on."""
    wire.expect(request, _BEAT)
    member = self._roster.find(request['session'])
    member.activity = notes.printable(request['activity'], 300)
    member.crashes = request['crashes']
    member.dropped = request['dropped']
    return wire.to_json(state=self.state)

  def _asked(self, request: dict[str, Any]) -> bytes:
    """What became of a put whose answer the member did not get."""
    wire.expect(request, {'session': str, 'sequence': int})
    member = self._roster.find(request['session'])
    sequence = request['sequence']
    if sequence <= member.delivered:
      return wire.to_json(state='taken')
    if self.state != 'working':
      return wire.to_json(state=self.state)
    return wire.to_json(state='waiting' if sequence <= member.admitted else 'missing')

  def _report(self, request: dict[str, Any]) -> bytes:
    """An evaluator's results."""
    wire.expect(request, {'session': str})
    self._roster.find(request['session'])
    self._on_report(request)
    return wire.to_json(state=self.state)

  def _leave(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'session': str})
    self._roster.leave(request['session'])
    return wire.to_json(state=self.state)
