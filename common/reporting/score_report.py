"""Scores of a suite beside the papers': text, JSON and a chart."""

import json
import logging
import pathlib
from typing import Any, Mapping

from common.machine import files
from common.reporting import scores

_TITLES = {'atari57': 'Atari-57', 'dmlab30': 'DMLab-30'}
_SIZES = {'atari57': 57, 'dmlab30': 30}


def report(name: str, agent: Mapping[str, Mapping[str, Any]], note: str = '') -> dict[str, Any]:
  """All that is to be said, for JSON.

  Args:
    name: of the references.
    agent: by task, summaries of `evaluation.Episodes`.
    note: what is to be said of every score.

  Returns:
    `normalised` by task; `summary` by column, of ours and the papers' agents on the same tasks; `note`.
  """
  means = {task: played['mean'] for task, played in agent.items()}
  summaries = {'agent': scores.summary(name, means)}
  for title, column in scores.PAPER_COLUMNS[name].items():
    summaries[title] = scores.summary(
      name, {task: scores.references(name)[task][column] for task in means}
    )
  missing = _SIZES[name] - len(means)
  notes = [note] if note else []
  if missing:
    notes.append(
      f"Only {len(means)} of the {_SIZES[name]} tasks; the papers' scores are of the same ones."
    )
  return {
    'references': name,
    'normalised': scores.normalised(name, means),
    'summary': summaries,
    'note': ' '.join(notes),
  }


def text(name: str, agent: Mapping[str, Mapping[str, Any]], reported: Mapping[str, Any]) -> str:
  """A line for each task with the papers' scores beside ours, and what the papers report of them all."""
  columns, known = scores.PAPER_COLUMNS[name], scores.references(name)
  width = max(len(task) for task in [*agent, 'task', *columns])
  lines = [
    'task'.ljust(width)
    + f'{"agent":>12}{"95% interval":>26}{"normalised":>12}{"random":>11}{"human":>11}'
    + ''.join(f'{title:>19}' for title in columns)
  ]
  for task, played in agent.items():
    interval = f'[{played["low"]:.2f}, {played["high"]:.2f}]'
    lines.append(
      task.ljust(width)
      + f'{played["mean"]:>12.2f}{interval:>26}{reported["normalised"][task]:>11.1f}%'
      f'{known[task]["random"]:>11.1f}{known[task]["human"]:>11.1f}'
      + ''.join(f'{known[task][column]:>19.1f}' for column in columns.values())
    )
  summaries = reported['summary']
  lines += [
    '',
    f'{_TITLES[name]}, human-normalised, in percent. {reported["note"]}'.rstrip(),
    ' ' * width + ''.join(f'{label:>28}' for label in summaries['agent']),
  ]
  lines += [
    title.ljust(width) + ''.join(f'{value:>28.1f}' for value in row.values())
    for title, row in summaries.items()
  ]
  return '\n'.join(lines)


def write(
  folder: pathlib.Path, name: str, agent: Mapping[str, Mapping[str, Any]], note: str
) -> None:
  """Writes `scores.json` and `scores.png`, and shows the table. Arguments as of `report`."""
  from common.reporting import plots

  reported = report(name, agent, note)
  with files.replacing(folder / 'scores.json') as file:
    json.dump(reported, file, indent=1)
  paper, column = next(iter(scores.PAPER_COLUMNS[name].items()))
  known = scores.references(name)
  plots.bars(
    {
      'agent': reported['normalised'],
      f'{paper}, the paper': scores.normalised(name, {task: known[task][column] for task in agent}),
    },
    folder / 'scores.png',
    f'human-normalised score, {_TITLES[name]} (%)',
    reported['note'],
  )
  logging.info('%s\n\nWritten: %s, scores.png', text(name, agent, reported), folder / 'scores.json')
