"""Compiles maps of DeepMind Lab in advance, into the level cache.

    scripts/warm_levels.py --env=dmlab30 --seeds=100

Begins the episodes of the seeds 0 to N-1 of each level once. Training with
--config.dmlab_episode_seeds=N draws its episodes from these alone, so that no reset compiles a map
(4 to 43 s each). May be ended and run again: maps that are in the cache take no time.
"""

import concurrent.futures
import functools
import logging
import pathlib
import sys
import threading
import time
from typing import Iterator, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from common import environments, errors
from common.config import command_line, settings
from common.environments import dmlab
from common.machine import cores, janitor, workers
from common.reporting import progress


def main(argv: Sequence[str]) -> None:
  """Warms the cache from a command line."""
  values = _define_flags()
  rest = command_line.parse_flags(values, argv, __doc__)
  if rest or not values.env.startswith('dmlab'):
    raise errors.UserError(
      f'{" ".join(rest) or values.env} is not understood: expected --env=dmlab30, dmlab5 or '
      'dmlab:LEVEL. See --help.'
    )
  options = environments.Options(
    tasks=values.tasks,
    dmlab_engine=values.dmlab_engine,
    dmlab_dataset_path=values.dmlab_dataset_path,
    dmlab_level_cache=values.dmlab_level_cache,
    dmlab_level_cache_gb=values.dmlab_level_cache_gb,
  )
  with janitor.attend():
    tasks = environments.load(values.env, options).tasks
    warm(tasks, options, values.seeds, values.processes)
  logging.info('Train with --config.dmlab_episode_seeds=%d', values.seeds)


def warm(tasks: Sequence[str], options: environments.Options, seeds: int, processes: int) -> None:
  """Begins every episode once.

  An engine that dies is reported, and the next episode begins with another engine.

  Args:
    tasks: Names of levels.
    options: Settings of the engine and the level cache.
    seeds: N, episodes of each level.
    processes: Engines that run at the same time.

  Raises:
    UserError: If a level cannot be made.
  """
  crew = _Crew(tasks, options, seeds)
  try:
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
      futures = [pool.submit(crew.work, number) for number in range(processes)]
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:
        # Ctrl-C too. The pool waits for its threads, and they would wait for maps being compiled.
        crew.stop()
        raise
  finally:
    crew.close()


class _Crew:
  """Threads with an engine each, which take levels from one list."""

  def __init__(self, tasks: Sequence[str], options: environments.Options, seeds: int):
    self._num_tasks = len(tasks)
    # Threads may share an iterator of a list or tuple: each takes its next level from there.
    self._todo: Iterator[str] = iter(tasks)
    self._done: list[str] = []
    self._options = options
    self._seeds = seeds
    self._started = time.monotonic()
    self._stopped = threading.Event()
    self._engines: dict[int, workers.Worker] = {}

  def work(self, number: int) -> None:
    """Warms levels until none is left; `number` is the thread's."""
    for task in self._todo:
      for seed in range(self._seeds):
        if self._stopped.is_set():
          return
        self._begin(number, task, seed)
      # The next level needs an engine of its own.
      if number in self._engines:
        self._engines.pop(number).close()
      self._done.append(task)
      self._report(task)

  def stop(self) -> None:
    """Kills the engines and lets the threads end."""
    self._stopped.set()
    for engine in list(self._engines.values()):
      engine.kill()

  def close(self) -> None:
    """Ends the engines that are left; after the threads."""
    for engine in self._engines.values():
      engine.close()

  def _begin(self, number: int, task: str, seed: int) -> None:
    """Begins an episode in a thread's engine, which is started if there is none."""
    try:
      if number not in self._engines:
        level = dmlab.level(task, True, self._options)
        self._engines[number] = workers.Worker(functools.partial(dmlab.DmLabEnv, level))
        self._engines[number].receive()  # Waits until it has started.
      self._engines[number].call('begin', seed=seed)
    except (workers.WorkerDied, environments.EnvironmentCrashed) as crash:
      if not self._stopped.is_set():
        logging.warning('%s, seed %d: %s', task, seed, crash)
      self._engines.pop(number).close()

  def _report(self, task: str) -> None:
    num_done = len(self._done)
    seconds_per_level = (time.monotonic() - self._started) / num_done
    logging.info(
      '%s: %d episodes (%d of %d levels, ETA %s)',
      task,
      self._seeds,
      num_done,
      self._num_tasks,
      progress.duration(seconds_per_level * (self._num_tasks - num_done)),
    )


def _define_flags() -> flags.FlagValues:
  values = flags.FlagValues()
  defaults = settings.Settings()
  text = functools.partial(flags.DEFINE_string, flag_values=values)
  count = functools.partial(flags.DEFINE_integer, lower_bound=1, flag_values=values)
  text('env', 'dmlab30', 'dmlab30, dmlab5 or dmlab:LEVEL.')
  text('tasks', '', 'Which of many levels to take: A,B,C.')
  count('seeds', 100, 'N: different episodes of each level.')
  count('processes', cores.count(), 'Maps that are compiled at the same time.')
  text('dmlab_level_cache', defaults.dmlab_level_cache, 'Folder of the cache.')
  flags.DEFINE_float(
    'dmlab_level_cache_gb',
    defaults.dmlab_level_cache_gb,
    'The most it may hold.',
    flag_values=values,
  )
  text('dmlab_dataset_path', defaults.dmlab_dataset_path, 'Images for Psychlab, or dummy.')
  text('dmlab_engine', '', 'Further settings, as in training: some change the maps.')
  return values


if __name__ == '__main__':
  command_line.run(main)
