"""Cleans up after a run however it ends: processes, shared memory and temporary files.

A process killed with SIGKILL cannot tidy up, and the engines it started (a Doom game is a process)
would wait for it indefinitely. So a run starts a janitor: a small process outside the terminal's
process group that blocks on a pipe whose other end only the run holds. When the run ends, the
kernel closes the pipe. The janitor then kills every process that carries the run's mark in its
environment variables, and removes the engines' shared memory and the run's temporary folder.

Needs Linux's /proc; on other systems only the folder is removed.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from typing import Iterator

_MARK = 'DISTRIBUTED_RL_RUN'
# VizDoom names an engine's shared memory after a random ID of ten letters, which is one of the
# engine's arguments. Shorter arguments are no IDs and could match the memory of others.
_MIN_ID_LENGTH = 10
_SECONDS = 10.0  # For killed processes to be gone: one that waits for a disk may not be for longer.


@contextlib.contextmanager
def attend() -> Iterator[pathlib.Path]:
  """Starts a janitor for this process; yields a temporary folder that it will remove.

  Within the block, child processes inherit the mark, and temporary files go to the folder. The
  cleaning is done when the block ends, or when this process dies.
  """
  mark = uuid.uuid4().hex
  folder = pathlib.Path(tempfile.mkdtemp(prefix='run-'))
  # The janitor itself must not carry the mark, of this run or of one around it.
  clean_environment = {k: v for k, v in os.environ.items() if k != _MARK}
  janitor = subprocess.Popen(
    # Isolated from site packages and PYTHON* variables: it starts fast, whatever the run sets.
    [sys.executable, '-S', '-E', __file__, mark, str(folder)],
    stdin=subprocess.PIPE,
    env=clean_environment,
    start_new_session=True,
  )
  assert janitor.stdin
  variables_before = {name: os.environ.get(name) for name in (_MARK, 'TMPDIR')}
  tempdir_before = tempfile.tempdir
  os.environ[_MARK] = mark
  os.environ['TMPDIR'] = str(folder)
  # `tempfile` reads TMPDIR only once.
  tempfile.tempdir = str(folder)

  try:
    yield folder
  finally:
    tempfile.tempdir = tempdir_before
    for name, value in variables_before.items():
      if value is None:
        os.environ.pop(name, None)
      else:
        os.environ[name] = value
    janitor.stdin.close()
    janitor.wait()


def _marked_processes(mark: str) -> list[int]:
  """The PIDs of all processes with this mark in their environment."""
  wanted = f'{_MARK}={mark}'.encode()
  found = []
  for entry in pathlib.Path('/proc').glob('[0-9]*'):
    try:
      if wanted in (entry / 'environ').read_bytes().split(b'\0'):
        found.append(int(entry.name))
    except OSError:  # The process has ended or belongs to another user.
      continue
  return found


def _shared_memory_of(pid: int) -> set[str]:
  """The files in /dev/shm that a process has mapped or is about to map."""
  process = pathlib.Path('/proc', str(pid))
  names = set()
  with contextlib.suppress(OSError):  # The process has ended.
    for line in (process / 'maps').read_text().splitlines():
      columns = line.split()
      if len(columns) == 6:  # The sixth is the path, which anonymous memory lacks.
        names.add(columns[5])
    # An engine killed while it starts has mapped nothing yet.
    names |= _shared_memory_named_after((process / 'cmdline').read_text().split('\0'))
  return {name for name in names if name.startswith('/dev/shm/')}


def _shared_memory_named_after(arguments: list[str]) -> set[str]:
  """The files in /dev/shm whose names end with one of a process's arguments."""
  ids = tuple(word for word in arguments if len(word) >= _MIN_ID_LENGTH)
  return {str(path) for path in pathlib.Path('/dev/shm').iterdir() if path.name.endswith(ids)}


def _remove(segments: set[str]) -> None:
  for segment in segments:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(segment)


def _clean(mark: str, folder: str, run: int) -> None:
  """Kills the run's processes, and removes their shared memory and the run's folder.

  A process may start another one after they were listed (a map of DeepMind Lab is compiled by one
  program after the other), and a dying one may still write to the folder: so all are listed again
  until none is left.
  """
  deadline = time.monotonic() + _SECONDS
  # After a block that ended normally the run lives on, whether or not it carries its own mark.
  while (pids := set(_marked_processes(mark)) - {run}) and time.monotonic() < deadline:
    for pid in pids:
      # Looked up first: a dead process has no maps.
      segments = _shared_memory_of(pid)
      with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
      _remove(segments)
    time.sleep(0.01)

  # `common/environments/doom_engine.sh` lists every engine's arguments here, so that the memory of
  # engines that died by themselves is found too. Without engines there is no list.
  with contextlib.suppress(OSError):
    ids = pathlib.Path(folder, 'engines').read_text().split()
    _remove(_shared_memory_named_after(ids))
  shutil.rmtree(folder, ignore_errors=True)


if __name__ == '__main__':
  run_pid = os.getppid()
  sys.stdin.buffer.read()  # Blocks until the run closes the pipe or dies.
  _clean(sys.argv[1], sys.argv[2], run_pid)
