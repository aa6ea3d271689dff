"""An actor's environments: what a step reports, crashes and restarts, on real environments."""

import dataclasses
import logging

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.runs import games as runs_games
from scripts import processes

N = 3
ACTOR = 7


class Recorder(gymnasium.vector.VectorWrapper):
  """Records what the environments return, in copies."""

  def __init__(self, env: gymnasium.vector.VectorEnv):
    super().__init__(env)
    self.firsts = []
    self.rewards = []
    self.ends = []
    self.lives = []

  def reset(self, *, seed=None, options=None):
    observations, info = self.env.reset(seed=seed, options=options)
    self.firsts.append(observations['observation'].copy())
    return observations, info

  def step(self, actions):
    observations, rewards, terminated, truncated, info = self.env.step(actions)
    self.rewards.append(np.array(rewards, np.float64))
    self.ends.append(terminated | truncated)
    self.lives.append(np.array(info.get('lives', np.zeros(self.num_envs))))
    return observations, rewards, terminated, truncated, info


def make_games(env='gym:CartPole-v1', tasks=None, max_training_frames=None, **changes):
  """Games, and the list that gets a recorder of their environments once they are made."""
  suite = environments.load(env, environments.Options(max_training_frames=max_training_frames))
  made = []

  def make(names, training):
    made.append(Recorder(suite.make(names, training)))
    return made[-1]

  recorded = dataclasses.replace(suite, make=make, **changes)
  return runs_games.Games(ACTOR, recorded, tasks or suite.tasks * N, seed=11), made


def play(games, steps, num_actions):
  """Takes random steps; returns them as one `Step` of arrays `[T, N]`."""
  rng = np.random.default_rng(0)
  played = []
  with games:
    games.reset()
    for _ in range(steps):
      step = games.step(rng.integers(num_actions, size=N))
      played.append(step._replace(observation=step.observation['observation'].copy(), info=None))
  return runs_games.Step(*map(np.stack, zip(*played, strict=True)))


def assert_counts(played, rewards, over):
  """Asserts that returns and lengths stand where games ended and cover all steps of the game."""
  assert played.episode_return.dtype == np.float32 and played.episode_length.dtype == np.int32
  for environment in range(N):
    returns = played.episode_return[:, environment]
    lengths = played.episode_length[:, environment]
    begin = 0
    for t in range(len(rewards)):
      if over[t, environment]:
        assert returns[t] == rewards[begin : t + 1, environment].sum()
        assert lengths[t] == t + 1 - begin
        begin = t + 1
      else:
        assert returns[t] == 0 and lengths[t] == 0


def test_returns_and_lengths_cover_whole_games_in_unscaled_units():
  games, made = make_games(reward_scales={'CartPole-v1': 0.25})
  played = play(games, 300, 2)
  rewards, ends = np.array(made[0].rewards), np.array(made[0].ends)
  assert np.all(ends.sum(axis=0) >= 5)
  assert_counts(played, rewards, ends)
  np.testing.assert_array_equal(played.start, ends)
  # CartPole pays 1 per step.
  np.testing.assert_array_equal(played.episode_return, played.episode_length)
  np.testing.assert_array_equal(played.reward, np.full_like(rewards, 0.25))


def test_discounted_returns_are_those_of_the_scaled_rewards_of_each_episode():
  games, made = make_games(reward_scales={'CartPole-v1': 0.5}, return_discount=0.9)
  played = play(games, 120, 2)
  ends = np.array(made[0].ends)
  expected = np.zeros((120, N))
  for environment in range(N):
    total = 0.0
    for t in range(120):
      total = 0.9 * total + 0.5 * made[0].rewards[t][environment]
      expected[t, environment] = total
      if ends[t, environment]:
        total = 0.0
  assert np.all(ends.sum(axis=0) >= 2) and played.discounted_return.dtype == np.float32
  np.testing.assert_allclose(played.discounted_return, expected, rtol=1e-6)


def test_a_lost_life_ends_no_game_and_a_time_limit_does():
  games, made = make_games('atari:breakout', max_training_frames=640)
  played = play(games, 330, 4)
  rewards, ends, lives = (np.array(x) for x in (made[0].rewards, made[0].ends, made[0].lives))
  over = ends & (lives == 5)  # The next game starts with five lives.
  assert np.sum(ends & ~over) >= 12
  assert np.sum(played.truncated & over) >= N
  assert np.any(played.terminated & over)
  assert_counts(played, rewards, over)
  np.testing.assert_array_equal(played.start, over)
  np.testing.assert_array_equal(played.terminated | played.truncated, ends)
  assert np.any(rewards != 0)


def test_rewards_are_scaled_by_task():
  games, made = make_games(
    tasks=['one', 'CartPole-v1', 'half'], reward_scales={'half': 0.5, 'one': 2.0}
  )
  played = play(games, 50, 2)
  assert played.reward.dtype == np.float32
  np.testing.assert_array_equal(played.reward, np.array(made[0].rewards) * [2.0, 1.0, 0.5])
  assert_counts(played, np.array(made[0].rewards), np.array(made[0].ends))


def test_a_reset_restarts_the_counts():
  games, made = make_games()
  rng = np.random.default_rng(0)
  with games:
    games.reset()
    for _ in range(5):  # A game lasts at least eight steps.
      games.step(rng.integers(2, size=N))
    games.reset()
    steps = [games.step(rng.integers(2, size=N)) for _ in range(100)]

  ends = np.array(made[0].ends)[5:]
  lengths = np.stack([step.episode_length for step in steps])
  for environment in range(N):
    first = np.flatnonzero(ends[:, environment])[0]
    assert lengths[first, environment] == first + 1
    assert steps[first].episode_return[environment] == first + 1


def test_a_reset_restarts_a_dead_engine(caplog):
  games, made = make_games('doom:basic', ['basic', 'basic'])
  actions = np.full(2, 8)
  with games, caplog.at_level(logging.WARNING):
    games.reset()
    for _ in range(4):
      games.step(actions)
    processes.kill_engine()
    with pytest.raises(environments.EnvironmentCrashed) as crashed:
      games.step(actions)
    games.record_crash(crashed.value)

    games.reset()
    for _ in range(6):
      games.step(actions)
  assert games.crashes == 1 and len(made) == 1 and len(made[0].firsts) == 2
  assert 'actor 7: the game of doom:basic ended by itself; restarting it' in caplog.text


def test_games_after_a_crash_are_other_games():
  # The same seeds would replay the same episodes. Without crashes, the seed determines the games.
  firsts = []
  for crashes in (1, 0):
    games, made = make_games()
    with games:
      games.reset()
      for _ in range(crashes):
        games.record_crash(environments.EnvironmentCrashed('the game ended'))
        games.reset()
    firsts.append(made[0].firsts)
  assert [len(observations) for observations in firsts] == [2, 1]
  np.testing.assert_array_equal(firsts[0][0], firsts[1][0])
  assert np.all(np.any(firsts[0][1] != firsts[0][0], axis=1))


def record_crashes(games, count):
  for i in range(count):
    games.record_crash(environments.EnvironmentCrashed(f'crash {i + 1}'))


def test_the_fifth_crash_in_a_row_raises_and_names_the_actor():
  games, made = make_games()
  message = r'actor 7 \(CartPole-v1\): environments crashed 5 times in a row: crash 5$'
  with games:
    record_crashes(games, 1)
    games.record_collected()
    with pytest.raises(errors.UserError, match=message):
      record_crashes(games, 10)
  assert games.crashes == 6


def test_collecting_between_crashes_ends_the_row():
  games, _ = make_games()
  with games:
    for _ in range(3):
      record_crashes(games, 4)
      games.record_collected()
  assert games.crashes == 12


def test_an_engine_that_always_dies_raises():
  games, made = make_games('doom:basic', ['basic'])

  def play_and_crash():
    games.reset()
    processes.kill_engine()
    games.step(np.zeros(1, int))

  message = r'actor 7 \(basic\).* 5 times in a row: the game of doom:basic ended'
  with pytest.raises(errors.UserError, match=message), games:
    for _ in range(5):
      with pytest.raises(environments.EnvironmentCrashed) as crashed:
        play_and_crash()
      games.record_crash(crashed.value)
  assert games.crashes == 5 and made[0].closed


@pytest.mark.parametrize('error', [None, ZeroDivisionError])
def test_environments_are_made_for_training_and_closed_at_the_end(error):
  suite, made = environments.load('gym:CartPole-v1'), []

  def make(tasks, training):
    made.append((suite.make(tasks, training), tasks, training))
    return made[-1][0]

  def use():
    with games:
      games.reset()
      if error:
        raise error

  games = runs_games.Games(0, dataclasses.replace(suite, make=make), ['a', 'b'], seed=1)
  assert not made  # A run that is only constructed starts no engine.
  if error:
    with pytest.raises(error):
      use()
  else:
    use()
  ((environment, *arguments),) = made
  assert arguments == [['a', 'b'], True] and environment.closed


def test_the_pulse_says_what_the_actor_does():
  games, _ = make_games(tasks=['b', 'a', 'b'])
  assert games.pulse.name == 'actor 7 (a, b)'
  activities = []
  with games:
    activities.append(games.pulse.activity)
    games.reset()
    activities.append(games.pulse.activity)
    games.step(np.zeros(N, int))
    activities.append(games.pulse.activity)
    games.record_collected()
    activities.append(games.pulse.activity)
  assert activities == [
    'making environments',
    'resetting environments',
    'stepping environments',
    'waiting for the learner to take what was collected',
  ]


def test_seeds_differ_by_every_number():
  numbers = [(1, 0, 0), (2, 0, 0), (1, 1, 0), (1, 0, 1), (1, 0, 0, 1)]
  seeds = [runs_games.seed_of(*each) for each in numbers]
  assert len(set(seeds)) == len(seeds) and all(0 <= seed < 10**9 for seed in seeds)
  assert seeds == [runs_games.seed_of(*each) for each in numbers]
