"""Judges claims: each has a test that was written down before its runs."""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from common.experiments import definitions, statistics

HOLDS = 'holds'
NOT_SHOWN = 'not shown'
CONTRARY = 'contrary'

# Normalised scores `[R]` by variant and task, NaN for missing runs.
Table = Mapping[str, Mapping[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Finding:
  """The outcome of one test.

  Attributes:
    test: What was tested, in words.
    word: `HOLDS`, `NOT_SHOWN` or `CONTRARY`.
    numbers: What that rests on, in words.
  """

  test: str
  word: str
  numbers: str


@dataclasses.dataclass(frozen=True)
class Verdict:
  """A claim with what its tests found: it holds if all do, and is contrary if any is."""

  claim: definitions.Claim
  word: str
  findings: tuple[Finding, ...]


def judge(claim: definitions.Claim, table: Table) -> Verdict:
  """Judges one claim from the normalised scores of its metric."""
  findings = tuple(_find(test, claim, table) for test in claim.tests)
  words = {finding.word for finding in findings}
  if CONTRARY in words:
    word = CONTRARY
  else:
    word = HOLDS if words == {HOLDS} else NOT_SHOWN
  return Verdict(claim, word, findings)


def describe(test: definitions.Better | definitions.Rising, claim: definitions.Claim) -> str:
  """A test in words, as it was before any run."""
  measured = f'{definitions.METRICS[claim.metric]} ({definitions.AGGREGATES[claim.aggregate]})'
  by = f' by more than {test.by:g}' if test.by else ''
  if isinstance(test, definitions.Rising):
    return f'{measured} rises{by} along {", ".join(test.variants)}'
  return f'{test.variant} exceeds {test.than}{by} in {measured}'


def _find(
  test: definitions.Better | definitions.Rising, claim: definitions.Claim, table: Table
) -> Finding:
  text = describe(test, claim)
  names = test.variants if isinstance(test, definitions.Rising) else (test.variant, test.than)
  missing = [name for name in names if name not in table]
  scores = statistics.complete([table.get(name, {}) for name in names])
  missing += [name for name, each in zip(names, scores, strict=True) if not each]
  if missing:
    return Finding(text, NOT_SHOWN, f'no finished runs of {", ".join(dict.fromkeys(missing))}')

  if isinstance(test, definitions.Rising):
    found = statistics.slope(scores, claim.aggregate)
    more = ''
  else:
    found = statistics.difference(scores[0], scores[1], claim.aggregate)
    more = f'; probability of improvement {statistics.improvement(scores[0], scores[1]):.2f}'
  runs = sum(len(values) for values in scores[0].values())
  interval = f'95% [{found.low:.3f}, {found.high:.3f}]'
  if math.isnan(found.low):
    interval = 'too few runs for an interval'
  numbers = f'{found.value:+.3f}, {interval}{more}; runs of each: {runs}'
  return Finding(text, _word(found, test.by), numbers)


def _word(found: statistics.Estimate, by: float) -> str:
  """What an interval shows about a difference that should be more than `by`."""
  if math.isnan(found.low):
    return NOT_SHOWN
  if found.low > by:
    return HOLDS
  # Less than nothing: a difference that is merely too small contradicts no claim.
  return CONTRARY if found.high < 0 else NOT_SHOWN
