"""TensorFlow's RPC: a server of graphs over byte strings, and a client that classifies failures."""

import socket
import time
from typing import Any, Mapping

import tensorflow as tf

from common import errors
from common.distributed import cluster

_UNREACHABLE = {
  tf.errors.UNAVAILABLE,
  tf.errors.DEADLINE_EXCEEDED,
  tf.errors.CANCELLED,
  tf.errors.ABORTED,
}


class Unreachable(Exception):
  """No answer, or none in time; the call may nevertheless have been, or still be, carried out."""


def serve(
  host: str, port: int, functions: Mapping[str, tf.types.experimental.PolymorphicFunction]
) -> tf.distribute.experimental.rpc.Server:
  """Starts a server of functions by name; it ends when the last reference to it goes.

  Args:
    host: Address to listen on.
    port: A free port, as `free_port` returns it.
    functions: Functions of byte strings to byte strings.
  """
  address = cluster.Endpoint(host, port).address
  server = tf.distribute.experimental.rpc.Server.create('grpc', address)
  for name, function in functions.items():
    server.register(name, function)
  server.start()
  return server


def free_port(host: str, port: int) -> int:
  """Checks that a port is free, or chooses one if it is 0.

  TensorFlow itself would silently share a port with another learner.

  Raises:
    UserError: If the port is in use, or the host is not this machine.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  with socket.socket(family) as probe:
    # Connections that were just closed must not block the port.
    probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
      probe.bind((host, port))
      probe.listen()
    except OverflowError as error:
      raise errors.UserError(f'the port is {port}, expected 0 to 65535') from error
    except OSError as error:
      raise errors.UserError(
        f'the learner cannot listen on {host}:{port}: {error.strerror or error}. Give another '
        'address with --listen=HOST:PORT; port 0 chooses a free one'
      ) from error
    return probe.getsockname()[1]


def reaches(host: str, port: int, seconds: float = 2.0) -> bool:
  """Whether something listens there.

  Raises:
    UserError: If the host does not exist.
  """
  try:
    socket.create_connection((host, port), seconds).close()
  except (socket.gaierror, UnicodeError) as error:
    raise errors.UserError(
      f'there is no host {host!r} ({error}): is the address of --learner right?'
    ) from error
  except OSError:
    return False
  return True


class Client:
  """Calls the functions of one server; survives the server's restart at the same address."""

  def __init__(self, host: str, port: int, seconds: float):
    """Connects, waiting at most `seconds` for the server.

    Raises:
      Unreachable: If no server answers.
    """
    address = cluster.Endpoint(host, port).address
    # TensorFlow shares state between clients of the same name.
    name = f'{address}/{time.monotonic_ns()}'
    try:
      self._client = tf.distribute.experimental.rpc.Client.create(
        'grpc', address, name=name, timeout_in_ms=int(1000 * seconds)
      )
    except tf.errors.OpError as error:
      raise Unreachable(_first_line(error.message)) from error

  def call(self, function: str, *arguments: bytes, seconds: float) -> list[Any]:
    """Calls a function; returns its results, as byte strings if the server is a learner.

    Raises:
      Unreachable: If no answer comes within `seconds`.
      RuntimeError: If the function fails at the server.
    """
    method = getattr(self._client, function)
    result = method(*map(tf.constant, arguments), timeout_in_ms=int(1000 * seconds))
    if result.is_ok():
      return [part.numpy() for part in tf.nest.flatten(result.get_value())]

    code, message = (part.numpy() for part in result.get_error())
    reason = _first_line(message.decode(errors='replace'))
    # The exception's traceback must not keep the result: TensorFlow's destructor of it deadlocks if
    # the garbage collector runs it while a graph is being traced.
    del result
    if code in _UNREACHABLE:
      raise Unreachable(reason)
    raise RuntimeError(f'the learner cannot do {function}: {reason}')


def _first_line(message: str) -> str:
  return (message.strip().splitlines() or ['no reason given'])[0]
