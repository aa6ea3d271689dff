"""Draws the learning curves of one or several runs: `scripts/plot.py OUT.png RUN [RUN ...]`."""

import pathlib
import sys
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from common import errors
from common.config import command_line, run_folder


def main(argv: Sequence[str]) -> None:
  """Draws from a command line."""
  if len(argv) < 3 or not argv[1].endswith('.png'):
    raise errors.UserError(f'expected a picture to write and runs: {argv[0]} OUT.png RUN [RUN ...]')
  runs = {folder: pathlib.Path(folder) for folder in argv[2:]}
  for folder in runs.values():
    run_folder.load_config(folder)  # Refuses what is not a run's folder.
    if not (folder / 'metrics.csv').exists():
      raise errors.UserError(f'{folder} has no metrics.csv yet: the run has not begun to train')
  command_line.import_tensorflow()
  from common.reporting import plots

  if not plots.compare(runs, pathlib.Path(argv[1])):
    raise errors.UserError(
      'in none of these runs has an episode ended yet: there is nothing to draw'
    )


if __name__ == '__main__':
  command_line.run(main)
