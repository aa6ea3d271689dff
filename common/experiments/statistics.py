"""Statistics over runs, by SciPy: interquartile means, bootstrap intervals, improvement.

Scores are arrays `[R]` by task, a number for each run, in the same order of combinations of
hyperparameters and seeds for all variants. Intervals are stratified: runs are drawn anew within
each task. Where two variants have the same runs on a task, both get the same draw (paired).
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats

_RESAMPLES = 5_000
_BEST = 3

Scores = Mapping[str, np.ndarray]


class Estimate(NamedTuple):
  """A number with its 95% bootstrap interval, which is NaN if there are too few runs for one."""

  value: float
  low: float
  high: float


def aggregate(values: np.ndarray, how: str) -> np.ndarray:
  """Runs `[..., R]` as one number `[...]`.

  Args:
    values: A number for each run.
    how: `best3`, the mean of the best three (IMPALA, section 5.2); `iqm`, the interquartile mean
      (Agarwal et al. 2021); `mean`.
  """
  if how == 'best3':
    return np.sort(values, axis=-1)[..., -_BEST:].mean(axis=-1)
  if how == 'iqm':
    return stats.trim_mean(values, 0.25, axis=-1)
  return values.mean(axis=-1)


def estimate(scores: Scores, how: str) -> Estimate:
  """One variant's aggregate, averaged over tasks."""
  return _bootstrap([scores], lambda parts: _over_tasks(parts[0], how))


def difference(one: Scores, other: Scores, how: str) -> Estimate:
  """How much more one variant has than another, averaged over tasks."""
  return _bootstrap(
    [one, other], lambda parts: _over_tasks(parts[0], how) - _over_tasks(parts[1], how)
  )


def slope(variants: Sequence[Scores], how: str) -> Estimate:
  """By how much the aggregate rises from one variant to the next: a least-squares line."""
  places = np.arange(len(variants)) - (len(variants) - 1) / 2
  weights = places / (places**2).sum()

  def statistic(parts: Sequence[Scores]) -> np.ndarray:
    terms = [w * _over_tasks(part, how) for w, part in zip(weights, parts, strict=True)]
    return np.sum(terms, axis=0)

  return _bootstrap(variants, statistic)


def improvement(one: Scores, other: Scores) -> float:
  """The probability that a run of one variant has more than one of the other, over tasks.

  Runs of the same combination and seed are compared; ties count half. Variants without common tasks
  are compared run by run over all (Mann-Whitney).
  """
  common = [task for task in one if task in other and len(one[task]) == len(other[task])]
  if common:
    shares = [np.mean((one[t] > other[t]) + 0.5 * (one[t] == other[t])) for t in common]
    return float(np.mean(shares))
  a = np.concatenate(list(one.values()))
  b = np.concatenate(list(other.values()))
  return float(stats.mannwhitneyu(a, b).statistic / (len(a) * len(b)))


def complete(variants: Sequence[Scores]) -> list[dict[str, np.ndarray]]:
  """The same scores without runs that any of the variants lacks, and without empty tasks."""
  kept: list[dict[str, np.ndarray]] = [{} for _ in variants]
  for number, scores in enumerate(variants):
    for task, values in scores.items():
      known = ~np.isnan(values)
      for other in variants:
        if task in other and len(other[task]) == len(values):
          known &= ~np.isnan(other[task])
      if known.any():
        kept[number][task] = values[known]
  return kept


def _over_tasks(scores: Scores, how: str) -> np.ndarray:
  return np.mean([aggregate(values, how) for values in scores.values()], axis=0)


def _bootstrap(
  variants: Sequence[Scores], statistic: Callable[[Sequence[Scores]], np.ndarray]
) -> Estimate:
  """A statistic of several variants with its interval."""
  value = float(statistic(variants))
  strata = _strata(variants)
  if any(size < 2 for size in strata.values()):
    return Estimate(value, math.nan, math.nan)
  order = {stratum: i for i, stratum in enumerate(strata)}

  def resampled(*indices: np.ndarray, axis: int) -> np.ndarray:
    del axis  # The last, always.
    parts = [
      {task: values[indices[order[task, len(values)]]] for task, values in scores.items()}
      for scores in variants
    ]
    return statistic(parts)

  # SciPy draws positions of runs, so that all variants of a task get the same ones.
  found = stats.bootstrap(
    [np.arange(size) for size in strata.values()],
    resampled,
    n_resamples=_RESAMPLES,
    vectorized=True,
    axis=-1,
    method='percentile',
    rng=np.random.default_rng(0),
  )
  low, high = found.confidence_interval
  return Estimate(value, float(low), float(high))


def _strata(variants: Sequence[Scores]) -> dict[tuple[str, int], int]:
  """The number of runs of each stratum: a task, and the number of its runs."""
  return {
    (task, len(values)): len(values) for scores in variants for task, values in scores.items()
  }
