"""The learner's side of the wire: valid puts are queued once, malformed messages are refused."""

import contextlib
import json
import os
import random
import re
import socket
import time
import tracemalloc

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.distribute.experimental.rpc.kernels import gen_rpc_ops

from common import errors
from common.distributed import cluster, gate, parameters, rpc, snapshots, wire
from common.distributed import inference as inferences
from common.distributed import server as servers
from scripts import processes
from tests.common.distributed import learners
from tests.common.distributed.learners import IDENTITY, elements, payload

DEADLINE = 20.0
WATCHED = 0.2  # How long a call that must block is watched: only a broken server lets it return.


@pytest.fixture
def large():
  """A learner whose elements and parameters take three messages each."""
  made = learners.Learner(spec=learners.LARGE_SPEC, size=2 * wire.MESSAGE_BYTES // 4 + 3)
  with learners.closing(made):
    yield made


@pytest.fixture
def caller(learner):
  return learners.Caller(learner)


@pytest.fixture
def tunnel(learner):
  """The far end of the learner's gate."""
  endpoint = cluster.Endpoint('127.0.0.1', learner.port)
  with learners.closing(gate.Tunnel(endpoint, learners.TOKEN)) as made:
    yield made


def spoiled(**changes):
  """The payload of an element with other values in some fields."""
  element = elements(1)
  for name, value in changes.items():
    element[name] = np.broadcast_to(value, element[name].shape).astype(element[name].dtype)
  return learners.CODEC.encode(element)


def one_of_many_spoiled():
  many = elements(*range(30))
  many['pixels'][29, 2] = 255
  return learners.CODEC.encode(many)


def low_level(caller, method, *arguments):
  """A call of any method with any tensors, as foreign programs could make it.

  Returns its error code; 0 for success.
  """
  status, _ = gen_rpc_ops.rpc_call(
    caller._client._client._client_handle,
    args=list(arguments),
    method_name=method,
    timeout_in_ms=20_000,
  )
  return int(gen_rpc_ops.rpc_check_status(status)[0])


def say_raw(learner, words):
  """Sends bytes that are not even a call, to TensorFlow's server and to the gate."""
  with socket.socket(socket.AF_UNIX) as stranger:
    stranger.connect(learner.path)
    stranger.sendall(words)
  with socket.create_connection(('127.0.0.1', learner.port), 5.0) as stranger:
    # The gate may hang up before all is sent.
    with contextlib.suppress(ConnectionError):
      stranger.sendall(words)


# Joining.


def test_joining_returns_a_place_and_the_runs_settings(caller):
  first, second = caller.join('a'), caller.join('b')
  assert first.pop('session') != second.pop('session')
  assert first == {
    'state': 'joined',
    'place': 0,
    'assignment': 0,
    'seed': 1001,
    'config': IDENTITY.config,
  }
  assert (second['place'], second['assignment'], second['seed']) == (1, 1, 1002)


def test_more_actors_than_places_share_assignments(caller):
  welcomes = [caller.join(str(i)) for i in range(5)]
  assert [welcome['place'] for welcome in welcomes] == [0, 1, 2, 3, 4]
  assert [welcome['assignment'] for welcome in welcomes] == [0, 1, 0, 1, 0]
  assert len({welcome['seed'] for welcome in welcomes}) == 5


def test_a_learner_assigns_only_its_own_share_of_actors():
  with learners.closing(learners.Learner(assignments=range(1, 6, 2))) as learner:
    caller = learners.Caller(learner)
    welcomes = [caller.join(str(i)) for i in range(4)]
    given = [(welcome['place'], welcome['assignment']) for welcome in welcomes]
    assert given == [(0, 1), (1, 3), (2, 5), (3, 1)]


def test_a_rejoining_actor_gets_its_place_and_another_seed(caller):
  caller.join('a')
  before = caller.join('b')
  caller.tell(kind='leave', session=before['session'])
  again = caller.join('b')
  assert again['place'] == 1
  assert again['session'] != before['session'] and again['seed'] != before['seed']


def test_an_applicant_may_ask_for_the_runs_own_settings(caller):
  assert caller.join(config={'batch_size': 32, 'lstm': False})['state'] == 'joined'


@pytest.mark.parametrize(
  'changes, words, others',
  [
    (
      {'version': 'ba9876543210'},
      ['version ba9876543210', "the learner's is 0123456789ab", 'same checkout'],
      ['setting'],
    ),
    ({'config': {'batch_size': 64}}, ['batch_size', "'64'", '32'], ['version']),
    ({'config': {'lstm': False, 'no_such': 1}}, ['no_such', "'1'", 'None'], ['version']),
    ({'version': 'y', 'config': {'lstm': True}}, ['version y'], ['lstm']),
  ],
)
def test_an_applicant_of_another_run_is_turned_away_with_the_difference(
  learner, caller, caplog, changes, words, others
):
  answer = caller.join('stranger', **changes)
  assert answer['state'] == 'turned away'
  assert all(word in answer['reason'] for word in words)
  assert not any(word in answer['reason'] for word in others)
  assert any('stranger' in message and answer['reason'] in message for message in caplog.messages)
  assert learner.roster.members() == [] and 'session' not in answer


def test_a_flood_of_strangers_of_another_run_is_a_few_harmless_lines(learner, caller, caplog):
  for i in range(100):
    caller.join(f'\x1b[2J\nerror: forged {i}', version='\x1b[31mred')
  learner.server.look_after()
  told = [message for message in caplog.messages if 'turned away' in message]
  assert len(told) == 5 and all(message.isprintable() for message in told)
  assert told[0].startswith(r'actor \x1b[2J\nerror: forged 0 is turned away: ')


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'role': 'learner'}, 'role is'),
    ({'role': None}, 'role is'),
    ({'name': 5}, 'name is'),
    ({'name': None}, 'name is'),
    ({'version': 1}, 'version is'),
    ({'config': []}, 'config is'),
    ({'config': None}, 'config is'),
  ],
)
def test_a_malformed_application_is_refused(learner, caller, changes, words):
  answer = caller.join(**changes)
  assert answer['state'] == 'refused' and words in answer['reason']
  assert learner.roster.members() == [] and learner.count('messages_refused') == 1


@pytest.mark.parametrize('field', ['name', 'version', 'role'])
def test_text_that_is_not_valid_unicode_gets_an_answer(learner, caller, field):
  """JSON may hold half of a surrogate pair, which cannot be encoded as UTF-8."""
  assert caller.join(**{field: '\ud800'})['state'] in ('refused', 'turned away', 'joined')
  assert caller.join('good')['state'] == 'joined'


@pytest.mark.parametrize('depth', [100, 300, 500, 700, 900, 950, 980])
def test_deeply_nested_settings_are_turned_away(caller, depth):
  config = b'{"batch_size": ' + b'[' * depth + b']' * depth + b'}'
  message = wire.to_json(kind='join', name='a', role='actor', version=IDENTITY.version, config={})
  answer = json.loads(
    caller.raw('tell', message.replace(b'"config": {}', b'"config": ' + config))[0]
  )
  assert answer['state'] in ('refused', 'turned away')


# Putting.


def test_puts_arrive_in_the_queue(learner, caller):
  session = caller.session()
  assert caller.put(session, 1, payload(3, 1, 2)) == {'state': 'taken'}
  assert caller.put(session, 2, payload(7)) == {'state': 'taken'}
  assert learner.take() == [3, 1, 2, 7]
  assert learner.count('puts') == 2 and learner.count('puts_repeated') == 0
  assert learner.count('received_mb') == pytest.approx(len(payload(0)) * 4 / 1e6)


def test_a_repeated_put_is_dropped_and_counted(learner, caller):
  session = caller.session()
  for _ in range(3):
    assert caller.put(session, 1, payload(5))['state'] == 'taken'
  assert caller.put(session, 2, payload(6))['state'] == 'taken'
  assert caller.put(session, 1, payload(5))['state'] == 'taken'
  assert learner.take() == [5, 6]
  assert learner.count('puts') == 2 and learner.count('puts_repeated') == 3


def test_a_put_repeated_while_it_waits_for_room_is_delivered_once(small):
  caller, other = learners.Caller(small), learners.Caller(small)
  session = caller.session()
  assert caller.put(session, 1, payload(0, 1))['state'] == 'taken'
  waiting = learners.Background(caller.put, session, 2, payload(2, 3))
  assert processes.becomes_true(lambda: other.asked(session, 2) == 'waiting', DEADLINE)
  for _ in range(3):
    assert other.put(session, 2, payload(2, 3))['state'] == 'waiting'
  assert other.put(session, 1, payload(0, 1))['state'] == 'taken'
  assert not waiting.has_returned(WATCHED) and small.queue.size() == 2
  assert small.take(4) == [0, 1, 2, 3]
  assert waiting.has_returned(DEADLINE) and waiting.result == {'state': 'taken'}
  assert other.asked(session, 2) == 'taken'
  assert other.put(session, 2, payload(2, 3))['state'] == 'taken'
  assert small.queue.size() == 0
  assert small.count('puts') == 2 and small.count('puts_repeated') == 5


def test_a_put_whose_call_timed_out_is_delivered_once(small):
  """The sender asks after it, and learns its fate."""
  caller = learners.Caller(small)
  session = caller.session()
  caller.put(session, 1, payload(0, 1))
  with pytest.raises(rpc.Unreachable):
    caller.put(session, 2, payload(2), seconds=0.5)
  assert caller.asked(session, 2) == 'waiting'
  assert small.take(3) == [0, 1, 2]
  assert processes.becomes_true(lambda: caller.asked(session, 2) == 'taken', DEADLINE)
  assert small.queue.size() == 0


def test_a_member_may_ask_after_its_puts(caller):
  session = caller.session()
  assert caller.asked(session, 1) == 'missing'
  caller.put(session, 1, payload(1))
  assert [caller.asked(session, n) for n in (1, 2)] == ['taken', 'missing']
  assert caller.asked('nobody', 1) == 'unknown'


def test_each_session_numbers_its_own_puts(learner, caller):
  for i in range(3):
    session = caller.session(str(i))
    assert caller.put(session, 1, payload(i))['state'] == 'taken'
  session = caller.session('0')  # Rejoins, and numbers its puts from 1 again.
  assert caller.put(session, 1, payload(9))['state'] == 'taken'
  assert learner.take() == [0, 1, 2, 9]


def test_a_put_of_several_messages_is_assembled(large):
  caller, codec = learners.Caller(large), wire.Codec(learners.LARGE_SPEC, {})
  pixels = np.random.default_rng(0).integers(0, 256, (2, 2 * wire.MESSAGE_BYTES + 9), np.uint8)
  sent = [
    wire.split(codec.encode({'number': np.array([i]), 'pixels': pixels[i : i + 1]}))
    for i in range(2)
  ]
  sessions = [caller.session(str(i)) for i in range(2)]
  for part in range(3):  # Those of two actors alternate.
    for session, parts in zip(sessions, sent, strict=True):
      assert caller.put(session, 1, parts[part], part, 3)['state'] == (
        'taken' if part == 2 else 'more'
      )
      assert caller.asked(session, 1) == ('taken' if part == 2 else 'missing')
  assert caller.put(sessions[0], 1, sent[0][2], 2, 3)['state'] == 'taken'
  taken = large.queue.take_many(large.queue.size())
  np.testing.assert_array_equal(taken['number'], [0, 1])
  np.testing.assert_array_equal(taken['pixels'], pixels)


def test_parts_out_of_order_are_refused(large):
  caller, codec = learners.Caller(large), wire.Codec(learners.LARGE_SPEC, {})
  element = {'number': np.array([5]), 'pixels': np.ones((1, 2 * wire.MESSAGE_BYTES + 9), np.uint8)}
  parts, session = wire.split(codec.encode(element)), caller.session()

  def put(part, count=3, sequence=1):
    return caller.put(session, sequence, parts[part], part, count)

  for wrong in (1, 2):
    assert f'part {wrong} of 3 of put 1, expected part 0' in put(wrong)['reason']
  assert put(0)['state'] == 'more'
  assert 'expected part 1' in put(2)['reason']
  assert put(0)['state'] == 'more' and put(1)['state'] == 'more'
  assert 'expected part 2' in put(1)['reason']
  assert put(0)['state'] == 'more' and put(1)['state'] == 'more'
  assert put(2)['state'] == 'taken'
  for part, count in ((0, 0), (3, 3), (0, 4), (1, 2**61)):
    assert f'part {part} of {count}' in caller.put(session, 2, b'', part, count)['reason']
  assert 'expected a multiple' in caller.put(session, 2, parts[0], 0, 1)['reason']  # Incomplete.
  assert large.queue.size() == 1 and large.count('puts') == 1


def test_an_unfinished_put_does_not_mix_with_the_next(large):
  caller, codec = learners.Caller(large), wire.Codec(learners.LARGE_SPEC, {})

  def element(n):
    pixels = np.full((1, 2 * wire.MESSAGE_BYTES + 9), n, np.uint8)
    return {'number': np.array([n]), 'pixels': pixels}

  first, second = (wire.split(codec.encode(element(n))) for n in (1, 2))
  session = caller.session()
  assert [caller.put(session, 1, first[i], i, 3)['state'] for i in (0, 1)] == ['more', 'more']
  assert caller.put(session, 2, second[2], 2, 3)['state'] == 'refused'
  states = [caller.put(session, 2, second[i], i, 3)['state'] for i in (0, 1, 2)]
  assert states == ['more', 'more', 'taken']
  taken = large.queue.take()
  assert taken['number'] == 2 and np.unique(taken['pixels']) == [2]


@pytest.mark.parametrize(
  'message, words',
  [
    (b'', '0 bytes, expected a multiple of 20'),
    (b'x', '1 bytes, expected'),
    (payload(1)[:-1], '19 bytes, expected'),
    (payload(1, 2) + b'\0', '41 bytes, expected'),
    (spoiled(reward=np.nan), 'reward holds .* not finite'),
    (spoiled(reward=-np.inf), 'reward holds .* not finite'),
    (spoiled(pixels=201), 'pixels holds 201'),
    (spoiled(number=-1), 'number holds -1, expected 0'),
    (spoiled(number=2**62), 'number holds 46116860184'),
    (b'\2' + payload(1)[1:], 'flag holds 2, expected booleans'),
    (one_of_many_spoiled(), 'pixels holds 255'),
  ],
)
def test_a_malformed_put_is_refused_with_reason_and_sender(learner, caller, caplog, message, words):
  session = caller.session('machine/7')
  answer = caller.put(session, 1, message)
  assert answer['state'] == 'refused'
  assert re.search(words, answer['reason'])
  assert any('actor 0 (machine/7)' in text and answer['reason'] in text for text in caplog.messages)
  assert learner.queue.size() == 0
  assert learner.count('puts') == 0 and learner.count('messages_refused') == 1
  assert caller.asked(session, 1) == 'missing'
  assert caller.put(session, 1, payload(4))['state'] == 'taken'
  assert learner.take() == [4]


@pytest.mark.parametrize('sequence', [2, 5, 10**6, 2**62 - 1])
def test_a_refused_put_does_not_block_others(learner, caller, sequence):
  session = caller.session()
  assert caller.put(session, sequence, b'wrong')['state'] == 'refused'
  assert caller.put(session, 1, payload(4))['state'] == 'taken'
  assert learner.take() == [4]


@pytest.mark.parametrize(
  'header',
  [
    b'',
    b'{',
    b'[]',
    b'null',
    b'\xff',
    b'{}',
    b'{"session": 5, "sequence": 1, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": 1, "part": 0}',
    b'{"session": SESSION, "sequence": -1, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": true, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": 1.0, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": 1e99, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": NaN, "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": "1", "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": 1, "part": -1, "parts": 1}',
    b'{"session": SESSION, "sequence": 1, "part": 1, "parts": 1}',
    b'{"session": SESSION, "sequence": 1, "part": 0, "parts": 2}',
    b'{"session": SESSION, "sequence": 1' + b'0' * 5000 + b', "part": 0, "parts": 1}',
    b'{"session": SESSION, "sequence": 9223372036854775808, "part": 0, "parts": 1}',
  ],
)
def test_a_malformed_header_is_refused_though_its_payload_is_valid(learner, caller, header):
  session = caller.session()
  header = header.replace(b'SESSION', json.dumps(session).encode())
  answer = json.loads(caller.raw('put', header, payload(1))[0])
  assert answer['state'] == 'refused' and answer['reason']
  assert learner.queue.size() == 0 and learner.count('messages_refused') == 1
  assert caller.put(session, 1, payload(2))['state'] == 'taken'


@pytest.mark.parametrize('function', ['put', 'beat', 'parameters'])
def test_the_sender_of_a_refused_message_is_named(learner, caller, caplog, function):
  """Even if it is the header that is malformed."""
  session = caller.session('machine/7')
  if function == 'beat':
    answer = caller.tell(kind='beat', session=session, activity=None)
  else:
    answer = json.loads(
      caller.raw(function, wire.to_json(session=session), *[b''] * (function == 'put'))[0]
    )
  assert answer['state'] == 'refused'
  assert any('actor 0 (machine/7)' in text and answer['reason'] in text for text in caplog.messages)


def test_strangers_may_only_join(learner, caller):
  assert caller.put('0' * 32, 1, payload(1)) == {'state': 'unknown'}
  assert caller.parameters('0' * 32) == ({'state': 'unknown'}, b'')
  beat = {'activity': '', 'crashes': 0, 'dropped': 0}
  for kind, rest in (('beat', beat), ('asked', {'sequence': 1}), ('report', {})):
    assert caller.tell(kind=kind, session='', **rest) == {'state': 'unknown'}
  assert learner.queue.size() == 0 and learner.reports == [] and learner.roster.members() == []


@pytest.mark.parametrize(
  'message',
  [
    b'',
    b'x',
    b'[1, 2]',
    b'{}',
    b'{"kind": 1}',
    b'{"kind": "dance"}',
    b'{"kind": "beat"}',
    b'{"kind": "' + b'x' * 10**6 + b'"}',
    b'{"kind": "leave"}',
    b'{"kind": "asked", "session": []}',
    b'{"kind": "join"}',
    b'[' * 10**6,
  ],
  ids=lambda message: repr(message[:25]),
)
def test_a_malformed_message_is_refused(learner, caller, message):
  answer = json.loads(caller.raw('tell', message)[0])
  assert answer['state'] == 'refused' and 0 < len(answer['reason']) < 300
  assert learner.count('messages_refused') == 1


@pytest.mark.parametrize(
  'values',
  [
    {'activity': 5},
    {'crashes': -1},
    {'crashes': 'x'},
    {'dropped': True},
    {'dropped': 10**30},
    {'crashes': 1.5},
  ],
)
def test_a_malformed_heartbeat_changes_nothing(learner, caller, values):
  session = caller.session()
  caller.beat(session, 'playing', 2, 3)
  beat = {'kind': 'beat', 'session': session, 'activity': '', 'crashes': 9, 'dropped': 9}
  assert caller.tell(**{**beat, **values})['state'] == 'refused'
  assert learner.roster.totals() == {'crashes': 2, 'dropped': 3}
  assert learner.roster.describe() == ['actor 0 (one), heard 0 s ago: playing']


def test_calls_of_other_forms_do_no_harm(learner, caller):
  text, session = tf.constant(b'{}'), caller.session()
  for method, arguments in (
    ('tell', [tf.constant(1.0)]),
    ('tell', []),
    ('tell', [tf.zeros([3, 3])]),
    ('put', [tf.constant(1), text]),
    ('put', [text, tf.constant(1)]),
    ('put', [text]),
    ('put', []),
    ('no_such', [text]),
    ('', []),
    ('tell\0', [text]),
  ):
    assert low_level(caller, method, *arguments), (method, arguments)
  for method, arguments in (
    ('put', [tf.constant([b'a', b'b']), text]),
    ('parameters', [tf.constant([b'{}'])]),
  ):
    refused = learner.count('messages_refused')
    assert not low_level(caller, method, *arguments)
    assert learner.count('messages_refused') == refused + 1
  with pytest.raises(RuntimeError, match='larger than max'):
    caller.raw('put', b'{}', b'x' * (4 * 2**20 + 1))
  for words in (
    b'',
    b'\0',
    b'GET / HTTP/1.1\r\nHost: here\r\n\r\n',
    os.urandom(5000),
    b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + os.urandom(5000),
    b'\x16\x03\x01' + os.urandom(200),
  ):
    say_raw(learner, words)
  assert caller.put(session, 1, payload(1))['state'] == 'taken'
  assert learner.take() == [1]


def test_a_payload_of_several_strings_is_refused():
  """As many strings as an element has bytes must not put the learner's memory into the queue."""
  with learners.closing(learners.Learner(spec={'x': tf.TensorSpec([8], tf.uint8)})) as learner:
    caller = learners.Caller(learner)
    header = wire.to_json(session=caller.session(), sequence=1, part=0, parts=1)
    low_level(caller, 'put', tf.constant(header), tf.constant([b'a'] * 8))
    assert learner.queue.size() == 0
    assert json.loads(caller.raw('put', header, b'12345678')[0]) == {'state': 'taken'}


def malformed(rng, session):
  """A random message that must be refused: function and arguments."""
  header = {'session': session, 'sequence': rng.randint(1, 10**9), 'part': 0, 'parts': 1}
  good, text = payload(7, 8), lambda values: json.dumps(values).encode()
  field = rng.choice(list(header))
  odd = rng.choice(
    [None, True, -1, 1.5, '1', [], {}, 2**63, 10**40, float('nan'), 'x' * 1000, '\ud800']
  )
  # Not at the end of an element: what comes before would be valid.
  at = rng.choice([n for n in range(len(good)) if n % 20])
  kinds = [
    lambda: ('put', text(header), good[:at]),
    lambda: ('put', text(header), good + bytes(rng.randint(1, 19))),
    lambda: ('put', text(header), spoiled(reward=rng.choice([np.nan, np.inf, -np.inf]))),
    lambda: ('put', text(header), spoiled(pixels=rng.randint(201, 255))),
    lambda: ('put', text(header), spoiled(number=rng.choice([-1, 10**9 + 1, 2**63 - 1, -(2**63)]))),
    lambda: ('put', text(header), bytes([rng.randint(2, 255)]) + good[1:]),
    lambda: ('put', text({**header, 'part': rng.randint(1, 9), 'parts': rng.randint(0, 9)}), good),
    lambda: (
      'put',
      text({**header, field: odd if field == 'session' or odd != '1' else None}),
      b'',
    ),
    lambda: ('put', text({name: value for name, value in header.items() if name != field}), good),
    lambda: ('put', text(header)[: rng.randrange(30)], good),
    lambda: ('put', rng.randbytes(rng.randint(0, 99)), rng.randbytes(rng.randint(0, 99))),
    lambda: ('put', text({**header, 'session': rng.randbytes(16).hex()}), good),
    lambda: (
      'tell',
      text(
        {'kind': rng.choice(['dance', '', 5, None, 'beat', 'asked', 'join']), 'session': session}
      ),
    ),
    lambda: ('tell', rng.randbytes(rng.randint(0, 99))),
    lambda: ('tell', b'[' * rng.randint(1, 10_000)),
    lambda: (
      'parameters',
      text({'session': session, 'version': odd, 'part': rng.choice([-1, 'x', None, 1.5])}),
    ),
    lambda: ('parameters', text({'session': session, 'version': 0, 'part': rng.randint(1, 2**61)})),
  ]
  return rng.choice(kinds)()


def test_an_actor_among_a_thousand_malformed_messages_is_unharmed(learner, caplog):
  """Its puts arrive once and in order."""
  caller, rng = learners.Caller(learner), random.Random(0)
  session, taken = caller.session('malicious'), []
  caller.parameters(session)

  def act(link):
    link.join()
    for number in range(100):
      link.put(payload(2 * number, 2 * number + 1))

  with learners.closing(learners.link(learner.port, 'honest')) as link:
    acting, answers = learners.Background(act, link), []
    for i in range(1000):
      function, *arguments = malformed(rng, session)
      answers.append(json.loads(caller.raw(function, *arguments)[0])['state'])
      if i % 100 == 50:
        with pytest.raises(RuntimeError):
          caller.raw('put', b'{}', b'x' * (4 * 2**20 + 1))
        say_raw(learner, b'GET / HTTP/1.1\r\n\r\n' + rng.randbytes(100))
        assert low_level(caller, 'put', tf.constant(1), tf.constant(2))
        assert low_level(caller, 'no_such')
      taken += learner.take()
    while not acting.has_returned(0.01):
      taken += learner.take()
    assert acting.error is None and link.dropped == 0
  assert set(answers) == {'refused', 'unknown', 'outdated'} and answers.count('refused') > 800
  assert taken + learner.take() == list(range(200))
  assert learner.count('puts') == 100
  assert learner.count('messages_refused') == answers.count('refused')
  told = [message for message in caplog.messages if 'is refused' in message]
  assert 10 < len(told) < 20  # Not a log of a thousand lines.
  assert 'actor 0 (malicious)' in ''.join(told)


def test_many_waiting_puts_block_nothing_else(small):
  caller = learners.Caller(small)
  small.queue.put_many(elements(0, 1))
  waiting = []
  for i in range(40):
    other = learners.Caller(small)
    waiting.append(learners.Background(other.put, other.session(str(i)), 1, payload(100 + i)))
  session = caller.session()
  assert processes.becomes_true(
    lambda: all(member.admitted for member in small.roster.members()[:40]), DEADLINE
  )
  started = time.monotonic()
  assert caller.beat(session) == {'state': 'working'}
  assert caller.put(session, 1, b'wrong')['state'] == 'refused'
  assert time.monotonic() - started < 5.0
  assert not any(one.has_returned(0) for one in waiting)
  assert sorted(small.take(42)) == [0, 1, *range(100, 140)]
  assert all(one.has_returned(DEADLINE) and one.result == {'state': 'taken'} for one in waiting)


# Parameters.


def test_known_parameters_are_not_sent_again(learner, caller):
  session = caller.session()
  answer, message = caller.parameters(session)
  assert answer == {'state': 'given', 'version': 0, 'parts': 1, 'frames': 1234}
  np.testing.assert_array_equal(np.frombuffer(message, np.float32), np.zeros(10))
  assert caller.parameters(session, 0, known=True) == ({'state': 'known', 'frames': 1234}, b'')
  learner.store.publish(learner.snapshot(7))
  answer, message = caller.parameters(session, 0, known=True)
  assert (answer['state'], answer['version']) == ('given', 7)
  assert set(np.frombuffer(message, np.float32)) == {7.0}
  assert caller.parameters(session, 7, known=True)[0]['state'] == 'known'
  assert caller.parameters(session, 7)[0]['state'] == 'given'


def test_parts_of_parameters_belong_to_one_version_while_others_are_published(large):
  caller, size = learners.Caller(large), large.store.latest().values.shape[0]
  session, faster = caller.session('slow'), caller.session('fast')
  large.store.publish(large.snapshot(1, size))
  answer, message = caller.parameters(session)
  assert answer['version'] == 1 and answer['parts'] == 3
  for version in (2, 3):
    large.store.publish(large.snapshot(version, size))
    assert caller.parameters(faster)[0]['version'] == version
  assert caller.parameters(session, 1, 3)[0]['state'] == 'refused'
  assert caller.parameters(session, 1, -1)[0]['state'] == 'refused'
  parts = [message, *(caller.parameters(session, 1, part)[1] for part in (1, 2))]
  assert max(map(len, parts)) <= wire.MESSAGE_BYTES
  values = np.frombuffer(b''.join(parts), np.float32)
  assert len(values) == size and set(values) == {1.0}
  # It has all of it, and nothing is kept for it.
  assert caller.parameters(session, 1, 2) == ({'state': 'outdated'}, b'')


def test_parameters_that_nobody_fetches_are_dropped(monkeypatch):
  monkeypatch.setattr(snapshots, '_KEPT_SECONDS', 0.2)
  size = 2 * wire.MESSAGE_BYTES // 4
  with learners.closing(learners.Learner(size=size)) as learner:
    caller = learners.Caller(learner)
    slow, other = caller.session('slow'), caller.session('other')
    caller.parameters(slow)
    assert caller.parameters(other, 0, 1) == ({'state': 'outdated'}, b'')
    assert caller.parameters(slow, 99, 1) == ({'state': 'outdated'}, b'')
    learner.store.publish(learner.snapshot(1, size))

    def outdated():
      time.sleep(0.3)
      caller.parameters(other)
      return caller.parameters(slow, 0, 1)[0] == {'state': 'outdated'}

    assert outdated()


def test_what_a_member_has_already_is_not_kept_for_it(large):
  caller, size = learners.Caller(large), large.store.latest().values.shape[0]
  session = caller.session()
  assert caller.parameters(session, 0, known=True)[0]['state'] == 'known'
  large.store.publish(large.snapshot(1, size))
  assert caller.parameters(session, 0, 1) == ({'state': 'outdated'}, b'')


@pytest.mark.parametrize('messages', [1, 2])
def test_many_versions_take_the_memory_of_a_few(messages):
  """A small network is published hundreds of times in half a minute, to every actor."""
  size = 100_000 if messages == 1 else wire.MESSAGE_BYTES // 4 + 1
  store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros(size)))
  made = snapshots.Snapshots(store)
  tracemalloc.start()
  try:
    for version in range(1, 30):
      store.publish(parameters.Snapshot(version, tf.zeros(size)))
      for session in ('a', 'b'):
        assert len(made.begin(session)[1]) == messages
    # Of the latest version, and while a message more is cut.
    assert tracemalloc.get_traced_memory()[0] < 2.5 * 4 * size
  finally:
    tracemalloc.stop()


# Heartbeats, reports, actions.


def test_heartbeats_update_totals_and_descriptions(learner, caller):
  a, b = caller.session('a'), caller.session('b')
  assert caller.beat(a, 'stepping for 3 s', 1, 2) == {'state': 'working'}
  caller.beat(b, 'x' * 1000, 4, 0)
  caller.beat(a, 'waiting', 2, 5)
  assert learner.roster.totals() == {'crashes': 6, 'dropped': 5}
  assert learner.count('puts_dropped') == 5
  assert learner.roster.describe()[0] == 'actor 0 (a), heard 0 s ago: waiting'
  assert len(learner.roster.describe()[1]) < 400
  assert learner.count('actors') == 2
  assert set(learner.server.gauges()) == set(learner.server.COLUMNS)


def test_what_members_say_of_themselves_is_shown_in_harmless_lines(learner, caller, caplog):
  session = caller.session('\x1b[2Jname\n' + 'x' * 10**5)
  caller.beat(session, '\x1b[31mactivity\n' + 'x' * 10**5)
  (line,) = learner.roster.describe()
  assert line.isprintable() and len(line) < 600
  assert r'\x1b[2Jname\n' in line and r'\x1b[31mactivity\n' in line
  with caplog.at_level('INFO'):
    caller.session('second\nerror: forged')
  assert r'joins: second\nerror: forged' in caplog.messages[-1]


def test_silent_members_are_dropped(monkeypatch, caplog):
  monkeypatch.setattr(servers, 'LEASE_SECONDS', 1.0)
  with learners.closing(learners.Learner()) as learner:
    caller = learners.Caller(learner)
    silent, loud = caller.session('silent'), caller.session('loud')
    caller.beat(silent, 'last seen alive')

    def forgotten():
      assert caller.beat(loud) == {'state': 'working'}
      learner.server.expire()
      return learner.count('actors_lost') == 1

    assert processes.becomes_true(forgotten, DEADLINE)
    assert [member.name for member in learner.roster.members()] == ['loud']
    assert learner.count('actors') == 1
    assert any(
      'actor 0 (silent) is gone: silent for 1 s' in text and 'last seen alive' in text
      for text in caplog.messages
    )
    assert caller.put(silent, 1, payload(1)) == {'state': 'unknown'} and learner.queue.size() == 0
    assert caller.join('silent')['place'] == 0


def test_a_member_dropped_while_its_put_waits_gets_an_answer(small):
  caller, other = learners.Caller(small), learners.Caller(small)
  session = caller.session()
  small.queue.put_many(elements(0, 1))
  waiting = learners.Background(caller.put, session, 1, payload(2))
  assert processes.becomes_true(lambda: other.asked(session, 1) == 'waiting', DEADLINE)
  other.tell(kind='leave', session=session)
  assert small.take(3) == [0, 1, 2]
  assert waiting.has_returned(DEADLINE) and waiting.result == {'state': 'unknown'}


def test_evaluators_reports_are_handed_on(learner, caller):
  session = caller.session('e', 'evaluator')
  assert caller.tell(kind='report', session=session, mean=2.5, task='t') == {'state': 'working'}
  (report,) = learner.reports
  assert (report['mean'], report['task']) == (2.5, 't')
  assert learner.count('actors') == 0


def test_a_malformed_report_is_refused_with_the_reason(learner, caller):
  def refuse(report):
    raise wire.Malformed('mean is wrong')

  learner.on_report = refuse
  session = caller.session('e', 'evaluator')
  assert caller.tell(kind='report', session=session) == {
    'state': 'refused',
    'reason': 'mean is wrong',
  }


def test_the_learner_decides_for_actors_that_ask():
  inputs = wire.Codec({'x': tf.TensorSpec([2], tf.float32)}, {'x': (0, 100)})
  outputs = wire.Codec(tf.TensorSpec([], tf.float32), {})
  inference = inferences.Inference(
    inputs, outputs, lambda fields: [tf.reduce_sum(fields[0], 1)], lambda: 77
  )
  with learners.closing(learners.Learner(inference=inference)) as learner:
    caller = learners.Caller(learner)
    session = caller.session('machine/7')

    def infer(session, values):
      message = inputs.encode({'x': np.array(values, np.float32)})
      return caller.raw('infer', wire.to_json(session=session), message)

    answer, decided = infer(session, [[1, 2], [3, 4], [5, 6]])
    assert json.loads(answer) == {'state': 'decided', 'version': 77}
    np.testing.assert_array_equal(outputs.decode(decided)[0], [3, 7, 11])
    for values in ([[1, 101]], [[np.nan, 0]], [[]]):
      answer, decided = infer(session, values)
      assert json.loads(answer)['state'] == 'refused' and decided == b''
    assert json.loads(infer('nobody', [[1, 2]])[0]) == {'state': 'unknown'}
    assert json.loads(infer(session, [[8, 1]])[0])['state'] == 'decided'


# Closing.


def test_another_learners_port_is_refused(learner):
  with pytest.raises(errors.UserError, match=f'127.0.0.1:{learner.port}: Address already in use'):
    learners.Learner(port=learner.port)


@pytest.mark.parametrize('finished', [False, True])
def test_the_port_is_free_after_close(learner, tunnel, finished):
  """A caller from another machine reaches the next learner there."""
  caller = learners.Caller(learner, tunnel.path)
  caller.put(caller.session(), 1, payload(1))
  caller.tell(kind='leave', session=caller.session())
  learner.close(finished)
  with learners.closing(learners.Learner(port=learner.port)) as other:
    assert other.port == learner.port
    assert caller.put('0' * 32, 1, payload(1)) == {'state': 'unknown'}


@pytest.mark.parametrize('finished, state', [(True, 'finished'), (False, 'stopped')])
def test_members_present_at_the_end_are_informed(learner, caller, finished, state, monkeypatch):
  monkeypatch.setattr(servers, '_FAREWELL_SECONDS', DEADLINE)
  session, staying = caller.session('a'), caller.session('b')
  learner.enter(state)
  assert caller.beat(session) == {'state': state} and caller.asked(session, 1) == state
  assert caller.join('late') == {'state': state}
  assert caller.tell(kind='report', session=session) == {'state': state}
  ending = learners.Background(learner.close, finished)
  if finished:
    assert not ending.has_returned(WATCHED)  # It waits for members that do not know yet.
    for one in (session, staying):
      assert caller.tell(kind='leave', session=one) == {'state': state}
  assert ending.has_returned(10.0) and ending.error is None


def test_close_does_not_wait_long_for_members_that_stay(learner, caller, monkeypatch):
  monkeypatch.setattr(servers, '_FAREWELL_SECONDS', 0.3)
  caller.session()
  assert learners.Background(learner.close, True).has_returned(10.0)


@pytest.mark.parametrize('finished', [True, False])
def test_close_ends_puts_that_wait_for_room(small, finished, monkeypatch):
  monkeypatch.setattr(servers, '_FAREWELL_SECONDS', 0.3)
  caller, other = learners.Caller(small), learners.Caller(small)
  session = caller.session()
  small.queue.put_many(elements(0, 1))
  waiting = learners.Background(caller.put, session, 1, payload(2))
  assert processes.becomes_true(lambda: other.asked(session, 1) == 'waiting', DEADLINE)
  ending = learners.Background(small.close, finished)
  assert ending.has_returned(10.0) and waiting.has_returned(DEADLINE)
  assert isinstance(waiting.error, rpc.Unreachable)
  assert gate.free_port('127.0.0.1', small.port) == small.port
