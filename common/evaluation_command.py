"""The evaluation program of both systems: whole episodes of a checkpoint beside random play, a table, JSON, films."""

import json
import logging
import pathlib
from typing import Any, Callable, Sequence

from absl import flags

from common import command_line, environments, errors, files, janitor, run_folder, settings

_SEED = 2_000_000_000  # Beyond the seeds of training.

# From a run's folder, its config, its suite, which checkpoint and a seed, to the checkpoint's path and what makes a
# player for a task and a number of environments.
PlayersFromCheckpoint = Callable[[pathlib.Path, Any, environments.Suite, str, int], tuple[str, Callable]]


def main(argv: Sequence[str], description: str, presets: settings.Presets,
         players: Callable[[], PlayersFromCheckpoint]) -> int:
  """Evaluates from a command line.

  Args:
    argv: `sys.argv`.
    description: shown by --help; its first line names the program.
    presets: the system's, to read the run's config with.
    players: imports what makes players; called once TensorFlow is imported.
  """
  values = flags.FlagValues()
  flags.DEFINE_integer('episodes', 100, 'Episodes of each task.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('checkpoint', 'latest', 'latest, best, or the path of a checkpoint.', flag_values=values)
  flags.DEFINE_integer('seed', _SEED, 'Of environments and actions.', flag_values=values)
  flags.DEFINE_boolean('video', False, "Film each task's first episode.", flag_values=values)
  arguments = command_line.parse_flags(values, argv, description)
  if len(arguments) != 1:
    raise errors.UserError(f'expected one folder of a run, got {len(arguments)}: RUN [--episodes=N]. See --help.')
  with janitor.attend():
    evaluate(pathlib.Path(arguments[0]), presets, players, values.episodes, values.checkpoint, values.seed,
             values.video)
  return 0


def evaluate(run: pathlib.Path, presets: settings.Presets, players: Callable[[], PlayersFromCheckpoint], episodes: int,
             checkpoint: str = 'latest', seed: int = _SEED, video: bool = False) -> dict[str, dict]:
  """Evaluates the run in a folder; prints the table and writes `evaluation.json`.

  Args:
    run: the folder.
    presets: as in `main`.
    players: as in `main`.
    episodes: of each task.
    checkpoint: `latest`, `best` or a path.
    seed: of environments and actions.
    video: whether to write `videos/TASK.gif`.

  Returns:
    `random` and `agent`: by task, the summaries of `evaluation.Episodes`.

  Raises:
    UserError: if the run or the checkpoint cannot be read, or there is nothing to film.
  """
  command_line.import_tensorflow()  # Only now: mistaken arguments need not wait for it.
  from common import evaluation, video as films
  config = presets.from_json(run_folder.load_config(run))
  suite = environments.load(config.env)
  if video and len(suite.observation_space['observation'].shape) != 3:
    raise errors.UserError(f'{config.env} is observed as vectors: there is nothing to film. Leave out --video.')
  path, make_player = players()(run, config, suite, checkpoint, seed)
  logging.info('Evaluating %s: %d episodes of each task.', path, episodes)
  done = lambda task: logging.info('  %s', task)
  agent = evaluation.play_all(suite, make_player, episodes, seed, pictures=video, progress=done)
  chance = evaluation.play_all(
      suite, lambda task, count: evaluation.random_player(suite.action_space, seed), episodes, seed)
  results = {name: {task: played.summary() for task, played in column.items()}
             for name, column in (('random', chance), ('agent', agent))}
  with files.replacing(run / 'evaluation.json') as file:
    json.dump({'checkpoint': str(path), 'env': config.env, 'seed': seed, **results}, file, indent=1)
  logging.info('\nMean return of %d episodes, 95%% bootstrap interval\n%s\n\nWritten: %s', episodes,
               evaluation.table(results), run / 'evaluation.json')
  if video:
    (run / 'videos').mkdir(exist_ok=True)
    for task, played in agent.items():
      films.write_gif(run / 'videos' / f'{task}.gif', played.pictures, suite.steps_per_second)
    logging.info('Videos: %s', run / 'videos')
  return results
