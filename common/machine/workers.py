"""Objects that live in processes of their own: their methods are called from here.

For what holds Python's lock while it works, may end its whole process (game engines do), or must not share a process
with TensorFlow's threads.
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

PATIENCE = 5.0  # Seconds, for the process to end by itself.
_LAST_WORDS, _MOST_WORDS = (
  2000,
  10**6,
)  # Bytes of what it writes: that are shown when it has died; that are kept.


class WorkerDied(RuntimeError):
  """The process of a worker has ended by itself; the text is its exit status and what it wrote last."""


class Expected(Exception):
  """An error that its caller knows how to go on from: a worker raises it here as it was raised there."""


class Worker:
  """Makes an object in another process, which ends with this, and with the process that this is in, however that ends."""

  def __init__(self, make: Callable[[], Any]):
    """Starts the process and has it make the object; the first `receive` waits until it has.

    Args:
      make: is pickled, as it is called in the other process.
    """
    self._connection, theirs = multiprocessing.Pipe()
    program = (
      f'import sys; sys.path[:] = {sys.path!r}; from common.machine import workers; '
      f'workers.serve({theirs.fileno()})'
    )
    self._written = tempfile.TemporaryFile(
      'ab+'
    )  # What engines write is of interest only once they have died.
    # A session of its own: Ctrl-C is for the run, which ends this once it has saved. No GPU: that is the learner's.
    self._process = subprocess.Popen(
      [sys.executable, '-c', program],
      pass_fds=[theirs.fileno()],
      stdin=subprocess.DEVNULL,
      stdout=self._written,
      stderr=self._written,
      start_new_session=True,
      env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
    )
    theirs.close()
    with contextlib.suppress(WorkerDied):  # The first `receive` tells of it.
      self._send(make)

  @property
  def pid(self) -> int:
    return self._process.pid

  def call(self, method: str, **arguments: Any) -> Any:
    """Calls a method of the object; returns what it returns.

    Raises:
      WorkerDied: if the process ends meanwhile.
      UserError, Expected: as raised there.
      RuntimeError: for other errors there, with their stack trace.
    """
    self.send(method, **arguments)
    return self.receive()

  def send(self, method: str, **arguments: Any) -> None:
    """Begins a call; `receive` ends it. Raises WorkerDied."""
    self._send((method, arguments))

  def receive(self) -> Any:
    """Waits for the answer to the oldest call that has none yet; shows what was warned of there.

    Raises what `call` raises.
    """
    try:
      kind, answer, warnings = self._connection.recv()
    except (EOFError, OSError) as error:
      raise self._died() from error
    for warning in warnings:
      logging.warning('%s', warning)
    if os.fstat(self._written.fileno()).st_size > _MOST_WORDS:
      os.truncate(self._written.fileno(), 0)
    if kind == 'expected':
      raise answer
    if kind == 'error':
      raise RuntimeError(f'in another process:\n{answer}')
    return answer

  def is_alive(self) -> bool:
    return self._process.poll() is None

  def hang_up(self) -> None:
    """Tells the process to end, and does not wait."""
    self._connection.close()  # Which it takes as its end.

  def kill(self) -> None:
    """Ends the process at once: whoever waits for its answer gets WorkerDied."""
    self._process.kill()

  def close(self, patience: float = PATIENCE) -> None:
    """Ends the process; kills it, if it has not ended by itself in so many seconds. Idempotent."""
    self.hang_up()
    try:
      self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    self._written.close()

  def _send(self, question: Any) -> None:
    try:
      self._connection.send(question)
    except OSError as error:
      raise self._died() from error

  def _died(self) -> WorkerDied:
    self._connection.close()
    try:
      self._process.wait(PATIENCE)  # What it was killed by, or ended with.
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()
    size = self._written.seek(0, os.SEEK_END)
    self._written.seek(max(0, size - _LAST_WORDS))
    words = self._written.read().decode(errors='replace').strip()
    status = f'the process has ended, with status {self._process.returncode}'
    return WorkerDied(f'{status}: {words}' if words else status)


def serve(file_descriptor: int) -> None:
  """What the other process does: makes the object and calls its methods until this side closes, or dies."""
  os.set_inheritable(file_descriptor, False)  # Else engines that are processes would keep it open.
  connection, warnings = connections.Connection(file_descriptor), []
  handler = logging.Handler(logging.WARNING)
  handler.emit = lambda record: warnings.append(record.getMessage())
  logging.getLogger().addHandler(handler)
  make, made = connection.recv(), []
  answer = _answer(lambda: made.append(make()))
  while True:
    try:
      connection.send((*answer, warnings))
      warnings.clear()
      method, arguments = connection.recv()
    except (EOFError, OSError):
      break
    answer = _answer(lambda: getattr(made[0], method)(**arguments))
  if made and hasattr(made[0], 'close'):
    made[0].close()


def _answer(function: Callable[[], Any]) -> tuple[str, Any]:
  """What a function returns, or what it raises."""
  try:
    return 'answer', function()
  except (errors.UserError, Expected) as error:
    return 'expected', error
  except Exception:
    return 'error', traceback.format_exc()
