"""Several vector environments as one: each part plays as it does alone, and all step together."""

import collections
import contextlib

import gymnasium
import numpy as np
import pytest

from common import environments
from common.environments import atari, concatenated

# Different numbers, so that a mix-up of places shows.
PARTS = (('pong', 2), ('breakout', 1), ('boxing', 3))
TASKS = tuple(game for game, count in PARTS for _ in range(count))
SEED = 11
MAX_FRAMES = 160  # An episode is truncated after 40 steps.
STEPS = 120  # Three episodes.


class Rollout(dict):
  """Arrays [T, N, ...] by name."""

  def of(self, places):
    return {name: values[:, places] for name, values in self.items()}


def play(environment, actions, seed):
  observations, _ = environment.reset(seed=seed)
  steps = collections.defaultdict(list)
  first = observations['observation'].copy()
  nothing = np.zeros(first.shape[1:], first.dtype)
  for step_actions in actions:
    observations, rewards, terminated, truncated, info = environment.step(step_actions)
    final = info.get('final_obs', [None] * environment.num_envs)
    # Every truncated episode has its last observation.
    assert all(final[i] is not None for i in np.flatnonzero(truncated))
    pairs = zip(final, truncated, strict=True)
    values = {
      'observation': observations['observation'],
      'reward': rewards,
      'terminated': terminated,
      'truncated': truncated,
      'game_over': info['game_over'],
      'lives': info['lives'],
      'final': [stack['observation'] if ended else nothing for stack, ended in pairs],
    }
    for name, value in values.items():
      steps[name].append(np.array(value))
  return first, Rollout({name: np.stack(values) for name, values in steps.items()})


def open_together(training):
  suite = environments.load('atari57', environments.Options(max_training_frames=MAX_FRAMES))
  return contextlib.closing(suite.make(TASKS, training))


@pytest.fixture(scope='module')
def actions():
  return np.random.default_rng(0).integers(18, size=(STEPS, len(TASKS)))


@pytest.fixture(scope='module')
def together(actions):
  with open_together(training=True) as environment:
    return play(environment, actions, SEED)


def test_several_games_are_each_as_alone(together, actions):
  """Environment i has the first one's seed + i, whatever parts come before it."""
  first, played = together
  start = 0
  for game, count in PARTS:
    places = slice(start, start + count)
    alone = atari.AtariVectorEnv(game, count, True, MAX_FRAMES, full_action_space=True)
    with contextlib.closing(alone):
      first_alone, played_alone = play(alone, actions[:, places], SEED + start)
    np.testing.assert_array_equal(first[places], first_alone)
    for name, values in played.of(places).items():
      np.testing.assert_array_equal(values, played_alone[name], err_msg=f'{game}: {name}')
    start += count


def test_copies_of_one_game_differ(together):
  _, played = together
  assert np.any(played['observation'][:, 0] != played['observation'][:, 1])
  assert np.any(played['observation'][:, 3] != played['observation'][:, 4])


def test_the_rollout_has_rewards_truncations_and_lost_lives(together):
  """Without them, the equality tested above would say little."""
  _, played = together
  assert np.any(played['reward'] != 0) and np.any(played['lives'] != played['lives'][0])
  assert np.all(played['truncated'].sum(axis=0) >= 2)  # In every game.
  at_the_limit = played['truncated']
  assert np.all(played['game_over'][at_the_limit])
  assert np.all(np.any(played['final'][at_the_limit], axis=(1, 2, 3)))
  # The last frames are the old game's: the first of the next stands alone in its stack.
  assert not np.any(played['observation'][at_the_limit][:, :3])
  assert np.all(np.any(played['final'][at_the_limit][:, 0], axis=(1, 2)))
  assert np.any(played['terminated'] & ~played['game_over'])  # A lost life of Breakout's.


def test_the_limit_is_for_training_alone(actions):
  with open_together(training=False) as environment:
    _, played = play(environment, actions, SEED)
  assert not np.any(played['truncated'])


def test_spaces_are_those_of_all_parts():
  with open_together(training=True) as environment:
    assert isinstance(environment, concatenated.ConcatenatedVectorEnv)
    assert environment.num_envs == len(TASKS)
    assert environment.single_action_space == gymnasium.spaces.Discrete(18)
    assert environment.observation_space['observation'].shape == (len(TASKS), 4, 84, 84)
    assert environment.action_space.shape == (len(TASKS),)
    assert environment.reset(seed=1)[0] in environment.observation_space
    assert environment.metadata['autoreset_mode'] == gymnasium.vector.AutoresetMode.SAME_STEP


class Recorded(gymnasium.vector.VectorEnv):
  """Logs its calls."""

  single_observation_space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-1, 99, (1,), np.float32)}
  )
  single_action_space = gymnasium.spaces.Discrete(9)
  metadata = {}

  def __init__(self, name, num_envs, log, truncated=False):
    self.name = name
    self.num_envs = num_envs
    self._log = log
    self._truncated = truncated

  def reset(self, *, seed=None, options=None):
    self._log.append(('reset', self.name, seed))
    return {'observation': np.zeros((self.num_envs, 1), np.float32)}, {}

  def send(self, actions):
    self._log.append(('send', self.name, actions.tolist()))
    self._actions = actions

  def receive(self):
    self._log.append(('receive', self.name))
    observed = {'observation': self._actions[:, np.newaxis].astype(np.float32)}
    truncated = np.full(self.num_envs, self._truncated)
    info = {'of_all': np.arange(self.num_envs), f'of_{self.name}': np.arange(self.num_envs)}
    if self._truncated:
      info['final_obs'] = np.array([{'observation': np.float32([7])}] * self.num_envs, object)
    return observed, self._actions * 0.5, np.zeros(self.num_envs, bool), truncated, info

  def close_extras(self, **kwargs):
    self._log.append(('close', self.name))


@pytest.fixture
def recorded():
  """A vector environment of three parts, and the log of their calls."""
  log = []
  parts = [Recorded('a', 2, log), Recorded('b', 1, log, truncated=True), Recorded('c', 2, log)]
  return concatenated.ConcatenatedVectorEnv(parts), log


def test_all_parts_step_at_once(recorded):
  """Every engine has its actions before the first is waited for."""
  environment, log = recorded
  environment.reset(seed=3)
  assert log == [('reset', 'a', 3), ('reset', 'b', 5), ('reset', 'c', 6)]
  del log[:]
  observations, rewards, *_ = environment.step(np.array([1, 2, 3, 4, 5]))
  assert log[:3] == [('send', 'a', [1, 2]), ('send', 'b', [3]), ('send', 'c', [4, 5])]
  assert [entry[0] for entry in log[3:]] == ['receive'] * 3
  assert observations['observation'].ravel().tolist() == [1, 2, 3, 4, 5]
  assert rewards.tolist() == [0.5, 1, 1.5, 2, 2.5]


def test_without_a_seed_no_part_has_one(recorded):
  environment, log = recorded
  environment.reset()
  assert [seed for *_, seed in log] == [None] * 3


def test_info_of_one_part_alone_is_dropped_but_for_final_observations(recorded):
  environment, _ = recorded
  environment.reset(seed=1)
  *_, truncated, info = environment.step(np.zeros(5, int))
  assert truncated.tolist() == [False, False, True, False, False]
  assert set(info) == {'of_all', 'final_obs'} and info['of_all'].tolist() == [0, 1, 0, 0, 1]
  assert [final is not None for final in info['final_obs']] == [False, False, True, False, False]
  assert info['final_obs'][2]['observation'] == 7


def test_closing_ends_all_parts_once(recorded):
  environment, log = recorded
  environment.close()
  environment.close()
  assert log == [('close', 'a'), ('close', 'b'), ('close', 'c')]
