"""A run's folder: its config, and that no run writes over another."""

import dataclasses
import json
import pathlib
import time
from typing import Any, Mapping

from common import errors
from common.machine import files


def default_path(env: str) -> pathlib.Path:
  """`runs/ENV-DATE-TIME`."""
  return pathlib.Path(
    'runs', f'{env.replace(":", "-").replace("/", "-")}-{time.strftime("%Y%m%d-%H%M%S")}'
  )


def create(path: pathlib.Path, config: Any) -> None:
  """Makes the folder and writes the resolved config.

  Raises:
    UserError: if a run is there already, or the folder cannot be made.
  """
  if (path / 'config.json').exists():
    raise errors.UserError(
      f'{path} holds a run already. Go on with it: --run_dir={path} --resume; '
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
  with files.replacing(path / 'config.json') as file:
    json.dump(dataclasses.asdict(config), file, indent=1)


def load_config(path: pathlib.Path) -> Mapping[str, Any]:
  """The settings of the run in a folder.

  Raises:
    UserError: if there is none, or its config cannot be read.
  """
  try:
    config = json.loads((path / 'config.json').read_text())
  except OSError as error:
    raise errors.UserError(
      f'{path} is not the folder of a run: it has no readable config.json ({error.strerror}).'
    ) from error
  except ValueError as error:
    raise errors.UserError(f'{path}/config.json is damaged: {error}') from error
  if not isinstance(config, dict):
    raise errors.UserError(
      f'{path}/config.json is damaged: expected settings by name, found {config!r:.60}'
    )
  return config
