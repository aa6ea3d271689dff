"""Environments registered with gymnasium, its own and those of a user's module."""

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
  suite = environments.load(pictures, environments.Options(env_processes='never'))
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
  suite = environments.load(
    'gym:vectors_of_bytes:Bytes-v0', environments.Options(env_processes='never')
  )
  with contextlib.closing(suite.make(suite.tasks, True)) as environment:
    assert environment.single_observation_space == suite.observation_space
    observations, _ = environment.reset(seed=1)
    assert observations['observation'].dtype == np.float32


@pytest.mark.parametrize(
  'env_id, shape, actions',
  [('FrozenLake-v1', (16,), 4), ('Blackjack-v1', (45,), 2), ('Taxi-v4', (500,), 6)],
)
def test_toy_texts_are_flattened(env_id, shape, actions):
  suite = environments.load(f'gym:{env_id}')
  assert suite.observation_space['observation'].shape == shape and suite.num_actions == actions
  with contextlib.closing(suite.make(suite.tasks * 3, True)) as environment:
    observations, _ = environment.reset(seed=1)
    for _ in range(20):
      # One number of each part is 1.
      assert set(observations['observation'].sum(axis=1)) == {3.0 if shape == (45,) else 1.0}
      observations, *_ = environment.step(np.zeros(3, int))


def test_taxi_says_which_actions_move():
  """Its `info` has masks: against the wall a taxi stays where it is."""
  suite = environments.load('gym:Taxi-v4')
  with contextlib.closing(suite.make(suite.tasks, True)) as environment:
    observations, _ = environment.reset(seed=3)
    for _ in range(30):
      mask = observations['action_mask'][0]
      own = environment.envs[0].unwrapped
      np.testing.assert_array_equal(mask, own.action_mask(own.s))
      observations, *_ = environment.step(np.array([np.flatnonzero(mask)[-1]]))


def test_actions_may_start_anywhere(tmp_path, monkeypatch):
  (tmp_path / 'shifted_actions.py').write_text(
    _MODULE.replace('Discrete(2)', 'Discrete(2, start=5)')
    .replace('self._steps += 1', 'assert action in (5, 6); self._steps += 1')
    .replace('Pictures-v0', 'Shifted-v0')
  )
  monkeypatch.syspath_prepend(tmp_path)
  options = environments.Options(env_processes='never')
  suite = environments.load('gym:shifted_actions:Shifted-v0', options)
  assert suite.action_space == gymnasium.spaces.Discrete(2)
  with contextlib.closing(suite.make(suite.tasks * 2, True)) as environment:
    environment.reset(seed=1)
    environment.step(np.array([0, 1]))


def test_channels_that_come_first_are_turned_round_with_a_word(tmp_path, monkeypatch, caplog):
  (tmp_path / 'turned_pictures.py').write_text(
    _MODULE.replace('(5, 6, 3)', '(3, 9, 8)').replace('Pictures-v0', 'Turned-v0')
  )
  monkeypatch.syspath_prepend(tmp_path)
  with caplog.at_level('INFO'):
    suite = environments.load('gym:turned_pictures:Turned-v0')
  assert suite.observation_space['observation'].shape == (9, 8, 3)
  assert 'shows images (3, 9, 8), channels first: they are turned to (9, 8, 3)' in caplog.text


@pytest.mark.parametrize(
  'name, word', [('gym:no_such_module:X-v0', 'no_such_module'), ('gym:json:X-v0', "'X-v0'")]
)
def test_modules_that_register_nothing_are_refused(name, word):
  with pytest.raises(errors.UserError, match=word):
    environments.load(name)


@pytest.mark.parametrize('member', [':CartPole-v1', 'module:', 'a:b:c', ':'])
def test_a_name_with_other_colons_is_refused(member):
  with pytest.raises(errors.UserError, match='expected gym:ID or gym:MODULE:ID'):
    environments.load(f'gym:{member}')
