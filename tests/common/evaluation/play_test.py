"""Evaluation: as many episodes as asked for, those that were played, and how sure their mean is."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from scipy import stats

from common import environments, errors
from common.evaluation import play

SEED, TASK = 5, 'CartPole-v1'


def by_angle(observations):
  """A policy without a state: pushes to where the pole leans; some 40 steps an episode."""
  return (observations[..., 2] > 0).astype(int)


def angle_player(observations, rewards, done):
  del rewards, done
  return by_angle(observations['observation'])


def play_by_hand(environments_, episodes):
  """CartPole, one environment after the other: (last step, environment, return, length)."""
  played = []
  for i in range(environments_):
    game, step = gymnasium.make('CartPole-v1'), 0
    observation, _ = game.reset(seed=SEED + i)
    for _ in range(episodes // environments_ + (i < episodes % environments_)):
      total, start, ended = 0.0, step, False
      while not ended:
        observation, reward, terminated, truncated, _ = game.step(int(by_angle(observation)))
        total, step, ended = total + reward, step + 1, terminated or truncated
      played.append((step, i, total, step - start))
      observation, _ = game.reset()
  return sorted(played)


def cartpole(tasks=('CartPole-v1',), wrap=lambda env, i: env):
  """CartPole under any tasks' names, wrapped by `wrap(environment, attempt)`."""
  suite, attempts = environments.load('gym:CartPole-v1'), []

  def make(names, training):
    attempts.append(names)
    return wrap(suite.make(names, training), len(attempts))

  return dataclasses.replace(suite, name='cartpole', tasks=tuple(tasks), make=make)


class Crashing(gymnasium.vector.VectorWrapper):
  """Crashes in its 60th step, after some episodes were played."""

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


def test_the_player_gets_last_rewards_and_ends():
  """As an actor: `done` at the start and after an episode's end, the last action's reward."""
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


def test_an_episode_in_which_an_engine_died_does_not_count():
  """Environment 1 dies once, in its step 5, and goes on with another episode."""

  class OneDies(gymnasium.vector.VectorWrapper):
    """Marks the crash, as `ParallelVectorEnv` does; what came before no longer counts."""

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
  assert sorted(played.lengths) == sorted(
    [
      play_by_hand(2, 2)[0][3] - 5 * (play_by_hand(2, 2)[0][1] == 1),
      play_by_hand(2, 2)[1][3] - 5 * (play_by_hand(2, 2)[1][1] == 1),
    ]
  )
  assert (
    sum(played.lengths) == sum(whole.lengths) - 5 and sum(played.returns) == sum(whole.returns) - 5
  )
  assert ends[5].tolist() == [False, True]


def test_pictures_are_of_the_first_episode():
  played = play.play_episodes(
    cartpole(), TASK, lambda task, count: angle_player, 3, SEED, pictures=True
  )
  game = gymnasium.make('CartPole-v1')
  observation, _ = game.reset(seed=SEED)
  ended, shown = False, []
  while not ended:
    shown.append(observation)
    observation, _, terminated, truncated, _ = game.step(int(by_angle(observation)))
    ended = terminated or truncated
  np.testing.assert_array_equal(played.pictures, shown)


def test_no_pictures_unless_asked_for():
  played = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, 1, SEED)
  assert not played.pictures


def test_a_lost_life_does_not_end_an_episode():
  """Environments as for training, which call it an end for the learner, give the same episodes."""
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
def test_a_crash_starts_a_task_anew(crashes):
  suite = cartpole(wrap=lambda env, attempt: Crashing(env) if attempt <= crashes else env)
  played = play.play_episodes(suite, TASK, lambda task, count: angle_player, 25, SEED)
  after = play.play_episodes(cartpole(), TASK, lambda task, count: angle_player, 25, SEED + crashes)
  assert played == after


def test_crashes_again_and_again_are_told():
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


def test_random_player_draws_all_actions_and_repeats_with_its_seed():
  draws = [
    [evaluation_player(None, None, np.zeros(50)) for _ in range(20)]
    for evaluation_player in (
      play.random_player(gymnasium.spaces.Discrete(4), seed) for seed in (1, 1, 2)
    )
  ]
  assert set(np.array(draws[0]).flat) == {0, 1, 2, 3}
  np.testing.assert_array_equal(draws[0], draws[1])
  assert not np.array_equal(draws[0], draws[2])


def test_random_player_draws_continuous_actions_from_all_of_their_range():
  player = play.random_player(gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float32), 1)
  draws = np.stack([player(None, None, np.zeros(50)) for _ in range(40)])
  assert draws.shape == (40, 50, 3) and draws.dtype == np.float32
  assert stats.kstest(draws.ravel(), stats.uniform(-1.0, 2.0).cdf).pvalue > 1e-3


def test_the_interval_holds_the_true_mean_as_often_as_it_says():
  """200 data sets of 40 values: it is known to hold in 93 to 95%; 3 deviations around that."""
  rng = np.random.default_rng(0)
  held = 0
  for _ in range(200):
    low, high = play.bootstrap_interval(rng.normal(10.0, 3.0, size=40).tolist())
    held += low <= 10.0 <= high
  assert 0.88 <= held / 200 <= 0.99


def test_the_interval_is_that_of_the_normal_distribution_for_many_values():
  values = np.random.default_rng(0).normal(size=2000)
  low, high = play.bootstrap_interval(values.tolist())
  expected = 1.96 * np.std(values) / np.sqrt(len(values))
  assert [np.mean(values) - low, high - np.mean(values)] == pytest.approx(
    [expected, expected], rel=0.05
  )


@pytest.mark.parametrize('values', [[3.5], [2.0, 2.0, 2.0], [-1.0] * 50])
def test_equal_values_have_no_width(values):
  assert play.bootstrap_interval(values) == (values[0], values[0])


def test_the_interval_is_the_same_each_time():
  values = [1.0, 5.0, 2.0, 8.0]
  assert play.bootstrap_interval(values) == play.bootstrap_interval(values)


def test_less_confidence_is_narrower():
  values = np.random.default_rng(0).normal(size=30).tolist()
  wide, narrow = (
    play.bootstrap_interval(values, 0.95),
    play.bootstrap_interval(values, 0.5),
  )
  assert wide[0] < narrow[0] < np.mean(values) < narrow[1] < wide[1]


def test_summary():
  summary = play.Episodes([1.0, 2.0, 6.0], [10, 20, 30]).summary()
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
