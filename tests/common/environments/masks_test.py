"""Action masks: masks that leave nothing are refused, random play is legal."""

import dataclasses

import gymnasium
import numpy as np
import pytest
from scipy import stats

from common import errors
from common.environments import masks
from common.evaluation import play
from common.runs import games
from tests import structured

SEVERAL = gymnasium.spaces.MultiDiscrete((3, 2))


def test_random_legal_actions_are_uniform_among_the_legal():
  rng = np.random.default_rng(0)
  mask = np.tile(np.uint8([1, 0, 1, 1, 0]), (6000, 1))
  drawn = masks.random_legal(gymnasium.spaces.Discrete(5), mask, rng)
  counts = np.bincount(drawn, minlength=5)
  assert drawn.shape == (6000,) and counts[1] == counts[4] == 0
  assert stats.chisquare(counts[[0, 2, 3]]).pvalue > 1e-3


def test_each_row_and_each_component_has_its_own_mask():
  mask = np.uint8([[0, 0, 1, 1, 0], [1, 0, 0, 0, 1], [0, 1, 0, 0, 1]])
  for seed in range(20):
    drawn = masks.random_legal(SEVERAL, mask, np.random.default_rng(seed))
    np.testing.assert_array_equal(drawn, [[2, 0], [0, 1], [1, 1]])


def forbidding(several, first, last, after=0):
  """The suite with masks that forbid some actions of the last environment, `after` some steps."""
  suite = structured.make_suite(several, masked=True)
  seen = []

  def change(mask):
    seen.append(mask)
    if len(seen) > after:
      mask[-1, first:last] = 0

  return dataclasses.replace(
    suite, make=lambda *arguments: structured.Masked(suite.make(*arguments), change)
  )


@pytest.mark.parametrize('how', ['training', 'evaluation'])
def test_a_mask_that_forbids_everything_is_refused(how):
  suite = forbidding(several=False, first=0, last=24)
  message = 'digits: the action mask of environment . forbids all actions'
  with pytest.raises(errors.UserError, match=message):
    if how == 'training':
      with games.Games(0, suite, suite.tasks * 2, seed=1) as made:
        made.reset()
    else:
      played(suite, lambda *_: no_player, episodes=1)


def played(suite, make_player, episodes):
  """Episodes of the suite's task."""
  *_, last = play.play_episodes(suite, 'digits', make_player, episodes, seed=1, max_steps=1000)
  return last


def no_player(observations, rewards, done):
  raise AssertionError('it was asked to act')


def test_a_mask_that_forbids_one_choice_of_several_is_refused_in_a_step():
  suite = forbidding(several=True, first=3, last=5, after=1)
  player = play.random_player(suite.action_space, seed=2)
  with games.Games(0, suite, suite.tasks * 2, seed=1) as made:
    actions = player(made.reset(), np.zeros(2), np.zeros(2))
    message = 'environment 1 forbids all 2 actions of component 1'
    with pytest.raises(errors.UserError, match=message):
      made.step(actions)


@pytest.mark.parametrize('several', [False, True])
def test_random_play_takes_legal_actions_only(several):
  # The environment raises an error at an illegal one.
  suite = structured.make_suite(several, masked=True)
  rng = np.random.default_rng(0)

  def legal(task, count):
    return play.random_player(suite.action_space, 1)

  def any_at_all(task, count):
    return lambda *_: play.random_actions(suite.action_space, count, rng)

  assert played(suite, legal, episodes=30).lengths == [structured.LENGTH] * 30
  with pytest.raises(AssertionError, match='is illegal'):
    played(suite, any_at_all, episodes=30)
