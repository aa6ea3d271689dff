"""An actor at a learner that answers whatever it likes: a message to the user, never a stack trace.

The learner is TensorFlow's server with functions of these tests, on a Unix socket.
"""

import json
import re
import time

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from common.distributed import cluster, gate, queues, rpc
from common.distributed import link as links
from common.distributed import session as sessions
from tests.common.distributed import learners

JOINED = {'state': 'joined', 'session': 's', 'place': 0, 'assignment': 0, 'seed': 1, 'config': {}}
ODD = 'does not answer as a learner of this code does: '
DEADLINE = 20.0


def text(count):
  return [tf.TensorSpec([], tf.string)] * count


def encoded(answer):
  return answer if isinstance(answer, bytes) else json.dumps(answer).encode()


class OddLearner:
  """Answers requests by kind, and functions by name, as its tables say.

  Attributes:
    told: The answer to each kind of request.
    given: Answer and part, by the number of the part asked for.
    decided: The answer to a request for actions.
  """

  def __init__(self):
    self.told = {'join': JOINED, 'leave': {'state': 'working'}, 'beat': {'state': 'working'}}
    self.given = {}
    self.decided = ({'state': 'decided', 'version': 1}, b'')
    self._folder = gate.Folder()
    self.address = cluster.UnixSocket(self._folder.path)

    @tf.function(input_signature=text(1))
    def tell(header):
      return tf.ensure_shape(tf.numpy_function(self._tell, [header], tf.string), [])

    @tf.function(input_signature=text(1))
    def parameters(header):
      found = tf.numpy_function(self._give, [header], [tf.string] * 2)
      return [tf.ensure_shape(x, []) for x in found]

    @tf.function(input_signature=text(2))
    def put(header, payload):
      return tf.ensure_shape(tf.numpy_function(self._put, [header], tf.string), [])

    @tf.function(input_signature=text(2))
    def infer(header, payload):
      found = tf.numpy_function(self._decide, [header], [tf.string] * 2)
      return [tf.ensure_shape(x, []) for x in found]

    functions = {'tell': tell, 'parameters': parameters, 'put': put, 'infer': infer}
    self._server = rpc.serve(self.address.path, functions)

  def _tell(self, header):
    return encoded(self.told[json.loads(header)['kind']])

  def _put(self, header):
    return encoded(self.told['put'])

  def _give(self, header):
    answer, part = self.given[json.loads(header)['part']]
    return encoded(answer), part

  def _decide(self, header):
    answer, decided = self.decided
    return encoded(answer), decided

  def close(self):
    self._server = None
    self._folder.close()


@pytest.fixture(scope='module')
def server():
  with learners.closing(OddLearner()) as made:
    yield made


@pytest.fixture
def learner(server):
  """The module's learner, which answers as it should."""
  server.told = {'join': JOINED, 'leave': {'state': 'working'}, 'beat': {'state': 'working'}}
  server.given = {}
  return server


def make_link(address):
  return links.Link(address, links.Applicant('one', 'actor', 'v', {}), patience_seconds=5.0)


@pytest.fixture
def link(learner):
  """A link to it that has joined."""
  with learners.closing(make_link(learner.address)) as made:
    made.join()
    yield made


def refused(act):
  """The message to the user: a single line without anything that steers a terminal."""
  with pytest.raises(errors.UserError) as told:
    act()
  message = str(told.value)
  assert message.isprintable() and len(message) < 1000
  return message


@pytest.mark.parametrize(
  'answer, words',
  [
    (b'', 'not JSON'),
    (b'HTTP/1.1 200 OK', 'not JSON'),
    (b'[]', 'expected a JSON object'),
    ({}, 'state is'),
    ({'state': 'king'}, "state is 'king'"),
    ({'state': 'x' * 10**6}, 'state is'),
    ({'state': '\x1b[31m'}, 'state is'),
    ({**JOINED, 'place': '0'}, 'place is'),
    ({**JOINED, 'seed': 2**40}, 'seed is'),
    ({**JOINED, 'config': []}, 'config is'),
    ({'state': 'joined'}, 'session is'),
    ({'state': 'refused'}, 'reason is'),
    ({'state': 'finished', 'x': 1}, None),  # The end of training, with more than there should be.
  ],
  ids=lambda value: repr(value)[:40],
)
def test_an_odd_answer_to_joining_is_a_user_error(learner, answer, words):
  learner.told['join'] = answer
  with learners.closing(make_link(learner.address)) as link:
    if words is None:
      with pytest.raises(queues.QueueClosed):
        link.join()
    else:
      message = refused(link.join)
      assert ODD in message and words in message and learner.address.address in message


def test_the_reason_of_a_refusal_is_shown_in_one_short_line(learner):
  learner.told['join'] = {'state': 'turned away', 'reason': '\x1b[2Jno\nerror: ' + 'x' * 10**5}
  with learners.closing(make_link(learner.address)) as link:
    message = refused(link.join)
    assert 'turns this actor away' in message and r'\x1b[2Jno\nerror: xxx' in message


def given(state='given', version=3, parts=1, part=b'\0' * 8, **more):
  return {'state': state, 'version': version, 'parts': parts, 'frames': 1, **more}, part


@pytest.mark.parametrize(
  'answers, words',
  [
    ({0: ({'state': 'known', 'frames': 1}, b'')}, 'it answers known'),
    ({0: ({'state': 'outdated'}, b'')}, 'it answers outdated'),
    ({0: ({'state': 'refused', 'reason': 'no\n'}, b'')}, r'it answers refused: no\n'),
    ({0: (b'{', b'')}, 'not JSON'),
    ({0: given(parts=0)}, '0 parts'),
    ({0: given(parts=10**9)}, '1000000000 parts'),
    ({0: given(part=b'')}, '0 bytes'),
    ({0: given(part=b'123')}, '3 bytes'),
    ({0: given(version='3')}, 'version is'),
    ({0: given(frames=None)}, 'frames is'),
    ({0: given(part=np.float32(np.nan).tobytes())}, 'not finite'),
    ({0: given(parts=2), 1: given(version=4, parts=2)}, 'version 4'),
    ({0: given(parts=2), 1: given(parts=3)}, '3 parts'),
    ({0: given(parts=2), 1: ({'state': 'refused', 'reason': 'r'}, b'')}, 'refused: r'),
  ],
  ids=str,
)
def test_odd_parameters_are_a_user_error(learner, link, answers, words):
  learner.given = answers
  message = refused(link.latest)
  assert ODD in message and words in message


def test_parameters_in_parts_are_put_together(learner, link):
  parts = [np.arange(2, dtype=np.float32).tobytes(), np.float32(7).tobytes()]
  learner.given = {i: given(parts=2, part=part) for i, part in enumerate(parts)}
  snapshot = link.latest()
  assert snapshot.version == 3
  np.testing.assert_array_equal(snapshot.values, [0, 1, 7])


@pytest.mark.parametrize(
  'answer, words', [({'state': 'working'}, 'state is'), (b'\xff', 'not JSON'), ({}, 'state is')]
)
def test_an_odd_answer_to_a_put_is_a_user_error(learner, link, answer, words):
  learner.told['put'] = answer
  message = refused(lambda: link.put(b'x'))
  assert ODD in message and words in message


def test_refusals_of_puts_are_logged_in_harmless_lines(learner, link, caplog):
  learner.told['put'] = {'state': 'refused', 'reason': '\x1b[2J\n' + 'x' * 10**5}
  message = refused(lambda: [link.put(b'x') for _ in range(20)])
  assert 'refused the last 20 times' in message and r'\x1b[2J\n' in message
  assert all(told.isprintable() and len(told) < 600 for told in caplog.messages)


@pytest.mark.parametrize(
  'answer, words',
  [
    ({'state': 'decided'}, ODD + 'version is'),
    ({'state': 'working'}, ODD + 'state is'),
    ({'state': 'refused', 'reason': 'a\nb'}, r'a\\nb'),
  ],
)
def test_an_odd_decision_is_a_user_error(learner, link, answer, words):
  learner.decided = (answer, b'')
  assert re.search(words, refused(lambda: link.infer(b'x')))


def test_an_odd_answer_to_a_heartbeat_is_raised_by_the_next_call(learner, monkeypatch):
  """The thread of heartbeats has nobody to raise it to."""
  monkeypatch.setattr(sessions, 'BEAT_SECONDS', 0.05)
  learner.told['beat'] = {'state': 'king'}
  learner.given = {0: given()}
  with learners.closing(make_link(learner.address)) as link:
    link.join()

    def follow():
      deadline = time.monotonic() + DEADLINE
      while time.monotonic() < deadline:
        link.latest()

    assert "state is 'king'" in refused(follow)


def test_a_refused_report_of_an_evaluator_is_logged(learner, link, caplog):
  learner.told['report'] = {'state': 'refused', 'reason': 'mean is\nnan'}
  link.report(mean=0.0)
  assert caplog.messages[-1] == r'The learner refuses the results of an evaluation: mean is\nnan'


def serve_forms(path):
  """A server whose functions have results of every form but the right one."""

  def of(make):
    return tf.function(make, input_signature=text(1))

  return rpc.serve(
    path,
    {
      'number': of(lambda x: tf.constant(1.0)),
      'two': of(lambda x: [x, x]),
      'many': of(lambda x: tf.stack([x, x])),
      'large': of(lambda x: tf.strings.join([x, tf.constant('x' * (5 * 2**20))])),
      'variant': of(
        lambda x: tf.raw_ops.EmptyTensorList(
          element_shape=[1], max_num_elements=1, element_dtype=tf.float32
        )
      ),
    },
  )


def test_results_of_another_form_are_failures():
  folder = gate.Folder()
  server = serve_forms(folder.path)
  try:
    client = rpc.Client(folder.path, 10.0)
    for function in ('number', 'two', 'many', 'large', 'variant', 'no_such'):
      with pytest.raises(rpc.Failed) as failed:
        client.call(function, b'x', seconds=10.0)
      assert str(failed.value).isprintable(), function
    assert client.call('two', b'x', outputs=2, seconds=10.0) == [b'x', b'x']
  finally:
    del server
    folder.close()


@pytest.mark.parametrize('name', ['call', '_client_handle'])
def test_a_server_cannot_replace_parts_of_its_client(name):
  """TensorFlow makes an attribute of each function that a server names."""
  folder = gate.Folder()
  server = rpc.serve(folder.path, {name: tf.function(lambda x: x, input_signature=text(1))})
  try:
    with learners.closing(make_link(cluster.UnixSocket(folder.path))) as link:
      message = refused(link.join)
      assert ODD in message and name in message
  finally:
    del server
    folder.close()


def test_an_error_message_of_the_learner_is_one_harmless_line(learner):
  del learner.told['join']  # Its function fails, with a text of its own.
  with learners.closing(make_link(learner.address)) as link:
    message = refused(link.join)
    assert 'the learner cannot do tell' in message and 'KeyError' in message
