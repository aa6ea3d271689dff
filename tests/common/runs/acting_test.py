"""What keeps an actor's environments running and counts their games, on real environments."""

import dataclasses
import logging
import threading

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common import environments, errors
from common.distributed import queues
from common.machine import threads
from common.runs import acting
from scripts import processes

N, ACTOR = 3, 7


class Recorder(gymnasium.vector.VectorWrapper):
  """Notes down what the environments answer, in copies."""

  def __init__(self, env: gymnasium.vector.VectorEnv):
    super().__init__(env)
    self.firsts, self.rewards, self.ends, self.lives = [], [], [], []

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
  """Games whose environments are recorded, in the list that comes with them once they are made."""
  suite, made = (
    environments.load(env, environments.Options(max_training_frames=max_training_frames)),
    [],
  )

  def make(names, training):
    made.append(Recorder(suite.make(names, training)))
    return made[-1]

  return acting.Games(
    ACTOR, dataclasses.replace(suite, make=make, **changes), tasks or suite.tasks * N, seed=11
  ), made


def play(games, steps, num_actions):
  """Steps at random, as one collection; `[T, N]` each."""
  rng, played = np.random.default_rng(0), []

  def collect():
    for _ in range(steps):
      played.append(games.step(rng.integers(num_actions, size=N)))
      played[-1] = played[-1]._replace(observation=played[-1].observation['observation'].copy())

  games.run(games.reset, collect, lambda _: None, lambda: bool(played))
  return acting.Step(
    *(
      np.stack(part) if name != 'info' else part
      for name, part in zip(acting.Step._fields, zip(*played))
    )
  )


def assert_counts(played, rewards, over):
  """Returns and lengths stand where games ended, of all steps since the game before."""
  assert played.episode_return.dtype == np.float32 and played.episode_length.dtype == np.int32
  for environment in range(N):
    begin = 0
    for t in range(len(rewards)):
      if over[t, environment]:
        assert played.episode_return[t, environment] == rewards[begin : t + 1, environment].sum()
        assert played.episode_length[t, environment] == t + 1 - begin
        begin = t + 1
      else:
        assert (
          played.episode_return[t, environment] == 0 and played.episode_length[t, environment] == 0
        )


def test_returns_and_lengths_are_of_whole_games_in_the_tasks_own_units():
  games, made = make_games(reward_scales={'CartPole-v1': 0.25})
  played = play(games, 300, 2)
  rewards, ends = np.array(made[0].rewards), np.array(made[0].ends)
  assert np.all(ends.sum(axis=0) >= 5)
  assert_counts(played, rewards, ends)
  np.testing.assert_array_equal(played.start, ends)
  np.testing.assert_array_equal(
    played.episode_return, played.episode_length
  )  # CartPole pays 1 a step.
  np.testing.assert_array_equal(played.reward, np.full_like(rewards, 0.25))


def test_a_lost_life_ends_no_game_and_a_time_limit_does():
  games, made = make_games('atari:breakout', max_training_frames=640)
  played = play(games, 330, 4)
  rewards, ends, lives = (np.array(x) for x in (made[0].rewards, made[0].ends, made[0].lives))
  over = ends & (lives == 5)  # After a game there are five lives again.
  assert (
    np.sum(ends & ~over) >= 12
    and np.sum(played.truncated & over) >= N
    and np.any(played.terminated & over)
  )
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


def test_a_reset_counts_from_the_beginning():
  games, made = make_games()
  rng, steps = np.random.default_rng(0), []

  def collect():
    for _ in range(5):  # A game lasts for eight steps at least.
      games.step(rng.integers(2, size=N))
    games.reset()
    for _ in range(100):
      steps.append(games.step(rng.integers(2, size=N)))

  games.run(games.reset, collect, lambda _: None, lambda: bool(steps))
  ends, lengths = np.array(made[0].ends)[5:], np.stack([step.episode_length for step in steps])
  for environment in range(N):
    first = np.flatnonzero(ends[:, environment])[0]
    assert lengths[first, environment] == first + 1
    assert steps[first].episode_return[environment] == first + 1


def run_until(games, count, collect, put=None, begin=None):
  """Runs until so many collections were put; returns them."""
  collected = []
  games.run(begin or games.reset, collect, put or collected.append, lambda: len(collected) >= count)
  return collected


class Failing:
  """Collects the number of its call, but in the calls named the environments crash."""

  def __init__(self, calls):
    self._calls, self.count = calls, 0

  def __call__(self):
    self.count += 1
    if self.count in self._calls:
      raise environments.EnvironmentCrashed(f'the game ended in call {self.count}')
    return self.count


def test_a_dead_engine_is_started_again_and_what_was_collected_is_dropped(caplog):
  games, made = make_games('doom:basic', ['basic', 'basic'])
  calls = []

  def collect():
    calls.append([])
    for step in range(6):
      if len(calls) == 3 and step == 4:
        processes.kill_engine()
      calls[-1].append(games.step(np.full(2, 8)))
    return len(calls)

  with caplog.at_level(logging.WARNING):
    collected = run_until(games, 4, collect)
  assert collected == [1, 2, 4, 5] and [len(steps) for steps in calls] == [6, 6, 4, 6, 6]
  assert games.crashes == 1 and len(made) == 1 and len(made[0].firsts) == 2
  assert 'actor 7: the game of doom:basic ended by itself; it is started again' in caplog.text


def test_what_runs_again_after_a_crash_are_other_games():
  # The same seeds would replay the same episodes. Without crashes, the seed says which games are played.
  firsts = []
  for calls in ([2], []):
    games, made = make_games()
    run_until(games, 2, Failing(calls))
    firsts.append(made[0].firsts)
  assert [len(observations) for observations in firsts] == [2, 1]
  np.testing.assert_array_equal(firsts[0][0], firsts[1][0])
  assert np.all(np.any(firsts[0][1] != firsts[0][0], axis=1))


@pytest.mark.parametrize(
  'calls, collected', [([1], [2, 3]), ([2, 4], [1, 3]), ([1, 2, 3, 4, 6, 7, 8, 9], [5, 10])]
)
def test_crashes_with_something_collected_between_them_are_survived(calls, collected):
  games, _ = make_games()
  assert run_until(games, 2, Failing(calls)) == collected
  assert games.crashes == sum(call < collected[-1] for call in calls)


def test_the_fifth_crash_in_a_row_ends_the_run_and_names_the_actor():
  games, made = make_games()
  collect = Failing([1, 3, 4, 5, 6, 7])
  with pytest.raises(
    errors.UserError,
    match=(
      r'actor 7 \(CartPole-v1\): environments crashed 5 times in a row: the game ended in call 7'
    ),
  ):
    run_until(games, 2, collect)
  assert collect.count == 7 and games.crashes == 6
  assert made[0].closed


@pytest.mark.parametrize('calls, expected', [([1], 1), ([2, 3], 2)])
def test_a_crash_while_starting_is_one_too(calls, expected):
  games, _ = make_games()
  starting = Failing(calls)

  def begin():
    starting()
    games.reset()

  assert run_until(games, 2, Failing([1] if calls[0] > 1 else []), begin=begin) == (
    [2, 3] if calls[0] > 1 else [1, 2]
  )
  assert games.crashes == expected + (calls[0] > 1)


def test_an_environment_that_never_starts_ends_the_run():
  games, made = make_games()
  with pytest.raises(
    errors.UserError, match='environments crashed 5 times in a row: the game ended in call 5'
  ):
    run_until(games, 1, games.step, begin=Failing(range(100)))
  assert made[0].closed


def test_an_engine_that_always_dies_ends_the_run():
  games, made = make_games('doom:basic', ['basic'])

  def collect():
    processes.kill_engine()
    games.step(np.zeros(1, int))

  with pytest.raises(
    errors.UserError, match=r'actor 7 \(basic\).* 5 times in a row: the game of doom:basic ended'
  ):
    run_until(games, 1, collect)
  assert made[0].closed


def test_environments_are_made_for_training_and_closed_at_the_end():
  suite, made = environments.load('gym:CartPole-v1'), []

  def make(tasks, training):
    made.append((suite.make(tasks, training), tasks, training))
    return made[-1][0]

  games = acting.Games(0, dataclasses.replace(suite, make=make), ['a', 'b'], seed=1)
  assert not made  # Before it runs there are none: building a run starts no game.
  run_until(games, 2, Failing([]))
  ((environment, *arguments),) = made
  assert arguments == [['a', 'b'], True] and environment.closed


def test_nothing_is_collected_where_it_is_stopped_already():
  games, made = make_games()
  collect = Failing([])
  assert run_until(games, 0, collect) == [] and collect.count == 0
  assert made[0].closed


def test_a_queue_that_is_closed_while_collecting_ends_it_quietly():
  games, made = make_games()

  def collect():
    raise queues.QueueClosed

  assert run_until(games, 1, collect) == []
  assert made[0].closed and games.crashes == 0


def test_a_queue_that_is_closed_while_putting_ends_its_thread_quietly():
  # The second element finds no room: it waits until the queue is closed.
  games, made = make_games()
  queue = queues.StructureQueue(tf.TensorSpec([], tf.int32), 1)
  collect, second = Failing([]), threading.Event()

  def put(number):
    if number == 2:
      second.set()
    queue.put(tf.constant(number))

  crew = threads.Crew(queue.close)
  crew.start('actor', lambda: games.run(games.reset, collect, put, crew.stop.is_set))
  assert second.wait(60)
  assert crew.end() == [] and crew.error is None
  assert made[0].closed and collect.count == 2
  assert int(queue.take()) == 1


def test_other_errors_are_not_hidden():
  games, made = make_games()

  def put(number):
    raise ZeroDivisionError(number)

  with pytest.raises(ZeroDivisionError):
    run_until(games, 1, Failing([]), put)
  assert made[0].closed and games.crashes == 0


def test_the_pulse_tells_what_the_actor_does():
  games, _ = make_games(tasks=['b', 'a', 'b'])
  assert games.pulse.name == 'actor 7 (a, b)'
  activities = []

  def begin():
    activities.append(games.pulse.activity)
    games.reset()
    activities.append(games.pulse.activity)

  def collect():
    games.step(np.zeros(N, int))
    activities.append(games.pulse.activity)

  games.run(
    begin, collect, lambda _: activities.append(games.pulse.activity), lambda: len(activities) >= 4
  )
  assert activities == [
    'making environments',
    'resetting environments',
    'stepping environments',
    'waiting for the learner to take what was collected',
  ]
