"""A learner that does not learn, for the tests of the wire: a queue, parameters, and the server of both."""

import contextlib
import json
import threading

import numpy as np
import tensorflow as tf

from common.distributed import link as links
from common.distributed import parameters, queues, rpc, wire
from common.distributed import server as servers

SPEC = {
  'number': tf.TensorSpec([], tf.int64),
  'flag': tf.TensorSpec([], tf.bool),
  'pixels': tf.TensorSpec([3], tf.uint8),
  'reward': tf.TensorSpec([2], tf.float32),
}
CODEC = wire.Codec(SPEC, {'number': (0, 10**9), 'pixels': (0, 200)})
LARGE_SPEC = {
  'number': tf.TensorSpec([], tf.int64),
  'pixels': tf.TensorSpec([2 * wire.MESSAGE_BYTES + 9], tf.uint8),
}
CONFIG = {'env': 'gym:CartPole-v1', 'batch_size': 32, 'lstm': False}
IDENTITY = servers.Identity('0123456789ab', 'a secret', CONFIG)


def elements(*numbers):
  return {
    'number': np.array(numbers, np.int64),
    'flag': np.array(numbers) % 2 == 0,
    'pixels': np.tile(np.array(numbers, np.int64)[:, None] % 200, 3).astype(np.uint8),
    'reward': np.tile(np.array(numbers, np.float32)[:, None], 2),
  }


def payload(*numbers):
  return CODEC.encode(elements(*numbers))


class Learner:
  """Serves from the beginning until it is closed; reports of evaluators come into `reports`."""

  def __init__(
    self,
    port=0,
    capacity=50,
    places=2,
    identity=IDENTITY,
    version=0,
    size=10,
    spec=None,
    inference=None,
    assignments=None,
  ):
    codec = wire.Codec(spec, {}) if spec else CODEC
    self.queue = queues.StructureQueue(spec or SPEC, capacity)
    self.store, self.reports = parameters.ParameterStore(self.snapshot(version, size)), []
    self.server = servers.Server(
      '127.0.0.1',
      port,
      identity,
      assignments or range(places),
      self.queue,
      codec,
      self.store,
      frames=lambda: 1234,
      seed_of=lambda number: 1000 + number,
      on_report=self.reports.append,
      inference=inference,
    )
    self.server.start()
    self.roster, self.port = self.server.roster, self.server.port

  @staticmethod
  def snapshot(version, size=10):
    """Parameters that all have the number of their version."""
    return parameters.Snapshot(version, tf.fill([size], float(version)))

  def count(self, gauge):
    return self.server.gauges()[gauge]

  def take(self, count=None):
    """The numbers of so many elements, of all that are there unless told; all of each must be what `elements` made."""
    taken = self.queue.take_many(self.queue.size() if count is None else count)
    numbers = [int(n) for n in taken['number']]
    if numbers:
      for name, part in elements(*numbers).items() if 'flag' in taken else ():
        np.testing.assert_array_equal(taken[name], part)
    return numbers

  def close(self, finished=False):
    """As a run does: what waits for room in the queue is let go first."""
    self.queue.close()
    self.server.close(finished)


class Caller:
  """Says to a server whatever a test wants to say, byte by byte if need be."""

  def __init__(self, learner):
    self._client = rpc.Client('127.0.0.1', learner.port, 20.0)

  def raw(self, function, *arguments, seconds=20.0):
    return self._client.call(function, *arguments, seconds=seconds)

  def tell(self, **values):
    return json.loads(self.raw('tell', wire.to_json(**values))[0])

  def join(self, name='one', role='actor', **others):
    return self.tell(
      **{
        'kind': 'join',
        'name': name,
        'role': role,
        'token': IDENTITY.token,
        'version': IDENTITY.version,
        'config': {},
        **others,
      }
    )

  def session(self, name='one', role='actor'):
    return self.join(name, role)['session']

  def put(self, session, sequence, message, part=0, parts=1, seconds=20.0):
    header = wire.to_json(session=session, sequence=sequence, part=part, parts=parts)
    return json.loads(self.raw('put', header, message, seconds=seconds)[0])

  def asked(self, session, sequence):
    return self.tell(kind='asked', session=session, sequence=sequence)['state']

  def beat(self, session, activity='playing', crashes=0, dropped=0):
    return self.tell(
      kind='beat', session=session, activity=activity, crashes=crashes, dropped=dropped
    )

  def parameters(self, session, version=0, part=0, **known):
    answer, message = self.raw(
      'parameters', wire.to_json(session=session, version=version, part=part, **known)
    )
    return json.loads(answer), message


class Background:
  """A call in a thread: what it has returned, or raised."""

  def __init__(self, function, *arguments, **named):
    self.error, self.result, self._returned = None, None, threading.Event()
    self._thread = threading.Thread(
      target=self._run, args=(function, arguments, named), daemon=True
    )
    self._thread.start()

  def has_returned(self, within):
    return self._returned.wait(within)

  def _run(self, function, arguments, named):
    try:
      self.result = function(*arguments, **named)
    except Exception as error:
      self.error = error
    self._returned.set()


def link(port, name='one', role='actor', patience=20.0, host='127.0.0.1', **others):
  """The real other side, not joined yet."""
  applicant = {
    'name': name,
    'role': role,
    'version': IDENTITY.version,
    'token': IDENTITY.token,
    'config': {},
    **others,
  }
  return links.Link(host, port, links.Applicant(**applicant), patience)


@contextlib.contextmanager
def closing(made):
  """Closes what was made; a learner that is closed already, too."""
  try:
    yield made
  finally:
    made.close()
