"""The command that started this process, for messages that say how to resume its run."""

import os
import pathlib
import shlex
import sys
from collections.abc import Mapping
from types import MappingProxyType

_ROOT = pathlib.Path(__file__).resolve().parents[2]
# `scripts/train` sets it to its own name: what it runs is not what the user typed.
_PROGRAM = 'DISTRIBUTED_RL_PROGRAM'
# Those that `resuming` sets itself, and those that are refused together with --resume.
_REPLACED = ('run_dir', 'preset', 'resume', 'noresume')
_WITHOUT_VALUE = ('resume', 'noresume')


def resuming(run_dir: pathlib.Path, changes: Mapping[str, object] = MappingProxyType({})) -> str:
  """The command, as for a shell, that resumes a run with the flags of this process.

  Args:
    run_dir: The run's folder.
    changes: Flags with other values.
  """
  flags = sys.argv[1:]
  program = sys.orig_argv[: len(sys.orig_argv) - len(flags)]
  if name := os.environ.get(_PROGRAM):
    program = [name]
  changed = [f'--{name}={value}' for name, value in changes.items()]
  kept = _kept(flags, changes)
  return shlex.join([*program, *kept, *changed, f'--run_dir={run_dir}', '--resume'])


def python() -> str:
  """The command of this process's Python, as for a shell in the present folder."""
  here = pathlib.Path.cwd()
  path = pathlib.Path(sys.executable)
  command = shlex.quote(str(path.relative_to(here) if path.is_relative_to(here) else path))
  # From elsewhere, it would not find this repository's modules.
  return command if here == _ROOT else f'PYTHONPATH={shlex.quote(str(_ROOT))} {command}'


def _kept(flags: list[str], changes: Mapping[str, object]) -> list[str]:
  """The flags that still apply when the run is resumed with changes."""
  kept = []
  words = iter(flags)
  for word in words:
    name, equals, _ = word.lstrip('-').partition('=')
    if not word.startswith('-') or name not in (*_REPLACED, *changes):
      kept.append(word)
    elif not equals and name not in _WITHOUT_VALUE:
      next(words, None)  # Its value is a word of its own.
  return kept
