"""Checks early that the machine's memory can hold a replay."""

import pathlib
import re
from typing import Callable

from common import errors
from common.machine import cgroups


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
  left = [_left(group) for group in cgroups.of_process('memory')]
  return min([free, *(number for number in left if number is not None)])


def resident() -> int:
  """Bytes of memory that this process has now."""
  status = pathlib.Path('/proc/self/status').read_text()
  return _number(r'^VmRSS:\s+(\d+) kB', status) * 1024


def _left(group: cgroups.Group) -> int | None:
  """Bytes that the processes of a control group can still use; None without a limit."""
  if group.version == 1:
    # Without a limit, this is near the largest integer.
    limits = [group.number('memory.limit_in_bytes')]
    used = group.number('memory.usage_in_bytes')
    # Like the use, of the groups within it too.
    cached = 'total_inactive_file'
  else:
    # Beyond `high` the kernel slows processes down until they hardly run.
    limits = [group.number('memory.max'), group.number('memory.high')]
    used = group.number('memory.current')
    cached = 'inactive_file'
  known = [limit for limit in limits if limit is not None]
  if not known or used is None:
    return None
  return max(0, min(known) - used + _number(rf'^{cached} (\d+)$', group.text('memory.stat'), 0))


def _number(pattern: str, text: str, default: int | None = None) -> int:
  """The number in the first line that matches, or the default if none does."""
  match = re.search(pattern, text, re.MULTILINE)
  if match is not None:
    return int(match.group(1))
  if default is None:
    raise ValueError(f'no line matches {pattern!r} in {text[:200]!r}')
  return default
