"""The way into a learner from other machines: nobody without the run's token gets through.

TensorFlow's server decodes tensors before any of our code is asked, and malformed ones crash it or
fill the memory. So it listens on a Unix socket, which only this user can reach. A gate before it
listens on TCP and relays to the socket what comes by TLS from those who have the token.
"""

import asyncio
import contextlib
import json
import logging
import os
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from typing import Iterator

from common import errors
from common.distributed import cluster, credentials, relay, rpc
from common.machine import exits

_LONGEST_PATH = 107  # Bytes of a Unix socket's path, on Linux.
_RESTART_SECONDS = 1.0
_PATIENCE = 5.0  # Seconds for the gate's process to end.


class Folder:
  """A temporary folder, closed to other users, with the path of a Unix socket in it."""

  def __init__(self) -> None:
    """Makes the folder.

    Raises:
      UserError: If the path is longer than sockets can have, or there can be no sockets.
    """
    # Mode 0700. Within a run, the janitor removes it if nobody else does.
    self._folder = tempfile.mkdtemp(prefix='s-')
    self.path = os.path.join(self._folder, 's')
    length = len(os.fsencode(self.path))
    if length > _LONGEST_PATH:
      self.close()
      raise errors.UserError(
        f'the path of a socket, {self.path}, has {length} bytes, expected at most '
        f'{_LONGEST_PATH}: set the environment variable TMPDIR to a folder with a shorter name'
      )
    try:
      with socket.socket(socket.AF_UNIX) as probe:
        probe.bind(self.path)
      os.unlink(self.path)
    except OSError as error:
      self.close()
      raise errors.UserError(
        f'no socket can be made in {self._folder} ({error.strerror or error}): set the environment '
        'variable TMPDIR to a folder on a local disk'
      ) from error

  def close(self) -> None:
    """Removes the folder. Idempotent."""
    shutil.rmtree(self._folder, ignore_errors=True)


class Gate:
  """The learner's end, a process of its own; it ends with this one, however that ends.

  Attributes:
    endpoint: Where it listens.
  """

  def __init__(self, endpoint: cluster.Endpoint, token: str, path: str):
    """Reserves the port; `start` opens the gate.

    Args:
      endpoint: Where to listen; port 0 chooses a free one.
      token: The run's token.
      path: The Unix socket to relay to.

    Raises:
      UserError: If the port is in use, or the host is not this machine.
    """
    self._path = path
    self._pem = credentials.pem(token)
    self._process: subprocess.Popen | None = None
    self._started = 0.0
    # Made here: mistakes in the address are found at once, and a gate that dies can be replaced.
    self._listener = bound(endpoint)
    self.endpoint = cluster.Endpoint(endpoint.host, self._listener.getsockname()[1])

  def start(self) -> None:
    """Opens the gate. Connections that come before its process is up wait in the kernel.

    Raises:
      UserError: If another process has taken the port meanwhile.
    """
    with _usable(self.endpoint):
      self._listener.listen(socket.SOMAXCONN)
    self._run()

  def look_after(self) -> None:
    """Replaces the process if it has died; to be called now and then."""
    if self._process is None or self._process.poll() is None:
      return
    if time.monotonic() - self._started > _RESTART_SECONDS:
      logging.warning(
        'The gate at %s %s. It is started again.',
        self.endpoint.address,
        exits.describe(self._process.returncode),
      )
      self._run()

  def close(self) -> None:
    """Closes the gate and all connections through it, and frees the port. Idempotent."""
    self._listener.close()
    if self._process is None:
      return
    assert self._process.stdin
    self._process.stdin.close()
    try:
      self._process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._process = None

  def _run(self) -> None:
    if self._process and self._process.stdin:
      self._process.stdin.close()
    self._started = time.monotonic()
    descriptor = self._listener.fileno()
    self._process = subprocess.Popen(
      # Isolated from site packages and PYTHON* variables: it starts fast, whatever the run sets.
      [sys.executable, '-S', '-E', relay.__file__],
      # Through the pipe, since other users can read command lines.
      stdin=subprocess.PIPE,
      pass_fds=[descriptor],
      # It ends with the learner, not with the terminal's Ctrl-C: actors must hear of the end.
      start_new_session=True,
    )
    settings = {'listener': descriptor, 'path': self._path, 'pem': self._pem}
    assert self._process.stdin
    with contextlib.suppress(BrokenPipeError):  # `look_after` finds it dead.
      self._process.stdin.write(json.dumps(settings).encode() + b'\n')
      self._process.stdin.flush()


def bound(endpoint: cluster.Endpoint) -> socket.socket:
  """A socket that is bound to an address, and does not listen yet; port 0 chooses a free one.

  Raises:
    UserError: If the port is in use, or the host is not this machine.
  """
  sock = socket.socket(socket.AF_INET6 if ':' in endpoint.host else socket.AF_INET)
  # Connections that were just closed must not block the port.
  sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
  with _usable(endpoint):
    try:
      sock.bind(endpoint)
    except BaseException:
      sock.close()
      raise
  return sock


def free_port(host: str, port: int) -> int:
  """Checks that a port is free, or chooses one if it is 0.

  Raises:
    UserError: If the port is in use, or the host is not this machine.
  """
  endpoint = cluster.Endpoint(host, port)
  with bound(endpoint) as sock, _usable(endpoint):
    sock.listen()
    return sock.getsockname()[1]


@contextlib.contextmanager
def _usable(endpoint: cluster.Endpoint) -> Iterator[None]:
  """Raises UserError if the block cannot use the address."""
  try:
    yield
  except OverflowError as error:
    raise errors.UserError(f'the port is {endpoint.port}, expected 0 to 65535') from error
  except OSError as error:
    raise errors.UserError(
      f'the learner cannot listen on {endpoint.host}:{endpoint.port}: {error.strerror or error}. '
      'Give another address with --listen=HOST:PORT; port 0 chooses a free one'
    ) from error


class Door:
  """An actor's way to a learner on the same machine: its Unix socket.

  Attributes:
    path: The Unix socket to call.
  """

  def __init__(self, path: str):
    self.path = path

  def knock(self) -> None:
    """Checks that somebody listens there. Raises Unreachable if not."""
    with socket.socket(socket.AF_UNIX) as sock:
      try:
        sock.connect(self.path)
      except OSError as error:
        raise rpc.Unreachable('nobody listens there') from error

  def close(self) -> None:
    """Has nothing to do."""


class Tunnel:
  """An actor's way to a learner's gate: a Unix socket, relayed by a thread.

  Attributes:
    path: The Unix socket to call.
  """

  def __init__(self, endpoint: cluster.Endpoint, token: str):
    """Opens the near end; connects to nothing until that is called.

    Args:
      endpoint: Where the gate listens.
      token: The run's token.
    """
    self._endpoint = endpoint
    self._tls = relay.context(credentials.pem(token), is_server=False)
    self._folder = Folder()
    self.path = self._folder.path
    self._loop = asyncio.new_event_loop()
    self._is_ready = threading.Event()
    self._thread = threading.Thread(target=self._serve, name='tunnel', daemon=True)
    self._thread.start()
    self._is_ready.wait()

  def knock(self) -> None:
    """Checks that a gate with the same token listens there.

    Raises:
      Unreachable: If nobody does, or something else.
      UserError: If the host does not exist, or the token is another.
    """
    address = self._endpoint.address
    try:
      with (
        socket.create_connection(self._endpoint, relay.HANDSHAKE_SECONDS) as sock,
        self._tls.wrap_socket(sock),
      ):
        pass
    except ssl.SSLCertVerificationError as error:
      raise errors.UserError(
        f'the learner at {address} has another token: give both the same, by --token_file=PATH or '
        f'in the environment variable {cluster.TOKEN_VARIABLE}'
      ) from error
    except (socket.gaierror, UnicodeError) as error:
      raise errors.UserError(
        f'there is no host {self._endpoint.host!r} ({error}): is the address of --learner right?'
      ) from error
    except ConnectionRefusedError as error:
      raise rpc.Unreachable('nobody listens there') from error
    except OSError as error:
      raise rpc.Unreachable(f'no learner answers there: {relay.reason_of(error)}') from error

  def close(self) -> None:
    """Closes all connections through it. Idempotent."""
    with contextlib.suppress(RuntimeError):  # The loop is closed already.
      self._loop.call_soon_threadsafe(self._cancel)
    self._thread.join()
    self._folder.close()

  def _cancel(self) -> None:
    for task in asyncio.all_tasks(self._loop):
      task.cancel()

  def _serve(self) -> None:
    """The thread."""
    host, port = self._endpoint
    serving = relay.serve_tunnel(self.path, host, port, self._tls, self._is_ready.set)
    with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
      with contextlib.suppress(asyncio.CancelledError):
        runner.run(serving)


def way(address: cluster.Address, token: str) -> Door | Tunnel:
  """An actor's way to a learner at an address."""
  if isinstance(address, cluster.UnixSocket):
    return Door(address.path)
  return Tunnel(address, token)
