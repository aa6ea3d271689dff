"""Vector environments in step: all step at once, crashes keep their places, threads end."""

import threading

import gymnasium
import numpy as np
import pytest

from common.environments import in_step, suite

SPACE = gymnasium.spaces.Dict({'observation': gymnasium.spaces.Box(-100, 100, (1,), np.float32)})


class Counting(gymnasium.vector.VectorEnv):
  """Two environments that show their tasks; all of a step wait until every part has begun it."""

  def __init__(self, tasks, barrier):
    self.num_envs = len(tasks)
    self.single_observation_space = SPACE
    self.single_action_space = gymnasium.spaces.Discrete(2)
    self.crash = None
    self.is_closed = False
    self._tasks = np.array(tasks, np.float32)[:, np.newaxis]
    self._barrier = barrier

  def reset(self, *, seed=None, options=None):
    return {'observation': self._tasks}, {}

  def step(self, actions):
    # Breaks unless all parts step at the same time.
    self._barrier.wait(20)
    if self.crash == 'together':
      self.crash = None
      raise suite.EnvironmentCrashed('gone')
    nothing = np.zeros(self.num_envs, bool)
    info = {'crashes': {1: 'alone'}} if self.crash == 'alone' else {}
    rewards = self._tasks[:, 0] + actions
    return {'observation': self._tasks + 1}, rewards, nothing, nothing, info

  def close_extras(self, **kwargs):
    self.is_closed = True


@pytest.fixture
def parts():
  return []


@pytest.fixture
def environment(parts):
  barrier = threading.Barrier(3)

  def make(tasks, training):
    parts.append(Counting(tasks, barrier))
    return parts[-1]

  made = in_step.making(make, 3)(list(range(6)), True)
  yield made
  made.close()
  assert all(part.is_closed for part in parts)
  assert not any('-part-' in thread.name for thread in threading.enumerate())


def test_all_parts_step_at_once_and_keep_their_places(environment, parts):
  observation, _ = environment.reset(seed=1)
  np.testing.assert_array_equal(observation['observation'][:, 0], np.arange(6))
  actions = np.array([0, 1, 0, 1, 0, 1])
  parts[1].crash = 'alone'
  observation, rewards, *_, info = environment.step(actions)
  np.testing.assert_array_equal(rewards, np.arange(6) + actions)
  np.testing.assert_array_equal(observation['observation'][:, 0], np.arange(6) + 1)
  assert info['crashes'] == {3: 'alone'}


def test_after_a_crash_all_begin_again(environment, parts):
  environment.reset(seed=1)
  actions = np.zeros(6, int)
  parts[0].crash = 'together'
  with pytest.raises(suite.EnvironmentCrashed, match='gone'):
    environment.step(actions)
  environment.reset(seed=2)
  # Not the answer to the step that crashed.
  _, rewards, *_ = environment.step(actions + 1)
  np.testing.assert_array_equal(rewards, np.arange(6) + 1)
