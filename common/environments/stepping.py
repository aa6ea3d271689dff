"""Whether environments in Python step in this process or in processes of their own.

Python runs one thread at a time: environments that take long would have the actors, and the
learner, wait for each other. Those that take no time are faster without a process between.
"""

import contextlib
import functools
import logging
import os
import pathlib
import pickle
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium

from common import errors
from common.environments import making
from common.machine import workers

CHOICES = ('auto', 'always', 'never')
_CHEAP = 0.0005  # Seconds a step; a process takes about a fifth of that to call.
_STEPS = 20
_SECONDS = 1.0  # The steps end after this time, or with the episode.
_PATIENCE = 20.0  # For making, resetting and stepping: an environment may hang.

_lock = threading.Lock()
_known: dict[tuple[making.Recipe, object], 'Measured'] = {}


class Measured(NamedTuple):
  """What is found out about an environment.

  Attributes:
    seconds: Of the fastest step, as others may wait for the machine; infinite if it hangs or dies.
    has_processes: Whether it starts processes of its own.
    memory: Bytes of the process that it steps in, and of its own ones, which they share with no
      other; 0 if it hangs or dies.
  """

  seconds: float
  has_processes: bool
  memory: int = 0


def in_processes(recipe: making.Recipe, choice: str, make_one: Callable[[], gymnasium.Env]) -> bool:
  """Whether each environment of a recipe steps in a process of its own.

  Args:
    recipe: The environment.
    choice: One of `CHOICES`; 'auto' measures it, once in this process.
    make_one: Makes one.
  """
  if choice == 'never' or making.given(recipe.name) or not _is_picklable(make_one):
    return False
  if choice == 'always':
    return True
  if _is_surely_cheap(recipe):
    return False
  with _lock:  # Actors make their environments at the same time.
    measured = _measured(recipe, make_one)
  # An engine that is a process must not be forked from one with TensorFlow's threads: see
  # `process`.
  return measured.has_processes or measured.seconds > _CHEAP


def memory(recipe: making.Recipe, choice: str, make_one: Callable[[], gymnasium.Env]) -> int:
  """Bytes that the process of each environment takes; 0 if none has one, or if it cannot run.

  Args:
    recipe: The environment.
    choice: One of `CHOICES`.
    make_one: Makes one.
  """
  if not in_processes(recipe, choice, make_one):
    return 0
  with _lock:
    return _measured(recipe, make_one).memory


def _measured(recipe: making.Recipe, make_one: Callable[[], gymnasium.Env]) -> Measured:
  """Measures an environment once, in a process that may hang or die."""
  key = (recipe, making.source(recipe.name))
  if key in _known:
    return _known[key]
  worker = workers.Worker(functools.partial(_Steps, make_one))
  killer = threading.Timer(_PATIENCE, worker.kill)
  killer.start()
  try:
    worker.receive()
    measured = worker.call('measure')
  except workers.WorkerDied:
    measured = Measured(float('inf'), False)
  except errors.UserError:
    # It was registered by this process only, or it is at fault: that shows here soon enough.
    measured = Measured(0.0, False)
  finally:
    killer.cancel()
    killer.join()
    worker.close()
  if measured.has_processes or measured.seconds > _CHEAP:
    logging.info(
      '%s takes %.1f ms a step: each environment steps in a process of its own. '
      '--config.env_processes=never keeps them in one.',
      recipe.name,
      1000 * measured.seconds,
    )
  _known[key] = measured
  return measured


class _Steps:
  """Steps one environment, in a child process."""

  def __init__(self, make_one: Callable[[], gymnasium.Env]):
    self._env = make_one()
    self._env.reset(seed=0)

  def measure(self) -> Measured:
    self._env.action_space.seed(0)
    seconds: list[float] = []
    end = time.perf_counter() + _SECONDS
    while len(seconds) < _STEPS and (not seconds or time.perf_counter() < end):
      action: Any = self._env.action_space.sample()
      start = time.perf_counter()
      *_, terminated, truncated, _ = self._env.step(action)
      seconds.append(time.perf_counter() - start)
      if terminated or truncated:
        self._env.reset()
    pids = _family()
    return Measured(min(seconds), len(pids) > 1, sum(map(_own_memory, pids)))

  def close(self) -> None:
    self._env.close()


def _family() -> list[int]:
  """This process, its children, and theirs."""
  pids = [os.getpid()]
  for pid in pids:  # Which grows meanwhile.
    for children in pathlib.Path(f'/proc/{pid}/task').glob('*/children'):
      with contextlib.suppress(OSError):  # It has ended.
        pids += map(int, children.read_text().split())
  return pids


def _own_memory(pid: int) -> int:
  """Bytes in use by a process that are not those of files or shared; 0 if it has ended."""
  with contextlib.suppress(OSError):
    _, resident, shared, *_ = pathlib.Path(f'/proc/{pid}/statm').read_text().split()
    return (int(resident) - int(shared)) * os.sysconf('SC_PAGE_SIZE')
  return 0


def _is_surely_cheap(recipe: making.Recipe) -> bool:
  """Whether it is one of gymnasium's smallest, bare: measuring would take longer than they do."""
  registered = gymnasium.registry.get(recipe.name.removeprefix(f'{making.GYM}:'))
  if not registered or recipe.wrappers:
    return False
  return str(registered.entry_point).startswith(
    ('gymnasium.envs.classic_control', 'gymnasium.envs.toy_text')
  )


def _is_picklable(make_one: Callable[[], gymnasium.Env]) -> bool:
  try:
    pickle.dumps(make_one)
  except (pickle.PicklingError, AttributeError, TypeError):
    return False
  return True
