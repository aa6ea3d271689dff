"""The ladder of epsilons against section 4.1 of the paper (arXiv 1803.00933), and its draws."""

import numpy as np
import pytest
from scipy import stats

from apex import exploration

# A draw less likely than this fails a test; seeds are fixed, so that it is decided once.
SIGNIFICANCE = 1e-3


def ladder_by_hand(count):
  """eps^(1 + i / (N - 1) * alpha) with eps = 0.4 and alpha = 7, for i = 0 ... N - 1."""
  return [0.4 ** (1.0 + i / (count - 1) * 7.0) for i in range(count)]


@pytest.mark.parametrize('count', [2, 3, 8, 256, 360])
def test_the_ladder_is_the_papers(count):
  epsilons = exploration.epsilons(count)
  assert epsilons.dtype == np.float32 and epsilons.shape == (count,)
  np.testing.assert_allclose(epsilons, ladder_by_hand(count), rtol=1e-6)
  assert np.all(np.diff(epsilons) < 0)


def test_the_papers_360_actors_reach_from_0_4_to_its_eighth_power():
  epsilons = exploration.epsilons(360)
  np.testing.assert_allclose(epsilons[[0, -1]], [0.4, 0.00065536], rtol=1e-6)


def test_equal_ratios_lie_between_rungs():
  logarithms = np.log(exploration.epsilons(360).astype(np.float64))
  np.testing.assert_allclose(np.diff(logarithms), 7 / 359 * np.log(0.4), rtol=1e-4)


@pytest.mark.parametrize('distinct', [0, 1])
def test_a_single_environment_has_the_base_epsilon(distinct):
  np.testing.assert_array_equal(exploration.epsilons(1, distinct), np.float32([0.4]))


def test_six_rungs_have_sixty_environments_each():
  values, counts = np.unique(exploration.epsilons(360, distinct=6), return_counts=True)
  np.testing.assert_allclose(values[::-1], ladder_by_hand(6), rtol=1e-6)
  np.testing.assert_array_equal(counts, [60] * 6)


@pytest.mark.parametrize('count, distinct', [(12, 6), (12, 12), (8, 2), (5, 1)])
def test_rungs_come_in_order(count, distinct):
  rungs = ladder_by_hand(distinct) if distinct > 1 else [0.4]
  np.testing.assert_allclose(
    exploration.epsilons(count, distinct), np.repeat(rungs, count // distinct), rtol=1e-6
  )


@pytest.mark.parametrize('count, distinct', [(10, 6), (360, 7), (7, 3)])
def test_rungs_that_do_not_divide_evenly_differ_by_one_environment(count, distinct):
  epsilons = exploration.epsilons(count, distinct)
  values, counts = np.unique(epsilons, return_counts=True)
  np.testing.assert_allclose(values[::-1], ladder_by_hand(distinct), rtol=1e-6)
  assert np.ptp(counts) == 1 and np.all(np.diff(epsilons) <= 0)


@pytest.mark.parametrize(
  'count, expected', [(1, 1), (2, 1), (8, 1), (16, 2), (32, 4), (256, 32), (360, 45)]
)
def test_the_greediest_are_the_eighth_with_the_smallest_epsilons(count, expected):
  epsilons = np.random.default_rng(0).permutation(exploration.epsilons(count))
  chosen = exploration.greediest(epsilons)
  assert chosen.dtype == bool and chosen.sum() == expected
  assert set(epsilons[chosen]) == set(np.sort(epsilons)[:expected])


def test_the_greediest_are_as_many_where_rungs_are_shared():
  epsilons = exploration.epsilons(360, distinct=6)
  chosen = exploration.greediest(epsilons)
  assert chosen.sum() == 45
  np.testing.assert_array_equal(epsilons[chosen], np.full(45, epsilons.min()))


@pytest.mark.parametrize('share, expected', [(0.0, 1), (0.01, 1), (0.25, 5), (1.0, 20)])
def test_the_greediest_are_the_share_asked_for_and_at_least_one(share, expected):
  epsilons = exploration.epsilons(20)
  np.testing.assert_array_equal(
    exploration.greediest(epsilons, share), np.arange(20) >= 20 - expected
  )


def q_values_with_best(best, count, actions=4):
  """Q-values `[count, A]`; action `best[i % len(best)]` is by far the best of row i."""
  q_values = np.random.default_rng(1).normal(size=(count, actions)).astype(np.float32)
  q_values[np.arange(count), np.resize(best, count)] += 100.0
  return q_values


@pytest.mark.parametrize('epsilon', [0.05, 0.4, 0.9])
@pytest.mark.parametrize('best', [0, 3])
def test_each_other_action_is_drawn_with_an_equal_part_of_epsilon(epsilon, best):
  draws, actions = 40_000, 4
  q_values = q_values_with_best([best], draws)
  epsilons = np.full(draws, epsilon, np.float32)
  drawn = exploration.epsilon_greedy(q_values, epsilons, np.random.default_rng(2))
  assert drawn.dtype == np.int32
  expected = np.full(actions, epsilon / actions)
  expected[best] += 1 - epsilon  # Exploration may choose the best action too.
  counts = np.bincount(drawn, minlength=actions)
  assert stats.chisquare(counts, draws * expected).pvalue > SIGNIFICANCE


def test_without_epsilon_the_best_action_is_always_taken():
  q_values = np.random.default_rng(3).normal(size=(10_000, 6)).astype(np.float32)
  no_epsilon = np.zeros(10_000, np.float32)
  drawn = exploration.epsilon_greedy(q_values, no_epsilon, np.random.default_rng(4))
  np.testing.assert_array_equal(drawn, [max(range(6), key=row.__getitem__) for row in q_values])


def test_with_epsilon_one_draws_are_uniform_and_independent():
  draws, actions = 40_000, 4
  q_values = q_values_with_best([0, 1, 2, 3], draws)
  ones = np.ones(draws, np.float32)
  drawn = exploration.epsilon_greedy(q_values, ones, np.random.default_rng(5))
  assert stats.chisquare(np.bincount(drawn, minlength=actions)).pvalue > SIGNIFICANCE
  pairs = np.bincount(actions * drawn[0::2] + drawn[1::2], minlength=actions**2)
  assert stats.chisquare(pairs).pvalue > SIGNIFICANCE


def test_each_environment_explores_by_its_own_epsilon():
  epsilons, steps, rng = exploration.epsilons(8), 5_000, np.random.default_rng(6)
  q_values = q_values_with_best([2], 8)
  drawn = np.stack([exploration.epsilon_greedy(q_values, epsilons, rng) for _ in range(steps)])
  for environment, epsilon in enumerate(epsilons):
    others = int(np.sum(drawn[:, environment] != 2))
    assert stats.binomtest(others, steps, float(epsilon) * 3 / 4).pvalue > SIGNIFICANCE


@pytest.mark.parametrize('epsilon', [np.float32(0.1), np.zeros(1), np.zeros((3, 1)), np.zeros(4)])
def test_anything_but_one_epsilon_for_each_row_is_refused(epsilon):
  with pytest.raises(ValueError, match=r'epsilon .*, expected \[N, A\] and \[N\]'):
    exploration.epsilon_greedy(np.zeros((3, 4)), epsilon, np.random.default_rng(7))


def test_random_and_greedy_actions_are_legal_where_masks_say_which():
  rng = np.random.default_rng(0)
  mask = np.tile(np.uint8([1, 0, 1, 0]), (3000, 1))
  q_values = np.where(mask, [1.0, 9.0, 2.0, 9.0], -1e8)
  for epsilon, expected in ((0.0, {2}), (1.0, {0, 2})):
    drawn = exploration.epsilon_greedy(q_values, np.full(3000, epsilon), rng, mask)
    assert drawn.dtype == np.int32 and set(drawn) == expected
  assert np.mean(drawn == 0) == pytest.approx(0.5, abs=5 * 0.5 / np.sqrt(3000))
