"""Calls between processes: what they return, and how their failures are classified."""

import socket
import threading
import time

import pytest
import tensorflow as tf

from common import errors
from common.distributed import rpc, wire
from scripts import processes

TEXT = tf.TensorSpec([], tf.string)


@tf.function(input_signature=[TEXT, TEXT])
def joined(a, b):
  return [a + b, b]


@tf.function(input_signature=[TEXT, TEXT])
def sizes(a, b):
  return [tf.strings.as_string(tf.strings.length(a)), tf.strings.as_string(tf.strings.length(b))]


@tf.function(input_signature=[TEXT])
def failing(text):
  def fail(text):
    raise ValueError(f'no {text.decode()} here')

  return tf.numpy_function(fail, [text], tf.string)


@tf.function(input_signature=[TEXT])
def slow(text):
  def wait(text):
    time.sleep(1.0)
    return text

  return tf.ensure_shape(tf.numpy_function(wait, [text], tf.string), [])


def serve(port=0, host='127.0.0.1'):
  port = rpc.free_port(host, port)
  return rpc.serve(
    host, port, {'joined': joined, 'sizes': sizes, 'failing': failing, 'slow': slow}
  ), port


@pytest.fixture(scope='module')
def served():
  """The port of a server, and a client of it."""
  server, port = serve()
  yield port, rpc.Client('127.0.0.1', port, 10.0)
  del server


@pytest.fixture
def stranger():
  """The port of a listener that sends the words of a list to all who connect, and the list."""
  words, listener = [], socket.create_server(('127.0.0.1', 0))

  def answer():
    while True:
      try:
        caller, _ = listener.accept()
      except OSError:
        return
      for word in words:
        caller.sendall(word)
      if words:
        caller.close()

  threading.Thread(target=answer, daemon=True).start()
  yield listener.getsockname()[1], words
  listener.shutdown(socket.SHUT_RDWR)
  listener.close()


def test_byte_strings_survive_a_call(served):
  _, client = served
  assert client.call('joined', b'\x00a\xff', b'', seconds=10.0) == [b'\x00a\xff', b'']


def test_the_largest_message_and_its_header_survive_a_call(served):
  _, client = served
  message, header = bytes(range(256)) * (wire.MESSAGE_BYTES // 256), b'h' * 2**14
  assert client.call('sizes', header, message, seconds=20.0) == [
    b'%d' % len(header),
    b'%d' % wire.MESSAGE_BYTES,
  ]
  assert client.call('joined', message, b'', seconds=20.0)[0] == message


def test_an_error_at_the_server_is_raised_at_the_client(served):
  _, client = served
  with pytest.raises(RuntimeError, match='the learner cannot do failing: .*no luck here') as failed:
    client.call('failing', b'luck', seconds=10.0)
  assert '\n' not in str(failed.value)
  assert client.call('joined', b'a', b'b', seconds=10.0) == [b'ab', b'b']


def test_a_late_answer_is_unreachable(served):
  _, client = served
  started = time.monotonic()
  with pytest.raises(rpc.Unreachable):
    client.call('slow', b'', seconds=0.3)
  assert time.monotonic() - started < 0.9
  assert client.call('slow', b'in time', seconds=20.0) == [b'in time']


def test_a_client_survives_a_restart_of_its_server():
  server, port = serve()
  client = rpc.Client('127.0.0.1', port, 10.0)
  assert client.call('joined', b'a', b'', seconds=10.0)[0] == b'a'
  del server
  assert processes.becomes_true(lambda: not rpc.reaches('127.0.0.1', port))
  with pytest.raises(rpc.Unreachable):
    client.call('joined', b'b', b'', seconds=0.5)
  server, _ = serve(port)
  assert client.call('joined', b'c', b'', seconds=20.0)[0] == b'c'
  del server


def test_connecting_to_a_free_port_fails_in_time():
  port = rpc.free_port('127.0.0.1', 0)
  started = time.monotonic()
  with pytest.raises(rpc.Unreachable) as nobody:
    rpc.Client('127.0.0.1', port, 0.5)
  assert time.monotonic() - started < 5.0 and '\n' not in str(nobody.value)


@pytest.mark.parametrize(
  'words',
  [[], [b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'], [b'\x00\xff' * 500]],
  ids=['mute', 'http', 'noise'],
)
def test_a_listener_of_another_protocol_is_unreachable(stranger, words):
  port, said = stranger
  said.extend(words)
  assert rpc.reaches('127.0.0.1', port)
  with pytest.raises(rpc.Unreachable):
    rpc.Client('127.0.0.1', port, 0.5)


def test_free_port_checks_a_port_and_chooses_one_for_0():
  port = rpc.free_port('127.0.0.1', 0)
  assert 1024 <= port <= 65535
  assert rpc.free_port('127.0.0.1', port) == port
  with socket.create_server(('127.0.0.1', port)):
    with pytest.raises(
      errors.UserError, match=f'cannot listen on 127.0.0.1:{port}: Address already in use.*--listen'
    ):
      rpc.free_port('127.0.0.1', port)
  assert rpc.free_port('127.0.0.1', port) == port


def test_a_servers_port_is_in_use_until_it_ends():
  server, port = serve()
  with pytest.raises(errors.UserError, match='Address already in use'):
    rpc.free_port('127.0.0.1', port)
  with pytest.raises(errors.UserError, match='Address already in use'):
    rpc.free_port('0.0.0.0', port)
  del server
  assert rpc.free_port('127.0.0.1', port) == port


@pytest.mark.parametrize(
  'host, port, words',
  [
    ('127.0.0.1', 65536, 'the port is 65536, expected 0 to 65535'),
    ('127.0.0.1', -1, 'the port is -1, expected 0 to 65535'),
    # An address reserved for documentation.
    ('192.0.2.1', 0, 'cannot listen on 192.0.2.1:0: Cannot assign'),
    ('no.such.host.invalid', 0, 'cannot listen on no.such.host.invalid:0'),
    ('a' * 70, 0, 'cannot listen on aaa'),
  ],
  ids=['high', 'negative', 'elsewhere', 'no host', 'no name'],
)
def test_listening_on_a_wrong_address_is_a_user_error(host, port, words):
  with pytest.raises(errors.UserError, match=words):
    rpc.free_port(host, port)


@pytest.mark.parametrize(
  'host', ['no.such.host.invalid', '256.1.1.1', 'a b', 'http://here', '..', 'a' * 70]
)
def test_a_host_that_does_not_exist_is_a_user_error(host):
  with pytest.raises(errors.UserError, match='--learner'):
    rpc.reaches(host, 80)


def test_reaches_says_whether_something_listens():
  with socket.create_server(('127.0.0.1', 0)) as listener:
    port = listener.getsockname()[1]
    assert rpc.reaches('127.0.0.1', port) and rpc.reaches('localhost', port)
  assert not rpc.reaches('127.0.0.1', port)


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1', '0.0.0.0', '::1', '::'])
def test_a_server_is_reachable_at_every_kind_of_address(host):
  try:
    server, port = serve(host=host)
  except errors.UserError:
    if ':' in host:
      pytest.skip('this machine has no IPv6')
    raise
  client = rpc.Client({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port, 2.0)
  assert client.call('joined', b'a', b'b', seconds=10.0)[0] == b'ab'
  del server
