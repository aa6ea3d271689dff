"""Scores of a suite beside the papers' scores: as text, JSON and a chart."""

import json
import logging
import pathlib
from typing import Any, Mapping

from common.machine import files
from common.reporting import scores

_TITLES = {'atari57': 'Atari-57', 'dmlab30': 'DMLab-30'}
_SIZES = {'atari57': 57, 'dmlab30': 30}


def report(name: str, agent: Mapping[str, Mapping[str, Any]], note: str = '') -> dict[str, Any]:
  """Compares an agent's scores with the papers' on the same tasks.

  Args:
    name: The suite whose reference scores apply, `atari57` or `dmlab30`.
    agent: Summaries of `evaluation.Episodes` by task.
    note: A remark that applies to all scores of the suite.

  Returns:
    The content of `scores.json`: `references`, the name; `normalised`, our human-normalised scores
    by task; `summary`, statistics over all tasks by agent, ours first; and `note`, which also says
    if tasks of the suite are missing.
  """
  means = {task: played['mean'] for task, played in agent.items()}
  known = scores.references(name)

  summaries = {'agent': scores.summary(name, means)}
  for title, column in scores.PAPER_COLUMNS[name].items():
    # Only our tasks: an agent evaluated on six games is compared on these six.
    published = {task: known[task][column] for task in means}
    summaries[title] = scores.summary(name, published)

  notes = [note] if note else []
  if len(means) < _SIZES[name]:
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
  """Formats a table with a line per task, and one of the statistics over all tasks.

  Args:
    name: The suite, as for `report`.
    agent: Summaries by task, as for `report`.
    reported: The result of `report`.
  """
  titles = scores.PAPER_COLUMNS[name]
  # The first column holds tasks, and in the lower table the names of agents.
  width = max(len(first) for first in [*agent, 'task', *titles])

  columns = ''.join(f'{title:>19}' for title in titles)
  header = f'{"agent":>12}{"95% interval":>26}{"normalised":>12}{"random":>11}{"human":>11}'
  lines = ['task'.ljust(width) + header + columns]
  for task, played in agent.items():
    row = _row(name, task, played, reported['normalised'][task])
    lines.append(task.ljust(width) + row)

  summaries = reported['summary']
  caption = f'{_TITLES[name]}, human-normalised, in percent. {reported["note"]}'
  labels = ''.join(f'{label:>28}' for label in summaries['agent'])
  lines += ['', caption.rstrip(), ' ' * width + labels]
  for title, statistics in summaries.items():
    lines.append(title.ljust(width) + ''.join(f'{value:>28.1f}' for value in statistics.values()))
  return '\n'.join(lines)


def _row(name: str, task: str, played: Mapping[str, Any], normalised: float) -> str:
  """Our score, its interval and percentage, then the random, the human and the papers' scores."""
  known = scores.references(name)[task]
  interval = f'[{played["low"]:.2f}, {played["high"]:.2f}]'
  ours = f'{played["mean"]:>12.2f}{interval:>26}{normalised:>11.1f}%'
  scale = f'{known["random"]:>11.1f}{known["human"]:>11.1f}'
  papers = ''.join(f'{known[column]:>19.1f}' for column in scores.PAPER_COLUMNS[name].values())
  return ours + scale + papers


def write(
  folder: pathlib.Path, name: str, agent: Mapping[str, Mapping[str, Any]], note: str
) -> None:
  """Writes `scores.json` and `scores.png` to a folder and logs the table.

  Args:
    folder: The folder, which exists.
    name: The suite, as for `report`.
    agent: Summaries by task, as for `report`.
    note: A remark on all scores, as for `report`.
  """
  # Imports matplotlib, which takes seconds, only where something is drawn.
  from common.reporting import plots

  reported = report(name, agent, note)
  with files.replacing(folder / 'scores.json') as file:
    json.dump(reported, file, indent=1)

  # A chart has room for one of the papers' agents.
  paper, column = next(iter(scores.PAPER_COLUMNS[name].items()))
  known = scores.references(name)
  published = {task: known[task][column] for task in agent}
  plots.bars(
    {'agent': reported['normalised'], f'{paper}, the paper': scores.normalised(name, published)},
    folder / 'scores.png',
    label=f'human-normalised score, {_TITLES[name]} (%)',
    note=reported['note'],
  )
  logging.info('%s\n\nWritten: %s, scores.png', text(name, agent, reported), folder / 'scores.json')
