"""TensorFlow's own RPC: a server of a learner's functions, and a client that says what became of a call."""

import socket
import time
from typing import Mapping, Sequence

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
  """Nobody answers, or not in time: the call may have been carried out all the same, or may be yet."""


def serve(host: str, port: int, functions: Mapping[str, tf.types.experimental.PolymorphicFunction]):
  """Starts a server of functions from byte strings to byte strings; it ends when what is returned is let go.

  Raises:
    UserError: if the port is in use, or the host is not this machine's.
  """
  server = tf.distribute.experimental.rpc.Server.create('grpc', cluster.join_address(host, port))
  for name, function in functions.items():
    server.register(name, function)
  server.start()
  return server


def free_port(host: str, port: int) -> int:
  """The port, or one that is free if it is 0. TensorFlow itself would share a port with another learner, unnoticed.

  Raises:
    UserError: if it is in use, or the host is not this machine's.
  """
  family = socket.AF_INET6 if ':' in host else socket.AF_INET
  with socket.socket(family) as probe:
    probe.setsockopt(
      socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
    )  # Calls that have just ended do not hold it.
    try:
      probe.bind((host, port))
      probe.listen()
    except OverflowError as error:
      raise errors.UserError(f'port {port} is none: expected 0 to 65535') from error
    except OSError as error:
      raise errors.UserError(
        f'the learner cannot listen on {host}:{port}: {error.strerror or error}. Give another address with '
        '--listen=HOST:PORT, port 0 for any that is free'
      ) from error
    return probe.getsockname()[1]


def reaches(host: str, port: int, seconds: float = 2.0) -> bool:
  """Whether somebody listens there.

  Raises:
    UserError: if there is no such host.
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
  """Calls the functions of one server; outlives it, if another is started at the same address."""

  def __init__(self, host: str, port: int, seconds: float):
    """Waits for the server for so long.

    Raises:
      Unreachable: if none answers.
    """
    address = cluster.join_address(host, port)
    try:
      self._client = tf.distribute.experimental.rpc.Client.create(
        'grpc', address, name=f'{address}/{time.monotonic_ns()}', timeout_in_ms=int(1000 * seconds)
      )
    except tf.errors.OpError as error:
      raise Unreachable(_first_line(error.message)) from error

  def call(self, function: str, *arguments: bytes, seconds: float) -> Sequence[bytes]:
    """Calls a function; returns its results.

    Raises:
      Unreachable: if no answer comes within so many seconds.
      RuntimeError: if the server cannot carry it out.
    """
    result = getattr(self._client, function)(
      *map(tf.constant, arguments), timeout_in_ms=int(1000 * seconds)
    )
    if not result.is_ok():
      code, message = (part.numpy() for part in result.get_error())
      reason = _first_line(message.decode(errors='replace'))
      raise (
        Unreachable(reason)
        if code in _UNREACHABLE
        else RuntimeError(f'the learner cannot do {function}: {reason}')
      )
    return [part.numpy() for part in tf.nest.flatten(result.get_value())]


def _first_line(message: str) -> str:
  return (message.strip().splitlines() or ['no reason given'])[0]
