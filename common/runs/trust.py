"""Which settings a process takes from its learner, and which it does not.

A learner decides what is trained, and how. It does not decide what code runs on another machine,
or which files are read and written there: that is up to whoever starts the process.
"""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Collection, Mapping
from typing import Any

from common import environments, errors
from common.config import settings
from common.distributed import notes
from common.runs import system as systems

# Settings that depend on the machine, paths above all: each process keeps its own.
OF_THE_MACHINE = (
  'dmlab_dataset_path',
  'dmlab_level_cache',
  'dmlab_level_cache_gb',
  'dmlab_renderer',
  'env_processes',
)
# Settings that may name code or files: the learner's must also be on a process's own command line.
_NAMED_TWICE = ('env', 'env_kwargs', 'wrappers', 'dmlab_engine')
_LONGEST_TEXT = 10_000  # Characters; the names of DMLab-30's tasks are 900.
# The most of what one actor allocates at once. The papers' largest is 100.
_MOST = 1_000_000
_LONGEST_SIZES = 200  # Characters of a setting that lists sizes.
_SIZES = (
  'envs_per_actor',
  'unroll_length',
  'block_length',
  'local_buffer',
  'n_step',
  'hidden_size',
  'frame_stack',
  'action_repeat',
)


def of_learner(
  system: systems.System,
  given: Mapping[str, Any],
  own: settings.Settings,
  asked: Collection[str],
) -> settings.Settings:
  """The learner's settings, with those of this machine in place of the learner's.

  Args:
    system: The system to train.
    given: What the learner sent.
    own: This process's settings.
    asked: Those of them that the user named.

  Raises:
    UserError: If they are not the settings of this system, cannot work, differ from what the user
      asked for, or name code or files that the user has not named.
  """
  try:
    _check_form(system, given)
    config = system.presets.from_json(given, source='it says that')
    _check_sizes(config)
    own_values = {name: getattr(own, name) for name in OF_THE_MACHINE}
    config = dataclasses.replace(config, **own_values)
    config.check()
  except errors.UserError as error:
    raise errors.UserError(
      f"the learner's settings cannot be used here: {notes.printable(error, 500)}"
    ) from error
  _check_asked(config, own, asked)
  _check_names(config, asked)
  return config


def flags_for(config: settings.Settings, names: Collection[str]) -> list[str]:
  """Flags that give an actor process of this user settings of this process."""
  return [f'--config.{name}={getattr(config, name)}' for name in sorted(names)]


def flags_for_own(config: settings.Settings) -> list[str]:
  """Flags for a learner's own actor processes, which may run and read what the learner may."""
  return flags_for(config, (*_NAMED_TWICE, *OF_THE_MACHINE))


def _check_form(system: systems.System, given: Mapping[str, Any]) -> None:
  """Raises UserError unless these are the system's settings, of types and lengths to work with."""
  expected = {field.name for field in dataclasses.fields(system.presets.config)}
  # The code has the same version at both, so that every setting must be there.
  for name in sorted(expected.symmetric_difference(given)):
    raise errors.UserError(
      f'{name} is {"missing" if name in expected else "unknown"}. Is it a learner of '
      f'{system.title}?'
    )
  for name, value in given.items():
    if type(value) not in (str, int, float, bool):
      raise errors.UserError(f'{name} is a {type(value).__name__}')
    if isinstance(value, str) and not (len(value) <= _LONGEST_TEXT and value.isprintable()):
      raise errors.UserError(
        f'{name} is {notes.printable(value, 80)!r}, expected at most {_LONGEST_TEXT} characters, '
        'none of which steers a terminal'
      )
    if isinstance(value, int) and abs(value) >= 2**62:
      raise errors.UserError(f'{name} is {notes.printable(value, 80)}, expected less than 2^62')


def _check_sizes(config: settings.Settings) -> None:
  """Raises UserError if an actor could not even begin to allocate what it needs."""
  for name in _SIZES:
    value = getattr(config, name, 0)
    if value > _MOST:
      raise errors.UserError(f'{name} is {value}, expected at most {_MOST}')
  # Sizes in a text, which Python may refuse to convert to numbers.
  for name in ('vector_sizes', 'image_size'):
    text = getattr(config, name)
    if len(text) > _LONGEST_SIZES or re.search(rf'\d{{{len(str(_MOST))},}}', text):
      raise errors.UserError(f'{name} is {text!r:.80}, expected numbers below {_MOST}')


def _check_asked(config: settings.Settings, own: settings.Settings, asked: Collection[str]) -> None:
  """Raises UserError if a setting is not what the user asked for.

  A learner of this code has compared them already.
  """
  for name in sorted(set(asked).difference(OF_THE_MACHINE)):
    value = getattr(config, name)
    mine = getattr(own, name)
    if value != mine:
      raise errors.UserError(
        f"the learner's {name} is {value!r:.200}, but {mine!r:.200} on the command line here: "
        'leave it out, actors take the settings of their learner'
      )


def _check_names(config: settings.Settings, asked: Collection[str]) -> None:
  """Raises UserError if the learner names code or files, and the user has not named the same.

  What was asked for is equal to the learner's: `_check_asked` has seen to that.
  """
  code = environments.code_of(config.env)
  if code and 'env' not in asked:
    raise errors.UserError(
      f'the environment of the learner, {config.env}, would run {code} of this machine. A learner '
      'does not decide what runs here. If that is what you want, say so on the command line here: '
      f'--env={shlex.quote(config.env)}'
    )
  for name in ('env_kwargs', 'wrappers'):
    value = getattr(config, name)
    if value and name not in asked:
      raise errors.UserError(
        f"the learner's {name} is {value!r:.200}. Such settings of environments may run code and "
        'read files, which a learner does not decide here. If that is what you want, '
        f'say so on the command line here: --{name}={shlex.quote(value)}'
      )
  if config.dmlab_engine and 'dmlab_engine' not in asked:
    raise errors.UserError(
      f"the learner's dmlab_engine is {config.dmlab_engine!r}. Such settings of DeepMind Lab's "
      'engine can read and write files, which a learner does not decide here. If that is what you '
      'want, say so on the command line here: '
      f'--config.dmlab_engine={shlex.quote(config.dmlab_engine)}'
    )
