"""The learner's side of the wire: takes what remote actors send, gives them parameters, and keeps their roster.

What waits (for room in the queue) waits in TensorFlow's graph and holds no thread, however many actors there are; what
Python does in between (headers, bounds, the roster) is short.
"""

import collections
import hmac
import json
import logging
import threading
import time
from typing import Any, Callable, Mapping, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import cluster, parameters, queues, rpc, wire
from common.distributed import roster as rosters

LEASE_SECONDS = 30.0  # Who is not heard of for so long has gone.
_KEPT_SECONDS = 30.0  # For whoever is still fetching parameters that are not the latest any more.
_FAREWELL_SECONDS = 5.0
_PUT = {'session': str, 'sequence': int, 'part': int, 'parts': int}
_LOGGED = 10  # Refusals that are shown; of more, each tenfold number is.


class Identity(NamedTuple):
  """What an actor must share with its learner."""

  version: str  # Of the code.
  token: str
  config: Mapping[str, Any]


class Inference(NamedTuple):
  """How the learner acts for actors that hold no parameters."""

  inputs: wire.Codec  # Of what one environment shows.
  outputs: wire.Codec  # Of what is decided for it.
  decide: Callable[
    [Any], Any
  ]  # Flat inputs `[N, ...]` to flat outputs `[N, ...]`; in batches of all who ask.
  version: Callable[[], int]  # Of the parameters in use.


class Server:
  """Serves from `start` to `close`."""

  COLUMNS = (
    'actors',
    'actors_lost',
    'puts',
    'puts_repeated',
    'puts_dropped',
    'messages_refused',
    'received_mb',
  )

  def __init__(
    self,
    host: str,
    port: int,
    identity: Identity,
    assignments: Sequence[int],
    queue: queues.StructureQueue,
    codec: wire.Codec,
    store: parameters.ParameterStore,
    frames: Callable[[], int],
    seed_of: Callable[[int], int],
    on_report: Callable[[dict[str, Any]], None],
    inference: Inference | None = None,
  ):
    """Takes a port.

    Args:
      host: to listen on.
      port: to listen on, 0 for any.
      identity: of the run.
      assignments: the numbers of its actors, one for each place.
      queue: what is put goes there.
      codec: of its elements.
      store: of the parameters to give out.
      frames: tells how many environment frames were learned from so far.
      seed_of: from a number, which is another one each time, to the seed of an actor that joins.
      on_report: takes what an evaluator reports.
      inference: if actors hold no parameters.

    Raises:
      UserError: if the port cannot be had.
    """
    self.host, self.port = host, rpc.free_port(host, port)
    self.roster = rosters.Roster(len(assignments), LEASE_SECONDS)
    self._identity, self._assignments, self._queue, self._codec = (
      identity,
      assignments,
      queue,
      codec,
    )
    self._snapshots, self._frames, self._seed_of, self._on_report = (
      _Snapshots(store),
      frames,
      seed_of,
      on_report,
    )
    self._inference = inference
    self._lock, self._counts, self._state, self._server = (
      threading.Lock(),
      collections.Counter(),
      'working',
      None,
    )

  @property
  def address(self) -> str:
    return cluster.join_address(self.host, self.port)

  def start(self) -> None:
    """Serves from now on. The queue must have been made."""
    functions = {
      'tell': self._graph_of(self._tell, 1),
      'parameters': self._graph_of(self._parameters, 2),
      'put': self._put_graph(),
    }
    if self._inference:
      functions['infer'] = self._inference_graph(self._inference)
    self._server = rpc.serve(self.host, self.port, functions)

  def close(self, finished: bool) -> None:
    """Ends serving. Who has joined is told, if training is finished, to end too; else it waits for another learner.

    The queue must be closed before: a put that waits for room would be waited for.
    """
    self._state = 'finished' if finished else 'stopped'
    deadline = time.monotonic() + (_FAREWELL_SECONDS if finished else 0.0)
    while (
      self.roster.members() and time.monotonic() < deadline
    ):  # Each leaves as soon as it hears of it.
      time.sleep(0.05)
    self._server = None

  def expire(self) -> None:
    """Lets those go who have not been heard of; to be called now and then."""
    for member in self.roster.expire():
      logging.warning(
        '%s has gone: nothing was heard of it for %.0f s. The last was: %s. Its place is free.',
        member.title(),
        LEASE_SECONDS,
        member.activity,
      )

  def gauges(self) -> dict[str, float]:
    """Columns of `metrics.csv`: who is there, and totals since the start."""
    with self._lock:
      counts = dict(self._counts)
    return {
      'actors': sum(member.role == 'actor' for member in self.roster.members()),
      'actors_lost': self.roster.lost,
      'puts': counts.get('puts', 0),
      'puts_repeated': counts.get('repeated', 0),
      'puts_dropped': self.roster.totals()['dropped'],
      'messages_refused': counts.get('refused', 0),
      'received_mb': counts.get('bytes', 0) / 1e6,
    }

  def _graph_of(self, function: Callable[[bytes], Any], outputs: int):
    """A Python function from a byte string to byte strings, as TensorFlow serves it."""

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)])
    def graph(message):
      results = tf.numpy_function(function, [message], [tf.string] * outputs)
      for result in results:
        result.set_shape([])
      return results

    return graph

  def _put_graph(self):
    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * 2)
    def put(header, payload):
      answer, ready, fields = _received(self._receive, self._codec, header, payload)

      def deliver():
        with tf.control_dependencies([self._queue.enqueue_many(fields)]):
          return tf.ensure_shape(tf.numpy_function(self._delivered, [header], tf.string), [])

      return tf.cond(ready, deliver, lambda: answer)

    return put

  def _inference_graph(self, inference: Inference):
    def encoded(*outputs):
      return wire.to_json(state='decided', version=inference.version()), inference.outputs.encode(
        outputs
      )

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * 2)
    def infer(header, payload):
      answer, ready, fields = _received(self._receive_inputs, inference.inputs, header, payload)
      decide = lambda: tf.numpy_function(encoded, inference.decide(fields), [tf.string] * 2)
      return [
        tf.ensure_shape(text, [])
        for text in tf.cond(ready, decide, lambda: [answer, tf.constant('')])
      ]

    return infer

  def _receive_inputs(self, header: bytes, payload: bytes):
    """What an actor's environments show: the answer, whether it can be decided upon, and its fields."""
    codec = self._inference.inputs
    try:
      self.roster.find(wire.from_json(header, {'session': str})['session'])
      wire.check_bytes(payload)
      with self._lock:
        self._counts['bytes'] += len(payload)
      return b'', True, *codec.decode(payload)
    except rosters.Unknown:
      return wire.to_json(state='unknown'), False, *codec.nothing()
    except wire.Malformed as error:
      return self._refuse(header, 'question for actions', str(error)), False, *codec.nothing()

  def _receive(self, header: bytes, payload: bytes):
    """A message of a put: the answer, whether a put is complete, and its fields."""
    nothing = self._codec.nothing()
    try:
      request = wire.from_json(header, _PUT)
      member = self.roster.find(request['session'])
      wire.check_bytes(payload)
      with self._lock:
        self._counts['bytes'] += len(payload)
        state = self._admit(member, request, payload)
        if state != 'whole':
          return wire.to_json(state=state), False, *nothing
        payload = member.parts[0] if len(member.parts) == 1 else b''.join(member.parts)
        before, member.parts, member.admitted = member.admitted, [], request['sequence']
      try:
        return b'', True, *self._codec.decode(payload)  # Without the lock: it takes longest.
      except wire.Malformed:
        member.admitted = before  # Were it repeated, it would be refused again.
        raise
    except rosters.Unknown:
      return wire.to_json(state='unknown'), False, *nothing
    except wire.Malformed as error:
      return self._refuse(header, 'put', str(error)), False, *nothing

  def _admit(self, member: rosters.Member, request: Mapping[str, Any], payload: bytes) -> str:
    """Adds a part to a put: `whole` if it was the last, else what the put has come to."""
    sequence, part, parts = request['sequence'], request['part'], request['parts']
    if sequence <= member.admitted:
      self._counts['repeated'] += 1
      return 'taken' if sequence <= member.delivered else 'waiting'
    if not part < parts <= self._codec.most_parts:
      raise wire.Malformed(
        f'part {part} of {parts}, expected at most {self._codec.most_parts} parts'
      )
    if part == 0:
      member.parts, member.coming = [], sequence
    if part != len(member.parts) or sequence != member.coming:
      raise wire.Malformed(
        f'part {part} of {parts} of put {sequence}, expected part {len(member.parts)} of '
        f'put {member.coming}'
      )
    member.parts.append(payload)
    return 'whole' if part == parts - 1 else 'more'

  def _delivered(self, header: bytes) -> bytes:
    request = json.loads(header)
    with self._lock:
      self._counts['puts'] += 1
    try:
      self.roster.find(request['session']).delivered = request['sequence']
    except rosters.Unknown:  # It has gone while its put waited for room.
      return wire.to_json(state='unknown')
    return wire.to_json(state='taken')

  def _parameters(self, header: bytes) -> tuple[bytes, bytes]:
    """A part of a snapshot: the first of the latest, unless it is `known`, or a further one of a version."""
    try:
      request = wire.from_json(header, {'session': str, 'version': int, 'part': int})
      self.roster.find(request['session'])
      version, part = request['version'], request['part']
      if part == 0:
        latest, parts = self._snapshots.latest()
        if latest == version and 'known' in request:
          return wire.to_json(state='known', frames=self._frames()), b''
        return wire.to_json(
          state='given', version=latest, parts=len(parts), frames=self._frames()
        ), parts[0]
      parts = self._snapshots.kept(version)
      if part < len(parts):
        return wire.to_json(state='given', version=version, parts=len(parts)), parts[part]
      if parts:
        raise wire.Malformed(f'part {part} of the {len(parts)} of the parameters is asked for')
      return wire.to_json(state='outdated'), b''
    except rosters.Unknown:
      return wire.to_json(state='unknown'), b''
    except wire.Malformed as error:
      return self._refuse(header, 'question for parameters', str(error)), b''

  def _tell(self, message: bytes) -> bytes:
    """All that is short: joining, signs of life, questions, reports, leaving."""
    try:
      request = wire.from_json(message, {'kind': str})
      kind = request['kind']
      answers = {
        'join': self._join,
        'beat': self._beat,
        'asked': self._asked,
        'report': self._report,
        'leave': self._leave,
      }
      if kind not in answers:
        raise wire.Malformed(f'kind is {kind[:40]!r}, expected {", ".join(answers)}')
      return answers[kind](request)
    except rosters.Unknown:
      return wire.to_json(state='unknown')
    except wire.Malformed as error:
      return self._refuse(message, 'message', str(error))

  def _join(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'name': str, 'role': str, 'token': str, 'version': str, 'config': dict})
    name, role = _printable(request['name'][:200]), request['role']
    if role not in ('actor', 'evaluator'):
      raise wire.Malformed(f'role is {role[:40]!r}, expected actor or evaluator')
    mismatch = _printable(self._mismatch(request))
    if mismatch:
      logging.warning('%s %s is turned away: %s', role, name, mismatch)
      return wire.to_json(state='turned away', reason=mismatch)
    if self._state != 'working':
      return wire.to_json(state=self._state)
    member = self.roster.join(name, role, request.get('place'))
    with self._lock:
      self._counts['joined'] += 1
      number = self._counts['joined']
    logging.info('%s %d joins: %s', role, member.place, name)
    return wire.to_json(
      state='joined',
      session=member.session,
      place=member.place,
      assignment=self._assignments[member.place % len(self._assignments)],
      seed=self._seed_of(number),
      config=self._identity.config,
    )

  def _mismatch(self, request: Mapping[str, Any]) -> str:
    """In what one who wants to join is not of this run; empty if in nothing."""
    own = self._identity
    if not hmac.compare_digest(
      *(token.encode(errors='surrogatepass') for token in (request['token'], own.token))
    ):
      return (
        "its token is not the learner's: give both the same, by --token_file=PATH or in the environment "
        'variable DISTRIBUTED_RL_TOKEN'
      )
    if request['version'] != own.version:
      return (
        f"its code is of version {request['version'][:20]}, the learner's of {own.version}: run both from the "
        'same checkout'
      )
    for field, value in request['config'].items():
      if field not in own.config or own.config[field] != value:
        return (
          f"its setting {field[:60]} is {str(value)[:80]!r}, the learner's {own.config.get(field)!r}: leave "
          'it out, actors take the settings of their learner'
        )
    return ''

  def _beat(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'session': str, 'activity': str, 'crashes': int, 'dropped': int})
    member = self.roster.find(request['session'])
    member.activity = _printable(request['activity'][:300])
    member.crashes, member.dropped = request['crashes'], request['dropped']
    return wire.to_json(state=self._state)

  def _asked(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'session': str, 'sequence': int})
    member, sequence = self.roster.find(request['session']), request['sequence']
    if sequence <= member.delivered:
      return wire.to_json(state='taken')
    if self._state != 'working':
      return wire.to_json(state=self._state)
    return wire.to_json(state='waiting' if sequence <= member.admitted else 'missing')

  def _report(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'session': str})
    self.roster.find(request['session'])
    self._on_report(request)
    return wire.to_json(state=self._state)

  def _leave(self, request: dict[str, Any]) -> bytes:
    wire.expect(request, {'session': str})
    self.roster.leave(request['session'])
    return wire.to_json(state=self._state)

  def _refuse(self, header: bytes, what: str, reason: str) -> bytes:
    """Counts and tells of a message that is not as it must be; the answer to it."""
    reason = _printable(reason)
    with self._lock:
      self._counts['refused'] += 1
      count = self._counts['refused']
    if count <= _LOGGED or str(count).strip('0') == '1':
      logging.warning(
        'A %s of %s is refused: %s%s',
        what,
        self._sender(header),
        reason,
        f' ({count:,} refused so far)' if count > 1 else '',
      )
    return wire.to_json(state='refused', reason=reason)

  def _sender(self, header: bytes) -> str:
    """Who sent a message, as far as that can be told: gRPC does not say from where it came."""
    try:
      return self.roster.find(wire.from_json(header, {'session': str})['session']).title()
    except (wire.Malformed, rosters.Unknown):
      return 'someone who has not joined'


def _received(
  receive: Callable[..., Any], codec: wire.Codec, header: tf.Tensor, payload: tf.Tensor
):
  """In a graph: what `receive` makes of a message: the answer, whether it is good, and its fields if it is."""
  answer, ready, *fields = tf.numpy_function(
    receive, [header, payload], [tf.string, tf.bool, *(spec.dtype for spec in codec.specs)]
  )
  fields = [
    tf.ensure_shape(field, [None, *spec.shape])
    for field, spec in zip(fields, codec.specs, strict=True)
  ]
  return tf.ensure_shape(answer, []), tf.ensure_shape(ready, []), fields


def _printable(text: str) -> str:
  return ''.join(letter if letter.isprintable() else '?' for letter in text)


class _Snapshots:
  """Parameters as messages; those that somebody has begun to fetch are kept for a while when others follow."""

  def __init__(self, store: parameters.ParameterStore):
    self._store, self._lock = store, threading.Lock()
    self._kept: dict[int, tuple[float, list[bytes]]] = {}

  def latest(self) -> tuple[int, list[bytes]]:
    """The version and the messages of the latest."""
    with self._lock:
      version, values = self._store.latest()
      if version not in self._kept:
        self._kept[version] = time.monotonic(), wire.split(values.numpy().tobytes())
      return version, self._touched(version)

  def kept(self, version: int) -> list[bytes]:
    """The messages of a version; none if it is not kept any more."""
    with self._lock:
      return self._touched(version) if version in self._kept else []

  def _touched(self, version: int) -> list[bytes]:
    now, messages = time.monotonic(), self._kept[version][1]
    self._kept[version] = now, messages
    self._kept = {
      v: kept for v, kept in self._kept.items() if v == version or now - kept[0] < _KEPT_SECONDS
    }
    return messages
