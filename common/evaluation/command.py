"""The evaluation program of both systems: whole episodes of a checkpoint, a table, JSON, charts, films."""

import dataclasses
import functools
import hashlib
import json
import logging
import os
import pathlib
from typing import Sequence

from absl import flags

from common import environments, errors
from common.config import command_line, run_folder, settings
from common.evaluation import jobs as evaluation_jobs
from common.evaluation import play as evaluation
from common.machine import files, janitor, memory
from common.reporting import score_report

_SEED = 2_000_000_000  # Beyond the seeds of training.
_BYTES_PER_PROCESS = 10**9  # TensorFlow and the agent.
# Settings that say nothing of what an agent's episodes are like: an evaluation goes on though they have changed.
_INDECISIVE = (
  'tasks',
  'total_frames',
  'num_actors',
  'envs_per_actor',
  'evaluation_episodes',
  'dmlab_level_cache',
  'dmlab_level_cache_gb',
  'dmlab_episode_seeds',
  'log_every_seconds',
  'checkpoint_every_seconds',
  'stall_seconds',
)


def main(argv: Sequence[str], description: str, presets: settings.Presets, players: str) -> int:
  """Evaluates from a command line.

  Args:
    argv: `sys.argv`.
    description: shown by --help; its first line names the program.
    presets: the system's, to read the run's config with.
    players: the name of the system's module whose `from_checkpoint` makes players.
  """
  values = flags.FlagValues()
  flags.DEFINE_integer('episodes', 100, 'Episodes of each task.', lower_bound=1, flag_values=values)
  flags.DEFINE_string(
    'checkpoint', 'latest', 'latest, best, or the path of a checkpoint.', flag_values=values
  )
  flags.DEFINE_integer('seed', _SEED, 'Of environments and actions.', flag_values=values)
  flags.DEFINE_boolean('video', False, "Film each task's first episode.", flag_values=values)
  flags.DEFINE_integer(
    'processes',
    os.cpu_count(),
    'At most so many play tasks at once.',
    lower_bound=1,
    flag_values=values,
  )
  arguments = command_line.parse_flags(values, argv, description)
  if len(arguments) != 1:
    raise errors.UserError(
      f'expected one folder of a run, got {len(arguments)}: RUN [--episodes=N]. See --help.'
    )
  with janitor.attend():
    evaluate(
      pathlib.Path(arguments[0]),
      presets,
      players,
      values.episodes,
      values.checkpoint,
      values.seed,
      values.video,
      values.processes,
    )
  return 0


def evaluate(
  run: pathlib.Path,
  presets: settings.Presets,
  players: str,
  episodes: int,
  checkpoint: str = 'latest',
  seed: int = _SEED,
  video: bool = False,
  processes: int | None = None,
) -> None:
  """Evaluates the run in a folder; prints the table and writes `evaluation.json`.

  A random policy plays, too, where no scores of one are published. What was played of the same checkpoint, number of
  episodes and seed before is not played again.

  Args:
    run: the folder.
    presets: as in `main`.
    players: as in `main`.
    episodes: of each task.
    checkpoint: `latest`, `best` or a path.
    seed: of environments and actions.
    video: whether to write `videos/TASK.gif`.
    processes: at most so many play tasks at once; as many as there are cores if not given.

  Raises:
    UserError: if the run or the checkpoint cannot be read, or there is nothing to film.
  """
  config = presets.from_json(run_folder.load_config(run))
  player = evaluation_jobs.TaskPlayer(run, config, players, checkpoint, seed, video)
  suite, path = player.suite, player.checkpoint
  if video and len(suite.observation_space['observation'].shape) != 3:
    raise errors.UserError(
      f'{config.env} is observed as vectors: there is nothing to film. Leave out --video.'
    )
  logging.info('Evaluating %s: %d episodes of each task.', path, episodes)
  columns = ('agent',) if suite.references else ('random', 'agent')
  played = evaluation_jobs.play_all(
    [evaluation_jobs.Job(who, task) for who in columns for task in suite.tasks],
    episodes,
    run / 'evaluation' / _name(config, os.path.relpath(path, run), episodes, seed, video),
    player,
    functools.partial(evaluation_jobs.TaskPlayer, run, config, players, path, seed, video),
    _at_once(processes or os.cpu_count(), suite, episodes),
  )
  results = {who: {task: played[who, task] for task in suite.tasks} for who in columns}
  with files.replacing(run / 'evaluation.json') as file:
    json.dump(
      {
        'checkpoint': str(path),
        'env': config.env,
        'seed': seed,
        'references': suite.references,
        'note': suite.note,
        **results,
      },
      file,
      indent=1,
    )
  logging.info('\nMean return of %d episodes, 95%% bootstrap interval. %s', episodes, suite.note)
  if suite.references:
    score_report.write(run, suite.references, results['agent'], suite.note)
  else:
    logging.info('%s', evaluation.table(results))
  logging.info('\nWritten: %s', run / 'evaluation.json')
  if video:
    logging.info('Videos: %s', run / 'videos')


def _at_once(processes: int, suite: environments.Suite, episodes: int) -> int:
  """So many processes, or as many as the memory holds with their engines."""
  if not suite.bytes_per_environment:
    return processes
  each = (
    evaluation.environments_at_once(episodes) * suite.bytes_per_environment + _BYTES_PER_PROCESS
  )
  return max(1, min(processes, memory.available() // each))


def _name(config: settings.Settings, checkpoint: str, episodes: int, seed: int, video: bool) -> str:
  """Of the folder of results that were played by the same agent, with the same settings, and with nothing else.

  `checkpoint` is relative to the run, whose folder may be moved.
  """
  decisive = {
    name: value for name, value in dataclasses.asdict(config).items() if name not in _INDECISIVE
  }
  text = json.dumps([checkpoint, decisive, video], sort_keys=True)
  digest = hashlib.sha256(text.encode()).hexdigest()[:8]
  return f'{pathlib.Path(checkpoint).name}-{episodes}-episodes-seed-{seed}-{digest}'
