"""Strangers at a learner's port: whoever connects without the run's token."""

import collections
import contextlib
import functools
import itertools
import random
import secrets
import socket
import ssl
import threading
from typing import Iterator

from common.distributed import credentials, relay

_SECONDS = 15.0  # How long to wait for an answer; the gate hangs up after 5 s.
_PAUSE = 0.1  # Between two strangers that keep knocking.
_MOST_SILENT = 60  # Connections that are held open at once.
_TLS_RECORDS = (b'\x15', b'\x16')  # How alerts and handshakes begin.

WORDS = {
  'one byte': b'\0',
  'HTTP': b'GET / HTTP/1.1\r\nHost: here\r\n\r\n',
  'plain gRPC': b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0',
  'half a record of TLS': b'\x16\x03\x01\x02\x00' + bytes(200),
  'noise': random.Random(0).randbytes(100_000),
}


def knock(port: int, words: bytes) -> bool:
  """Sends words by plain TCP, and says nothing more.

  Returns:
    Whether the connection was closed with no other answer than TLS's.
  """
  with _dial(port) as connection:
    with contextlib.suppress(ConnectionError):
      connection.sendall(words)
      connection.shutdown(socket.SHUT_WR)
    answer = _answer(connection)
    return not answer or answer.startswith(_TLS_RECORDS)


def knock_with_other_key(port: int, words: bytes) -> bool:
  """Sends words by TLS with another token's key, trusting any gate.

  Returns:
    Whether the connection was closed without an answer.
  """
  with contextlib.suppress(ssl.SSLError, ConnectionError):
    with _dial(port) as plain, _other_tls().wrap_socket(plain) as connection:
      connection.sendall(words)
      return not _answer(connection)
  return True


def silent(port: int) -> socket.socket:
  """A connection that says nothing."""
  return _dial(port)


def half_handshake(port: int, share: float = 1.0) -> socket.socket:
  """A connection that sends a share of TLS's first message, and never goes on."""
  out = ssl.MemoryBIO()
  hand = _other_tls().wrap_bio(ssl.MemoryBIO(), out)
  with contextlib.suppress(ssl.SSLWantReadError):
    hand.do_handshake()
  hello = out.read()
  connection = _dial(port)
  connection.sendall(hello[: int(share * len(hello))])
  return connection


def is_closed(connection: socket.socket) -> bool:
  """Whether the gate closes a connection in time, with no other answer than TLS's."""
  try:
    with connection:
      answer = _answer(connection)
  except TimeoutError:
    return False
  return not answer or answer.startswith(_TLS_RECORDS)


class Knocking:
  """Knocks at a port, about ten times a second, until it is closed.

  Attributes:
    knocks: How often.
    let_in: How often somebody was let in, which should be never.
  """

  def __init__(self, port: int):
    self.knocks = 0
    self.let_in = 0
    self._port = port
    self._closing = threading.Event()
    self._thread = threading.Thread(target=self._run, name='stranger', daemon=True)
    self._thread.start()

  def close(self) -> None:
    """Ends knocking."""
    self._closing.set()
    self._thread.join()

  def _run(self) -> None:
    held: collections.deque[socket.socket] = collections.deque()
    for i in itertools.count():
      if self._closing.wait(_PAUSE):
        break
      # The gate may be busy, and hangs up on the oldest when too many say nothing.
      with contextlib.suppress(OSError):
        self._knock(i, held)
      while len(held) > _MOST_SILENT:
        held.popleft().close()
      self.knocks += 1
    for connection in held:
      connection.close()

  def _knock(self, i: int, held: collections.deque[socket.socket]) -> None:
    """Does what comes next: silence, half a handshake, another token, garbage."""
    words = list(WORDS.values())[i // 4 % len(WORDS)]
    match i % 4:
      case 0:
        held.append(silent(self._port))
      case 1:
        held.append(half_handshake(self._port, 0.5 if i % 8 == 1 else 1.0))
      case 2:
        self.let_in += not knock_with_other_key(self._port, words)
      case 3:
        self.let_in += not knock(self._port, words)


@contextlib.contextmanager
def knocking(port: int) -> Iterator[Knocking]:
  """Knocks at a port within the block."""
  made = Knocking(port)
  try:
    yield made
  finally:
    made.close()


def _dial(port: int) -> socket.socket:
  return socket.create_connection(('127.0.0.1', port), _SECONDS)


@functools.cache
def _other_tls() -> ssl.SSLContext:
  """As a member's, but with the key of a token that nobody else has."""
  made = relay.context(credentials.pem(secrets.token_hex(16)), is_server=False)
  made.verify_mode = ssl.CERT_NONE
  return made


def _answer(connection: socket.socket) -> bytes:
  """All bytes until the other side closes. Raises TimeoutError if it does not."""
  answer = b''
  with contextlib.suppress(ConnectionError, ssl.SSLError):
    while data := connection.recv(1 << 16):
      answer += data
  return answer
