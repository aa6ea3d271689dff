"""TensorFlow's RPC: a server of graphs over byte strings, and a client that classifies failures."""

import time
from typing import Any, Mapping

import tensorflow as tf

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
  path: str, functions: Mapping[str, tf.types.experimental.PolymorphicFunction]
) -> tf.distribute.experimental.rpc.Server:
  """Starts a server of functions by name; it ends when the last reference to it goes.

  TensorFlow decodes what it receives before it calls a function, and malformed tensors crash it.
  So it listens on a Unix socket only: see `gate`.

  Args:
    path: The Unix socket to make, in a folder that only this user can enter.
    functions: Functions of byte strings to byte strings.
  """
  address = cluster.UnixSocket(path).address
  server = tf.distribute.experimental.rpc.Server.create('grpc', address)
  for name, function in functions.items():
    server.register(name, function)
  server.start()
  return server


class Client:
  """Calls the functions of one server; survives the server's restart at the same address."""

  def __init__(self, path: str, seconds: float):
    """Connects.

    Args:
      path: The server's Unix socket.
      seconds: How long to wait for the server.

    Raises:
      Unreachable: If no server answers.
    """
    address = cluster.UnixSocket(path).address
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
