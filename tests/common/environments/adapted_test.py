"""What third-party environments do, well or badly, and what suites promise all the same."""

import contextlib
import re

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from common import environments, errors
from common.environments import making

TERMINATED, TRUNCATED, BOTH = 1, 2, 3


class Scripted(gymnasium.Env):
  """Observes the number of its steps; ends as its action says."""

  observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float32)
  action_space = spaces.Discrete(4)

  def __init__(self, **attributes):
    vars(self).update(attributes)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self.steps = 0
    return self.observe(), self.info()

  def step(self, action):
    self.steps += 1
    ended = action in (TERMINATED, BOTH), action in (TRUNCATED, BOTH)
    return self.observe(), self.reward(), *ended, self.info()

  def observe(self):
    return np.full(2, self.steps, np.float32)

  def reward(self):
    return 1.0

  def info(self):
    return {}


class Reusing(Scripted):
  """Writes every observation into one array."""

  def __init__(self):
    self._buffer = np.zeros(2, np.float32)

  def observe(self):
    self._buffer[:] = self.steps
    return self._buffer


class Talkative(Scripted):
  """Its info has keys that mean something else to us."""

  def info(self):
    return {'game_over': True, 'crashes': {0: 'none'}, 'final_obs': None, 'final_info': 3}


@contextlib.contextmanager
def opened(make_env, count=1, **options):
  suite = environments.load(environments.remember(make_env), environments.Options(**options))
  with contextlib.closing(suite.make(suite.tasks * count, True)) as environment:
    yield environment


@pytest.fixture(autouse=True)
def _here(monkeypatch):
  """Environments of this file step in this process."""
  monkeypatch.setattr(making, '_find', lambda module, function: None)


def act(*choices):
  return np.array(choices)


def test_an_environment_that_reuses_its_array_bootstraps_from_the_right_one():
  with opened(Reusing, count=2) as environment:
    first, _ = environment.reset(seed=1)
    np.testing.assert_array_equal(first['observation'], [[0, 0], [0, 0]])
    environment.step(act(0, 0))
    observations, _, _, truncated, info = environment.step(act(TRUNCATED, 0))
    assert truncated.tolist() == [True, False]
    np.testing.assert_array_equal(info['final_obs'][0]['observation'], [2, 2])
    np.testing.assert_array_equal(observations['observation'], [[0, 0], [2, 2]])
    environment.step(act(0, 0))
    # Those handed out as the last of an episode stay what they were.
    np.testing.assert_array_equal(info['final_obs'][0]['observation'], [2, 2])


def test_nothing_in_an_environments_info_is_taken_for_ours():
  with opened(Talkative, count=2) as environment:
    _, info = environment.reset(seed=1)
    assert not info
    *_, info = environment.step(act(0, 0))
    assert not {'game_over', 'crashes', 'final_obs'} & info.keys()
    *_, info = environment.step(act(TRUNCATED, 0))
    np.testing.assert_array_equal(info['final_obs'][0]['observation'], [2, 2])
    assert not {'game_over', 'crashes'} & info.keys()


def test_an_end_by_itself_and_by_the_clock_at_once_is_no_truncation():
  with opened(Scripted, count=2) as environment:
    environment.reset(seed=1)
    _, _, terminated, truncated, _ = environment.step(act(BOTH, TRUNCATED))
    assert terminated.tolist() == [True, False] and truncated.tolist() == [False, True]


@pytest.mark.parametrize('reward', [2, 2.0, np.float32(2), np.array([2.0]), np.array([[2]]), True])
def test_a_reward_is_one_number_however_it_is_wrapped(reward):
  with opened(lambda: Scripted(reward=lambda: reward)) as environment:
    environment.reset(seed=1)
    assert environment.step(act(0))[1].tolist() == [np.sum(reward)]


class OldStep(Scripted):
  def step(self, action):
    return self.observe(), 1.0, False, {}


class OldReset(Scripted):
  def reset(self, *, seed=None, options=None):
    return np.zeros(2, np.float32)


class Faulty(Scripted):
  def step(self, action):
    return 1 // 0


def strange(**attributes):
  return lambda: Scripted(**attributes)


@pytest.mark.parametrize(
  'make_env, message',
  [
    (OldStep, 'step 1 of an episode: it has the interface of gym before 0.26'),
    (OldReset, 'reset: it has the interface of gym before 0.26'),
    (lambda: gymnasium.wrappers.TimeLimit(OldStep(), 5), 'step 1 .* gym before 0.26'),
    (Faulty, r'step 1 .*: ZeroDivisionError: .*adapted_test.py, line \d+: return 1 // 0'),
    (strange(reward=lambda: np.nan), 'step 1 .* the reward is nan, expected a finite'),
    (strange(reward=lambda: 1e39), r'step 1 .* the reward is 1e\+39, expected a finite'),
    (strange(reward=lambda: None), 'step 1 .* the reward is None, expected a number'),
    (strange(reward=lambda: np.ones(2)), r'the reward is array\(\[1., 1.\]\), expected a number'),
    (strange(observe=lambda: np.zeros(3, np.float32)), r'reset: .*shape \(3,\), declared is'),
    (strange(observe=lambda: np.array([0, np.nan])), 'reset: the observation has nan at index 1'),
    (strange(observe=lambda: 'x'), 'reset: the observation has the shape'),
  ],
)
def test_a_fault_names_the_environment_the_step_and_what_is_wrong(make_env, message):
  name = environments.remember(make_env)
  with pytest.raises(errors.UserError, match=f'{re.escape(name)}, .*{message}'):
    with opened(make_env) as environment:
      environment.reset(seed=1)
      environment.step(act(0))


def test_not_finite_names_the_step_of_the_episode():
  class Late(Scripted):
    def observe(self):
      return np.array([self.steps, np.inf if self.steps == 3 else 0], np.float32)

  with opened(Late) as environment:
    environment.reset(seed=1)
    environment.step(act(TERMINATED))
    environment.step(act(0))
    environment.step(act(0))
    with pytest.raises(errors.UserError, match='step 3 of an episode: .*has inf at index 1'):
      environment.step(act(0))


def test_an_action_of_a_network_that_holds_nan_goes_no_further():
  with opened(Scripted) as environment:
    environment.reset(seed=1)
    with pytest.raises(errors.UserError, match='the agent chose action 4 of 4'):
      environment.step(act(4))


def test_crashes_of_engines_pass():
  class Crashing(Scripted):
    def step(self, action):
      raise environments.EnvironmentCrashed('its engine is gone')

  with opened(Crashing) as environment:
    environment.reset(seed=1)
    with pytest.raises(environments.EnvironmentCrashed, match='its engine is gone'):
      environment.step(act(0))


class Masked(Scripted):
  """May take only the action of its step's number; says so, but not at the end."""

  def info(self):
    return {} if self.steps == 3 else {'action_mask': np.arange(4) == self.steps}


def test_masks_in_info_become_observations():
  with opened(Masked, count=2) as environment:
    assert environment.single_observation_space['action_mask'] == spaces.Box(0, 1, (4,), np.uint8)
    observations, _ = environment.reset(seed=1)
    masks = [observations['action_mask'].tolist()]
    for _ in range(3):
      masks.append(environment.step(act(0, 0))[0]['action_mask'].tolist())
  rows = np.eye(4, dtype=int)
  expected = [rows[0], rows[1], rows[2], np.ones(4, int)]
  assert masks == [[row.tolist()] * 2 for row in expected]


def test_masks_where_actions_are_continuous_are_left_alone():
  class Continuous(Masked):
    action_space = spaces.Box(0.0, 1.0, (2,))

  with opened(Continuous) as environment:
    assert environment.single_observation_space.spaces.keys() == {'observation'}


def test_an_action_is_repeated_until_the_episode_ends():
  with opened(lambda: gymnasium.wrappers.TimeLimit(Scripted(), 7), action_repeat=3) as environment:
    environment.reset(seed=1)
    for steps, truncated in ((3, False), (6, False), (1, True), (3, False)):
      observations, rewards, _, ended, _ = environment.step(act(0))
      assert ended.tolist() == [truncated]
      if not truncated:
        assert observations['observation'][0, 0] == steps
      assert rewards.tolist() == [1.0 if truncated else 3.0]


def test_action_repeat_counts_as_frames():
  name = environments.remember(Scripted)
  assert environments.load(name, environments.Options(action_repeat=3)).action_repeat == 3


def test_frames_are_stacked_as_gymnasium_does_with_zeros_before_an_episode():
  class Grey(Scripted):
    observation_space = spaces.Box(0, 255, (8, 9), np.uint8)

    def observe(self):
      return np.full((8, 9), 7 + self.steps, np.uint8)

  oracle = gymnasium.wrappers.FrameStackObservation(Grey(), 3, padding_type='zero')
  with opened(Grey, frame_stack=3) as environment:
    ours = environment.envs[0]
    for _ in range(2):
      seen = [(ours.reset()[0]['observation'], oracle.reset()[0])]
      for _ in range(5):
        seen.append((ours.step(0)[0]['observation'], oracle.step(0)[0]))
      for actual, expected in seen:
        assert actual.shape == (3, 8, 9)
        np.testing.assert_array_equal(actual, expected)
