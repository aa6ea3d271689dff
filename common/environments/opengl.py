"""OpenGL for MuJoCo's pictures, which need no display."""

import os
import subprocess
import sys

import gymnasium

from common import errors

_VARIABLE = 'MUJOCO_GL'  # Read by gymnasium's environments and by dm_control.
_OFF = 'disable'
# The libraries that draw: by a GPU or Mesa, by the processor alone, into a window.
_LIBRARIES = ('egl', 'osmesa', 'glfw')
_SECONDS = 60.0


def is_needed(env: gymnasium.Env) -> bool:
  """Whether an environment is drawn by MuJoCo."""
  kinds = type(env.unwrapped).__mro__
  return any('mujoco' in f'{kind.__module__}.{kind.__name__}'.lower() for kind in kinds)


def choose(name: str) -> None:
  """Chooses the first library that works, for this process and those that it starts.

  One that the user has chosen by MUJOCO_GL stays.

  Args:
    name: The environment, the value of `--env`.

  Raises:
    UserError: If none works.
  """
  if os.environ.get(_VARIABLE, _OFF) != _OFF:
    return
  reasons = []
  for library in _LIBRARIES:
    reason = _fault(library)
    if not reason:
      os.environ[_VARIABLE] = library
      return
    reasons.append(f'{library}: {reason}')
  raise errors.UserError(
    f'{name} cannot be filmed: MuJoCo draws with OpenGL, which does not work here '
    f'({"; ".join(reasons)}). Install Mesa, on Debian by apt-get install libegl1 libegl-mesa0, or '
    'leave out --video'
  )


def _fault(library: str) -> str:
  """Why a library cannot be used; '' if it can."""
  # In a process of its own: what fails is remembered by PyOpenGL, and may end its process.
  program = (
    f'import mujoco.{library} as library; context = library.GLContext(16, 16); '
    'context.make_current(); context.free()'
  )
  variables = {key: value for key, value in os.environ.items() if key != _VARIABLE}
  try:
    tried = subprocess.run(
      [sys.executable, '-c', program],
      capture_output=True,
      text=True,
      timeout=_SECONDS,
      env={**variables, 'CUDA_VISIBLE_DEVICES': ''},
    )
  except subprocess.TimeoutExpired:
    return f'no answer in {_SECONDS:g} s'
  if not tried.returncode:
    return ''
  lines = tried.stderr.strip().splitlines() or [f'exit status {tried.returncode}']
  return lines[-1][:200]
