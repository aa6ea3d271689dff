"""The command line that all systems share: --preset, --env, --tasks, --run_dir, --total_frames, --seed, --resume, and
--config.X.
"""

import dataclasses
import difflib
import importlib
import logging
import os
import pathlib
import sys
import tempfile
import types
from typing import Any, Callable, Mapping, Sequence

from absl import flags
from ml_collections import config_flags

from common import errors
from common.config import run_folder, settings


@dataclasses.dataclass(frozen=True)
class Options:
  """What is not part of the config.

  Attributes:
    run_dir: folder of the run.
    resume: whether to go on with the run that is there.
    asked: the settings that the command line names itself; all of them, if it names a preset or an environment.
    values: of all flags, for those that the caller has added.
  """

  run_dir: pathlib.Path
  resume: bool
  asked: frozenset[str] = frozenset()
  values: flags.FlagValues | None = dataclasses.field(default=None, compare=False)


def parse(
  argv: Sequence[str],
  description: str,
  presets: settings.Presets,
  switches: Mapping[str, str] = types.MappingProxyType({}),
  define_flags: Callable[[flags.FlagValues], None] = lambda values: None,
) -> tuple[Any, Options]:
  """Reads a trainer's command line.

  A config starts as its preset (by name, or the one for --env), or with --resume as the run's own; flags go on top.

  Args:
    argv: `sys.argv`.
    description: shown by --help, before the flags.
    presets: the system's configs.
    switches: the config's boolean fields that have a flag of their own, `--NAME`, with its help.
    define_flags: defines further flags.

  Returns:
    The config and the options.

  Raises:
    UserError: for anything that cannot be understood.
  """
  first = _common_flags(presets, switches, define_flags)
  _parse(first, argv, description, known_only=True)
  if first.resume and not first.run_dir:
    raise errors.UserError('--resume needs the folder of the run to go on with: --run_dir=DIR')
  if first.resume and first.preset:
    raise errors.UserError(
      '--resume goes on with the settings of the run: leave out --preset, or start a new run'
    )
  if first.resume:
    config = presets.from_json(run_folder.load_config(pathlib.Path(first.run_dir)))
  else:
    config = presets.preset(first.preset or presets.preset_for(first.env or ''))
  values = _common_flags(presets, switches, define_flags)
  _define_config(values, config, argv)
  rest = _parse(values, argv, description)
  if rest:
    raise errors.UserError(
      f'unexpected argument {rest[0]!r}: flags are written --NAME=VALUE. See --help.'
    )
  config = values.config
  asked = {
    name.removeprefix('config.') for name in map(_name, argv[1:]) if name.startswith('config.')
  }
  for name in ('env', 'tasks', 'total_frames', 'seed', *switches):
    if getattr(values, name) is not None:
      setattr(config, name, getattr(values, name))
      asked.add(name)
  if values.preset or values.env:
    asked = {field.name for field in dataclasses.fields(config)}
  config.check()
  return config, Options(
    pathlib.Path(values.run_dir or run_folder.default_path(config.env)),
    values.resume,
    frozenset(asked),
    values,
  )


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Calls `main(sys.argv)`; a user's mistake is shown as one message, and exits with status 2."""
  logging.basicConfig(level=logging.INFO, format='%(message)s', handlers=[_Terminal(sys.stdout)])
  logging.getLogger('absl').setLevel(logging.WARNING)
  try:
    sys.exit(main(sys.argv))
  except KeyboardInterrupt:
    sys.exit(130)
  except errors.UserError as error:
    print(f'error: {error}', file=sys.stderr)
    sys.exit(2)
  except BrokenPipeError:  # The reader of our output (`| head`) has gone.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    sys.exit(1)


class _Terminal(logging.StreamHandler):
  """Lets a closed pipe end the program; logging itself would print a stack trace for every line."""

  def handleError(self, record):
    if isinstance(sys.exception(), BrokenPipeError):
      raise
    super().handleError(record)


def import_tensorflow(intra_op_threads: int = 0) -> None:
  """Imports TensorFlow without its notes on CPU and GPU, which no setting keeps off the terminal.

  They go straight to file descriptor 2, so that is a file meanwhile; its text is shown if the import fails.

  Args:
    intra_op_threads: at most so many threads share one operation; 0 for TensorFlow's choice.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  if intra_op_threads:
    os.environ.setdefault('TF_NUM_INTRAOP_THREADS', str(intra_op_threads))
  logging.getLogger('tensorflow').setLevel(
    logging.ERROR
  )  # Else it warns that several actors trace several graphs.
  terminal = os.dup(2)
  with tempfile.TemporaryFile() as notes:
    os.dup2(notes.fileno(), 2)
    try:
      importlib.import_module('tensorflow')
    except BaseException:
      notes.seek(0)
      os.write(terminal, notes.read())
      raise
    finally:
      os.dup2(terminal, 2)
      os.close(terminal)


def parse_flags(values: flags.FlagValues, argv: Sequence[str], description: str) -> list[str]:
  """Parses a command line of one's own flags into `values`; returns the other arguments. Errors as `parse`'s."""
  return _parse(values, argv, description)


def _name(argument: str) -> str:
  """Of a flag."""
  return argument.lstrip('-').partition('=')[0]


def _common_flags(
  presets: settings.Presets,
  switches: Mapping[str, str],
  define_flags: Callable[[flags.FlagValues], None],
) -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string(
    'preset',
    None,
    f'Settings to start from: {", ".join(presets.rows)}. '
    + ('NAME:N takes combination N of the hyperparameters. ' if presets.draws else '')
    + 'Without it, those for the environment.',
    flag_values=values,
  )
  flags.DEFINE_string('env', None, 'The environment, see above.', flag_values=values)
  flags.DEFINE_string(
    'tasks', None, 'Of an environment with many tasks those to take: A,B,C.', flag_values=values
  )
  flags.DEFINE_string(
    'run_dir', None, 'Folder of the run; runs/ENV-DATE-TIME by default.', flag_values=values
  )
  flags.DEFINE_integer(
    'total_frames',
    None,
    'Environment frames to train for (agent steps x action repeat).',
    flag_values=values,
  )
  flags.DEFINE_integer(
    'seed',
    None,
    'Seeds networks, environments and sampling. The order in which threads run is '
    'not seeded, so two runs still differ.',
    flag_values=values,
  )
  flags.DEFINE_boolean('resume', False, 'Go on with the run in --run_dir.', flag_values=values)
  for name, help_text in switches.items():
    flags.DEFINE_boolean(name, None, help_text, flag_values=values)
  define_flags(values)
  return values


def _define_config(values: flags.FlagValues, config: Any, argv: Sequence[str]) -> None:
  fields = {field.name for field in dataclasses.fields(config)}
  for argument in argv[1:]:
    name = _name(argument)
    if name.startswith('config.') and name.removeprefix('config.') not in fields:
      raise errors.unknown('config field', name.removeprefix('config.'), fields)
  try:
    config_flags.DEFINE_config_dataclass(
      'config',
      config,
      'Any setting: --config.FIELD=VALUE.',
      flag_values=values,
      sys_argv=list(argv),
    )
  except (flags.Error, AttributeError, TypeError, ValueError, KeyError) as error:
    raise errors.UserError(f'the command line cannot be understood: {error} See --help.') from error


def _parse(
  values: flags.FlagValues, argv: Sequence[str], description: str, known_only=False
) -> list[str]:
  """Parses into `values`; returns the arguments that are no flags."""
  if not known_only and any(argument in ('-h', '--help', '-help') for argument in argv[1:]):
    print(f'{description.strip()}\n\nFlags:\n{values.get_help()}')
    sys.exit(0)
  try:
    return values(list(argv), known_only=known_only)[1:]
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, list(values), n=1)
    raise errors.UserError(
      f'unknown flag --{error.flagname}. '
      + (f'Did you mean --{near[0]}?' if near else 'See --help.')
    ) from error
  except (flags.Error, AttributeError, TypeError, ValueError, KeyError) as error:
    raise errors.UserError(f'the command line cannot be understood: {error} See --help.') from error
