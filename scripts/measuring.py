"""Measuring of speed and CPU time, for the benchmarks beside this file."""

import os
import pathlib
import time
from concurrent import futures
from typing import Any, Callable

import numpy as np

from common import environments
from common.evaluation import play

WARM_UP_SECONDS = 5.0


def cores() -> int:
  """Those that this process may use."""
  return len(os.sched_getaffinity(0))


def environments_alone(
  suite: environments.Suite, num_actors: int, envs_per_actor: int, seconds: float
) -> tuple[float, float]:
  """As many threads as actors, random actions. Returns as `measure`."""
  made = [
    suite.make(environments.assign(suite.tasks, i, num_actors, envs_per_actor), True)
    for i in range(num_actors)
  ]
  for i, environment in enumerate(made):
    environment.reset(seed=i)
  try:
    rngs = [np.random.default_rng(i) for i in range(len(made))]
    step = lambda i: made[i].step(
      play.random_actions(suite.action_space, envs_per_actor, rngs[i])
    )
    return measure(step, num_actors, envs_per_actor, seconds)
  finally:
    for environment in made:
      environment.close()


def measure(
  step: Callable[[int], Any], num_threads: int, steps_per_call: int, seconds: float
) -> tuple[float, float]:
  """Calls `step(thread)` in threads for so long; returns agent steps/s and CPU microseconds per agent step."""
  for i in range(num_threads):
    step(i)
    step(i)
  calls, end = [0] * num_threads, time.monotonic() + seconds

  def work(i: int) -> None:
    while time.monotonic() < end:
      step(i)
      calls[i] += 1

  cpu, started = cpu_seconds(), time.monotonic()
  with futures.ThreadPoolExecutor(num_threads) as pool:
    list(pool.map(work, range(num_threads)))  # Raises what a thread has raised.
  steps = sum(calls) * steps_per_call
  return steps / (time.monotonic() - started), 1e6 * (cpu_seconds() - cpu) / steps


def cpu_seconds(root: int = 0) -> float:
  """CPU time so far of a process, this one if none is named, and of its living descendants, as games' engines are."""
  ticks, parents = {}, {}
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      columns = stat.read_text().rpartition(')')[2].split()
    except OSError:  # It ended meanwhile.
      continue
    pid = int(stat.parent.name)
    ticks[pid], parents[pid] = int(columns[11]) + int(columns[12]), int(columns[1])
  ours = {root or os.getpid()}
  while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
    ours |= more
  return sum(ticks[pid] for pid in ours) / os.sysconf('SC_CLK_TCK')
