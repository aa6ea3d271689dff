"""The number of cores that this process may use, which may be fewer than the machine has."""

import math
import os

from common.machine import cgroups


def count() -> int:
  """The cores that this process may use at the same time, at least 1.

  Slurm and `taskset` name the cores; containers limit the time on all of them, which is as good as
  that many cores, rounded up.
  """
  number = float(len(os.sched_getaffinity(0)))
  for group in cgroups.of_process('cpu'):
    number = min(number, _quota(group))
  return max(1, math.ceil(number))


def _quota(group: cgroups.Group) -> float:
  """Seconds of CPU time that a group gets in a second; infinity without a limit."""
  if group.version == 1:
    quota = group.number('cpu.cfs_quota_us')  # -1 for no limit.
    period = group.number('cpu.cfs_period_us')
  else:
    # `200000 100000`, or `max 100000` for no limit.
    first, _, second = group.text('cpu.max').strip().partition(' ')
    quota = int(first) if first.isdecimal() else None
    period = int(second) if second.isdecimal() else None
  if not quota or not period or quota < 0:
    return math.inf
  return quota / period
