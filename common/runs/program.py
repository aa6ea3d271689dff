"""The training program: one process of a run, from command line to exit status."""

import dataclasses
import logging
import os
import pathlib
import shlex
from collections.abc import Callable, Sequence

import gymnasium

from common import environments, errors
from common.config import command_line, invocation, run_folder, settings
from common.distributed import cluster
from common.evaluation import command as evaluation
from common.evaluation import play
from common.machine import janitor
from common.runs import system as systems

_ENVIRONMENTS = '\nEnvironments (--env):\n'


def main(argv: Sequence[str], description: str, system: systems.System) -> int:
  """Trains, acts or evaluates, depending on the role that the command line gives this process.

  Args:
    argv: `sys.argv`.
    description: Shown by --help, before the environments and the flags.
    system: The system to train.

  Returns:
    The exit status: 0 if training is finished, 130 if it was stopped before that.

  Raises:
    UserError: If the command line is wrong, or something failed that the user can fix.
  """
  config, options = command_line.parse(
    argv,
    description + _ENVIRONMENTS + environments.describe() + '\n',
    system.presets,
    system.switches,
    define_flags=cluster.define_flags,
  )
  with janitor.attend():
    assert options.values is not None  # `parse` always sets it.
    # Actors and evaluators get their settings from the learner, later: only what was asked for here
    # is known.
    is_known = options.values.role in ('all', 'learner') or 'intra_op_threads' in options.asked
    # Only now: --help and wrong flags should not wait for it.
    command_line.import_tensorflow(config.intra_op_threads if is_known else 0)
    who = cluster.resolve(options.values)
    if who.role in ('actor', 'evaluator'):
      # Imports TensorFlow.
      from common.runs import roles

      return roles.work(system, config, options, who)
    folder, finished = _train(system, config, options, who)
    if finished and who.index == 0:
      logging.info('%s', _what_to_do_next(folder, system, config))
    return 0 if finished else 130


def train(
  system: systems.System,
  config: settings.Settings,
  make_env: Callable[..., gymnasium.Env] | None = None,
  run_dir: str | os.PathLike[str] = '',
  resume: bool = False,
) -> pathlib.Path:
  """Trains from Python, with actors that are threads, and evaluates.

  Args:
    system: The system to train.
    config: The run's settings, such as a preset's.
    make_env: Makes an environment, in place of the config's `env`. A function or class that can be
      imported is known to other processes by its module and name. One that cannot, of a script or
      a notebook, is known to this process only: its environments step here, and evaluating or
      resuming the run later takes a script that makes it again.
    run_dir: The run's folder; '' for one that is named after environment and time.
    resume: Whether to resume the run in that folder.

  Returns:
    The run's folder.

  Raises:
    UserError: If something failed that the user can fix.
    KeyboardInterrupt: If Ctrl-C ended training, after a checkpoint was saved.
  """
  if make_env:
    config = dataclasses.replace(config, env=environments.remember(make_env))
  config.check()
  options = command_line.Options(
    run_dir=pathlib.Path(run_dir or run_folder.default_path(config.env)),
    resume=resume,
    is_named=bool(run_dir),
  )
  command_line.show_log()
  with janitor.attend():
    command_line.import_tensorflow(config.intra_op_threads)
    folder, finished = _train(system, config, options, cluster.Cluster())
  if not finished:
    raise KeyboardInterrupt
  return folder


def _train(
  system: systems.System,
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
) -> tuple[pathlib.Path, bool]:
  """Runs a learner; evaluates once training is finished.

  Returns:
    The run's folder, and whether training is finished.
  """
  if who.learners and not system.has_several_learners:
    raise errors.UserError(
      f'{system.title} has one learner, and the cluster names {len(who.learners)}'
    )
  # --actor_processes=N also sets the number of actors.
  config.num_actors = cluster.places(who, config.num_actors)
  run = system.make_run(config, options, who)
  finished = run.train()
  # One learner evaluates for all, from the run's one checkpoint.
  if finished and config.evaluation_episodes and who.index == 0:
    try:
      _evaluate(run.run_dir, system, config)
    except Exception as error:
      error.add_note(
        'Training is finished and saved. Evaluate it again with: '
        f'python -m {system.name}.evaluate {shlex.quote(str(run.run_dir))}'
      )
      raise
  return run.run_dir, finished


def _evaluate(folder: pathlib.Path, system: systems.System, config: settings.Settings) -> None:
  """Evaluates a run that is finished."""
  episodes = config.evaluation_episodes
  try:
    evaluation.evaluate(folder, system, episodes, film=config.evaluation_films)
  except play.NothingToFilm as error:
    logging.warning('No films: %s', error)
    evaluation.evaluate(folder, system, episodes)


def _what_to_do_next(
  folder: pathlib.Path, system: systems.System, config: settings.Settings
) -> str:
  """Commands for a run that is finished."""
  python = invocation.python()
  run = shlex.quote(str(folder))
  commands = {
    'train on': invocation.resuming(folder, {'total_frames': 2 * config.total_frames}),
    'play more': f'{python} -m {system.name}.evaluate {run} --episodes=100',
    'look at all that was measured': f'{python} -m tensorboard.main --logdir={run}',
  }
  return '\n'.join(['\nNext:', *(f'  # {what}\n  {how}' for what, how in commands.items())])
