"""Messages about packages that are missing, with the command that installs them."""

import os
import re
import sys

from common import errors

# Import name -> what pip calls it, where they differ.
_NAMES = {
  'Box2D': 'box2d',
  'cv2': 'opencv-python-headless',
  'PIL': 'pillow',
  'yaml': 'pyyaml',
  'gymnasium_robotics': 'gymnasium-robotics',
  'highway_env': 'highway-env',
  'flappy_bird_gymnasium': 'flappy-bird-gymnasium',
  'ale_py': 'ale-py',
  # What it depends on is 600 MB of files for games that other packages have.
  'envpool': '--no-deps envpool==1.2.5',
}


def missing(name: str, error: Exception) -> errors.UserError:
  """The error for an environment whose package cannot be imported.

  Args:
    name: The environment, the value of `--env`.
    error: Python's, or gymnasium's `DependencyNotInstalled`.
  """
  package = getattr(error, 'name', None)
  what = f'the package {package!r}' if package else 'a package'
  return errors.UserError(
    f'{name} needs {what}, which cannot be imported ({error}). Install it: {_command(error)}'
  )


def pip() -> str:
  """The pip of the environment that runs, as typed in this folder."""
  path = os.path.join(sys.prefix, 'bin', 'pip')
  near = os.path.relpath(path)
  return path if near.startswith('..') else near


def install(module: str) -> str:
  """The command that installs the package of a module."""
  top = module.partition('.')[0]
  return f'{pip()} install {_NAMES.get(top, top)}'


def _command(error: Exception) -> str:
  """The command that installs what an error misses."""
  # gymnasium's own errors say what to install, each between backquotes.
  advice = re.findall(r'`pip install ([^`]+)`', str(error))
  if advice:
    return f'{pip()} install {" ".join(advice)}'
  return install(getattr(error, 'name', None) or 'PACKAGE')
