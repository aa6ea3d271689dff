"""The papers' own scores through the scoring of this code, as a check of it from end to end."""

import pathlib
from collections.abc import Mapping
from typing import Any

from common import errors
from common.experiments import conclusion, definitions, pictures, statistics, verdicts
from common.reporting import scores

_NAN = float('nan')


def conclude(experiment: definitions.Experiment, folder: pathlib.Path) -> dict[str, Any]:
  """Computes an experiment's published numbers from its published scores by task, and draws both.

  Returns:
    As `conclusion.conclude`.

  Raises:
    UserError: If the paper has no scores by task for it.
  """
  if not experiment.published:
    raise errors.UserError(
      f'{experiment.id} has no published scores by task. Those that have: see scripts/reproduce.py '
      'list'
    )
  findings = []
  computed: dict[str, dict[str, float]] = {}
  for each in experiment.published:
    value = compute(each)
    findings.append(_finding(each, value))
    computed[each.title] = {'computed': value, 'printed': each.printed}
  holds = all(finding['word'] == verdicts.HOLDS for finding in findings)
  claim = {
    'text': 'The published scores by task give the published numbers.',
    'section': 'scoring',
    'word': verdicts.HOLDS if holds else verdicts.CONTRARY,
    'findings': findings,
  }
  result = {
    'id': experiment.id,
    'also': experiment.also,
    'title': f"{experiment.title}: the paper's own scores",
    'scale': 'published',
    'changes': "No runs: the paper's scores by task, through the scoring of this code.",
    'claims': [claim],
    'tables': [{'label': 'human-normalised score, %', 'rows': computed}],
    'paper': None,
    'pictures': _draw(experiment, folder),
    'runs': {'planned': 0, 'finished': 0, 'failed': {}, 'unfinished': [], 'unavailable': {}},
    'machine': '',
    'code': '',
  }
  conclusion.write(folder, result)
  return result


def _finding(each: definitions.Published, value: float) -> dict[str, str]:
  agrees = abs(value - each.printed) <= each.within
  return {
    'test': f'{each.title} is {each.printed:g} within {each.within:g}',
    'word': verdicts.HOLDS if agrees else verdicts.CONTRARY,
    'numbers': f'{value:.2f}',
  }


def compute(each: definitions.Published) -> float:
  """A published number, from the scores by task."""
  known = scores.references(each.suite)
  column = {task: row[each.column] for task, row in known.items()}
  return scores.summary(each.suite, column, each.human_starts)[each.statistic]


def _draw(experiment: definitions.Experiment, folder: pathlib.Path) -> list[dict[str, str]]:
  """Bars of the normalised scores by task."""
  values: dict[str, Mapping[str, statistics.Estimate]] = {}
  for each in experiment.published:
    known = scores.references(each.suite)
    column = {task: row[each.column] for task, row in known.items()}
    prefix = 'human_starts_' if each.human_starts else ''
    if each.suite == 'dmlab30':
      prefix = 'table_b1_'
    normalised = scores.normalised(each.suite, column, prefix)
    order = sorted(normalised, key=lambda task: -normalised[task])
    # One number is the median of these, another their mean.
    title = each.title.partition(',')[0]
    values[title] = {t: statistics.Estimate(normalised[t], _NAN, _NAN) for t in order}
  rows, figure = pictures.bars(values, 'human-normalised score, %', is_wide=True)
  caption = f"{experiment.title}. The paper's own scores by task, human-normalised."
  figure.suptitle(caption, fontsize=8, x=0.01, ha='left')
  pictures.save(figure, rows, folder / 'bars')
  return [{'kind': 'bars', 'file': 'bars', 'caption': caption}]
