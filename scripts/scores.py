"""Reports evaluated runs as one agent, e.g. experts of one task each.

    scripts/scores.py FOLDER RUN [RUN ...]

Reads `evaluation.json` of every run, writes `scores.json` and `scores.png` to FOLDER, and shows a
table of all tasks beside the papers' scores.
"""

import json
import pathlib
import sys
from typing import Any, Sequence

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
  folder = pathlib.Path(argv[1])
  agent: dict[str, Any] = {}
  notes: list[str] = []
  references = set()
  for run in map(pathlib.Path, argv[2:]):
    evaluation = _read(run)
    _refuse_common_tasks(run, agent, evaluation['agent'])
    agent |= evaluation['agent']
    references.add(evaluation['references'])
    if evaluation['note'] and evaluation['note'] not in notes:
      notes.append(evaluation['note'])

  if len(references) != 1 or references == {''}:
    raise errors.UserError(
      f'these runs are measured against {", ".join(map(repr, sorted(references)))}: expected all '
      'against atari57 or all against dmlab30'
    )
  # Here, where its messages are silenced: the charts import it otherwise.
  command_line.import_tensorflow()
  folder.mkdir(parents=True, exist_ok=True)
  score_report.write(folder, references.pop(), agent, ' '.join(notes))


def _refuse_common_tasks(run: pathlib.Path, before: dict[str, Any], tasks: dict[str, Any]) -> None:
  twice = set(before) & set(tasks)
  if twice:
    raise errors.UserError(
      f'{run} has {", ".join(sorted(twice))}, which a run before it has too: name one run for each '
      'task'
    )


def _read(run: pathlib.Path) -> dict[str, Any]:
  """The parts of a run's `evaluation.json` that a report needs.

  Raises:
    UserError: If there is none, or it is not what `evaluate` writes.
  """
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
