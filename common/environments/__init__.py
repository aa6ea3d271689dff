"""The environments by name. One file per family; all are gymnasium vector environments with `SAME_STEP` autoreset."""

import functools
import importlib

from common import errors
from common.environments.suite import EnvironmentCrashed, Suite, assign

HELP = """\
  doom                  ten VizDoom scenarios at once, seen and played like DeepMind Lab (multi-task)
  doom:SCENARIO         one of them: {scenarios}
  atari:GAME            one Atari game: pong, breakout, space_invaders, ... (any ROM that comes with ale-py)
  control:TASK          one task of the DeepMind Control Suite, e.g. control:humanoid-walk (continuous actions)
  gym:ID                any registered gymnasium environment, e.g. gym:CartPole-v1 or gym:Pendulum-v1,
                        or gym:MODULE:ID for one that importing MODULE registers"""


def describe() -> str:
  """The list of environments for `--help`."""
  doom = importlib.import_module('common.environments.doom')
  return HELP.format(scenarios=', '.join(doom.INSTRUCTIONS))


def load(name: str, max_training_frames: int | None = None) -> Suite:
  """Finds a suite by the name that `--env` takes.

  Args:
    name: FAMILY or FAMILY:MEMBER.
    max_training_frames: at most so many environment frames make an Atari episode in training; as in evaluation if not
      given. Other families have time limits of their own.

  Raises:
    UserError: if there is no such environment (with the nearest names) or its package cannot be imported.
  """
  family, _, member = name.partition(':')
  loaders = {'doom': _doom, 'atari': functools.partial(_atari, max_training_frames=max_training_frames), 'gym': _gym,
             'control': _control}
  if family not in loaders:
    raise errors.unknown('environment', name, _names(), 'See --help for the list of environments.')
  try:
    return loaders[family](name, member)
  except ImportError as error:
    raise errors.UserError(
        f'{name} needs the package {error.name!r}, which cannot be imported ({error}). '
        'Install the requirements: pip install -r requirements.txt') from error


def _names() -> list[str]:
  doom = importlib.import_module('common.environments.doom')
  atari = importlib.import_module('common.environments.atari')
  return ['doom', *(f'doom:{task}' for task in doom.INSTRUCTIONS), *(f'atari:{game}' for game in atari.games()),
          'control:cartpole-swingup', 'gym:CartPole-v1']


# The families are imported when asked for: each brings a package that the others' users may not have.


def _doom(name: str, task: str) -> Suite:
  from common.environments import doom
  if task and task not in doom.INSTRUCTIONS:
    raise errors.unknown('doom scenario', task, doom.INSTRUCTIONS)
  return doom.load(name, [task] if task else list(doom.INSTRUCTIONS))


def _atari(name: str, game: str, max_training_frames: int | None) -> Suite:
  from common.environments import atari
  if game not in atari.games():
    raise errors.unknown('Atari game', game, atari.games(), 'Write it as in atari:pong.')
  return atari.load(name, game, max_training_frames)


def _control(name: str, task: str) -> Suite:
  from common.environments import control
  if task not in control.tasks():
    raise errors.unknown('Control Suite task', task, control.tasks(), 'Write it as in control:humanoid-walk.')
  return control.load(name, task)


def _gym(name: str, env_id: str) -> Suite:
  from common.environments import gym
  return gym.load(name, env_id)
