"""Compiles maps of DeepMind Lab in advance, into the level cache: `scripts/warm_levels.py --env=dmlab30 --seeds=100`.

For each level, the episodes of the seeds 0 to N-1 begin once. Training with --config.dmlab_episode_seeds=N draws its
episodes from these alone, so that no reset compiles a map (4 to 43 s each). May be ended and run again: what is there
takes no time.
"""

import concurrent.futures
import functools
import logging
import os
import pathlib
import sys
import threading
import time
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from common import environments, errors
from common.config import command_line, settings
from common.environments import dmlab
from common.machine import janitor, workers
from common.reporting import progress


def main(argv: Sequence[str]) -> None:
  """Warms the cache from a command line."""
  values, defaults = flags.FlagValues(), settings.Settings()
  flags.DEFINE_string('env', 'dmlab30', 'dmlab30, dmlab5 or dmlab:LEVEL.', flag_values=values)
  flags.DEFINE_string('tasks', '', 'Of many levels those to take: A,B,C.', flag_values=values)
  flags.DEFINE_integer(
    'seeds', 100, 'N: different episodes of each level.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_integer(
    'processes',
    os.cpu_count(),
    'Maps that are compiled at once.',
    lower_bound=1,
    flag_values=values,
  )
  flags.DEFINE_string(
    'dmlab_level_cache', defaults.dmlab_level_cache, 'Folder of the cache.', flag_values=values
  )
  flags.DEFINE_float(
    'dmlab_level_cache_gb',
    defaults.dmlab_level_cache_gb,
    'The most it may hold.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'dmlab_dataset_path',
    defaults.dmlab_dataset_path,
    'Of images for two levels, or dummy.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'dmlab_engine',
    '',
    'Further settings, as in training: some change the maps.',
    flag_values=values,
  )
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
    warm(
      list(environments.load(values.env, options).tasks), options, values.seeds, values.processes
    )
  logging.info('Train with --config.dmlab_episode_seeds=%d', values.seeds)


def warm(tasks: Sequence[str], options: environments.Options, seeds: int, processes: int) -> None:
  """Begins every episode once; an engine that dies is told of, and the next episode begins with another.

  Raises:
    UserError: if a level cannot be made.
  """
  todo, done, started = (
    iter(tasks),
    [],
    time.monotonic(),
  )  # Threads may share an iterator of a list.
  stop, engines = threading.Event(), {}

  def work(number: int) -> None:
    for task in todo:
      for seed in range(seeds):
        if stop.is_set():
          return
        _begin(engines, number, task, options, seed, stop)
      if number in engines:
        engines.pop(number).close()
      done.append(task)
      elapsed = time.monotonic() - started
      logging.info(
        '%s: %d episodes (%d of %d levels, ETA %s)',
        task,
        seeds,
        len(done),
        len(tasks),
        progress.duration(elapsed / len(done) * (len(tasks) - len(done))),
      )

  try:
    with concurrent.futures.ThreadPoolExecutor(processes) as pool:
      futures = [pool.submit(work, number) for number in range(processes)]
      try:
        for future in concurrent.futures.as_completed(futures):
          future.result()
      except BaseException:  # Ctrl-C too: nobody is to wait for maps that are being compiled.
        stop.set()
        for engine in list(engines.values()):
          engine.kill()
        raise
  finally:
    for engine in engines.values():
      engine.close()


def _begin(
  engines: dict[int, workers.Worker],
  number: int,
  task: str,
  options: environments.Options,
  seed: int,
  stop: threading.Event,
) -> None:
  """Begins an episode in the engine of that number, which is made if there is none."""
  try:
    if number not in engines:
      engines[number] = workers.Worker(
        functools.partial(dmlab.DmLabEnv, dmlab.level(task, True, options))
      )
      engines[number].receive()
    engines[number].call('begin', seed=seed)
  except (workers.WorkerDied, environments.EnvironmentCrashed) as crash:
    if not stop.is_set():
      logging.warning('%s, seed %d: %s', task, seed, crash)
    engines.pop(number).close()


if __name__ == '__main__':
  command_line.run(main)
