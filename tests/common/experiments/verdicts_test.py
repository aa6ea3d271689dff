"""Verdicts on made-up results, one of each, and statistics against NumPy."""

import numpy as np
import pytest

from common.experiments import definitions, statistics, verdicts

BETTER = definitions.Claim('A beats B.', 'section 1', (definitions.Better('A', 'B'),))
RISING = definitions.Claim(
  'More is better.', 'section 2', (definitions.Rising(('A', 'B', 'C')),), aggregate='mean'
)


def scores(mean, runs=12, spread=0.1, seed=0):
  """Made-up scores of two tasks."""
  rng = np.random.default_rng(seed)
  return {task: rng.normal(mean, spread, runs) for task in ('one', 'two')}


@pytest.mark.parametrize(
  'mean, word',
  [(0.8, verdicts.HOLDS), (0.5, verdicts.NOT_SHOWN), (0.2, verdicts.CONTRARY)],
)
def test_a_difference_beyond_its_interval_holds_and_one_on_the_other_side_is_contrary(mean, word):
  table = {'A': scores(mean), 'B': scores(0.5, seed=1)}
  verdict = verdicts.judge(BETTER, table)
  assert verdict.word == word
  assert 'runs of each: 24' in verdict.findings[0].numbers


def test_a_difference_that_is_too_small_is_not_shown_but_never_contrary():
  claim = definitions.Claim('A beats B.', '', (definitions.Better('A', 'B', by=0.5),))
  assert verdicts.judge(claim, {'A': scores(0.6), 'B': scores(0.4)}).word == verdicts.NOT_SHOWN
  assert verdicts.judge(claim, {'A': scores(1.1), 'B': scores(0.4)}).word == verdicts.HOLDS


@pytest.mark.parametrize(
  'means, word',
  [
    ((0.1, 0.4, 0.9), verdicts.HOLDS),
    ((0.5, 0.5, 0.5), verdicts.NOT_SHOWN),
    ((0.9, 0.4, 0.1), verdicts.CONTRARY),
  ],
)
def test_a_claim_that_the_metric_rises_is_judged_by_its_slope(means, word):
  table = {
    name: scores(mean, seed=i) for i, (name, mean) in enumerate(zip('ABC', means, strict=True))
  }
  assert verdicts.judge(RISING, table).word == word


def test_one_contrary_test_makes_the_claim_contrary_and_one_missing_variant_not_shown():
  both = definitions.Claim(
    'A beats B and C.', '', (definitions.Better('A', 'B'), definitions.Better('A', 'C'))
  )
  table = {'A': scores(0.5), 'B': scores(0.2), 'C': scores(0.9)}
  assert verdicts.judge(both, table).word == verdicts.CONTRARY
  verdict = verdicts.judge(both, {'A': scores(0.5), 'B': scores(0.2)})
  assert verdict.word == verdicts.NOT_SHOWN
  assert [each.word for each in verdict.findings] == [verdicts.HOLDS, verdicts.NOT_SHOWN]
  assert 'no finished runs of C' in verdict.findings[1].numbers


def test_a_single_run_shows_nothing():
  table = {'A': {'one': np.array([1.0])}, 'B': {'one': np.array([0.0])}}
  assert verdicts.judge(BETTER, table).word == verdicts.NOT_SHOWN


def test_runs_that_one_variant_lacks_are_left_out_of_both():
  a = {'one': np.array([1.0, np.nan, 3.0, 9.0])}
  b = {'one': np.array([0.0, 5.0, 2.0, np.nan])}
  kept = statistics.complete([a, b])
  np.testing.assert_array_equal(kept[0]['one'], [1.0, 3.0])
  np.testing.assert_array_equal(kept[1]['one'], [0.0, 2.0])


def test_aggregates_are_those_of_numpy():
  values = np.array([[5.0, 1.0, 2.0, 8.0, 3.0, 4.0, 9.0, 7.0]])
  assert statistics.aggregate(values, 'best3')[0] == pytest.approx((9 + 8 + 7) / 3)
  # The middle half of eight: without the two least and the two greatest.
  assert statistics.aggregate(values, 'iqm')[0] == pytest.approx((3 + 4 + 5 + 7) / 4)
  assert statistics.aggregate(values, 'mean')[0] == pytest.approx(values.mean())


def test_intervals_are_paired_and_stratified():
  rng = np.random.default_rng(3)
  base = rng.normal(0.0, 10.0, 24)
  # What the combinations of hyperparameters differ by cancels in pairs.
  a = {'one': base + 1.0, 'two': base + 1.0}
  b = {'one': base + rng.normal(0.0, 0.1, 24), 'two': base + rng.normal(0.0, 0.1, 24)}
  found = statistics.difference(a, b, 'mean')
  assert found.value == pytest.approx(1.0, abs=0.1)
  assert 0.9 < found.low < found.value < found.high < 1.1
  # Against an independent bootstrap of the mean of both tasks' mean differences.
  differences = [a[task] - b[task] for task in ('one', 'two')]
  again = np.mean(
    [d[rng.integers(24, size=(20_000, 24))].mean(axis=1) for d in differences], axis=0
  )
  np.testing.assert_allclose((found.low, found.high), np.percentile(again, [2.5, 97.5]), atol=0.004)


def test_the_probability_of_improvement_is_paired_and_counts_ties_half():
  a = {'one': np.array([1.0, 2.0, 3.0, 4.0])}
  b = {'one': np.array([0.0, 2.0, 4.0, 3.0])}
  assert statistics.improvement(a, b) == pytest.approx((1 + 0.5 + 0 + 1) / 4)
  other = {'elsewhere': np.array([0.0, 10.0])}
  assert statistics.improvement(a, other) == pytest.approx(0.5)
