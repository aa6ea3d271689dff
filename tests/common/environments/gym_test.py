"""Any gymnasium environment with discrete actions, and clear messages about the others."""

import contextlib
import sys

import gymnasium
import numpy as np
import pytest

from common import environments, errors

_MODULE = '''
import gymnasium
import numpy as np


class Pictures(gymnasium.Env):
  """Shows the number of its steps as the brightness of an image, and terminates after three."""
  observation_space = gymnasium.spaces.Box(0, 255, (5, 6, 3), np.uint8)
  action_space = gymnasium.spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._steps = 0
    return np.zeros((5, 6, 3), np.uint8), {}

  def step(self, action):
    self._steps += 1
    return np.full((5, 6, 3), self._steps, np.uint8), 1.0, self._steps == 3, False, {}


gymnasium.register('Pictures-v0', Pictures)
'''


@pytest.fixture
def pictures(tmp_path, monkeypatch):
  """The name of an environment that a user's module registers."""
  (tmp_path / 'pictures_of_steps.py').write_text(_MODULE)
  monkeypatch.syspath_prepend(tmp_path)
  yield 'gym:pictures_of_steps:Pictures-v0'
  gymnasium.registry.pop('Pictures-v0', None)
  sys.modules.pop('pictures_of_steps', None)


def test_an_environment_with_images_from_a_users_module(pictures):
  suite = environments.load(pictures)
  assert suite.observation_space['observation'] == gymnasium.spaces.Box(0, 255, (5, 6, 3), np.uint8)
  brightness = []
  with contextlib.closing(suite.make(suite.tasks * 2, True)) as environment:
    observations, _ = environment.reset(seed=1)
    for _ in range(4):
      assert observations['observation'].dtype == np.uint8
      brightness.append(observations['observation'][:, 0, 0, 0].tolist())
      observations, *_ = environment.step(np.zeros(2, int))
  assert brightness == [[0, 0], [1, 1], [2, 2], [0, 0]]


def test_plays_as_gymnasium_does():
  actions = np.random.default_rng(0).integers(2, size=(120, 2))
  single = [gymnasium.make('CartPole-v1') for _ in range(2)]
  expected = [game.reset(seed=7 + i)[0] for i, game in enumerate(single)]
  suite, ends = environments.load('gym:CartPole-v1'), 0
  with contextlib.closing(suite.make(suite.tasks * 2, True)) as environment:
    observations, _ = environment.reset(seed=7)
    for step_actions in actions:
      np.testing.assert_array_equal(observations['observation'], expected)
      observations, rewards, terminated, truncated, _ = environment.step(step_actions)
      for i, game in enumerate(single):
        expected[i], *rest, _ = game.step(step_actions[i])
        assert rest == [rewards[i], terminated[i], truncated[i]]
        if terminated[i] or truncated[i]:
          expected[i], _ = game.reset()
          ends += 1
  assert ends >= 4


def test_time_limits_are_truncations():
  suite = environments.load('gym:MountainCar-v0')
  with contextlib.closing(suite.make(suite.tasks * 2, True)) as environment:
    environment.reset(seed=1)
    no_push = np.ones(2, int)  # The car stays in the valley.
    ends = [environment.step(no_push)[2:4] for _ in range(200)]
  assert not np.any([terminated for terminated, _ in ends])
  truncated = np.array([truncated for _, truncated in ends])
  np.testing.assert_array_equal(truncated[:, 0], [False] * 199 + [True])


def test_vectors_of_bytes_become_float32(tmp_path, monkeypatch):
  """As the suite declares, whatever the environment's own dtype is."""
  (tmp_path / 'vectors_of_bytes.py').write_text(
    _MODULE.replace('(5, 6, 3)', '(5,)').replace('Pictures-v0', 'Bytes-v0')
  )
  monkeypatch.syspath_prepend(tmp_path)
  suite = environments.load('gym:vectors_of_bytes:Bytes-v0')
  with contextlib.closing(suite.make(suite.tasks, True)) as environment:
    assert environment.single_observation_space == suite.observation_space
    observations, _ = environment.reset(seed=1)
    assert observations['observation'].dtype == np.float32


@pytest.mark.parametrize('env_id', ['FrozenLake-v1', 'Blackjack-v1'])
def test_other_observations_are_refused(env_id):
  with pytest.raises(errors.UserError, match=f'gym:{env_id} observes .*expected a Box'):
    environments.load(f'gym:{env_id}')


@pytest.mark.parametrize(
  'name, word', [('gym:no_such_module:X-v0', 'no_such_module'), ('gym:json:X-v0', '`X`')]
)
def test_modules_that_register_nothing_are_refused(name, word):
  with pytest.raises(errors.UserError, match=f'gymnasium cannot make .*{word}'):
    environments.load(name)


def test_actions_that_do_not_start_at_zero_are_refused(tmp_path, monkeypatch):
  (tmp_path / 'shifted_actions.py').write_text(
    _MODULE.replace('Discrete(2)', 'Discrete(2, start=1)').replace('Pictures-v0', 'Shifted-v0')
  )
  monkeypatch.syspath_prepend(tmp_path)
  with pytest.raises(errors.UserError, match=r'Discrete\(2, start=1\)'):
    environments.load('gym:shifted_actions:Shifted-v0')


@pytest.mark.parametrize('member', [':CartPole-v1', 'module:', 'a:b:c', ':'])
def test_a_name_with_other_colons_is_refused(member):
  with pytest.raises(errors.UserError, match='expected gym:ID or gym:MODULE:ID'):
    environments.load(f'gym:{member}')
