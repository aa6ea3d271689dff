"""Learning curves of runs, from their `metrics.csv`."""

import math
import pathlib
from typing import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot

from common import files, metrics

_COLUMNS = 4


def learning_curves(folder: pathlib.Path, smoothing: int = 5) -> pathlib.Path | None:
  """Draws `curves.png` in a run's folder: mean return over frames, a panel for each task.

  Args:
    folder: of the run.
    smoothing: rows of metrics that a point of the bold line is the mean of; the thin line is not smoothed.

  Returns:
    The picture's path, or None if no episode had ended.
  """
  rows = metrics.read(folder / 'metrics.csv')
  tasks = [name.removeprefix('return/') for name in (rows[0] if rows else ()) if name.startswith('return/')]
  curves = {task: [(row['frames'], row[f'return/{task}']) for row in rows if not math.isnan(row[f'return/{task}'])]
            for task in tasks}
  curves = {task: points for task, points in curves.items() if points}
  if not curves:
    return None
  figure = _panels(curves, smoothing)
  path = folder / 'curves.png'
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  pyplot.close(figure)
  return path


def _panels(curves: Mapping[str, Sequence[tuple[float, float]]], smoothing: int):
  columns = min(_COLUMNS, len(curves))
  lines = math.ceil(len(curves) / columns)
  figure, axes = pyplot.subplots(lines, columns, figsize=(3.4 * columns, 2.5 * lines), squeeze=False,
                                 layout='constrained')
  for axis, (task, points) in zip(axes.flat, curves.items()):
    frames, returns = zip(*points)
    frames = [x / 1e6 for x in frames]
    smooth = [sum(returns[max(0, i + 1 - smoothing):i + 1]) / len(returns[max(0, i + 1 - smoothing):i + 1])
              for i in range(len(returns))]
    axis.plot(frames, returns, color='tab:blue', alpha=0.3, linewidth=1)
    axis.plot(frames, smooth, color='tab:blue', linewidth=2)
    axis.set_title(task, fontsize=10)
    axis.grid(alpha=0.3)
  for axis in list(axes.flat)[len(curves):]:
    axis.set_visible(False)
  figure.supxlabel('environment frames (millions)', fontsize=10)
  figure.supylabel('mean return of training episodes', fontsize=10)
  return figure
