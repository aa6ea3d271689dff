"""Atari's own features: lives, games that go on after a lost one, and stacks of frames."""

import contextlib
import pathlib
import subprocess
import sys
from typing import NamedTuple

import numpy as np
import pytest

from common import environments
from common.environments import atari
from common.reporting import scores

ROOT = pathlib.Path(__file__).parents[3]
GAMES = 3


class Step(NamedTuple):
  stacks: np.ndarray  # [N, 4, 84, 84], after the action.
  done: np.ndarray
  game_over: np.ndarray
  lives: np.ndarray
  lives_before: np.ndarray


def play(game, training, steps, seed=2):
  suite = environments.load(f'atari:{game}')
  actions = np.random.default_rng(0).integers(suite.num_actions, size=(steps, GAMES))
  with contextlib.closing(suite.make([game] * GAMES, training)) as environment:
    observations, info = environment.reset(seed=seed)
    first = observations['observation'].copy()
    lives = info['lives'].copy()
    played = []
    for step_actions in actions:
      observations, _, terminated, truncated, info = environment.step(step_actions)
      step = Step(
        stacks=observations['observation'].copy(),
        done=terminated | truncated,
        game_over=info['game_over'].copy(),
        lives=info['lives'].copy(),
        lives_before=lives,
      )
      played.append(step)
      lives = step.lives
  return first, played


def stacked(played, name):
  """One field of all steps, `[T, N]`."""
  return np.stack([getattr(step, name) for step in played])


@pytest.fixture(scope='module')
def breakout_in_training():
  return play('breakout', training=True, steps=400)


@pytest.fixture(scope='module')
def breakout_in_evaluation():
  return play('breakout', training=False, steps=400)


def test_a_game_starts_with_one_frame(breakout_in_training):
  first, _ = breakout_in_training
  assert not np.any(first[:, :3])
  assert np.all(np.any(first[:, 3], axis=(1, 2)))


def test_a_lost_life_is_an_end_for_the_learner_alone(breakout_in_training):
  _, played = breakout_in_training
  lost = stacked(played, 'lives') < stacked(played, 'lives_before')
  done = stacked(played, 'done')
  game_over = stacked(played, 'game_over')
  assert np.sum(lost) >= GAMES
  np.testing.assert_array_equal(done & ~game_over, lost)


def test_stacks_go_on_after_a_lost_life(breakout_in_training):
  first, played = breakout_in_training
  before = [first] + [step.stacks for step in played[:-1]]
  ends = np.argwhere(stacked(played, 'done') & ~stacked(played, 'game_over'))
  assert len(ends) >= GAMES
  for t, i in ends:
    np.testing.assert_array_equal(played[t].stacks[i, :3], before[t][i, 1:])
    assert np.any(played[t].stacks[i, :3])


def test_stacks_and_lives_start_anew_after_a_game(breakout_in_training):
  _, played = breakout_in_training
  ends = np.argwhere(stacked(played, 'game_over'))
  assert len(ends) >= GAMES
  for t, i in ends:
    assert not np.any(played[t].stacks[i, :3])
    assert np.any(played[t].stacks[i, 3])
    assert played[t].lives[i] == 5


def test_evaluation_has_no_end_at_a_lost_life(breakout_in_evaluation):
  _, played = breakout_in_evaluation
  lost = stacked(played, 'lives') < stacked(played, 'lives_before')
  done = stacked(played, 'done')
  game_over = stacked(played, 'game_over')
  assert np.sum(lost & ~done) >= GAMES
  np.testing.assert_array_equal(done, game_over)
  assert np.all(np.any(game_over, axis=0))


def test_games_are_the_same_in_training_and_evaluation(
  breakout_in_training, breakout_in_evaluation
):
  """They differ only in what counts as an end."""
  pairs = zip(breakout_in_training[1], breakout_in_evaluation[1], strict=True)
  for in_training, in_evaluation in pairs:
    np.testing.assert_array_equal(in_training.stacks, in_evaluation.stacks)
    np.testing.assert_array_equal(in_training.game_over, in_evaluation.game_over)


def test_every_step_pushes_one_frame(breakout_in_training):
  first, played = breakout_in_training
  before = first
  for step in played:
    goes_on = ~step.game_over
    np.testing.assert_array_equal(step.stacks[goes_on, :3], before[goes_on, 1:])
    before = step.stacks


def test_atari_57_are_57_known_games_with_references():
  assert len(set(atari.ATARI_57)) == len(atari.ATARI_57) == 57
  assert set(atari.ATARI_57) <= set(atari.games())
  assert set(atari.ATARI_57) == set(scores.references('atari57'))


# In a child process: ale-py waits without end, and without Python's signals, for a game that cannot
# take an action.
ALL_ACTIONS = """
import contextlib, sys
import numpy as np
from common import environments
tasks = sys.argv[1]
suite = environments.load('atari57', environments.Options(tasks=tasks))
assert suite.num_actions == 18, suite.num_actions
with contextlib.closing(suite.make(suite.tasks, True)) as environment:
  assert environment.num_envs == len(suite.tasks) and environment.single_action_space.n == 18
  stacks = environment.reset(seed=1)[0]['observation']
  assert stacks.shape == (len(suite.tasks), 4, 84, 84)
  assert len({stack[3].tobytes() for stack in stacks}) > 0.8 * len(suite.tasks)
  for action in (0, 8, 9, 17):
    _, rewards, *_ = environment.step(np.full(len(suite.tasks), action))
    assert np.all(np.isfinite(rewards)) and rewards.shape == (len(suite.tasks),)
    print('step', flush=True)
"""


@pytest.mark.parametrize(
  'tasks',
  [[game for game in atari.ATARI_57 if game != 'skiing'], ['skiing']],
  ids=['all_but_skiing', 'skiing'],
)
def test_games_of_the_multi_task_suite_take_all_18_actions(tasks):
  """IMPALA, section 5.3.2: the full action set. Alone, Skiing has nine actions."""
  process = subprocess.Popen(
    [sys.executable, '-u', '-c', ALL_ACTIONS, ','.join(tasks)],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  try:
    output, _ = process.communicate(timeout=30 + len(tasks))
  except subprocess.TimeoutExpired:
    process.kill()
    output = process.communicate()[0] + 'and it hangs'
  assert (process.returncode, output.split()) == (0, ['step'] * 4)


def test_the_multi_task_suite_is_of_the_57_games_with_18_actions():
  suite = environments.load('atari57')
  assert suite.tasks == atari.ATARI_57 and suite.num_actions == 18 and suite.references == 'atari57'


# The sizes of games' own action sets, from the appendix of the paper on dueling networks. Pong has
# 3 there, and 6 in ale-py: up, down and none, each with and without fire.
@pytest.mark.parametrize(
  'game, actions',
  [
    ('pong', 6),
    ('breakout', 4),
    ('freeway', 3),
    ('space_invaders', 6),
    ('alien', 18),
    ('seaquest', 18),
    ('asterix', 9),
    ('surround', 5),
    ('montezuma_revenge', 18),
    ('qbert', 6),
    ('kung_fu_master', 14),
    ('beam_rider', 9),
  ],
)
def test_a_game_alone_has_its_own_actions(game, actions):
  assert environments.load(f'atari:{game}').num_actions == actions


def test_games_beyond_the_57_have_no_references():
  others = set(atari.games()) - set(atari.ATARI_57)
  assert others
  assert environments.load(f'atari:{min(others)}').references == ''
  assert environments.load('atari:pong').references == 'atari57'


def test_the_limit_of_frames_is_for_training_alone():
  suite = environments.load('atari:pong', environments.Options(max_training_frames=100))
  for training, limited in ((True, True), (False, False)):
    with contextlib.closing(suite.make(['pong'], training)) as environment:
      environment.reset(seed=1)
      assert any(environment.step(np.zeros(1, int))[3][0] for _ in range(30)) == limited
