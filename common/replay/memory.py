"""Refuses early what the machine's memory cannot hold."""

import pathlib
import re

from common import errors

_CGROUP = pathlib.Path('/sys/fs/cgroup')


def check(needed: int, capacity: int, elements: str) -> None:
  """Refuses a replay that is too large.

  Args:
    needed: bytes.
    capacity: in elements.
    elements: what they are, e.g. `transitions`.

  Raises:
    UserError: if `needed` is more than the machine, or the container that this runs in, has free.
  """
  free = available()
  if needed > free:
    raise errors.UserError(
        f'a replay of {capacity:,} {elements} takes {needed / 2**30:.1f} GiB and {free / 2**30:.1f} GiB are free: '
        f'lower --config.replay_capacity to {int(capacity * 0.8 * free / needed):,} or less')


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
