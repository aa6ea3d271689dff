"""What /proc says about processes, for the tests of engines that run in processes of their own."""

import os
import pathlib
import signal
import time
from typing import Callable


def children(pid: int | str = 'self') -> set[int]:
  """The processes that this one has started and that have not been waited for."""
  found = set()
  for task in pathlib.Path(f'/proc/{pid}/task').iterdir():
    try:
      found.update(int(child) for child in (task / 'children').read_text().split())
    except OSError:  # The thread has ended meanwhile.
      continue
  return found


def descendants(pid: int | str = 'self') -> set[int]:
  """These, and the processes that they have started, and so on."""
  try:
    found = children(pid)
  except OSError:  # It has ended meanwhile.
    return set()
  return found.union(*map(descendants, found))


def engines(pid: int | str = 'self') -> set[int]:
  """The Doom engines among them."""
  found = set()
  for process in descendants(pid):
    try:
      if b'/vizdoom/vizdoom' in pathlib.Path(f'/proc/{process}/cmdline').read_bytes():
        found.add(process)
    except OSError:
      continue
  return found


def kill_engine() -> None:
  """Kills one Doom engine of this process."""
  os.kill(min(engines()), signal.SIGKILL)


def is_alive(pid: int) -> bool:
  """A zombie is not: who should have waited for it may have been killed."""
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
  except OSError:
    return False
  return state not in 'ZX'


def shared_memory(pid: int) -> set[pathlib.Path]:
  """The files in /dev/shm that a process has mapped."""
  lines = pathlib.Path(f'/proc/{pid}/maps').read_text().splitlines()
  return {pathlib.Path(line.split()[5]) for line in lines if '/dev/shm/' in line}


def becomes_true(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
  """Whether the condition holds before the deadline."""
  deadline = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > deadline:
      return False
    time.sleep(0.01)
  return True
