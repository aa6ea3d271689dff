"""Checks early that the machine's memory can hold a replay."""

import pathlib
import re
from typing import Callable

from common import errors

_CGROUP = pathlib.Path('/sys/fs/cgroup')


def check(size_in_bytes: Callable[[int], int], capacity: int, elements: str) -> None:
  """Refuses a replay that is too large, and suggests a capacity that fits.

  Args:
    size_in_bytes: Maps a capacity to the bytes that it takes.
    capacity: The capacity requested, in elements.
    elements: What the elements are, e.g. `transitions`.

  Raises:
    UserError: If the machine, or the container that this runs in, has less memory free.
  """
  needed = size_in_bytes(capacity)
  free = available()
  if needed <= free:
    return
  # A search, since a sum tree's size is not proportional to the capacity. It leaves a tenth free
  # for everything else.
  fitting = capacity
  while fitting and size_in_bytes(fitting) > 0.9 * free:
    fitting = fitting * 19 // 20
  raise errors.UserError(
    f'a replay of {capacity:,} {elements} takes {needed / 2**30:.1f} GiB and '
    f'{free / 2**30:.1f} GiB are free: lower --config.replay_capacity to {fitting:,} or less'
  )


def available() -> int:
  """Bytes that can still be used, by the limits of the machine and of this process's container.

  Memory that only caches files counts as free, since the kernel reclaims it on demand.
  """
  meminfo = pathlib.Path('/proc/meminfo').read_text()
  free = _number(r'^MemAvailable: +(\d+) kB', meminfo) * 1024

  # Version 2 control groups; `max` stands for no limit.
  limit = _CGROUP / 'memory.max'
  if limit.exists() and limit.read_text().strip() != 'max':
    cached = _number(r'^inactive_file (\d+)$', (_CGROUP / 'memory.stat').read_text())
    used = int((_CGROUP / 'memory.current').read_text())
    free = min(free, int(limit.read_text()) - used + cached)
  return free


def _number(pattern: str, text: str) -> int:
  """The number in the first line that matches."""
  match = re.search(pattern, text, re.MULTILINE)
  if match is None:
    raise ValueError(f'no line matches {pattern!r} in {text[:200]!r}')
  return int(match.group(1))
