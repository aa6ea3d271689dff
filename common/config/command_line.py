"""The command line of the training programs; the start and exit of every program.

Flags: --preset, --env, --env_kwargs, --wrappers, --tasks, --run_dir, --total_frames, --seed,
--resume, --config.FIELD.
"""

import dataclasses
import difflib
import errno
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

from common import environments, errors
from common.config import presets as all_presets
from common.config import run_folder
from common.machine import chart_cache, exits, files

# Settings that have a flag of their own, without --config.
_NAMED = ('env', 'env_kwargs', 'wrappers', 'tasks', 'total_frames', 'seed')
_HELP = ('-h', '--help', '-help')
# Of files and folders that a user has named or owns.
_ERRORS_OF_USERS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
# Errors of absl and ml_collections for flags that they cannot parse.
_PARSE_ERRORS = (flags.Error, AttributeError, TypeError, ValueError, KeyError)


@dataclasses.dataclass(frozen=True)
class Options:
  """Everything on the command line that is not part of the config.

  Attributes:
    run_dir: The run's folder.
    resume: Whether to resume the run in that folder.
    asked: The settings named on the command line; all settings if it names a preset.
    values: All flags, including those that the caller defined.
  """

  run_dir: pathlib.Path
  resume: bool
  is_named: bool = True
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

  The config starts from a preset, either --preset or the one for --env; with --resume, from the
  config of the run. Flags override it.

  Args:
    argv: `sys.argv`.
    description: Shown by --help, before the flags.
    presets: The system's configs.
    switches: Boolean fields of the config that get a flag of their own, `--FIELD`, by name; the
      values are the flags' help texts.
    define_flags: Defines further flags.

  Returns:
    The config and the options.

  Raises:
    UserError: If the command line cannot be parsed, or a setting cannot work.
  """

  def new_flags() -> flags.FlagValues:
    values = flags.FlagValues()
    _define_common(values, presets)
    for name, help_text in switches.items():
      # None if not given: the config's value then stays.
      flags.DEFINE_boolean(name, None, help_text, flag_values=values)
    define_flags(values)
    return values

  # Parsed twice: first to find the config to start from, then with a flag for each of its fields.
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
  for name in (*_NAMED, *switches):
    value = getattr(values, name)
    if value is not None:
      setattr(config, name, value)
      asked.add(name)
  # An actor that names a preset must agree with its learner on all settings.
  if values.preset:
    asked = {field.name for field in dataclasses.fields(config)}
  config.check()
  options = Options(
    run_dir=pathlib.Path(values.run_dir or run_folder.default_path(config.env)),
    resume=values.resume,
    is_named=bool(values.run_dir),
    asked=frozenset(asked),
    values=values,
  )
  return config, options


def run(main: Callable[[Sequence[str]], int | None]) -> None:
  """Runs `main(sys.argv)` and exits with its status; 2 after a UserError, which is printed.

  So are errors of files and folders that may not be read or written, or have no room.
  """
  show_log()
  exits.leave(_status_of(main))


def _status_of(main: Callable[[Sequence[str]], int | None]) -> int:
  """The exit status of a program, whose errors are printed."""
  try:
    if not any(argument in _HELP for argument in sys.argv[1:]):
      files.expect_temporary_folder()
    return main(sys.argv) or 0
  except KeyboardInterrupt:
    # A shell's status for SIGINT, 128 + 2.
    return 130
  except errors.UserError as error:
    print(f'error: {error}', *getattr(error, '__notes__', ()), sep='\n', file=sys.stderr)
    return 2
  except BrokenPipeError:
    # The reader of our output (`| head`) is gone. Python flushes stdout once more at exit, which
    # must not fail again.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    if error.errno in _ERRORS_OF_USERS and error.filename is not None:
      print(f'error: {error.filename} cannot be used: {error.strerror}', file=sys.stderr)
      return 2
    return _crashed(error)
  except Exception as error:
    return _crashed(error)


def _crashed(error: Exception) -> int:
  """Shows an error that is nobody's mistake but ours, with its stack trace."""
  sys.excepthook(type(error), error, error.__traceback__)
  return 1


def show_log() -> None:
  """Prints what is logged, unless the program logs in its own way."""
  logging.basicConfig(level=logging.INFO, format='%(message)s', handlers=[_Terminal(sys.stdout)])
  logging.getLogger('absl').setLevel(logging.WARNING)


class _Terminal(logging.StreamHandler):
  """Lets a closed pipe end the program, where logging would print a stack trace for each line."""

  def handleError(self, record: logging.LogRecord) -> None:
    if isinstance(sys.exception(), BrokenPipeError):
      raise
    super().handleError(record)


def import_tensorflow(intra_op_threads: int = 0) -> None:
  """Imports TensorFlow without its messages about CPU and GPU, with its oneDNN kernels on.

  No setting silences the messages, since they are written directly to file descriptor 2. During the
  import that is a temporary file, whose text is shown if the import fails.

  Args:
    intra_op_threads: Threads that share one operation; 0 for TensorFlow's choice.
  """
  chart_cache.prepare()
  # The user's own settings of the environment win.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '3')
  # By itself, TensorFlow turns oneDNN on only where a processor has AVX512-VNNI or AMX. With AVX2,
  # it makes a learner with convolutions 1.7 times as fast: see docs/speed.md.
  os.environ.setdefault('TF_ENABLE_ONEDNN_OPTS', '1')
  if intra_op_threads:
    os.environ.setdefault('TF_NUM_INTRAOP_THREADS', str(intra_op_threads))
  # TensorFlow warns about retracing, but several actors trace several graphs on purpose.
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
  """Parses a command line into flags that the caller defined.

  Returns:
    The arguments that are not flags.

  Raises:
    UserError: If the command line cannot be parsed.
  """
  return _parse(values, argv, description)


def _initial_config(values: flags.FlagValues, presets: all_presets.Presets) -> Any:
  """The config before flags override it."""
  if not values.resume:
    options = environments.Options(
      env_kwargs=values.env_kwargs or '', wrappers=values.wrappers or ''
    )
    return presets.preset(values.preset or presets.preset_for(values.env or '', options))
  if not values.run_dir:
    raise errors.UserError('--resume needs the folder of the run to resume: --run_dir=DIR')
  if values.preset:
    raise errors.UserError(
      '--resume uses the settings of the run: leave out --preset, or start a new run'
    )
  saved = run_folder.load_config(pathlib.Path(values.run_dir), presets.config.SYSTEM)
  return presets.from_json(saved)


def _name(argument: str) -> str:
  """The name in `--NAME=VALUE`."""
  return argument.lstrip('-').partition('=')[0]


def _define_common(values: flags.FlagValues, presets: all_presets.Presets) -> None:
  draws = 'NAME:N takes combination N of the hyperparameters. ' if presets.draws else ''
  flags.DEFINE_string(
    'preset',
    None,
    f'Settings to start from: {", ".join(presets.rows)}. {draws}'
    'Default: the preset for the environment.',
    flag_values=values,
  )
  flags.DEFINE_string('env', None, 'The environment, see above.', flag_values=values)
  flags.DEFINE_string(
    'env_kwargs',
    None,
    "Arguments of a gym: environment's constructor: NAME=VALUE,NAME=VALUE.",
    flag_values=values,
  )
  flags.DEFINE_string(
    'wrappers',
    None,
    'What wraps a gym: environment, the innermost first: MODULE:NAME,MODULE:NAME.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'tasks',
    None,
    'Tasks to use of an environment that has several: A,B,C. Default: all.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'run_dir', None, "The run's folder. Default: runs/ENV-DATE-TIME.", flag_values=values
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
    'Seed of networks, environments and sampling. Two runs with the same seed still differ, since '
    'the order in which threads run is not seeded.',
    flag_values=values,
  )
  flags.DEFINE_boolean('resume', False, 'Resume the run in --run_dir.', flag_values=values)


def _define_config(values: flags.FlagValues, config: Any, argv: Sequence[str]) -> None:
  """Defines --config.FIELD for every field; the config's own values are the defaults."""
  fields = {field.name for field in dataclasses.fields(config)}
  # Checked here, because ml_collections does not suggest the field that was meant.
  for argument in argv[1:]:
    name = _name(argument)
    field = name.removeprefix('config.')
    if name.startswith('config.') and field not in fields:
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
  """Parses into `values`, or shows the help and exits; returns the arguments that are not flags."""
  # The help must list the config's fields, which only the second parse knows.
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
