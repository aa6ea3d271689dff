"""What actors send a learner: assembled from parts, checked, and put into the queue exactly once.

An actor numbers its puts from 1 and repeats one whose answer is lost. The sequence number of the
last put that arrived tells a repetition from a new put.
"""

import threading
from typing import Any, Mapping, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import graphs, parameters, queues, traffic, wire
from common.distributed import roster as rosters

_PUT = {'session': str, 'sequence': int, 'part': int, 'parts': int}


class Intake(NamedTuple):
  """A learner's side of its exchange with actors."""

  queue: queues.StructureQueue  # For the elements that actors put.
  codec: wire.Codec  # For encoding the queue's elements.
  store: parameters.ParameterStore  # With the parameters that actors get.


class Reception:
  """Receives puts.

  A put that waits for room in the queue waits in TensorFlow's graph and occupies no thread, however
  many actors there are.
  """

  def __init__(self, intake: Intake, roster: rosters.Roster, counts: traffic.Traffic):
    """`counts`: counts `puts`, `repeated` puts and `bytes`."""
    self._queue = intake.queue
    self._codec = intake.codec
    self._roster = roster
    self._counts = counts
    self._lock = threading.Lock()  # Guards the members' parts and sequence numbers.

  def graph(self) -> tf.types.experimental.PolymorphicFunction:
    """The server's function `put`: from header and payload, strings `[]`, to the answer."""
    receive = self._counts.guarded('put', self._receive, (False, *self._codec.nothing()))
    confirm = self._counts.guarded('put', self._confirm)

    @tf.function(input_signature=[tf.TensorSpec([], tf.string)] * 2, autograph=False)
    def put(header: tf.Tensor, payload: tf.Tensor) -> tf.Tensor:
      answer, is_complete, fields = graphs.received(receive, self._codec, header, payload)

      def deliver() -> tf.Tensor:
        with tf.control_dependencies([self._queue.enqueue_many(fields)]):
          (confirmed,) = tf.numpy_function(confirm, [header], [tf.string])
          return tf.ensure_shape(confirmed, [])

      return tf.cond(is_complete, deliver, lambda: answer)

    return put

  def _receive(self, header: bytes, payload: bytes) -> Sequence[Any]:
    """Receives one message of a put.

    Returns:
      The answer, whether the put is complete, and its decoded fields.

    Raises:
      Unknown: If the sender has not joined.
      Malformed: If the message or the completed put is invalid.
    """
    request = wire.from_json(header, _PUT)
    member = self._roster.find(request['session'])
    wire.check_bytes(payload)
    self._counts.add('bytes', len(payload))

    with self._lock:
      state = self._admit(member, request, payload)
      if state != 'whole':
        return wire.to_json(state=state), False, *self._codec.nothing()
      whole = member.parts[0] if len(member.parts) == 1 else b''.join(member.parts)
      previous = member.admitted
      member.parts = []
      member.admitted = request['sequence']
    try:
      return b'', True, *self._codec.decode(whole)  # Without the lock, as it takes longest.
    except wire.Malformed:
      # The put did not arrive after all: a repetition is refused again, not taken for delivered.
      member.admitted = previous
      raise

  def _admit(self, member: rosters.Member, request: Mapping[str, Any], payload: bytes) -> str:
    """Adds a part to its put; needs the lock.

    Returns:
      `whole` if it was the last part, `more` if others are missing; for a repetition, `taken` if
      the put is in the queue and `waiting` if it is not yet.

    Raises:
      Malformed: If this is not the part that comes next.
    """
    sequence = request['sequence']
    part = request['part']
    parts = request['parts']
    if sequence <= member.admitted:
      self._counts.add('repeated')
      return 'taken' if sequence <= member.delivered else 'waiting'

    most = self._codec.most_parts
    if not part < parts <= most:
      raise wire.Malformed(f'part {part} of {parts}, expected at most {most} parts')
    if part == 0:  # Starts afresh, whatever is left of an earlier attempt.
      member.parts = []
      member.coming = sequence
    if part != len(member.parts) or sequence != member.coming:
      raise wire.Malformed(
        f'part {part} of {parts} of put {sequence}, expected part {len(member.parts)} of '
        f'put {member.coming}'
      )
    member.parts.append(payload)
    return 'whole' if part == parts - 1 else 'more'

  def _confirm(self, header: bytes) -> Sequence[bytes]:
    """Answers a put that is in the queue. Raises Unknown if its sender has gone meanwhile."""
    request = wire.from_json(header)
    self._counts.add('puts')
    self._roster.deliver(request['session'], request['sequence'])
    return (wire.to_json(state='taken'),)
