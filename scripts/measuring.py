"""Measures speed and CPU time, for the benchmarks beside this file."""

import os
import pathlib
import re
import sys
import threading
import time
from concurrent import futures
from typing import Any, Callable, NamedTuple, Sequence

import numpy as np

from common import environments
from common.evaluation import play

WARM_UP_SECONDS = 5.0
_LOOK_SECONDS = 2.0


class Speed(NamedTuple):
  """The speed and the cost of a part, both per agent step (in Ape-X, per transition)."""

  steps_per_second: float
  cpu_microseconds: float  # Of all cores, per agent step.


def say(text: str) -> None:
  """Tells whoever waits what is being measured, on stderr."""
  print(f'{time.strftime("%H:%M:%S")} {text}', file=sys.stderr, flush=True)


def processor() -> str:
  """The processor's name."""
  found = re.search(r'^model name\s*: (.+)$', pathlib.Path('/proc/cpuinfo').read_text(), re.M)
  return found[1] if found else 'an unknown processor'


def others_busy() -> float:
  """How many cores do something now, while this process does nothing; takes two seconds."""
  before = _busy_seconds()
  time.sleep(_LOOK_SECONDS)
  return (_busy_seconds() - before) / _LOOK_SECONDS


def _busy_seconds() -> float:
  """CPU time of all processes of the machine so far."""
  ticks = list(map(int, pathlib.Path('/proc/stat').read_text().split()[1:9]))
  # All but idling and waiting for disks.
  return (sum(ticks) - ticks[3] - ticks[4]) / os.sysconf('SC_CLK_TCK')


def environments_alone(
  suite: environments.Suite, num_actors: int, envs_per_actor: int, seconds: float
) -> Speed:
  """Measures environments with random actions, in one thread per actor."""
  vectors = [
    suite.make(environments.assign(suite.tasks, i, num_actors, envs_per_actor), True)
    for i in range(num_actors)
  ]
  observed = [vector.reset(seed=i)[0] for i, vector in enumerate(vectors)]
  # One per thread: generators are not thread-safe.
  players = [play.random_player(suite.action_space, i) for i in range(num_actors)]
  nothing = np.zeros(envs_per_actor)

  def step(i: int) -> None:
    observed[i] = vectors[i].step(players[i](observed[i], nothing, nothing))[0]

  try:
    return measure(step, num_actors, envs_per_actor, seconds)
  finally:
    for vector in vectors:
      vector.close()


def measure(
  step: Callable[[int], Any], num_threads: int, steps_per_call: float, seconds: float
) -> Speed:
  """Measures a function that threads call again and again.

  Args:
    step: Called with the thread's number. Calls that have begun when the time is over are finished
      and counted.
    num_threads: The number of threads.
    steps_per_call: Agent steps, or transitions, of one call.
    seconds: Length of the measurement.
  """
  # Warm-up: first calls trace TensorFlow functions, which takes seconds.
  for i in range(num_threads):
    step(i)
    step(i)

  # One counter per thread, since += on a shared one could lose calls.
  calls = [0] * num_threads
  end = time.monotonic() + seconds

  def work(i: int) -> None:
    while time.monotonic() < end:
      step(i)
      calls[i] += 1

  cpu = cpu_seconds()
  started = time.monotonic()
  with futures.ThreadPoolExecutor(num_threads) as pool:
    # The list raises what a thread raised.
    list(pool.map(work, range(num_threads)))
  elapsed = time.monotonic() - started
  steps = sum(calls) * steps_per_call
  return Speed(steps / elapsed, 1e6 * (cpu_seconds() - cpu) / steps)


def loops(
  run: Sequence[Callable[[Callable[[], None], Callable[[], bool]], None]],
  steps_per_round: float,
  seconds: float,
) -> Speed:
  """Measures loops that run in a thread each, once all have begun.

  Args:
    run: The loops. Each calls its first argument at the end of every round, and ends when the
      second returns true.
    steps_per_round: Agent steps, or transitions, of one round.
    seconds: Length of the measurement.
  """
  rounds = [0] * len(run)
  stop = threading.Event()

  def work(i: int) -> None:
    def count() -> None:
      rounds[i] += 1

    run[i](count, stop.is_set)

  with futures.ThreadPoolExecutor(len(run)) as pool:
    running = [pool.submit(work, i) for i in range(len(run))]
    try:
      while min(rounds) < 3 and not any(loop.done() for loop in running):
        time.sleep(0.01)
      before = (sum(rounds), cpu_seconds(), time.monotonic())
      time.sleep(seconds)
      after = (sum(rounds), cpu_seconds(), time.monotonic())
    finally:
      stop.set()
    for loop in running:
      loop.result()
  steps = (after[0] - before[0]) * steps_per_round
  return Speed(steps / (after[2] - before[2]), 1e6 * (after[1] - before[1]) / steps)


def cpu_seconds(root: int = 0) -> float:
  """CPU time so far of a process and its living descendants, such as games' engines.

  Args:
    root: The process's id; 0 for this process.
  """
  ticks = {}
  parents = {}
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      # The columns after the command's name, which is in parentheses and may hold spaces.
      columns = stat.read_text().rpartition(')')[2].split()
    except OSError:
      # The process ended after its folder was listed.
      continue
    pid = int(stat.parent.name)
    parents[pid] = int(columns[1])
    # User and system time.
    ticks[pid] = int(columns[11]) + int(columns[12])

  ours = {root or os.getpid()}
  while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
    ours |= more
  return sum(ticks[pid] for pid in ours) / os.sysconf('SC_CLK_TCK')
