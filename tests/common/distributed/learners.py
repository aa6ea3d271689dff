"""A learner that does not learn, for tests of the wire: a queue, parameters, and their server."""

import contextlib
import json
import threading

import numpy as np
import tensorflow as tf

from common.distributed import answers, cluster, membership, parameters, queues, rpc, wire
from common.distributed import intake as intakes
from common.distributed import link as links
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
IDENTITY = membership.Identity(version='0123456789ab', config=CONFIG)
TOKEN = '0123456789abcdef' * 2


def elements(*numbers):
  """Elements of `SPEC`, each filled with a function of its number."""
  column = np.array(numbers, np.int64)[:, None]
  return {
    'number': np.array(numbers, np.int64),
    'flag': np.array(numbers) % 2 == 0,
    'pixels': np.tile(column % 200, 3).astype(np.uint8),
    'reward': np.tile(column.astype(np.float32), 2),
  }


def payload(*numbers):
  """These elements, encoded."""
  return CODEC.encode(elements(*numbers))


class Learner:
  """Serves from construction until `close`; evaluators' reports arrive in `reports`."""

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
    token=TOKEN,
    host='127.0.0.1',
  ):
    codec = wire.Codec(spec, {}) if spec else CODEC
    self.queue = queues.StructureQueue(spec or SPEC, capacity)
    self.store = parameters.ParameterStore(self.snapshot(version, size))
    self.reports = []
    self.on_report = self.reports.append  # Tests may replace it.
    self.server = servers.Server(
      listen=servers.Listen(cluster.Endpoint(host, port), token),
      identity=identity,
      assignments=assignments or range(places),
      intake=intakes.Intake(queue=self.queue, codec=codec, store=self.store),
      callbacks=servers.Callbacks(
        frames=lambda: 1234,
        seed_of=lambda number: 1000 + number,
        on_report=lambda report: self.on_report(report),
      ),
      inference=inference,
    )
    self.server.start()
    self.roster = self.server.roster
    self.port = self.server.endpoint.port
    self.path = self.server.address.path

  @staticmethod
  def snapshot(version, size=10):
    """Parameters that all equal their version."""
    return parameters.Snapshot(version, tf.fill([size], float(version)))

  def count(self, gauge):
    return self.server.gauges()[gauge]

  def enter(self, state):
    """Makes the server answer as it does while it is closing."""
    self.server._membership.state = state

  def take(self, count=None):
    """Takes elements, by default all present; checks them and returns their numbers."""
    taken = self.queue.take_many(self.queue.size() if count is None else count)
    numbers = [int(n) for n in taken['number']]
    if numbers and 'flag' in taken:  # Else they are of another specification.
      for name, part in elements(*numbers).items():
        np.testing.assert_array_equal(taken[name], part)
    return numbers

  def close(self, finished=False):
    """Closes as a run does: the queue first, so that puts that wait for room end."""
    self.queue.close()
    self.server.close(finished)


class Caller:
  """Sends a server whatever a test wants to send, byte by byte if need be."""

  def __init__(self, learner, path=None):
    """`path`: another way to the learner than its socket."""
    self._client = rpc.Client(path or learner.path, 20.0)

  def raw(self, function, *arguments, seconds=20.0):
    outputs = answers.OUTPUTS[function]
    return self._client.call(function, *arguments, outputs=outputs, seconds=seconds)

  def tell(self, **values):
    return json.loads(self.raw('tell', wire.to_json(**values))[0])

  def join(self, name='one', role='actor', **others):
    request = {
      'kind': 'join',
      'name': name,
      'role': role,
      'version': IDENTITY.version,
      'config': {},
    }
    return self.tell(**{**request, **others})

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
    header = wire.to_json(session=session, version=version, part=part, **known)
    answer, message = self.raw('parameters', header)
    return json.loads(answer), message


class Background:
  """A call in a thread: its result, or the error it raised."""

  def __init__(self, function, *arguments, **named):
    self.error = None
    self.result = None
    self._returned = threading.Event()
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


def link(port, name='one', role='actor', patience=20.0, host='127.0.0.1', token=TOKEN, **others):
  """A real link through the gate, not joined yet."""
  applicant = {
    'name': name,
    'role': role,
    'version': IDENTITY.version,
    'config': {},
  }
  applicant = links.Applicant(**{**applicant, **others})
  return links.Link(cluster.Endpoint(host, port), applicant, patience, token)


@contextlib.contextmanager
def closing(made):
  """Closes a learner or link at the end; it may be closed already."""
  try:
    yield made
  finally:
    made.close()
