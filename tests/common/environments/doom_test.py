"""The Doom suite's own features: one interface for ten scenarios, and engines that may die."""

import contextlib
import os
import pathlib
import signal

import gymnasium
import numpy as np
import pytest

from common import environments
from common.environments import doom, suite
from scripts import processes


@pytest.fixture
def two_games():
  """A vector environment of two games, and the ids of their engines' processes."""
  with contextlib.closing(doom.together(['basic', 'basic'])) as environment:
    before = processes.engines()
    environment.reset(seed=1)
    yield environment, sorted(processes.engines() - before)


def play_by_hand(task, actions, seed):
  """Plays one game without a vector environment.

  Returns:
    For each action: the pixels before it, the reward, terminated and truncated.
  """
  played = []
  with contextlib.closing(doom.DoomEnv(task)) as game:
    observation, _ = game.reset(seed=seed)
    for action in actions:
      pixels = observation['observation'].copy()
      observation, reward, terminated, truncated, _ = game.step(action)
      played.append((pixels, reward, terminated, truncated))
      if terminated or truncated:
        observation, _ = game.reset()
  return played


def test_all_ten_tasks_look_alike_and_end():
  """600 random steps of 4 tics end an episode of each: none is longer than 2,100 tics."""
  doom_suite = environments.load('doom')
  ended = set()
  actions = np.random.default_rng(0).integers(doom_suite.num_actions, size=(600, 10))
  with contextlib.closing(doom_suite.make(doom_suite.tasks, True)) as environment:
    observations, _ = environment.reset(seed=1)
    instructions = np.array(observations['instruction'])
    for step_actions in actions:
      observations, rewards, terminated, truncated, _ = environment.step(step_actions)
      assert observations['observation'].shape == (10, 72, 96, 3)
      assert np.all(np.isfinite(rewards))
      np.testing.assert_array_equal(observations['instruction'], instructions)
      ended.update(doom_suite.tasks[i] for i in np.flatnonzero(terminated | truncated))
  assert ended == set(doom_suite.tasks)
  expected = [suite.hash_words(doom.INSTRUCTIONS[task]) for task in doom_suite.tasks]
  np.testing.assert_array_equal(instructions, expected)


def test_nine_actions_on_every_task():
  for task in doom.INSTRUCTIONS:
    loaded = environments.load(f'doom:{task}')
    assert loaded.num_actions == 9
    assert loaded.tasks == (task,)
  with contextlib.closing(doom.DoomEnv('basic')) as game:
    assert game.action_space == gymnasium.spaces.Discrete(9)


@pytest.mark.parametrize('task', ['basic', 'predict_position'])
def test_vector_environment_plays_as_games_that_are_reset_by_hand(task):
  actions = np.random.default_rng(3).integers(9, size=(150, 2))
  by_hand = [play_by_hand(task, actions[:, i], seed=5 + i) for i in range(2)]
  ends = 0
  with contextlib.closing(environments.load(f'doom:{task}').make([task] * 2, True)) as environment:
    observations, _ = environment.reset(seed=5)
    for t, step_actions in enumerate(actions):
      pixels = np.array(observations['observation'])
      observations, rewards, terminated, truncated, _ = environment.step(step_actions)
      for i in range(2):
        expected_pixels, *expected = by_hand[i][t]
        np.testing.assert_array_equal(pixels[i], expected_pixels)
        assert [rewards[i], terminated[i], truncated[i]] == expected
      ends += np.sum(terminated | truncated)
  assert ends >= 2


def test_time_limit_is_a_truncation_and_a_kill_is_not(two_games):
  """Basic ends after 300 tics, or with the monster shot (101 points, less 5 a shot and 1 a tic)."""
  environment, _ = two_games
  look_left = 4
  fire = 8
  saw_truncated = saw_terminated = False
  for t in range(300):
    # The second player fires at every other step, and strafes left and right between.
    second = fire if t % 2 else t // 2 % 2 + 2
    _, rewards, terminated, truncated, _ = environment.step(np.array([look_left, second]))
    saw_truncated |= bool(truncated.any())
    saw_terminated |= bool(terminated.any())
    assert np.all(rewards[terminated] > 50)
    assert np.all(rewards[truncated] < 0)
  assert saw_truncated and saw_terminated


@pytest.mark.parametrize('name', [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
@pytest.mark.parametrize('victim', [0, 1])
def test_step_raises_for_a_dead_engine_and_reset_restarts_it(two_games, name, victim):
  environment, engines = two_games
  assert len(engines) == 2
  environment.step(np.zeros(2, int))
  os.kill(engines[victim], name)
  with pytest.raises(environments.EnvironmentCrashed, match='doom:basic'):
    environment.step(np.zeros(2, int))
  observations, _ = environment.reset(seed=1)
  first = np.array(observations['observation'])
  observations, rewards, terminated, truncated, _ = environment.step(np.full(2, 3))
  assert np.all(rewards < 0) and not np.any(terminated | truncated)
  assert np.all(np.any(observations['observation'] != first, axis=(1, 2, 3)))


@pytest.mark.parametrize('name', [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_reset_of_a_dead_engine_raises_or_restarts_it(two_games, name):
  """Whether `reset` notices the death already is a matter of time; the next one must succeed."""
  environment, engines = two_games
  os.kill(engines[0], name)
  with contextlib.suppress(environments.EnvironmentCrashed):
    environment.reset()
  environment.reset(seed=1)
  assert len(processes.engines()) == 2
  assert np.all(environment.step(np.zeros(2, int))[1] < 0)


def test_the_death_of_the_process_that_steps_games_is_a_crash_even_if_they_live():
  """The games must not keep the connection open that this process listens to.

  They end, and their shared memory goes: a run may go on for days.
  """
  with contextlib.closing(environments.load('doom:basic').make(['basic'], True)) as environment:
    environment.reset(seed=1)
    (engine,) = processes.engines()
    (stepping,) = (child for child in processes.children() if engine in processes.children(child))
    segments = processes.shared_memory(engine)
    assert segments and all(segment.exists() for segment in segments)
    os.kill(stepping, signal.SIGKILL)
    with pytest.raises(environments.EnvironmentCrashed, match='SIGKILL'):
      environment.step([0])
    assert not processes.is_alive(engine)
    assert not [segment for segment in segments if segment.exists()]
    environment.reset(seed=1)
    assert environment.step([0])[1].shape == (1,)


def test_a_frozen_game_is_named_ended_and_restarted():
  made = environments.load('doom').make(['basic', 'take_cover'], True)
  with contextlib.closing(made) as environment:
    environment.reset(seed=1)
    before = processes.engines()
    scenario = b'scenarios/take_cover.wad'
    (frozen,) = [x for x in before if scenario in pathlib.Path(f'/proc/{x}/cmdline').read_bytes()]
    os.kill(frozen, signal.SIGSTOP)
    environment._timeout = 1.0
    said = r'for 1 s .* it was stepping environment 1 \(take_cover\)'
    with pytest.raises(environments.EnvironmentCrashed, match=said):
      environment.step([0, 0])
    assert len(before) == 2 and not any(map(processes.is_alive, before))
    environment._timeout = 600.0
    environment.reset(seed=1)
    assert environment.step([0, 0])[1].shape == (2,)


def test_a_dead_engine_leaves_no_shared_memory(two_games):
  environment, engines = two_games
  segments = processes.shared_memory(engines[0])
  assert segments and all(segment.exists() for segment in segments)
  os.kill(engines[0], signal.SIGKILL)
  with pytest.raises(environments.EnvironmentCrashed):
    environment.step(np.zeros(2, int))
  assert not [segment for segment in segments if segment.exists()]


def test_close_leaves_no_shared_memory(two_games):
  environment, engines = two_games
  segments = set.union(*map(processes.shared_memory, engines))
  assert len(segments) >= 2
  environment.close()
  assert not [segment for segment in segments if segment.exists()]


def test_a_single_game_may_be_closed_twice_and_opened_again():
  before = processes.engines()
  game = doom.DoomEnv('basic')
  first, _ = game.reset(seed=3)
  game.close()
  game.close()
  assert processes.engines() == before
  again, _ = game.reset(seed=3)
  np.testing.assert_array_equal(again['observation'], first['observation'])
  game.close()


def test_reward_scales_are_of_known_tasks():
  scales = environments.load('doom').reward_scales
  assert scales and set(scales) <= set(doom.INSTRUCTIONS)
  assert all(0 < scale <= 1 for scale in scales.values())
