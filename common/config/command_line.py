"""The command line of every training program, and how programs start and end.

Flags: --preset, --env, --tasks, --run_dir, --total_frames, --seed, --resume, --config.FIELD.
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
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from absl import flags
from ml_collections import config_flags

from common import errors
from common.config import presets as all_presets
from common.config import run_folder

_HELP = ('-h', '--help', '-help')
# What absl and ml_collections raise for flags that they cannot parse.
_PARSE_ERRORS = (flags.Error, AttributeError, TypeError, ValueError, KeyError)


@dataclasses.dataclass(frozen=True)
class Options:
  """Everything on the command line that is not part of the config.

  Attributes:
    run_dir: The run's folder.
    resume: Whether to go on with the run that is there.
    asked: The settings named on the command line; all of them, if it names a preset or an
      environment.
    values: All flags, among them those that the caller defined.
  """

  run_dir: pathlib.Path
  resume: bool
  asked: frozenset[str] = frozenset()
  values: flags.FlagValues | None = dataclasses.field(default=None, compare=False)


def parse(
  argv: Sequence[str],
  description: str,
  presets: all_presets.Presets,
  switches: Mapping[str, str] = types.MappingProxyType({}),
  define_flags: Callable[[flags.FlagValues], None] = lambda values: None,
) -> tuple[Any, Options]:
  """Parses a training program's command line.

  A config starts from its preset (by name, or the one for --env), or with --resume from the run's
  own config; flags override it.

  Args:
    argv: `sys.argv`.
    description: Shown by --help, before the flags.
    presets: The system's configs.
    switches: The config's boolean fields that have a flag of their own, `--NAME`, with its help.
    define_flags: Defines further flags.

  Returns:
    The config and the options.

  Raises:
    UserError: For anything that cannot be understood.
  """

  def new_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    _define_common(values, presets)
    for name, help_text in switches.items():
      flags.DEFINE_boolean(name, None, help_text, flag_values=values)
    define_flags(values)
    return values

  # Twice: the first time for the config to start from, whose fields then are flags themselves.
  first = new_flags()
  _parse(first, argv, description, known_only=True)
  config = _initial_config(first, presets)
  values = new_flags()
  _define_config(values, config, argv)
  rest = _parse(values, argv, description)
  if rest:
    raise errors.UserError(
      f'unexpected argument {rest[0]!r}: flags are written --NAME=VALUE. See --help.'
    )

  config = values.config
  names = [_name(argument) for argument in argv[1:]]
  asked = {name.removeprefix('config.') for name in names if name.startswith('config.')}
  for name in ('env', 'tasks', 'total_frames', 'seed', *switches):
    value = getattr(values, name)
    if value is not None:
      setattr(config, name, value)
      asked.add(name)
  if values.preset or values.env:
    asked = {field.name for field in dataclasses.fields(config)}
  config.check()
  options = Options(
    run_dir=pathlib.Path(values.run_dir or run_folder.default_path(config.env)),
    resume=values.resume,
    asked=frozenset(asked),
    values=values,
  )
  return config, options


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Calls `main(sys.argv)`. A user's mistake is shown as one message, and exits with status 2."""
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

  def handleError(self, record: logging.LogRecord) -> None:
    if isinstance(sys.exception(), BrokenPipeError):
      raise
    super().handleError(record)


def import_tensorflow(intra_op_threads: int = 0) -> None:
  """Imports TensorFlow without its notes on CPU and GPU.

  No setting keeps them off the terminal: they are written straight to file descriptor 2. So that is
  a file meanwhile, whose text is shown if the import fails.

  Args:
    intra_op_threads: The most threads that share one operation; 0 for TensorFlow's choice.
  """
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  if intra_op_threads:
    os.environ.setdefault('TF_NUM_INTRAOP_THREADS', str(intra_op_threads))
  # TensorFlow warns of retracing, though several actors trace several graphs on purpose.
  logging.getLogger('tensorflow').setLevel(logging.ERROR)
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
  """Parses a command line into flags that the caller defined; returns the other arguments.

  Raises:
    UserError: For anything that cannot be understood.
  """
  return _parse(values, argv, description)


def _initial_config(values: flags.FlagValues, presets: all_presets.Presets) -> Any:
  """The config before flags override it."""
  if not values.resume:
    return presets.preset(values.preset or presets.preset_for(values.env or ''))
  if not values.run_dir:
    raise errors.UserError('--resume needs the folder of the run to go on with: --run_dir=DIR')
  if values.preset:
    raise errors.UserError(
      '--resume goes on with the settings of the run: leave out --preset, or start a new run'
    )
  return presets.from_json(run_folder.load_config(pathlib.Path(values.run_dir)))


def _name(argument: str) -> str:
  """The name in `--NAME=VALUE`."""
  return argument.lstrip('-').partition('=')[0]


def _define_common(values: flags.FlagValues, presets: all_presets.Presets) -> None:
  draws = 'NAME:N takes combination N of the hyperparameters. ' if presets.draws else ''
  flags.DEFINE_string(
    'preset',
    None,
    f'Settings to start from: {", ".join(presets.rows)}. {draws}'
    'Without it, those for the environment.',
    flag_values=values,
  )
  flags.DEFINE_string('env', None, 'The environment, see above.', flag_values=values)
  flags.DEFINE_string(
    'tasks',
    None,
    'The tasks to take of an environment with many: A,B,C.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'run_dir', None, "The run's folder; runs/ENV-DATE-TIME by default.", flag_values=values
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
    'Seeds networks, environments and sampling. The order in which threads run is not seeded, so '
    'two runs still differ.',
    flag_values=values,
  )
  flags.DEFINE_boolean('resume', False, 'Go on with the run in --run_dir.', flag_values=values)


def _define_config(values: flags.FlagValues, config: Any, argv: Sequence[str]) -> None:
  """Defines --config.FIELD for every field; the config's own values are the defaults."""
  fields = {field.name for field in dataclasses.fields(config)}
  for argument in argv[1:]:
    prefix, _, field = _name(argument).partition('.')
    if prefix == 'config' and field and field not in fields:
      raise errors.unknown('config field', field, fields)
  try:
    config_flags.DEFINE_config_dataclass(
      'config',
      config,
      'Any setting: --config.FIELD=VALUE.',
      flag_values=values,
      sys_argv=list(argv),
    )
  except _PARSE_ERRORS as error:
    raise _not_understood(error) from error


def _parse(
  values: flags.FlagValues, argv: Sequence[str], description: str, known_only: bool = False
) -> list[str]:
  """Parses into `values`; returns the arguments that are no flags."""
  if not known_only and any(argument in _HELP for argument in argv[1:]):
    print(f'{description.strip()}\n\nFlags:\n{values.get_help()}')
    sys.exit(0)
  try:
    return values(list(argv), known_only=known_only)[1:]
  except flags.UnrecognizedFlagError as error:
    near = difflib.get_close_matches(error.flagname, list(values), n=1)
    hint = f'Did you mean --{near[0]}?' if near else 'See --help.'
    raise errors.UserError(f'unknown flag --{error.flagname}. {hint}') from error
  except _PARSE_ERRORS as error:
    raise _not_understood(error) from error


def _not_understood(error: Exception) -> errors.UserError:
  return errors.UserError(f'the command line cannot be understood: {error} See --help.')
