"""Draws the learning curves of one or more runs: `scripts/plot.py OUT.png RUN [RUN ...]`.

With `NAME=RUN,RUN,...` in place of runs, it compares methods, over frames and over time: a colour
for each, a thin line for each of its runs, a bold one for their mean.
"""

import itertools
import pathlib
import sys
from collections.abc import Iterable, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common import errors
from common.config import command_line, run_folder


def main(argv: Sequence[str]) -> None:
  """Draws the runs that a command line names.

  Raises:
    UserError: If the command line is wrong, or there is nothing to draw.
  """
  if len(argv) < 3 or not argv[1].endswith('.png'):
    raise errors.UserError(
      f'expected a PNG file to write and runs: {argv[0]} OUT.png RUN [RUN ...], or methods: '
      f'{argv[0]} OUT.png NAME=RUN,RUN [NAME=RUN ...]'
    )
  path = pathlib.Path(argv[1])
  # Named in the legend as on the command line.
  runs = {folder: pathlib.Path(folder) for folder in argv[2:]}
  methods = {}
  if all('=' in name and not folder.exists() for name, folder in runs.items()):
    for name in argv[2:]:
      title, _, folders = name.partition('=')
      methods[title] = [pathlib.Path(folder) for folder in folders.split(',')]
  _check(itertools.chain(*methods.values()) if methods else runs.values())
  # Loads slowly, so only after the command line was checked.
  command_line.import_tensorflow()
  from common.reporting import comparison, plots

  if not (comparison.draw(methods, path) if methods else plots.compare(runs, path)):
    raise errors.UserError(
      'nothing to draw: no episode has ended in any of these runs. Try again later.'
    )


def _check(folders: Iterable[pathlib.Path]) -> None:
  """Raises UserError for a folder that is not that of a run, or of one that has not begun."""
  for folder in folders:
    # Refuses a folder that is not a run's.
    run_folder.load_config(folder)
    if not (folder / 'metrics.csv').exists():
      raise errors.UserError(
        f'{folder} has no metrics.csv: the run has not started training. Try again later.'
      )


if __name__ == '__main__':
  command_line.run(main)
