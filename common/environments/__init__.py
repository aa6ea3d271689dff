"""Environments by the name that `--env` takes.

One module per family (`doom`, `atari`, ...), each with a `load` and a `names` as `suite.Family`
describes. To add a family, write its module and enter it in `_MODULES`, and in `HELP` for users.
`tests/common/environments/family_test.py` checks what all families promise: add a case there.

Modules that build vector environments out of single ones:

- `process`: a vector environment in a child process; if it dies, all its environments crash.
- `parallel`: a child process per environment; one that dies is restarted alone.
- `concatenated`: several vector environments as one, stepped at the same time.
"""

import contextlib
import importlib
from typing import TYPE_CHECKING, cast

from common import errors
from common.environments import levels, making, packages
from common.environments.making import modules_of
from common.environments.options import Options
from common.environments.suite import EnvironmentCrashed, Family, Suite, assign, with_rewards

__all__ = [
  'HELP',
  'EnvironmentCrashed',
  'Options',
  'Suite',
  'assign',
  'code_of',
  'describe',
  'family_of',
  'is_known',
  'load',
  'modules_of',
  'remember',
]

# The part of `--env` before a colon -> the family's module. Modules are imported when asked for:
# each needs a package that users of the other families may not have.
_MODULES = {
  'doom': 'doom',
  'atari57': 'atari',
  'atari': 'atari',
  'dmlab30': 'dmlab',
  'dmlab5': 'dmlab',
  'dmlab': 'dmlab',
  'control': 'control',
  'envpool': 'envpool',
  'babyai': 'envpool',
  'minigrid': 'envpool',
  'gym': 'gym',
  'python': 'gym',
}

if TYPE_CHECKING:  # Has mypy check that every module is a `Family`.
  from common.environments import atari, control, dmlab, doom, envpool, gym

  _FAMILIES: tuple[Family, ...] = (atari, control, dmlab, doom, envpool, gym)

HELP = """\
  doom                  ten VizDoom scenarios at once, seen and played like DeepMind Lab
                        (multi-task)
  doom:SCENARIO         one of them: {scenarios}
  atari57               the 57 games of the papers at once, with all 18 actions (multi-task)
  atari:GAME            one Atari game: pong, breakout, space_invaders, ... (any ROM in ale-py)
  dmlab30               the 30 levels of DMLab-30 at once (multi-task); this and the next two need
                        the module deepmind_lab
  dmlab5                the five levels of the IMPALA paper's single-task experiments at once
                        (multi-task)
  dmlab:LEVEL           one level: {levels}, ...
  control:TASK          one task of the DeepMind Control Suite, e.g. control:humanoid-walk
                        (continuous actions)
  babyai                20 BabyAI levels at once: partial views and missions in words (multi-task)
  minigrid              ten MiniGrid tasks at once (multi-task)
  envpool:ID            an environment in C++, e.g. envpool:BabyAI-GoToLocal-v0 or
                        envpool:LunarLander-v3
  gym:ID                any registered gymnasium environment, e.g. gym:CartPole-v1 or
                        gym:Pendulum-v1, or gym:MODULE:ID for one that importing MODULE registers
  MODULE:FUNCTION       what a function, or class, of your own makes: a gymnasium.Env
  --tasks=A,B narrows those with many tasks."""


def describe() -> str:
  """The list of environments for `--help`."""
  doom = importlib.import_module('common.environments.doom')
  return HELP.format(scenarios=', '.join(doom.INSTRUCTIONS), levels=', '.join(levels.SINGLE_TASKS))


def load(name: str, options: Options = Options()) -> Suite:
  """Finds a suite by name.

  Args:
    name: FAMILY or FAMILY:MEMBER, the value of `--env`.
    options: Further settings of the run.

  Raises:
    UserError: If there is no such environment, or no such task in it (the message suggests the
      nearest names), or if a package that it needs is missing.
  """
  family = family_of(name)
  if family not in _MODULES:
    hint = 'See --help for the list of environments.'
    if ':' in name:
      hint += f' If {family} is a module of your own, put its folder into PYTHONPATH.'
    raise errors.unknown('environment', name, _names(), hint)
  module = _MODULES[family]
  if module != 'gym':
    options.check_family(name)
  # Of MODULE:FUNCTION, all is the member.
  member = name.removeprefix(f'{family}:') if ':' in name else ''
  try:
    return with_rewards(_imported(module).load(name, member, options), options)
  except ImportError as error:
    raise packages.missing(name, error) from error


def remember(make_env: making.MakeEnv) -> str:
  """The value of `--env` for a function that makes environments, see `making.remember`."""
  return making.remember(make_env, _MODULES)


def family_of(name: str) -> str:
  """The family of a value of `--env`; `gym` for a MODULE:FUNCTION."""
  family = name.partition(':')[0]
  return making.GYM if family not in _MODULES and making.is_function(name) else family


def is_known(name: str) -> bool:
  """Whether a value of `--env` names a family of this version; its member may still not exist."""
  return family_of(name) in _MODULES


def code_of(name: str) -> str:
  """The code of this machine that an environment's name asks to run, for a message.

  Empty for all other environments: their names only choose from what installed packages list.
  """
  family, _, member = name.partition(':')
  # A family of ours may have the name of an installed package.
  modules = modules_of(name) if family_of(name) == making.GYM else ()
  for module in modules:
    return f'the Python module {module}'
  if family == 'dmlab' and not levels.is_listed(member):
    return f'the script of the level {member}'
  return ''


def _imported(module: str) -> Family:
  return cast(Family, importlib.import_module(f'common.environments.{module}'))


def _names() -> list[str]:
  """Names of all families, to suggest for a misspelled one."""
  names: list[str] = []
  for module in dict.fromkeys(_MODULES.values()):
    # A family whose package is missing, or does not start (MUJOCO_GL without its library), has
    # nothing to suggest.
    with contextlib.suppress(ImportError, RuntimeError, AttributeError, OSError):
      names += _imported(module).names()
  return names
