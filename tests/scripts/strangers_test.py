"""Strangers tell whether they were refused, and knock at all of a gate's weak places."""

import contextlib
import socket
import threading

import pytest

from common.distributed import cluster, gate
from scripts import processes, strangers
from tests.common.distributed.learners import TOKEN


@contextlib.contextmanager
def answering(answer):
  """A port where each caller gets an answer; the connection is closed after it if there is one."""
  listener = socket.create_server(('127.0.0.1', 0))
  held = []

  def reply(caller):
    with contextlib.suppress(OSError):
      caller.recv(1)
      caller.sendall(answer)
      caller.shutdown(socket.SHUT_WR)

  def serve():
    with contextlib.suppress(OSError):
      while True:
        held.append(listener.accept()[0])
        if answer:
          threading.Thread(target=reply, args=(held[-1],), daemon=True).start()

  threading.Thread(target=serve, daemon=True).start()
  try:
    yield listener.getsockname()[1]
  finally:
    listener.shutdown(socket.SHUT_RDWR)
    for one in [listener, *held]:
      one.close()


@pytest.fixture
def port():
  """A gate with nothing behind it."""
  with contextlib.closing(gate.Folder()) as folder:
    made = gate.Gate(cluster.Endpoint('127.0.0.1', 0), TOKEN, folder.path)
    with contextlib.closing(made):
      made.start()
      yield made.endpoint.port


@pytest.mark.parametrize('name', strangers.WORDS)
def test_a_gate_refuses_all_words(port, name):
  assert strangers.knock(port, strangers.WORDS[name])
  assert strangers.knock_with_other_key(port, strangers.WORDS[name])


def test_half_handshakes_are_the_beginning_of_real_ones(port):
  with strangers.half_handshake(port) as whole, strangers.half_handshake(port, 0.5) as half:
    assert whole.recv(1) == b'\x16'  # The gate goes on with the handshake.
    half.settimeout(0.3)
    with pytest.raises(TimeoutError):
      half.recv(1)


def test_an_answer_means_that_somebody_was_let_in():
  with answering(b'\0\0\0\x04\0\0\0\0\0') as port:  # As a server of HTTP/2 greets.
    assert not strangers.knock(port, b'hello')


def test_a_connection_that_stays_is_told(monkeypatch):
  monkeypatch.setattr(strangers, '_SECONDS', 0.2)
  with answering(b'') as port:
    assert not strangers.is_closed(strangers.silent(port))


def test_strangers_keep_knocking_until_they_are_closed(port, monkeypatch):
  monkeypatch.setattr(strangers, '_PAUSE', 0.0)
  threads = threading.active_count()
  with strangers.knocking(port) as stranger:
    assert processes.becomes_true(lambda: stranger.knocks >= 24, 30.0)
  knocks = stranger.knocks
  assert stranger.let_in == 0 and threading.active_count() <= threads
  assert not stranger._thread.is_alive() and stranger.knocks == knocks


def test_those_who_were_let_in_are_counted(monkeypatch):
  monkeypatch.setattr(strangers, '_PAUSE', 0.0)
  with answering(b'welcome') as port, strangers.knocking(port) as stranger:
    assert processes.becomes_true(lambda: stranger.let_in >= 1, 30.0)
