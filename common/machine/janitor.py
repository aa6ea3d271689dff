"""Cleans up after a run, however it ends: processes, shared memory and temporary files.

A process killed with SIGKILL cannot tidy up, and the engines it started (a Doom game is a process of its own) would
wait for it for ever. So a run starts a janitor: a small process outside its terminal's process group, that holds one
end of a pipe and sleeps until the other end, which only the run holds, is closed by the kernel. Then it ends every
process that carries the run's mark in its environment, removes the shared memory of all engines it had, and the run's
temporary folder. Needs Linux's /proc; on other systems only the folder is removed.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import uuid
from typing import Iterator

_MARK = 'DISTRIBUTED_RL_RUN'
_MIN_ID_LENGTH = (
  10  # VizDoom's engines get a random name of ten letters for their shared memory as an argument.
)


@contextlib.contextmanager
def attend() -> Iterator[pathlib.Path]:
  """Marks this process and its children-to-be, and gives them one temporary folder; all of it ends with the block."""
  mark, folder = uuid.uuid4().hex, pathlib.Path(tempfile.mkdtemp(prefix='run-'))
  clean_environment = {k: v for k, v in os.environ.items() if k != _MARK}
  janitor = subprocess.Popen(
    [sys.executable, '-S', '-E', __file__, mark, str(folder)],
    stdin=subprocess.PIPE,
    env=clean_environment,
    start_new_session=True,
  )
  before = {name: os.environ.get(name) for name in (_MARK, 'TMPDIR')}, tempfile.tempdir
  os.environ[_MARK], os.environ['TMPDIR'], tempfile.tempdir = mark, str(folder), str(folder)
  try:
    yield folder
  finally:
    tempfile.tempdir = before[1]
    for name, value in before[0].items():
      os.environ.pop(name, None) if value is None else os.environ.update({name: value})
    janitor.stdin.close()
    janitor.wait()


def _marked_processes(mark: str) -> list[int]:
  wanted, found = f'{_MARK}={mark}'.encode(), []
  for entry in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if wanted in (entry / 'environ').read_bytes().split(b'\0'):
        found.append(int(entry.name))
    except OSError:  # It ended meanwhile, or is another user's.
      continue
  return found


def _shared_memory_of(pid: int) -> set[str]:
  """The segments that a process has mapped, and those named after one of its arguments: it may be about to map them."""
  process, names = pathlib.Path('/proc', str(pid)), set()
  with contextlib.suppress(OSError):  # It ended meanwhile.
    names = {
      line.split()[5]
      for line in (process / 'maps').read_text().splitlines()
      if len(line.split()) == 6
    }
    names |= _shared_memory_named_after((process / 'cmdline').read_text().split('\0'))
  return {name for name in names if name.startswith('/dev/shm/')}


def _shared_memory_named_after(arguments: list[str]) -> set[str]:
  ends = tuple(word for word in arguments if len(word) >= _MIN_ID_LENGTH)
  return {str(path) for path in pathlib.Path('/dev/shm').iterdir() if path.name.endswith(ends)}


def _remove(segments: set[str]) -> None:
  for segment in segments:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(segment)


def _clean(mark: str, folder: str, run: int) -> None:
  # The run itself carries the mark too when a janitor's pipe is closed by a clean exit: it is left alone.
  for pid in _marked_processes(mark):
    if pid == run:
      continue
    segments = _shared_memory_of(pid)
    with contextlib.suppress(ProcessLookupError):
      os.kill(pid, signal.SIGKILL)
    _remove(segments)
  with contextlib.suppress(OSError):  # No engine was started, or this is not Linux.
    _remove(_shared_memory_named_after(pathlib.Path(folder, 'engines').read_text().split()))
  shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
  run_pid = os.getppid()
  sys.stdin.buffer.read()
  _clean(sys.argv[1], sys.argv[2], run_pid)
