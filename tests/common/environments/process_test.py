"""Environments in a child process: the same as in this one, and an end that leaves nothing."""

import functools
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import gymnasium
import numpy as np
import pytest

from common.environments import control, process, suite
from scripts import processes

TASKS = ('cartpole-swingup',) * 3
STEPS = 1100  # An episode has 1,000.
SLOW = 5  # A seed whose reset takes a while.


class Moody(gymnasium.Env):
  """Does what its action says: 0 goes on, 1 crashes, 2 has a bug, 3 ends the process, 4 hangs."""

  observation_space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)}
  )
  action_space = gymnasium.spaces.Discrete(5)

  def reset(self, *, seed=None, options=None):
    if seed == SLOW:
      time.sleep(1.5)
    self._steps = np.zeros(1, np.float32)
    return {'observation': self._steps}, {}

  def step(self, action):
    if action == 1:
      raise suite.EnvironmentCrashed('an engine has died')
    if action == 3:
      os._exit(7)
    if action == 4:
      time.sleep(100.0)
    self._steps = self._steps + 1 // int(action != 2)
    return {'observation': self._steps}, 0.0, False, False, {}


def moody():
  return process.one_by_one([Moody], ['moody'])


def impossible():
  raise FileNotFoundError('no such engine')


@pytest.fixture
def environment():
  made = process.ProcessVectorEnv(moody, 600.0)
  yield made
  made.close()


def pids(environment) -> set[int]:
  """The child processes that run this environment."""
  return processes.children() & {environment._worker.pid}


def count(environment) -> float:
  """Steps since the reset, after one more."""
  return float(environment.step(np.array([0]))[0]['observation'][0, 0])


def test_it_is_the_environment_that_it_runs():
  apart = process.ProcessVectorEnv(functools.partial(control.together, TASKS), 600.0)
  here = control.together(TASKS)
  assert (apart.num_envs, apart.metadata) == (here.num_envs, here.metadata)
  for space in (
    'observation_space',
    'action_space',
    'single_observation_space',
    'single_action_space',
  ):
    assert getattr(apart, space) == getattr(here, space)
  actions = np.random.default_rng(0).uniform(-1.0, 1.0, (STEPS, 3, 1)).astype(np.float32)
  answers = []
  for environment in (apart, here):
    seen = [environment.reset(seed=3)[0]['observation'].copy()]
    ends = []
    for action in actions:
      observation, *arrays, info = environment.step(action)
      truncated = arrays[-1]
      columns = [array[:, np.newaxis] for array in arrays]
      seen.append(np.concatenate([observation['observation'], *columns], axis=1))
      if truncated.any():
        ends.append(suite.final_observations(info, np.arange(3))['observation'])
    answers.append((*seen, *ends))
    assert len(ends) == 1
    environment.close()
  for one, other in zip(*answers, strict=True):
    np.testing.assert_array_equal(one, other)


def test_a_crash_of_the_engine_is_raised_and_a_reset_goes_on(environment):
  environment.reset(seed=1)
  assert count(environment) == 1.0
  with pytest.raises(suite.EnvironmentCrashed, match='an engine has died'):
    environment.step(np.array([1]))
  environment.reset(seed=1)
  assert count(environment) == 1.0


def test_a_bug_is_raised_with_its_stack_trace(environment):
  environment.reset(seed=1)
  with pytest.raises(RuntimeError, match='(?s)in step.*ZeroDivisionError'):
    environment.step(np.array([2]))
  before = processes.children(), len(os.listdir('/proc/self/fd'))
  with pytest.raises(RuntimeError, match='(?s)in impossible.*no such engine'):
    process.ProcessVectorEnv(impossible, 600.0)
  assert (processes.children(), len(os.listdir('/proc/self/fd'))) == before


@pytest.mark.parametrize('end', ['itself', 'killed'])
def test_a_process_that_ends_is_a_crash_and_a_reset_starts_another(environment, end):
  environment.reset(seed=1)
  (first,) = pids(environment)
  if end == 'killed':
    os.kill(first, signal.SIGKILL)
  how = r'was killed by SIGKILL \(9\)' if end == 'killed' else 'has ended with status 7'
  with pytest.raises(suite.EnvironmentCrashed, match=f'environments: the process {how}'):
    environment.step(np.array([3]))
  environment.reset(seed=1)
  assert count(environment) == 1.0
  (second,) = pids(environment)
  assert second != first


def test_a_process_that_hangs_is_a_crash_and_a_reset_starts_another(environment):
  environment.reset(seed=1)
  (first,) = pids(environment)
  environment._timeout = 0.5
  said = r'not answered for 0.5 s and was ended: it was stepping environment 0 \(moody\)'
  with pytest.raises(suite.EnvironmentCrashed, match=said):
    environment.step(np.array([4]))
  assert not processes.is_alive(first)
  environment._timeout = 600.0
  environment.reset(seed=1)
  assert count(environment) == 1.0


def test_a_reset_may_take_longer_than_a_step(environment):
  environment._timeout = 1.0
  environment.reset(seed=SLOW)
  assert count(environment) == 1.0
  environment._timeout = 0.3
  with pytest.raises(suite.EnvironmentCrashed, match='not answered for 0.9 s'):
    environment.reset(seed=SLOW)


def test_it_says_what_it_waits_for(environment):
  environment.reset(seed=1)
  said = []

  def step():
    with pytest.raises(suite.EnvironmentCrashed):
      environment.step(np.array([4]))

  stepping = threading.Thread(target=step)
  stepping.start()

  def has_begun():
    said.append(suite.awaited(environment))
    return said[-1] == 'stepping environment 0 (moody)'

  assert processes.becomes_true(has_begun)
  assert said[0] in ('resetting environment 0 (moody)', 'stepping environment 0 (moody)')
  environment._worker.kill()
  stepping.join()


def test_closing_ends_the_process_and_may_be_done_again(environment):
  environment.reset(seed=1)
  assert len(pids(environment)) == 1
  environment.close()
  assert not pids(environment)
  environment.close()


def test_it_does_not_hear_ctrl_c(environment):
  environment.reset(seed=1)
  (child,) = pids(environment)
  # A terminal's interrupt goes to the session in its foreground.
  assert os.getsid(child) == child != os.getsid(0)
  assert count(environment) == 1.0


def test_it_ends_with_a_process_that_is_killed():
  program = """
from common.environments import process
from tests.common.environments import process_test
environment = process.ProcessVectorEnv(process_test.moody, 600.0)
environment.reset()
print(environment._worker.pid, flush=True)
environment.step([0])
input()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=pathlib.Path(__file__).parents[3],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as parent:
    child = int(parent.stdout.readline())
    assert processes.is_alive(child)
    parent.kill()
  assert processes.becomes_true(lambda: not processes.is_alive(child))
