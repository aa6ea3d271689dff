"""TensorFlow's RPC: a server of graphs over byte strings, and a client that classifies failures."""

import inspect
import time
from typing import Any, Mapping

import tensorflow as tf

from common.distributed import cluster, notes

_UNREACHABLE = {
  tf.errors.UNAVAILABLE,
  tf.errors.DEADLINE_EXCEEDED,
  tf.errors.CANCELLED,
  tf.errors.ABORTED,
}

# Attributes of TensorFlow's client that `Client.call` relies on.
_ATTRIBUTES = ('call', '_client_handle')


class Unreachable(Exception):
  """No answer, or none in time; the call may nevertheless have been, or still be, carried out."""


class Failed(RuntimeError):
  """The server cannot carry out a call, or its answer is not of the form that was asked for."""


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
    except Exception as error:
      # Of any kind: TensorFlow decodes here what the server says about its functions.
      raise Failed(f'it describes its functions oddly: {notes.printable(error)}') from error
    # TensorFlow makes an attribute of each function that the server names.
    replaced = [name for name in _ATTRIBUTES if inspect.isfunction(vars(self._client).get(name))]
    if replaced:
      raise Failed(f'it has functions named {", ".join(replaced)}')

  def call(self, function: str, *arguments: bytes, outputs: int = 1, seconds: float) -> list[bytes]:
    """Calls a function; returns its results.

    Args:
      function: Its name.
      *arguments: Its arguments.
      outputs: The number of its results.
      seconds: How long to wait for them.

    Raises:
      Unreachable: If no answer comes within `seconds`.
      Failed: If the function fails at the server, is not there, or returns something else than
        `outputs` byte strings.
    """
    # By our own specification: the server's would let it choose what is made of its answer.
    result = self._client.call(
      function,
      list(map(tf.constant, arguments)),
      output_specs=[tf.TensorSpec([], tf.string)] * outputs,
      timeout_in_ms=int(1000 * seconds),
    )
    if result.is_ok():
      values, oddity = _byte_strings(result)
      # A traceback must not keep the result: TensorFlow's destructor of it deadlocks if the garbage
      # collector runs it while a graph is being traced.
      del result
      if oddity:
        raise Failed(f'the learner answers {function} oddly: {oddity}')
      return values

    code, message = (part.numpy() for part in result.get_error())
    del result
    reason = _first_line(message.decode(errors='replace'))
    if code in _UNREACHABLE:
      raise Unreachable(reason)
    raise Failed(f'the learner cannot do {function}: {reason}')


def _byte_strings(result: Any) -> tuple[list[bytes], str]:
  """The results of a successful call, and what is wrong with them; empty if nothing is."""
  try:
    values = [part.numpy() for part in result.get_value()]
  except tf.errors.OpError as error:
    return [], _first_line(error.message)
  are_bytes = all(isinstance(value, bytes) for value in values)
  return values, '' if are_bytes else 'its results are no byte strings'


def _first_line(message: str) -> str:
  """The first line of an error's text, which the other process may have written."""
  return notes.printable((message.strip().splitlines() or ['no reason given'])[0])
