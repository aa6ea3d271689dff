"""Objects hosted in child processes: their methods are called from here.

For objects that hold Python's lock while they work, that may bring down their whole process (game
engines do), or that must not share a process with TensorFlow's threads.
"""

import contextlib
import logging
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import connection as connections
from typing import Any, Callable

from common import errors

PATIENCE = 5.0  # Seconds that a process gets to end by itself.
_SHOWN_BYTES = 2000  # Of a dead process's output, the last bytes, which explain its end.
_KEPT_BYTES = 10**6  # Output beyond this size is discarded: engines may write without end.


class WorkerDied(RuntimeError):
  """A worker's process has ended unasked; the text has its exit status and its last output."""


class Expected(Exception):
  """An error that callers handle: raised in the child, it is raised here as it is."""


class Worker:
  """Hosts an object in a child process, which exits when this one closes or dies.

  Calls may be queued with `send` and are answered in order by `receive`. Not thread-safe, except
  for `kill`.
  """

  def __init__(self, make: Callable[[], Any]):
    """Starts the process; the first `receive` waits until the object is made.

    Args:
      make: Makes the object, in the child. Pickled.
    """
    self._connection, theirs = multiprocessing.Pipe()
    # A fresh interpreter rather than a fork: forking a process with TensorFlow's threads may hang.
    program = (
      f'import sys; sys.path[:] = {sys.path!r}; from common.machine import workers; '
      f'workers.serve({theirs.fileno()})'
    )
    # What engines write is of interest only after they have died.
    self._output = tempfile.TemporaryFile('ab+')
    self._process = subprocess.Popen(
      [sys.executable, '-c', program],
      pass_fds=[theirs.fileno()],
      stdin=subprocess.DEVNULL,
      stdout=self._output,
      stderr=self._output,
      # In a session of its own, it does not get the terminal's Ctrl-C: the run handles that, and
      # closes its workers once it has saved.
      start_new_session=True,
      # The GPU belongs to the learner.
      env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
    )
    # With this copy open, the child's death would not close the connection.
    theirs.close()
    with contextlib.suppress(WorkerDied):  # The first `receive` raises it.
      self._send(make)

  @property
  def pid(self) -> int:
    return self._process.pid

  def call(self, method: str, **arguments: Any) -> Any:
    """Calls a method of the object and returns its result.

    Raises:
      WorkerDied: If the process ends before it answers.
      UserError, Expected: As the method raised them.
      RuntimeError: For all other errors of the method, with the child's stack trace.
    """
    self.send(method, **arguments)
    return self.receive()

  def send(self, method: str, **arguments: Any) -> None:
    """Begins a call, whose result `receive` returns.

    Raises:
      WorkerDied: If the process has ended.
    """
    self._send((method, arguments))

  def receive(self) -> Any:
    """Waits for the result of the oldest unanswered call; logs the warnings logged in the child.

    Raises:
      WorkerDied, UserError, Expected, RuntimeError: As in `call`.
    """
    try:
      kind, answer, warnings = self._connection.recv()
    except (EOFError, OSError) as error:
      raise self._died() from error
    for warning in warnings:
      logging.warning('%s', warning)
    output = self._output.fileno()
    if os.fstat(output).st_size > _KEPT_BYTES:
      os.truncate(output, 0)
    if kind == 'expected':
      raise answer
    if kind == 'error':
      raise RuntimeError(f'in another process:\n{answer}')
    return answer

  def is_alive(self) -> bool:
    return self._process.poll() is None

  def hang_up(self) -> None:
    """Tells the process to end, without waiting for it."""
    self._connection.close()  # The child's next `recv` raises, which ends its loop.

  def kill(self) -> None:
    """Kills the process; a thread waiting in `receive` gets WorkerDied."""
    self._process.kill()

  def close(self, patience: float = PATIENCE) -> None:
    """Ends the process, and kills it if it has not ended after `patience` seconds. Idempotent."""
    self.hang_up()
    self._wait(patience)
    self._output.close()

  def _wait(self, patience: float) -> None:
    """Waits for the process's end, and enforces it after `patience` seconds."""
    try:
      self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def _send(self, message: Any) -> None:
    try:
      self._connection.send(message)
    except OSError as error:
      raise self._died() from error

  def _died(self) -> WorkerDied:
    """The error for a broken connection, with the exit status and the last output."""
    self._connection.close()
    self._wait(PATIENCE)
    size = self._output.seek(0, os.SEEK_END)
    self._output.seek(max(0, size - _SHOWN_BYTES))
    # The output is cut anywhere, and engines may write bytes that are no text.
    output = self._output.read().decode(errors='replace').strip()
    status = f'the process has ended, with status {self._process.returncode}'
    return WorkerDied(f'{status}: {output}' if output else status)


class _Warnings(logging.Handler):
  """Collects the messages of warnings and errors, to be logged by the parent."""

  def __init__(self) -> None:
    super().__init__(logging.WARNING)
    self.messages: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.messages.append(record.getMessage())


def serve(file_descriptor: int) -> None:
  """The child's main loop: makes the object and calls its methods until the parent closes or dies.

  Args:
    file_descriptor: The child's end of the connection.
  """
  # Otherwise engines that are processes would inherit it and keep the connection open.
  os.set_inheritable(file_descriptor, False)
  connection = connections.Connection(file_descriptor)
  warnings = _Warnings()
  logging.getLogger().addHandler(warnings)

  make = connection.recv()
  made: list[Any] = []  # The object, unless making it fails.
  answer = _answer(lambda: made.append(make()))
  while True:
    try:
      connection.send((*answer, warnings.messages))
      warnings.messages.clear()
      method, arguments = connection.recv()
    except (EOFError, OSError):
      break
    answer = _answer(lambda: getattr(made[0], method)(**arguments))
  if made and hasattr(made[0], 'close'):
    made[0].close()


def _answer(function: Callable[[], Any]) -> tuple[str, Any]:
  """The result of a call, or the error that it raised, and which of these it is."""
  try:
    return 'answer', function()
  except (errors.UserError, Expected) as error:
    return 'expected', error
  except Exception:
    return 'error', traceback.format_exc()
