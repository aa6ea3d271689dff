"""Evaluation plays the requested episodes, and gives the mean return with an interval."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from scipy import stats

from common import environments, errors
from common.evaluation import play

SEED = 5
TASK = 'CartPole-v1'


def by_angle(observations):
  """A stateless policy: pushes to where the pole leans; about 40 steps an episode."""
  return (observations[..., 2] > 0).astype(int)


def angle_player(observations, rewards, done):
  del rewards, done
  return by_angle(observations['observation'])


def play_by_hand(environments_, episodes):
  """Plays the same episodes one environment after the other.

  Returns:
    (last step, environment, return, length) of each episode, in the order in which they end.
  """
  played = []
  for i in range(environments_):
    game = gymnasium.make('CartPole-v1')
    step = 0
    observation, _ = game.reset(seed=SEED + i)
    for _ in range(episodes // environments_ + (i < episodes % environments_)):
      total = 0.0
      start = step
      ended = False
      while not ended:
        observation, reward, terminated, truncated, _ = game.step(int(by_angle(observation)))
        total += reward
        step += 1
        ended = terminated or truncated
      played.append((step, i, total, step - start))
      observation, _ = game.reset()
  return sorted(played)


def cartpole(tasks=('CartPole-v1',), wrap=lambda env, i: env):
  """CartPole under any task names; each attempt's environment is `wrap(environment, attempt)`."""
  suite = environments.load('gym:CartPole-v1')
  attempts = []

  def make(names, training):
    attempts.append(names)
    return wrap(suite.make(names, training), len(attempts))

  return dataclasses.replace(suite, name='cartpole', tasks=tuple(tasks), make=make)


class Crashing(gymnasium.vector.VectorWrapper):
  """Crashes in its 60th step, when some episodes are finished."""

  def __init__(self, env):
    super().__init__(env)
    self._steps = 0

  def step(self, actions):
    self._steps += 1
    if self._steps == 60:
      raise environments.EnvironmentCrashed('the game ended by itself')
    return self.env.step(actions)


@pytest.mark.parametrize('episodes', [1, 2, 10, 13, 25])
def test_each_environment_plays_its_share(episodes):
  played = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, episodes, SEED)
  expected = play_by_hand(min(episodes, 10), episodes)
  assert len(played.returns) == len(played.lengths) == episodes
  assert played.returns == [total for *_, total, _ in expected]
  assert played.lengths == [length for *_, length in expected]


def test_the_player_gets_the_last_rewards_and_dones():
  """As an actor does: `done` at the start and after an episode's end, and the last reward."""
  seen = []

  def player(observations, rewards, done):
    seen.append((np.array(observations['observation']), rewards.copy(), done.copy()))
    return by_angle(observations['observation'])

  play.play_episodes(cartpole(), TASK, lambda task, count: player, 4, SEED)
  ends = np.zeros((len(seen), 4), bool)
  ends[0] = True
  for step, i, *_ in play_by_hand(4, 4 * 10):
    if step < len(seen):
      ends[step, i] = True
  np.testing.assert_array_equal([done for _, _, done in seen], ends)
  assert np.sum(ends[1:]) >= 3
  np.testing.assert_array_equal(
    [rewards for _, rewards, _ in seen], [[0] * 4] + [[1] * 4] * (len(seen) - 1)
  )
  assert all(rewards.dtype == np.float32 for _, rewards, _ in seen)


def test_a_player_is_made_for_the_task_and_its_environments():
  made = []

  def make_player(task, count):
    made.append((task, count))
    return angle_player

  play.play_episodes(cartpole(['a', 'b', 'c']), 'b', make_player, 12, SEED)
  assert made == [('b', 10)]


def test_an_episode_whose_engine_dies_does_not_count():
  """Environment 1 dies once, in step 5, and continues with another episode."""

  class OneDies(gymnasium.vector.VectorWrapper):
    """Marks the crash as `ParallelVectorEnv` does: the episode so far does not count."""

    steps = 0

    def step(self, actions):
      self.steps += 1
      *answer, info = self.env.step(actions)
      return *answer, info | ({'crashes': {1: 'died'}} if self.steps == 5 else {})

  ends = []

  def make_player(task, count):
    def player(observations, rewards, done):
      ends.append(done.copy())
      return by_angle(observations['observation'])

    return player

  whole = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, 2, SEED)
  played = play.play_episodes(
    cartpole(wrap=lambda env, attempt: OneDies(env)), TASK, make_player, 2, SEED
  )
  # The engine is not really restarted here, so the episode's other steps are the same.
  lengths = [length - 5 * (i == 1) for _, i, _, length in play_by_hand(2, 2)]
  assert sorted(played.lengths) == sorted(lengths)
  assert sum(played.lengths) == sum(whole.lengths) - 5
  assert sum(played.returns) == sum(whole.returns) - 5
  # The player is told that its state is of another episode.
  assert ends[5].tolist() == [False, True]


def test_pictures_show_the_first_episode():
  played = play.play_episodes(
    cartpole(), TASK, lambda task, count: angle_player, 3, SEED, pictures=True
  )
  game = gymnasium.make('CartPole-v1')
  observation, _ = game.reset(seed=SEED)
  ended = False
  shown = []
  while not ended:
    shown.append(observation)
    observation, _, terminated, truncated, _ = game.step(int(by_angle(observation)))
    ended = terminated or truncated
  np.testing.assert_array_equal(played.pictures, shown)


def test_no_pictures_unless_asked_for():
  played = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, 1, SEED)
  assert not played.pictures


def test_a_lost_life_does_not_end_an_episode():
  """With training's environments, for which a lost life is `done`, episodes are the same."""
  suite = environments.load('atari:breakout')
  as_in_training = dataclasses.replace(suite, make=lambda tasks, training: suite.make(tasks, True))

  def make_player(task, count):
    return play.random_player(suite.action_space, seed=1)

  played, again = (
    play.play_episodes(s, 'breakout', make_player, 3, SEED) for s in (suite, as_in_training)
  )
  assert played == again
  assert len(played.returns) == 3
  assert min(played.lengths) > 100  # Five lives.


@pytest.mark.parametrize('crashes', [1, 2])
def test_a_task_is_played_again_after_a_crash(crashes):
  suite = cartpole(wrap=lambda env, attempt: Crashing(env) if attempt <= crashes else env)
  played = play.play_episodes(suite, TASK, lambda task, count: angle_player, 25, SEED)
  after = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, 25, SEED + crashes)
  assert played == after


def test_repeated_crashes_are_an_error():
  suite = cartpole(wrap=lambda env, attempt: Crashing(env))
  with pytest.raises(
    errors.UserError, match='cartpole: 3 attempts at CartPole-v1 .*the game ended by itself'
  ):
    play.play_episodes(suite, TASK, lambda task, count: angle_player, 25, SEED)


@pytest.mark.parametrize('failing', [False, True])
def test_environments_are_closed(failing):
  made = []

  def remember(env, attempt):
    made.append(Crashing(env) if failing else env)
    return made[-1]

  if failing:
    with pytest.raises(errors.UserError):
      play.play_episodes(cartpole(wrap=remember), TASK, lambda task, count: angle_player, 25, SEED)
  else:
    play.play_episodes(cartpole(wrap=remember), TASK, lambda task, count: angle_player, 2, SEED)
  assert len(made) == (3 if failing else 1)
  assert all(env.unwrapped.closed for env in made)


def test_random_player_takes_all_actions_and_depends_on_its_seed():

  def actions(seed):
    player = play.random_player(gymnasium.spaces.Discrete(4), seed)
    return np.array([player({}, None, np.zeros(50)) for _ in range(20)])

  assert set(actions(seed=1).flat) == {0, 1, 2, 3}
  np.testing.assert_array_equal(actions(seed=1), actions(seed=1))
  assert not np.array_equal(actions(seed=1), actions(seed=2))


def test_continuous_random_actions_are_uniform():
  player = play.random_player(gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32), 1)
  draws = np.stack([player({}, None, np.zeros(50)) for _ in range(40)])
  assert draws.shape == (40, 50, 3) and draws.dtype == np.float32
  assert stats.kstest(draws.ravel(), stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3


def test_the_interval_covers_the_true_mean_as_often_as_it_claims():
  """200 data sets of 40 values. True coverage is 93% to 95%; 3 standard deviations of slack."""
  rng = np.random.default_rng(0)
  covered = 0
  for _ in range(200):
    low, high = play.bootstrap_interval(rng.normal(10.0, 3.0, size=40).tolist())
    covered += low <= 10.0 <= high
  assert 0.88 <= covered / 200 <= 0.99


def test_the_interval_of_many_values_is_the_normal_one():
  values = np.random.default_rng(0).normal(size=2000)
  low, high = play.bootstrap_interval(values.tolist())
  expected = 1.96 * np.std(values) / np.sqrt(len(values))
  assert [np.mean(values) - low, high - np.mean(values)] == pytest.approx(
    [expected, expected], rel=0.05
  )


@pytest.mark.parametrize('values', [[3.5], [2.0, 2.0, 2.0], [-1.0] * 50])
def test_the_interval_of_equal_values_has_zero_width(values):
  assert play.bootstrap_interval(values) == (values[0], values[0])


def test_the_interval_is_the_same_each_time():
  values = [1.0, 5.0, 2.0, 8.0]
  assert play.bootstrap_interval(values) == play.bootstrap_interval(values)


def test_the_interval_is_narrower_with_less_confidence():
  values = np.random.default_rng(0).normal(size=30).tolist()
  wide = play.bootstrap_interval(values, 0.95)
  narrow = play.bootstrap_interval(values, 0.5)
  assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_summary():
  summary = play.Episodes(returns=[1.0, 2.0, 6.0], lengths=[10, 20, 30]).summary()
  assert summary['mean'] == 3.0 and summary['episodes'] == 3
  assert summary['returns'] == [1.0, 2.0, 6.0] and summary['lengths'] == [10, 20, 30]
  assert 1.0 <= summary['low'] < 3.0 < summary['high'] <= 6.0


def test_table():
  def cell(mean, low, high):
    return {'mean': mean, 'low': low, 'high': high}

  table = play.table(
    {
      'random': {'basic': cell(-123.456, -150.0, -100.0), 'take_cover': cell(1.0, 1.0, 1.0)},
      'agent': {'basic': cell(90.0, 80.5, 95.25), 'take_cover': cell(12345.678, 0.0, 20000.0)},
    }
  )
  header, first, second = table.splitlines()
  assert header.split() == ['task', 'random', 'agent']
  assert first.split() == 'basic -123.46 [ -150.00, -100.00] 90.00 [ 80.50, 95.25]'.split()
  assert second.split() == 'take_cover 1.00 [ 1.00, 1.00] 12345.68 [ 0.00, 20000.00]'.split()
  assert len(header) == len(first) == len(second)
