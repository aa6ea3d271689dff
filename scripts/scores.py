"""Scores of several evaluated runs as of one agent, such as experts of a task each: `scripts/scores.py FOLDER RUN ...`.

Reads the `evaluation.json` of every run and writes `scores.json` and `scores.png` to FOLDER. Shows the table of all
tasks beside the papers' scores.
"""

import json
import pathlib
import sys
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common import errors
from common.config import command_line
from common.reporting import score_report


def main(argv: Sequence[str]) -> None:
  """Reports from a command line."""
  if len(argv) < 3 or argv[1].startswith('-'):
    raise errors.UserError(
      f'expected a folder to write to and runs: {argv[0]} FOLDER RUN [RUN ...]\n\n{__doc__}'
    )
  agent, notes, references = {}, [], set()
  for run in map(pathlib.Path, argv[2:]):
    evaluation = _read(run)
    twice = set(agent) & set(evaluation['agent'])
    if twice:
      raise errors.UserError(
        f'{run} has {", ".join(sorted(twice))}, which a run before it has too: name one run for '
        'each task'
      )
    agent |= evaluation['agent']
    references.add(evaluation['references'])
    notes += [evaluation['note']] if evaluation['note'] and evaluation['note'] not in notes else []
  if len(references) != 1 or references == {''}:
    raise errors.UserError(
      f'these runs are measured against {", ".join(map(repr, sorted(references)))}: expected all '
      'against atari57 or all against dmlab30'
    )
  command_line.import_tensorflow()  # Without its notes: charts bring it.
  folder = pathlib.Path(argv[1])
  folder.mkdir(parents=True, exist_ok=True)
  score_report.write(folder, references.pop(), agent, ' '.join(notes))


def _read(run: pathlib.Path) -> dict:
  try:
    evaluation = json.loads((run / 'evaluation.json').read_text())
    return {name: evaluation[name] for name in ('agent', 'references', 'note')}
  except (OSError, ValueError, KeyError, TypeError) as error:
    raise errors.UserError(
      f'{run}/evaluation.json cannot be read ({error!r}): evaluate the run first, with '
      f'python -m impala.evaluate {run}'
    ) from error


if __name__ == '__main__':
  command_line.run(main)
