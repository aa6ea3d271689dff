"""A run's folder: its config, and that no two runs or processes use it at once."""

import dataclasses
import fcntl
import json
import logging
import os
import pathlib
import socket
import time
from typing import Any, Mapping

from common import errors
from common.machine import files


def default_path(env: str) -> pathlib.Path:
  """The folder of a run that names none: `runs/ENV-DATE-TIME`."""
  # Names of environments may hold colons and slashes, as in gym:ALE/Pong-v5.
  name = env.replace(':', '-').replace('/', '-')
  return pathlib.Path('runs', f'{name}-{time.strftime("%Y%m%d-%H%M%S")}')


class Lock:
  """Reserves a run's folder for this process until `release`, or until the process ends.

  Two processes that train the run in one folder would delete each other's files.
  """

  def __init__(self, folder: pathlib.Path):
    """Takes the lock.

    Raises:
      UserError: If another process has it, which is named.
    """
    try:
      # Opened for appending: a process that is refused must not empty the file.
      self._file = open(folder / 'lock', 'a+')
    except OSError as error:
      raise _not_writable(folder, error) from error
    try:
      fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
      self._file.seek(0)
      holder = self._file.read().strip() or 'another process'
      self._file.close()
      raise errors.UserError(
        f'{folder} is in use by {holder}. Wait until it ends, or give another --run_dir.'
      ) from error
    except OSError as error:
      logging.warning('%s cannot be locked (%s): start no second run in it.', folder, error)
    self._file.truncate(0)
    self._file.write(f'process {os.getpid()} on {socket.gethostname()}\n')
    self._file.flush()

  def release(self) -> None:
    """Lets another process use the folder."""
    self._file.close()


def create(path: pathlib.Path, config: Any, is_named: bool = True) -> tuple[pathlib.Path, Lock]:
  """Makes a new run's folder, locks it and writes the run's config.

  Args:
    path: The folder, which may exist if there is no run in it.
    config: The run's settings, a dataclass.
    is_named: Whether the user named the folder. If not, and it exists, a number is added: runs may
      begin in the same second.

  Returns:
    The folder, and its lock.

  Raises:
    UserError: If the folder already holds a run or cannot be written, or if another process uses
      it.
  """
  if (path / 'config.json').exists() and is_named:
    raise _holds_a_run(path)
  try:
    if is_named:
      path.mkdir(parents=True, exist_ok=True)
    else:
      path = _make_numbered(path)
    lock = Lock(path)
    # Again: another process may have made its run between the first look and the lock.
    if (path / 'config.json').exists():
      lock.release()
      raise _holds_a_run(path)
    save_config(path, config)
  except OSError as error:
    raise _not_writable(path, error) from error
  return path, lock


def _not_writable(path: pathlib.Path, error: OSError) -> errors.UserError:
  return errors.UserError(
    f'the run folder {path} cannot be written: {error}. Give another --run_dir.'
  )


def _holds_a_run(path: pathlib.Path) -> errors.UserError:
  return errors.UserError(
    f'{path} holds a run already. Resume it with --run_dir={path} --resume, '
    'or give another --run_dir.'
  )


def _make_numbered(path: pathlib.Path) -> pathlib.Path:
  """Makes a folder that did not exist: `path`, or `path-2`, `path-3`, ..."""
  folder = path
  number = 1
  while True:
    try:
      folder.mkdir(parents=True)
      return folder
    except FileExistsError:
      number += 1
      folder = path.with_name(f'{path.name}-{number}')


def save_config(path: pathlib.Path, config: Any) -> None:
  """Writes a run's settings to its folder, over those that are there."""
  with files.replacing(path / 'config.json') as file:
    json.dump({'system': config.SYSTEM, **dataclasses.asdict(config)}, file, indent=1)


def load_config(path: pathlib.Path, system: str = '') -> Mapping[str, Any]:
  """Reads the settings of the run in a folder.

  Args:
    path: The run's folder.
    system: The name of the system whose run it must be; any if empty.

  Raises:
    UserError: If there is no run, it is another system's, or its config cannot be read.
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
  # Older runs do not name their system.
  found = config.get('system') or system
  if system and found != system:
    raise errors.UserError(
      f'{path} is a run of {found}, not of {system}: use python -m {found}.train or python -m '
      f'{found}.evaluate.'
    )
  return config
