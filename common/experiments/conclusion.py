"""What the finished runs of an experiment say: verdicts, tables, pictures; the paper's numbers."""

import csv
import functools
import json
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from common import errors
from common.experiments import definitions, execution, pictures, plan, results, statistics, verdicts
from common.machine import files

_PAPER = pathlib.Path(__file__).parents[1] / 'reporting' / 'references' / 'tables.json'


@functools.cache
def paper_numbers() -> dict[str, Any]:
  """The papers' own numbers by experiment: `label`, and `rows` by variant and task."""
  return json.loads(_PAPER.read_text())


def conclude(
  planned: plan.Plan, folder: pathlib.Path, report: execution.Report, code: str
) -> dict[str, Any]:
  """Judges and draws an experiment from its finished runs, and writes `result.json`.

  Args:
    planned: The experiment at a scale.
    folder: Where its pictures and numbers go.
    report: What became of the runs of this call.
    code: The version of the code that made them.

  Returns:
    What `result.json` holds.
  """
  outcomes = results.collect(planned)
  ran = f'{planned.finished()} of {len(planned.runs)} runs, {execution.machine()}.'
  experiment = planned.experiment
  folder.mkdir(parents=True, exist_ok=True)
  drawn = pictures.draw(planned, outcomes, folder, ran)
  judged = [
    verdicts.judge(claim, results.table(outcomes, claim.metric, scaled=True))
    for claim in experiment.claims
  ]
  result = {
    'id': experiment.id,
    'also': experiment.also,
    'title': experiment.title,
    'scale': planned.name,
    'changes': planned.scale.changes,
    'claims': [_claim(verdict) for verdict in judged],
    'tables': _tables(planned, outcomes),
    'paper': paper_numbers().get(experiment.id),
    'pictures': [{'kind': d.kind, 'file': d.path.name, 'caption': d.caption} for d in drawn],
    'runs': _runs(planned, report),
    'machine': execution.machine(),
    'code': code,
  }
  write(folder, result)
  _write_runs(folder / 'runs.csv', planned, outcomes)
  return result


def _runs(planned: plan.Plan, report: execution.Report) -> dict[str, Any]:
  return {
    'planned': len(planned.runs),
    'finished': planned.finished(),
    'failed': report.failed,
    'unfinished': [run.describe() for run in planned.missing()],
    'unavailable': dict(planned.unavailable),
  }


def of_command(experiment: definitions.Experiment, succeeded: bool, said: str) -> dict[str, Any]:
  """The result of an experiment that is a command."""
  word = verdicts.HOLDS if succeeded else verdicts.NOT_SHOWN
  command = ' '.join(experiment.command)
  finding = {'test': f'`{command}` succeeds', 'word': word, 'numbers': said}
  claims = [
    {'text': claim.text, 'section': claim.section, 'word': word, 'findings': [finding]}
    for claim in experiment.claims
  ]
  return {
    'id': experiment.id,
    'also': experiment.also,
    'title': experiment.title,
    'scale': 'tests',
    'changes': 'Exact tests; nothing is scaled.',
    'claims': claims,
    'tables': [],
    'paper': None,
    'pictures': [],
    'runs': {'planned': 1, 'finished': 1, 'failed': {}, 'unfinished': [], 'unavailable': {}},
    'machine': execution.machine(),
    'code': '',
  }


def write(folder: pathlib.Path, result: Mapping[str, Any]) -> None:
  folder.mkdir(parents=True, exist_ok=True)
  with files.replacing(folder / 'result.json') as file:
    json.dump(result, file, indent=1)


def load(path: pathlib.Path) -> dict[str, Any]:
  """Reads a `result.json`.

  Raises:
    UserError: If it is damaged.
  """
  try:
    return json.loads(path.read_text())
  except ValueError as error:
    raise errors.UserError(
      f'{path} is damaged: {error}. Delete it, and draw that experiment again'
    ) from error


def text(result: Mapping[str, Any]) -> str:
  """The result for a terminal."""
  lines = [f'{result["id"]}, scale {result["scale"]}: {result["title"]}', result['changes'], '']
  for table in [*result['tables'], *([result['paper']] if result['paper'] else [])]:
    lines += [*_columns(table), '']
  for claim in result['claims']:
    lines.append(f'{claim["word"].upper()}: {claim["text"]} ({claim["section"]})')
    for finding in claim['findings']:
      lines.append(f'  {finding["word"]}: {finding["test"]}: {finding["numbers"]}')
  runs = result['runs']
  lines += [f'NOT RUN: {variant}: {why}' for variant, why in runs['unavailable'].items()]
  lines += [f'FAILED: {run}: {why}' for run, why in runs['failed'].items()]
  if runs['finished'] < runs['planned']:
    lines.append(f'{runs["finished"]} of {runs["planned"]} runs are finished.')
  return '\n'.join(lines)


def cell(value: Sequence[float] | float | None) -> str:
  """A number, with its interval if it has one, for a table."""
  if value is None:
    return ''
  if isinstance(value, (int, float)):
    return number(value)
  middle, low, high = value
  return number(middle) if low is None else f'{number(middle)} [{number(low)}, {number(high)}]'


def number(value: float) -> str:
  if abs(value) >= 1000:
    return f'{value:,.0f}'
  return f'{value:.1f}' if abs(value) >= 10 else f'{value:.2f}'


def tasks_of(table: Mapping[str, Any]) -> list[str]:
  return list(dict.fromkeys(task for row in table['rows'].values() for task in row))


def _columns(table: Mapping[str, Any]) -> list[str]:
  tasks = tasks_of(table)
  grid = [[table['label'], *tasks]]
  grid += [[name, *(cell(row.get(task)) for task in tasks)] for name, row in table['rows'].items()]
  widths = [max(len(row[i]) for row in grid) for i in range(len(grid[0]))]
  return [
    '  '.join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in grid
  ]


def _claim(verdict: verdicts.Verdict) -> dict[str, Any]:
  return {
    'text': verdict.claim.text,
    'section': verdict.claim.section,
    'word': verdict.word,
    'findings': [
      {'test': each.test, 'word': each.word, 'numbers': each.numbers} for each in verdict.findings
    ],
  }


def _tables(planned: plan.Plan, outcomes: results.Outcomes) -> list[dict[str, Any]]:
  """A table for each metric and aggregate that a claim is about."""
  claims = planned.experiment.claims
  kinds = dict.fromkeys((claim.metric, claim.aggregate) for claim in claims)
  tables = []
  for metric, how in kinds:
    rows: dict[str, dict[str, Any]] = {}
    for variant, by_task in results.table(outcomes, metric).items():
      for task, values in by_task.items():
        kept = statistics.complete([{task: values}])[0]
        if kept:
          found = statistics.estimate(kept, how)
          is_known = not math.isnan(found.low)
          cells = [found.value, *(found[1:] if is_known else (None, None))]
          rows.setdefault(variant, {})[task] = cells
    label = f'{definitions.METRICS[metric]}, {definitions.AGGREGATES[how]}'
    if rows:
      tables.append({'label': label, 'rows': rows})
  return tables


def _write_runs(path: pathlib.Path, planned: plan.Plan, outcomes: results.Outcomes) -> None:
  """Writes a row for each run, with its settings' draw and seed, its numbers and its folder."""
  with files.replacing(path) as file:
    writer = csv.writer(file, lineterminator='\n')
    writer.writerow(['variant', 'task', 'draw', 'seed', *definitions.METRICS, 'run'])
    for by_task in outcomes.values():
      for runs in by_task.values():
        for outcome in runs:
          if outcome is not None:
            run = outcome.run
            numbers = [outcome.metrics[metric] for metric in definitions.METRICS]
            draw = '' if run.draw is None else run.draw
            row = [run.variant, run.task.name, draw, run.config.seed, *numbers, run.name]
            writer.writerow(row)
