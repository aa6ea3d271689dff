"""A run's folder: its config, and the check that no run overwrites another."""

import dataclasses
import json
import pathlib
import time
from typing import Any, Mapping

from common import errors
from common.machine import files


def default_path(env: str) -> pathlib.Path:
  """The folder of a run that names none: `runs/ENV-DATE-TIME`."""
  # Names of environments may hold colons and slashes, as in gym:ALE/Pong-v5.
  name = env.replace(':', '-').replace('/', '-')
  return pathlib.Path('runs', f'{name}-{time.strftime("%Y%m%d-%H%M%S")}')


def create(path: pathlib.Path, config: Any) -> None:
  """Makes a new run's folder and writes its config.

  Args:
    path: The folder, which may exist if there is no run in it.
    config: The run's settings, a dataclass.

  Raises:
    UserError: If the folder already holds a run or cannot be written.
  """
  if (path / 'config.json').exists():
    raise errors.UserError(
      f'{path} holds a run already. Resume it with --run_dir={path} --resume, '
      'or give another --run_dir.'
    )
  try:
    path.mkdir(parents=True, exist_ok=True)
    save_config(path, config)
  except OSError as error:
    raise errors.UserError(
      f'the run folder {path} cannot be written: {error}. Give another --run_dir.'
    ) from error


def save_config(path: pathlib.Path, config: Any) -> None:
  """Writes a run's settings to its folder, over those that are there."""
  with files.replacing(path / 'config.json') as file:
    json.dump(dataclasses.asdict(config), file, indent=1)


def load_config(path: pathlib.Path) -> Mapping[str, Any]:
  """Reads the settings of the run in a folder.

  Raises:
    UserError: If there is no run, or its config cannot be read.
  """
  try:
    config = json.loads((path / 'config.json').read_text())
  except OSError as error:
    raise errors.UserError(
      f'{path} is not the folder of a run: it has no readable config.json ({error.strerror}).'
    ) from error
  # Text that is not JSON, or bytes that are not UTF-8.
  except ValueError as error:
    raise errors.UserError(f'{path}/config.json is damaged: {error}') from error
  if not isinstance(config, dict):
    raise errors.UserError(
      f'{path}/config.json is damaged: expected settings by name, found {config!r:.60}'
    )
  return config
