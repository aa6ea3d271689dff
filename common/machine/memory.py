"""Refuses early what the machine's memory cannot hold."""

import pathlib
import re
from typing import Callable

from common import errors

_CGROUP = pathlib.Path('/sys/fs/cgroup')


def check(size_in_bytes: Callable[[int], int], capacity: int, elements: str) -> None:
  """Refuses a replay that is too large.

  Args:
    size_in_bytes: from a capacity to what it takes.
    capacity: that is asked for, in elements.
    elements: what they are, e.g. `transitions`.

  Raises:
    UserError: if it is more than the machine, or the container that this runs in, has free.
  """
  needed, free = size_in_bytes(capacity), available()
  if needed <= free:
    return
  fitting = capacity
  while fitting and size_in_bytes(fitting) > 0.9 * free:
    fitting = fitting * 19 // 20
  raise errors.UserError(
    f'a replay of {capacity:,} {elements} takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: '
    f'lower --config.replay_capacity to {fitting:,} or less'
  )


def available() -> int:
  """Bytes that can still be used; memory that only caches files counts, as it is given up when asked for."""
  text = pathlib.Path('/proc/meminfo').read_text()
  free = int(re.search(r'MemAvailable: +(\d+) kB', text).group(1)) * 1024
  limit = _CGROUP / 'memory.max'
  if limit.exists() and limit.read_text().strip() != 'max':
    statistics = (_CGROUP / 'memory.stat').read_text()
    cached = int(re.search(r'^inactive_file (\d+)$', statistics, re.MULTILINE).group(1))
    used = int((_CGROUP / 'memory.current').read_text())
    free = min(free, int(limit.read_text()) - used + cached)
  return free
