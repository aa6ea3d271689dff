"""Draws the learning curves of one or more runs: `scripts/plot.py OUT.png RUN [RUN ...]`."""

import pathlib
import sys
from typing import Sequence

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
      f'expected a PNG file to write and runs: {argv[0]} OUT.png RUN [RUN ...]'
    )
  # Named in the legend as on the command line.
  runs = {folder: pathlib.Path(folder) for folder in argv[2:]}
  for folder in runs.values():
    # Refuses a folder that is not a run's.
    run_folder.load_config(folder)
    if not (folder / 'metrics.csv').exists():
      raise errors.UserError(
        f'{folder} has no metrics.csv: the run has not started training. Try again later.'
      )
  # Loads slowly, so only after the command line was checked.
  command_line.import_tensorflow()
  from common.reporting import plots

  if not plots.compare(runs, pathlib.Path(argv[1])):
    raise errors.UserError(
      'nothing to draw: no episode has ended in any of these runs. Try again later.'
    )


if __name__ == '__main__':
  command_line.run(main)
