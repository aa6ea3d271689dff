"""The environments by name. One file per family; all are gymnasium vector environments with `SAME_STEP` autoreset."""

import dataclasses
import importlib

from common import errors
from common.environments import levels
from common.environments.options import Options
from common.environments.suite import EnvironmentCrashed, Suite, assign

HELP = """\
  doom                  ten VizDoom scenarios at once, seen and played like DeepMind Lab (multi-task)
  doom:SCENARIO         one of them: {scenarios}
  atari57               the 57 games of the papers at once, with all 18 actions (multi-task)
  atari:GAME            one Atari game: pong, breakout, space_invaders, ... (any ROM that comes with ale-py)
  dmlab30               the 30 levels of DMLab-30 at once (multi-task); needs the module deepmind_lab, as the next two
  dmlab5                the five levels of the IMPALA paper's single-task experiments at once (multi-task)
  dmlab:LEVEL           one level: {levels}, ...
  control:TASK          one task of the DeepMind Control Suite, e.g. control:humanoid-walk (continuous actions)
  gym:ID                any registered gymnasium environment, e.g. gym:CartPole-v1 or gym:Pendulum-v1,
                        or gym:MODULE:ID for one that importing MODULE registers
  --tasks=A,B narrows those with many tasks."""


def describe() -> str:
  """The list of environments for `--help`."""
  doom = importlib.import_module('common.environments.doom')
  return HELP.format(scenarios=', '.join(doom.INSTRUCTIONS), levels=', '.join(levels.SINGLE_TASKS))


def load(name: str, options: Options = Options()) -> Suite:
  """Finds a suite by the name that `--env` takes.

  Args:
    name: FAMILY or FAMILY:MEMBER.
    options: what else is asked for.

  Raises:
    UserError: if there is no such environment (with the nearest names), or task in it, or its package is missing.
  """
  family, _, member = name.partition(':')
  loaders = {
    'doom': _doom,
    'atari': _atari,
    'atari57': _atari57,
    'dmlab': _dmlab,
    'dmlab30': _dmlab,
    'dmlab5': _dmlab,
    'gym': _gym,
    'control': _control,
  }
  if family not in loaders:
    raise errors.unknown('environment', name, _names(), 'See --help for the list of environments.')
  try:
    return loaders[family](name, member, options)
  except ImportError as error:
    raise errors.UserError(
      f'{name} needs the package {error.name!r}, which cannot be imported ({error}). '
      'Install the requirements: pip install -r requirements.txt'
    ) from error


def _names() -> list[str]:
  doom = importlib.import_module('common.environments.doom')
  atari = importlib.import_module('common.environments.atari')
  return [
    'doom',
    *(f'doom:{task}' for task in doom.INSTRUCTIONS),
    'atari57',
    *(f'atari:{game}' for game in atari.games()),
    *levels.SETS,
    *(f'dmlab:{level}' for level in levels.DMLAB_30),
    'control:cartpole-swingup',
    'gym:CartPole-v1',
  ]


def _chosen(name: str, tasks: tuple[str, ...], options: Options) -> tuple[str, ...]:
  """Those of a suite's tasks that `options.tasks` names, in the suite's order; all if it names none."""
  wanted = [task.strip() for task in options.tasks.split(',') if task.strip()]
  for task in wanted:
    if task not in tasks:
      raise errors.unknown(f'task of {name}', task, tasks)
  return tuple(task for task in tasks if not wanted or task in wanted)


# The families are imported when asked for: each brings a package that the others' users may not have.


def _doom(name: str, task: str, options: Options) -> Suite:
  from common.environments import doom

  if task and task not in doom.INSTRUCTIONS:
    raise errors.unknown('doom scenario', task, doom.INSTRUCTIONS)
  return doom.load(name, _chosen(name, (task,) if task else tuple(doom.INSTRUCTIONS), options))


def _atari(name: str, game: str, options: Options) -> Suite:
  from common.environments import atari

  if game not in atari.games():
    raise errors.unknown('Atari game', game, atari.games(), 'Write it as in atari:pong.')
  _chosen(name, (game,), options)
  return atari.load(name, game, options.max_training_frames)


def _atari57(name: str, member: str, options: Options) -> Suite:
  from common.environments import atari

  _refuse_member(name, member, 'atari:GAME')
  suite = atari.load_57(name, options.max_training_frames)
  return dataclasses.replace(suite, tasks=_chosen(name, suite.tasks, options))


def _dmlab(name: str, level: str, options: Options) -> Suite:
  from common.environments import dmlab

  if name in levels.SETS:
    return dmlab.load(name, _chosen(name, levels.SETS[name], options), options)
  if not name.startswith('dmlab:'):
    _refuse_member(name, level, 'dmlab:LEVEL')
  if not level:
    raise errors.unknown(
      'environment', name, _names(), 'Write a level as in dmlab:rooms_watermaze.'
    )
  level = levels.known(level)
  return dmlab.load(name, _chosen(name, (level,), options), options)


def _refuse_member(name: str, member: str, form: str) -> None:
  if member:
    raise errors.UserError(
      f'{name!r} is no environment: a single one is written {form}, some of a suite --env='
      f'{name.partition(":")[0]} --tasks={member}'
    )


def _control(name: str, task: str, options: Options) -> Suite:
  from common.environments import control

  if task not in control.tasks():
    raise errors.unknown(
      'Control Suite task', task, control.tasks(), 'Write it as in control:humanoid-walk.'
    )
  _chosen(name, (task,), options)
  return control.load(name, task)


def _gym(name: str, env_id: str, options: Options) -> Suite:
  from common.environments import gym

  _chosen(name, (env_id,), options)
  return gym.load(name, env_id)
