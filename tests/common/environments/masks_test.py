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


def fixed(several, mask):
  suite = structured.make_suite(several, masked=True)
  return structured.with_masks(suite, np.uint8(mask))


@pytest.mark.parametrize('how', ['training', 'evaluation'])
def test_a_mask_that_forbids_everything_is_refused(how):
  suite = fixed(several=False, mask=np.zeros(24))
  message = 'digits: the action mask of environment 0 forbids all actions'
  with pytest.raises(errors.UserError, match=message):
    if how == 'training':
      with games.Games(0, suite, suite.tasks * 2, seed=1) as made:
        made.reset()
    else:
      play.play_episodes(suite, 'digits', lambda *_: no_player, episodes=1, seed=1)


def no_player(observations, rewards, done):
  raise AssertionError('it was asked to act')


def test_a_mask_that_forbids_one_choice_of_several_is_refused_in_a_step():
  suite = structured.make_suite(several=True, masked=True)
  with games.Games(0, suite, suite.tasks * 2, seed=1) as made:
    observation = made.reset()
    player = play.random_player(suite.action_space, seed=2)
    made._environment = with_bad_second_choice(made._environment)
    with pytest.raises(
      errors.UserError, match='environment 1 forbids all 2 actions of component 1'
    ):
      made.step(player(observation, np.zeros(2), np.zeros(2)))


def with_bad_second_choice(environment):
  class Bad(gymnasium.vector.VectorObservationWrapper):
    def observations(self, observations):
      mask = observations['action_mask'].copy()
      mask[1, 3:5] = 0
      return {**observations, 'action_mask': mask}

  return Bad(environment)


@pytest.mark.parametrize('several', [False, True])
def test_random_play_takes_legal_actions_only(several):
  # The environment raises an error at an illegal one.
  suite = structured.make_suite(several, masked=True)
  played = play.play_episodes(
    suite, 'digits', lambda *_: play.random_player(suite.action_space, 1), episodes=30, seed=1
  )
  assert played.lengths == [structured.LENGTH] * 30
  plain = dataclasses.replace(suite, observation_space=suite.observation_space)
  with pytest.raises(AssertionError, match='is illegal'):
    rng = np.random.default_rng(0)
    play.play_episodes(
      plain,
      'digits',
      lambda task, count: lambda *_: play.random_actions(suite.action_space, count, rng),
      episodes=30,
      seed=1,
    )
