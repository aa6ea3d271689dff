"""Learning curves of several methods in one picture, each of several runs, over frames and time."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

# Draws without a display; has to come before pyplot is imported.
matplotlib.use('Agg')
import numpy as np
from matplotlib import pyplot

from common.machine import files
from common.reporting import metrics_file

# Rows of metrics that a point is the mean of, and points of a mean curve.
_SMOOTHING = 5
_POINTS = 200

# What curves are drawn over: a column of `metrics.csv`, its unit, and the axis' label.
_AXES = (
  ('frames', 1e6, 'environment frames (millions)'),
  ('seconds', 60.0, 'minutes of training'),
)

# x and y of a curve.
_Curve = tuple[np.ndarray, np.ndarray]


def draw(methods: Mapping[str, Sequence[pathlib.Path]], path: pathlib.Path) -> pathlib.Path | None:
  """Draws mean return over frames and over time, a row of two panels for each task.

  A method has one colour: a thin line for each of its runs, a bold one for their mean, over the
  range that all of them have reached.

  Args:
    methods: Folders of runs by the method's name in the legend.
    path: The PNG to write.

  Returns:
    `path`, or None if no episode has ended.
  """
  rows = {
    name: [metrics_file.read(folder / 'metrics.csv') for folder in folders]
    for name, folders in methods.items()
  }
  tasks = dict.fromkeys(
    column.removeprefix('return/')
    for runs in rows.values()
    for run in runs
    for column in (run[0] if run else ())
    if column.startswith('return/') and _curve(run, column, 'frames', 1.0)
  )
  if not tasks:
    return None

  figure, grid = pyplot.subplots(
    len(tasks), len(_AXES), figsize=(9, 3.2 * len(tasks)), squeeze=False, layout='constrained'
  )
  for axes, task in zip(grid, tasks, strict=True):
    for axis, (column, unit, label) in zip(axes, _AXES, strict=True):
      _panel(axis, rows, f'return/{task}', column, unit)
      axis.set_title(task, fontsize=10)
      axis.set_xlabel(label)
    axes[0].set_ylabel('mean return of training episodes')
  handles, labels = grid[0][0].get_legend_handles_labels()
  figure.legend(handles, labels, loc='outside upper center', ncols=3)
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  # pyplot keeps every open figure in memory.
  pyplot.close(figure)
  return path


def mean(curves: Sequence[_Curve]) -> _Curve:
  """The mean of curves over the range that all of them have, interpolated."""
  start = max(x[0] for x, _ in curves)
  end = min(x[-1] for x, _ in curves)
  grid = np.linspace(start, max(start, end), _POINTS)
  return grid, np.mean([np.interp(grid, x, y) for x, y in curves], axis=0)


def _panel(axis: Any, methods: Mapping[str, Any], task: str, column: str, unit: float) -> None:
  for i, (name, runs) in enumerate(methods.items()):
    curves = [curve for run in runs if (curve := _curve(run, task, column, unit))]
    if not curves:
      continue
    for x, y in curves:
      axis.plot(x, y, color=f'C{i}', alpha=0.3, linewidth=1)
    label = f'{name} ({len(curves)} run{"s" if len(curves) > 1 else ""})'
    axis.plot(*mean(curves), color=f'C{i}', linewidth=2, label=label)
  axis.grid(alpha=0.3)


def _curve(
  rows: Sequence[Mapping[str, float]], task: str, column: str, unit: float
) -> _Curve | None:
  """A run's smoothed returns over a column; None if no episode of the task has ended."""
  points = [(row[column] / unit, row[task]) for row in rows if not math.isnan(row[task])]
  if not points:
    return None
  x, y = np.transpose(points)
  means = [float(np.mean(y[max(0, i + 1 - _SMOOTHING) : i + 1])) for i in range(len(y))]
  return x, np.array(means)
