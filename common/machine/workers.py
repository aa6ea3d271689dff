"""Objects hosted in child processes: their methods are called from here.

For objects that hold Python's lock while they work, that may bring down their whole process (game
engines do), or that must not share a process with TensorFlow's threads.
"""

import contextlib
import logging
import math
import multiprocessing
import os
import subprocess
import sys
import tempfile
import traceback
from multiprocessing import connection as connections
from typing import Any, Callable, Collection, Sequence

from common import errors
from common.machine import exits, janitor

PATIENCE = 5.0  # Seconds that a process gets to end by itself.
_SHOWN_BYTES = 2000  # Of a dead process's output, the last bytes, which explain its end.
_KEPT_BYTES = 10**6  # Output beyond this size is discarded: engines may write without end.
_LOOK_SECONDS = 1.0  # See `answered`.
_NOTE_BYTES = 200
_GPUS = 'CUDA_VISIBLE_DEVICES'
_note_file: int | None = None  # In a worker's process: where `note` writes.


class WorkerDied(RuntimeError):
  """A worker's process has ended unasked; the text has its exit status and its last output."""


class WorkerHung(WorkerDied):
  """A worker has not answered for so long that it was ended."""


class Expected(Exception):
  """An error that callers handle: raised in the child, it is raised here as it is."""


class Worker:
  """Hosts an object in a child process, which exits when this one closes or dies.

  Calls may be queued with `send` and are answered in order by `receive`. Not thread-safe, except
  for `kill`.
  """

  def __init__(
    self, make: Callable[[], Any], has_gpus: bool = False, descriptors: Sequence[int] = ()
  ):
    """Starts the process; the first `receive` waits until the object is made.

    Args:
      make: Makes the object, in the child. Pickled.
      has_gpus: Whether the object sees the GPUs.
      descriptors: Further files that the child gets, under the same numbers.
    """
    self._mark = janitor.part_mark()
    self._is_cleaned_up = False
    self._is_killed = False  # By this process.
    self._connection, theirs = multiprocessing.Pipe()
    self._notes = os.fdopen(os.memfd_create('notes'), 'rb', buffering=0)
    # A fresh interpreter rather than a fork: forking a process with TensorFlow's threads may hang.
    program = (
      f'import sys; sys.path[:] = {sys.path!r}; from common.machine import workers; '
      f'workers.serve({theirs.fileno()}, {self._notes.fileno()}, {list(descriptors)})'
    )
    # What engines write is of interest only after they have died.
    self._output = tempfile.TemporaryFile('ab+')
    self._process = subprocess.Popen(
      [sys.executable, '-c', program],
      pass_fds=[theirs.fileno(), self._notes.fileno(), *descriptors],
      stdin=subprocess.DEVNULL,
      stdout=self._output,
      stderr=self._output,
      # In a session of its own, it does not get the terminal's Ctrl-C: the run handles that, and
      # closes its workers once it has saved.
      start_new_session=True,
      # The GPU belongs to the learner.
      env=os.environ | janitor.marked(self._mark) | ({} if has_gpus else {_GPUS: ''}),
    )
    # With this copy open, the child's death would not close the connection.
    theirs.close()
    with contextlib.suppress(WorkerDied):  # The first `receive` raises it.
      self._send(make)

  @property
  def pid(self) -> int:
    return self._process.pid

  def call(self, method: str, patience: float = math.inf, **arguments: Any) -> Any:
    """Calls a method of the object and returns its result.

    Args:
      method: Its name.
      patience: How many seconds to wait for the result.
      **arguments: Of the method.

    Raises:
      WorkerDied: If the process ends before it answers.
      WorkerHung: If it does not answer in time. The process is ended.
      UserError, Expected: As the method raised them.
      RuntimeError: For all other errors of the method, with the child's stack trace.
    """
    self.send(method, **arguments)
    return self.receive(patience)

  def send(self, method: str, **arguments: Any) -> None:
    """Begins a call, whose result `receive` returns.

    Raises:
      WorkerDied: If the process has ended.
    """
    self._send((method, arguments))

  def receive(self, patience: float = math.inf) -> Any:
    """Waits for the result of the oldest unanswered call; logs the warnings logged in the child.

    Args:
      patience: How many seconds to wait.

    Raises:
      WorkerDied, WorkerHung, UserError, Expected, RuntimeError: As in `call`.
    """
    try:
      if patience < math.inf and not answered([self], patience):
        raise self.give_up(patience)
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

  def note(self) -> str:
    """What the object has last said it is doing, by `note`; may be called by any thread."""
    try:
      noted = os.pread(self._notes.fileno(), _NOTE_BYTES, 0)
    except (OSError, ValueError):  # Another thread has just closed this worker.
      return ''
    return noted.decode(errors='replace').strip()

  def give_up(self, patience: float) -> WorkerHung:
    """Ends a process that has not answered for `patience` seconds; returns the error for that."""
    doing = self.note()
    self.kill()
    self._settle()
    return WorkerHung(
      f'the process has not answered for {patience:g} s and was ended'
      f'{": it was " if doing else ""}{doing}{self._last_output()}'
    )

  def is_alive(self) -> bool:
    return self._process.poll() is None

  def hang_up(self) -> None:
    """Tells the process to end, without waiting for it."""
    self._connection.close()  # The child's next `recv` raises, which ends its loop.

  def kill(self) -> None:
    """Kills the process; a thread waiting in `receive` gets WorkerDied."""
    self._is_killed = True
    self._process.kill()

  def close(self, patience: float = PATIENCE) -> None:
    """Ends the process, and kills it if it has not ended after `patience` seconds. Idempotent."""
    self.hang_up()
    self._wait(patience)
    # One that ended as it was told has closed what it hosted.
    if self._process.returncode:
      self._clean_up()
    self._output.close()
    self._notes.close()

  def _wait(self, patience: float) -> None:
    """Waits for the process's end, and enforces it after `patience` seconds."""
    try:
      self._process.wait(patience)
    except subprocess.TimeoutExpired:
      self.kill()
      self._process.wait()

  def _send(self, message: Any) -> None:
    try:
      self._connection.send(message)
    except OSError as error:
      raise self._died() from error

  def _died(self) -> WorkerDied:
    """The error for a broken connection, with the exit status and the last output."""
    self._settle()
    how = 'was ended' if self._is_killed else exits.describe(self._process.returncode)
    return WorkerDied(f'the process {how}{self._last_output()}')

  def _settle(self) -> None:
    """Waits for the end of a process that has died or is about to, and cleans up after it."""
    self._connection.close()
    self._wait(PATIENCE)
    self._clean_up()

  def _last_output(self) -> str:
    """What the process wrote last, as the end of a sentence about it."""
    size = self._output.seek(0, os.SEEK_END)
    self._output.seek(max(0, size - _SHOWN_BYTES))
    # The output is cut anywhere, and engines may write bytes that are no text.
    output = self._output.read().decode(errors='replace').strip()
    return f'. It wrote last: {output}' if output else ''

  def _clean_up(self) -> None:
    """Ends the processes that a dead one has left, such as the engines of games."""
    if not self._is_cleaned_up:
      self._is_cleaned_up = True
      janitor.clean_up_after(self._mark)


def answered(waiting: Collection[Worker], seconds: float) -> list[Worker]:
  """Waits until at least one of several workers has answered, or has died.

  The time in which this process itself is stopped, as by Ctrl-Z or a batch system that suspends
  its jobs, does not count: the workers were stopped too, perhaps.

  Args:
    waiting: The workers.
    seconds: How long to wait.

  Returns:
    Those for which `receive` returns at once; none if the time is over.
  """
  by_connection = {worker._connection: worker for worker in waiting}
  left = seconds
  while left > 0.0:
    # In short pieces, each of which counts for no more than itself.
    piece = min(left, _LOOK_SECONDS)
    ready = connections.wait(list(by_connection), piece)
    if ready:
      return [worker for connection, worker in by_connection.items() if connection in ready]
    left -= piece
  return []


def note(text: str) -> None:
  """Says what the hosted object is doing, for `Worker.note`; nothing in other processes."""
  if _note_file is not None:
    os.pwrite(_note_file, text.encode()[:_NOTE_BYTES].ljust(_NOTE_BYTES), 0)


class _Warnings(logging.Handler):
  """Collects the messages of warnings and errors, to be logged by the parent."""

  def __init__(self) -> None:
    super().__init__(logging.WARNING)
    self.messages: list[str] = []

  def emit(self, record: logging.LogRecord) -> None:
    self.messages.append(record.getMessage())


def serve(file_descriptor: int, note_file: int, descriptors: Sequence[int]) -> None:
  """The child's main loop: makes the object and calls its methods until the parent closes or dies.

  Args:
    file_descriptor: The child's end of the connection.
    note_file: Descriptor of the file for notes.
    descriptors: Of the further files that the object gets.
  """
  global _note_file
  _note_file = note_file
  # Otherwise engines that are processes would inherit it and keep the connection open.
  for descriptor in (file_descriptor, note_file, *descriptors):
    os.set_inheritable(descriptor, False)
  connection = connections.Connection(file_descriptor)
  warnings = _Warnings()
  logging.getLogger().addHandler(warnings)

  made: list[Any] = []  # The object, unless making it fails. What makes it is not kept.
  answer = _answer(lambda: made.append(connection.recv()()))
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
