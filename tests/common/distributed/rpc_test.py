"""Calls between processes: what they return, and how their failures are classified."""

import contextlib
import socket
import threading
import time

import pytest
import tensorflow as tf

from common.distributed import gate, rpc, wire
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


def serve(path):
  return rpc.serve(path, {'joined': joined, 'sizes': sizes, 'failing': failing, 'slow': slow})


@pytest.fixture
def path():
  """A path for a socket."""
  folder = gate.Folder()
  yield folder.path
  folder.close()


@pytest.fixture(scope='module')
def served():
  """A client of a server."""
  folder = gate.Folder()
  server = serve(folder.path)
  yield rpc.Client(folder.path, 10.0)
  del server
  folder.close()


@pytest.fixture
def stranger(path):
  """The words of a list are sent to all who connect to the path."""
  words, listener = [], socket.socket(socket.AF_UNIX)
  listener.bind(path)
  listener.listen()

  def answer():
    while True:
      try:
        caller, _ = listener.accept()
      except OSError:
        return
      # Who hears another protocol may hang up before the end.
      with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        for word in words:
          caller.sendall(word)
      if words:
        caller.close()

  threading.Thread(target=answer, daemon=True).start()
  yield words
  listener.shutdown(socket.SHUT_RDWR)
  listener.close()


def test_byte_strings_survive_a_call(served):
  client = served
  assert client.call('joined', b'\x00a\xff', b'', outputs=2, seconds=10.0) == [b'\x00a\xff', b'']


def test_the_largest_message_and_its_header_survive_a_call(served):
  client = served
  message, header = bytes(range(256)) * (wire.MESSAGE_BYTES // 256), b'h' * 2**14
  assert client.call('sizes', header, message, outputs=2, seconds=20.0) == [
    b'%d' % len(header),
    b'%d' % wire.MESSAGE_BYTES,
  ]
  assert client.call('joined', message, b'', outputs=2, seconds=20.0)[0] == message


def test_an_error_at_the_server_is_raised_at_the_client(served):
  client = served
  with pytest.raises(RuntimeError, match='the learner cannot do failing: .*no luck here') as failed:
    client.call('failing', b'luck', seconds=10.0)
  assert '\n' not in str(failed.value)
  assert client.call('joined', b'a', b'b', outputs=2, seconds=10.0) == [b'ab', b'b']


def test_a_late_answer_is_unreachable(served):
  client = served
  started = time.monotonic()
  with pytest.raises(rpc.Unreachable):
    client.call('slow', b'', seconds=0.3)
  assert time.monotonic() - started < 0.9
  assert client.call('slow', b'in time', seconds=20.0) == [b'in time']


def test_a_client_survives_a_restart_of_its_server(path):
  server = serve(path)
  client = rpc.Client(path, 10.0)
  assert client.call('joined', b'a', b'', outputs=2, seconds=10.0)[0] == b'a'
  del server
  assert processes.becomes_true(lambda: not processes.listens(path))
  with pytest.raises(rpc.Unreachable):
    client.call('joined', b'b', b'', outputs=2, seconds=0.5)
  server = serve(path)
  assert client.call('joined', b'c', b'', outputs=2, seconds=20.0)[0] == b'c'
  del server


def test_connecting_to_nobody_fails_in_time(path):
  started = time.monotonic()
  with pytest.raises(rpc.Unreachable) as nobody:
    rpc.Client(path, 0.5)
  assert time.monotonic() - started < 5.0 and '\n' not in str(nobody.value)


@pytest.mark.parametrize(
  'words',
  [[], [b'HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n'], [b'\x00\xff' * 500]],
  ids=['mute', 'http', 'noise'],
)
def test_a_listener_of_another_protocol_is_unreachable(path, stranger, words):
  stranger.extend(words)
  assert processes.listens(path)
  with pytest.raises(rpc.Unreachable):
    rpc.Client(path, 0.5)
