"""Relays connections between TLS over TCP and a Unix socket: both ends of a run's connections.

The learner's end is a process (this file is its program), so that TLS takes neither Python's lock
nor file descriptors from the learner. It imports nothing but the standard library and starts fast.

    actor -> Unix socket -> `serve_tunnel` == TLS over TCP => `GateServer` -> Unix socket -> learner
"""

import asyncio
import collections
import contextlib
import json
import os
import resource
import socket
import ssl
import sys
import tempfile
import threading
from typing import Any, Callable

HANDSHAKE_SECONDS = 5.0
_CONNECT_SECONDS = 10.0  # For TCP.
_GOODBYE_SECONDS = 5.0  # For TLS's closing messages.
_MOST_HALF_OPEN = 128  # Connections that have not shown the certificate yet.
_BACKLOG = 1024  # Connections that the kernel holds until they are accepted.
_NOTE_SECONDS = 60.0  # At most one note about refused connections in this time.
_BUFFER_BYTES = 1 << 18  # Read at once; the largest that asyncio's TLS takes.
# How OpenSSL names alerts about a certificate that is not accepted.
_OTHER_CERTIFICATE = ('ALERT_UNKNOWN_CA', 'ALERT_BAD_CERTIFICATE', 'ALERT_CERTIFICATE_UNKNOWN')
# A machine that vanishes says no goodbye. Without these, its connections would stay for hours.
_KEEPALIVE = {
  'TCP_KEEPIDLE': 60,  # Seconds of silence before the first probe.
  'TCP_KEEPINTVL': 15,  # Seconds between probes.
  'TCP_KEEPCNT': 4,  # Lost probes that end the connection.
}


def context(pem: str, is_server: bool) -> ssl.SSLContext:
  """TLS 1.3 with this certificate on both sides, and no other accepted.

  Args:
    pem: The private key and the certificate.
    is_server: Whether for the side that is connected to.
  """
  made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if is_server else ssl.PROTOCOL_TLS_CLIENT)
  made.minimum_version = ssl.TLSVersion.TLSv1_3
  # The certificate says who the peer is. Its host name says nothing: addresses are not certified.
  made.check_hostname = False
  made.verify_mode = ssl.CERT_REQUIRED
  made.load_verify_locations(cadata=pem[pem.index('-----BEGIN CERTIFICATE') :])
  # `ssl` loads keys from files only. This one is readable by nobody else, and gone at once.
  with tempfile.NamedTemporaryFile('w') as file:
    file.write(pem)
    file.flush()
    made.load_cert_chain(file.name)
  if is_server:
    made.num_tickets = 0  # No resumption: connections last for a run.
  return made


def keep_alive(sock: socket.socket) -> None:
  """Has the kernel notice that a silent peer is gone."""
  sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
  for name, value in _KEEPALIVE.items():
    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


class _Side(asyncio.Protocol):
  """One of two connections: what it receives, the other one sends.

  Attributes:
    transport: The connection.
    other: The other side, once both are connected; nothing is read before.
  """

  transport: asyncio.Transport

  def __init__(self) -> None:
    self.other: _Side | None = None

  def connection_made(self, transport: asyncio.BaseTransport) -> None:
    assert isinstance(transport, asyncio.Transport)
    self.transport = transport
    transport.pause_reading()

  def data_received(self, data: bytes) -> None:
    if self.other:
      self.other.transport.write(data)

  # When a side cannot send what the other reads, the other waits.

  def pause_writing(self) -> None:
    if self.other:
      self.other.transport.pause_reading()

  def resume_writing(self) -> None:
    if self.other and not self.other.transport.is_closing():
      self.other.transport.resume_reading()

  def connection_lost(self, error: Exception | None) -> None:
    # Sends what is left, then closes.
    if self.other:
      self.other.transport.close()


def _join(a: _Side, b: _Side) -> None:
  """Begins to relay between two connected sides."""
  a.other = b
  b.other = a
  for side, other in ((a, b), (b, a)):
    if side.transport.is_closing():
      other.transport.close()
    elif not other.transport.is_closing():
      side.transport.resume_reading()


class _Notes:
  """Prints the first refused connection at once, and then one line a minute at most."""

  def __init__(self, where: str):
    self._where = where
    self._count = 0  # Since the last note.
    self._latest = ''
    self._is_waiting = False  # Whether the time of the last note is not over.

  def refuse(self, peer: str, reason: str) -> None:
    """Counts a refused connection.

    Args:
      peer: Its address.
      reason: Why it was refused; nothing that the peer has sent.
    """
    self._count += 1
    self._latest = f'{peer}: {reason}'
    if not self._is_waiting:
      self._print()

  def _print(self) -> None:
    """Prints what has happened since the last note, and comes back later."""
    self._is_waiting = self._count > 0
    if not self._is_waiting:
      return
    # Nobody may read the output any more.
    with contextlib.suppress(OSError):
      print(
        f'Connections without the token at {self._where}: {self._count} refused, the last one '
        f'from {self._latest}.',
        flush=True,
      )
    self._count = 0
    asyncio.get_running_loop().call_later(_NOTE_SECONDS, self._print)


class GateServer:
  """The learner's end: admits those who have the certificate."""

  def __init__(self, listener: socket.socket, path: str, tls: ssl.SSLContext):
    self._listener = listener
    self._path = path
    self._tls = tls
    self._notes = _Notes('{}:{}'.format(*listener.getsockname()[:2]))
    # In order of arrival, with the peers' addresses.
    self._half_open: collections.OrderedDict[asyncio.Task, str] = collections.OrderedDict()
    most_files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    # A member takes two files, so most are for members.
    few = most_files != resource.RLIM_INFINITY and most_files // 4 < _MOST_HALF_OPEN
    self._most_half_open = most_files // 4 if few else _MOST_HALF_OPEN

  async def serve(self) -> None:
    """Accepts connections until it is cancelled."""
    loop = asyncio.get_running_loop()
    self._listener.setblocking(False)
    while True:
      try:
        sock, address = await loop.sock_accept(self._listener)
      except OSError as error:  # No file descriptors are left, or the peer has gone already.
        self._notes.refuse('?', str(error.strerror))
        await asyncio.sleep(0.05)
        continue
      task = loop.create_task(self._admit(sock, address[0]))
      self._half_open[task] = address[0]
      if len(self._half_open) > self._most_half_open:
        # The oldest: members take milliseconds, so strangers cannot keep them out by waiting.
        oldest, peer = self._half_open.popitem(last=False)
        oldest.cancel()
        self._notes.refuse(peer, f'more than {self._most_half_open} say nothing')
      # `sock_accept` does not let others run while connections are waiting.
      await asyncio.sleep(0)

  async def _admit(self, sock: socket.socket, peer: str) -> None:
    """Lets a connection in if it shows the certificate in time."""
    task = asyncio.current_task()
    assert task
    loop = asyncio.get_running_loop()
    try:
      keep_alive(sock)
      _, outer = await loop.connect_accepted_socket(
        _Side,
        sock,
        ssl=self._tls,
        ssl_handshake_timeout=HANDSHAKE_SECONDS,
        ssl_shutdown_timeout=_GOODBYE_SECONDS,
      )
    except OSError as error:  # As all of TLS's errors are.
      self._notes.refuse(peer, reason_of(error))
      sock.close()
      return
    finally:
      self._half_open.pop(task, None)

    try:
      _, inner = await loop.create_unix_connection(_Side, self._path)
    except OSError:  # The learner is ending.
      outer.transport.abort()
      return
    _join(outer, inner)


async def serve_tunnel(
  path: str, host: str, port: int, tls: ssl.SSLContext, is_ready: Callable[[], Any]
) -> None:
  """The actor's end: connects those who connect to a Unix socket to a gate.

  A connection that the gate refuses is closed. Whoever wants to know why asks the gate itself.

  Args:
    path: The Unix socket to make.
    host: The gate's host.
    port: The gate's port.
    tls: For the client's side.
    is_ready: Called once the socket is there.
  """
  loop = asyncio.get_running_loop()
  sides: set[_Side] = set()  # That were connected to.
  tasks: set[asyncio.Task] = set()  # The loop itself keeps no references.

  async def connect(inner: _Side) -> None:
    try:
      async with asyncio.timeout(_CONNECT_SECONDS + HANDSHAKE_SECONDS):
        transport, outer = await loop.create_connection(
          _Side,
          host,
          port,
          ssl=tls,
          ssl_handshake_timeout=HANDSHAKE_SECONDS,
          ssl_shutdown_timeout=_GOODBYE_SECONDS,
        )
    except OSError:
      inner.transport.close()
      return
    keep_alive(transport.get_extra_info('socket'))
    _join(inner, outer)

  class Inner(_Side):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
      super().connection_made(transport)
      sides.add(self)
      task = loop.create_task(connect(self))
      tasks.add(task)
      task.add_done_callback(tasks.discard)

    def connection_lost(self, error: Exception | None) -> None:
      sides.discard(self)
      super().connection_lost(error)

  server = await loop.create_unix_server(Inner, path, backlog=_BACKLOG)
  is_ready()
  try:
    # Not `serve_forever`, which from Python 3.12 on waits for all connections to end.
    await loop.create_future()
  finally:
    server.close()
    for side in list(sides):
      side.transport.abort()
      if side.other:
        side.other.transport.abort()
    await asyncio.sleep(0)  # Closes them.


def reason_of(error: OSError) -> str:
  """A short reason for a failed handshake, with nothing in it that the peer has chosen."""
  words = str(error.reason) if isinstance(error, ssl.SSLError) else ''
  # The alerts are the peer's, who has checked our certificate first.
  if isinstance(error, ssl.SSLCertVerificationError) or words.endswith(_OTHER_CERTIFICATE):
    return 'its token is another'
  if isinstance(error, ssl.SSLError):
    return f'it does not speak TLS as expected ({words})'
  if isinstance(error, TimeoutError) or 'handshake' in str(error):
    return f'no handshake within {HANDSHAKE_SECONDS:.0f} s'
  return error.strerror or type(error).__name__


def _end_with_parent() -> None:
  """Ends this process when its parent closes the pipe or dies, whatever else is going on."""
  sys.stdin.buffer.read()
  os._exit(0)


def main() -> None:
  """Serves a gate as the first line of standard input says, until that is closed."""
  settings = json.loads(sys.stdin.buffer.readline())
  threading.Thread(target=_end_with_parent, daemon=True).start()
  _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
  resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
  listener = socket.socket(fileno=settings['listener'])
  tls = context(settings['pem'], is_server=True)
  asyncio.run(GateServer(listener, settings['path'], tls).serve())


if __name__ == '__main__':
  main()
