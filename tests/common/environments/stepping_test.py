"""Heavy environments step in processes, light ones here; both play the same episodes."""

import contextlib
import os
import subprocess
import time

import gymnasium
import numpy as np
import pytest

from common import environments
from common.config import settings
from common.environments import inline, parallel, stepping
from scripts import processes

LIGHT = 'gym:MountainCar-v0'
MODULE = __name__


class Walk(gymnasium.Env):
  """A random walk of pixels and words, which ends after some steps."""

  observation_space = gymnasium.spaces.Dict(
    place=gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64),
    picture=gymnasium.spaces.Box(0, 255, (9, 8, 3), np.uint8),
    order=gymnasium.spaces.Text(10),
  )
  action_space = gymnasium.spaces.MultiDiscrete([3, 2], start=[-1, 1])
  seconds = 0.0

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._place = self.np_random.normal(size=2)
    self._steps = 0
    return self._observe(), {'game_over': True}

  def step(self, action):
    assert action in self.action_space
    if self.seconds:
      time.sleep(self.seconds)
    self._place += action * self.np_random.uniform(size=2)
    self._steps += 1
    return self._observe(), self._place[0], self._steps == 9, self._place[1] > 3, {}

  def _observe(self):
    picture = np.full((9, 8, 3), self._steps, np.uint8)
    return {'place': self._place, 'picture': picture, 'order': f'go {self._steps}'}


class Heavy(Walk):
  seconds = 0.002


class Hanging(Walk):
  seconds = 1000.0


class Dying(Walk):
  def step(self, action):
    os._exit(3)


class Parent(Walk):
  """Has a process of its own."""

  def __init__(self):
    self._child = subprocess.Popen(['sleep', '1000'])

  def close(self):
    self._child.kill()
    self._child.wait()


def made(name, processes_, count=1):
  suite = environments.load(name, environments.Options(env_processes=processes_))
  return suite.make(suite.tasks * count, True)


def kind(name, choice='auto'):
  with contextlib.closing(made(name, choice)) as environment:
    return type(environment)


def test_light_environments_step_here():
  assert kind(f'{MODULE}:Walk') is inline.InlineVectorEnv
  assert kind(LIGHT) is inline.InlineVectorEnv


@pytest.mark.parametrize('name', ['Heavy', 'Dying', 'Parent'])
def test_heavy_ones_and_those_that_die_or_have_processes_step_in_processes(name):
  before = processes.descendants()
  assert kind(f'{MODULE}:{name}') is parallel.ParallelVectorEnv
  assert processes.descendants() == before


class Large(Walk):
  def __init__(self):
    self._ballast = np.ones(300 * 2**20, np.uint8)


def test_memory_is_that_of_the_process_of_each_environment():
  def memory(name, choice):
    options = environments.Options(env_processes=choice)
    return environments.load(f'{MODULE}:{name}', options).environment_bytes()

  small, large = (memory(name, 'always') for name in ('Walk', 'Large'))
  assert 0 < small < 300 * 2**20 and 299 * 2**20 < large - small < 310 * 2**20
  # Those without a process of their own count for nothing.
  assert memory('Large', 'never') == memory('Walk', 'auto') == 0
  assert environments.load(LIGHT).environment_bytes() == 0


def test_one_that_hangs_steps_in_a_process(monkeypatch):
  monkeypatch.setattr(stepping, '_PATIENCE', 3.0)
  assert kind(f'{MODULE}:Hanging') is parallel.ParallelVectorEnv


def test_the_choice_can_be_made_by_hand():
  assert kind(f'{MODULE}:Heavy', 'never') is inline.InlineVectorEnv
  assert kind(LIGHT, 'always') is parallel.ParallelVectorEnv


def test_the_limit_of_a_hanging_step_is_the_setting():
  options = settings.Settings(
    env=LIGHT, total_frames=1, environment_timeout_seconds=7.0, env_processes='always'
  ).environment_options()
  suite = environments.load(LIGHT, options)
  with contextlib.closing(suite.make(list(suite.tasks), True)) as environment:
    assert environment._timeout == 7.0


def test_functions_of_this_process_only_step_here():
  name = environments.remember(lambda: Heavy())
  assert kind(name, 'always') is inline.InlineVectorEnv


def test_gymnasiums_smallest_are_not_measured(monkeypatch):
  monkeypatch.setattr(stepping, '_measured', None)
  assert kind('gym:CartPole-v1') is inline.InlineVectorEnv


def test_processes_play_the_same_episodes():
  rng = np.random.default_rng(0)
  actions = np.stack([rng.integers(3, size=(30, 2)), rng.integers(2, size=(30, 2))], axis=-1)
  with (
    contextlib.closing(made(f'{MODULE}:Walk', 'never', 2)) as here,
    contextlib.closing(made(f'{MODULE}:Walk', 'always', 2)) as there,
  ):
    assert here.single_observation_space == there.single_observation_space
    assert here.single_action_space == there.single_action_space
    played = [environment.reset(seed=5)[0] for environment in (here, there)]
    for step_actions in actions:
      assert played[0].keys() == played[1].keys() == {'observation', 'vector', 'instruction'}
      for name, values in played[0].items():
        np.testing.assert_array_equal(values, played[1][name])
        assert values.dtype == played[1][name].dtype
      steps = [environment.step(step_actions) for environment in (here, there)]
      played = [step[0] for step in steps]
      for mine, theirs in zip(steps[0][1:4], steps[1][1:4], strict=True):
        np.testing.assert_array_equal(mine, theirs)
      for i in np.flatnonzero(steps[0][2] | steps[0][3]):
        last = [step[4]['final_obs'][i] for step in steps]
        np.testing.assert_array_equal(last[0]['vector'], last[1]['vector'])


def test_environments_registered_by_this_process_only_step_here():
  gymnasium.register('Here-v0', lambda: Heavy())
  try:
    assert kind('gym:Here-v0') is inline.InlineVectorEnv
  finally:
    gymnasium.registry.pop('Here-v0')
