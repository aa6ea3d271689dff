"""Processes as /proc shows them, for tests of engines and actors that are processes."""

import os
import pathlib
import signal
import socket
import time
from typing import Callable


def children(pid: int | str = 'self') -> set[int]:
  """The child processes of a process that have not been waited for."""
  found: set[int] = set()
  for task in pathlib.Path(f'/proc/{pid}/task').iterdir():
    try:
      found.update(int(child) for child in (task / 'children').read_text().split())
    except OSError:  # The thread has ended meanwhile.
      continue
  return found


def descendants(pid: int | str = 'self') -> set[int]:
  """The children of a process, their children, and so on."""
  try:
    found = children(pid)
  except OSError:  # It has ended meanwhile.
    return set()
  return found.union(*map(descendants, found))


def engines(pid: int | str = 'self') -> set[int]:
  """The Doom engines among a process's descendants."""
  found = set()
  for process in descendants(pid):
    try:
      if b'/vizdoom/vizdoom' in pathlib.Path(f'/proc/{process}/cmdline').read_bytes():
        found.add(process)
    except OSError:  # It has ended meanwhile.
      continue
  return found


def kill_engine() -> None:
  """Kills one Doom engine of this process."""
  os.kill(min(engines()), signal.SIGKILL)


def is_alive(pid: int) -> bool:
  """Whether a process runs. A zombie does not: its parent may have been killed before waiting."""
  try:
    state = pathlib.Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
  except OSError:
    return False
  return state not in 'ZX'


def shared_memory(pid: int) -> set[pathlib.Path]:
  """The files in /dev/shm that a process has mapped."""
  lines = pathlib.Path(f'/proc/{pid}/maps').read_text().splitlines()
  return {pathlib.Path(line.split()[5]) for line in lines if '/dev/shm/' in line}


def listening_ports(pid: int) -> set[int]:
  """The TCP ports that a process listens on, at any address."""
  held = set()
  for descriptor in pathlib.Path(f'/proc/{pid}/fd').iterdir():
    try:
      held.add(os.readlink(descriptor))
    except OSError:  # It was closed meanwhile.
      continue
  ports = set()
  for table in ('tcp', 'tcp6'):
    for line in pathlib.Path(f'/proc/{pid}/net/{table}').read_text().splitlines()[1:]:
      columns = line.split()
      is_listening = columns[3] == '0A'
      if is_listening and f'socket:[{columns[9]}]' in held:
        ports.add(int(columns[1].rpartition(':')[2], 16))
  return ports


def listens(address: str | tuple[str, int]) -> bool:
  """Whether something listens at a Unix socket, or at a host and port."""
  family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
  with socket.socket(family) as sock:
    sock.settimeout(2.0)
    return sock.connect_ex(address) == 0


def becomes_true(condition: Callable[[], bool], seconds: float = 10.0) -> bool:
  """Waits until a condition holds; returns whether it did before the deadline."""
  deadline = time.monotonic() + seconds
  while not condition():
    if time.monotonic() > deadline:
      return False
    time.sleep(0.01)
  return True
