"""Learning curves of runs, from their `metrics.csv`, and charts of scores."""

import math
import pathlib
from typing import Mapping, Sequence

import matplotlib

matplotlib.use('Agg')
from matplotlib import pyplot

from common.machine import files
from common.reporting import metrics

_COLUMNS = 4
_SMOOTHING = (
  5  # Rows of metrics that a point of the bold line is the mean of; the thin line is not smoothed.
)


def learning_curves(folder: pathlib.Path) -> pathlib.Path | None:
  """Draws `curves.png` in a run's folder; returns its path, or None if no episode had ended."""
  return compare({'': folder}, folder / 'curves.png')


def compare(runs: Mapping[str, pathlib.Path], path: pathlib.Path) -> pathlib.Path | None:
  """Draws mean return over frames, a panel for each task and a colour for each run.

  Args:
    runs: from a name for the legend, or '' for none, to a run's folder.
    path: of the PNG.

  Returns:
    `path`, or None if no episode had ended.
  """
  curves = {name: _curves(metrics.read(folder / 'metrics.csv')) for name, folder in runs.items()}
  tasks = list(dict.fromkeys(task for run in curves.values() for task in run))
  if not tasks:
    return None
  figure = _panels(tasks, curves)
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  pyplot.close(figure)
  return path


def bars(
  columns: Mapping[str, Mapping[str, float]], path: pathlib.Path, label: str, note: str = ''
) -> None:
  """Draws a bar for each task and column, the best task of the first column on top.

  Args:
    columns: from names for the legend to values by task; all have the same tasks.
    path: of the PNG.
    label: of the axis of values, which is linear up to 100 and logarithmic beyond.
    note: written above.
  """
  first = next(iter(columns.values()))
  tasks = sorted(first, key=first.get)
  figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.24 * len(tasks)), layout='constrained')
  height = 0.8 / len(columns)
  for i, (name, values) in enumerate(columns.items()):
    axis.barh(
      [place - i * height for place in range(len(tasks))],
      [values[task] for task in tasks],
      height,
      label=name,
    )
  axis.set_yticks(
    [place - height * (len(columns) - 1) / 2 for place in range(len(tasks))], tasks, fontsize=8
  )
  axis.set_ylim(-1, len(tasks))
  axis.set_xscale('symlog', linthresh=100)
  axis.axvline(100, color='grey', linewidth=1, linestyle='--')
  axis.grid(alpha=0.3, axis='x')
  axis.set_xlabel(label)
  axis.set_title(note, fontsize=8, wrap=True)
  axis.legend(fontsize=8, loc='lower right')
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  pyplot.close(figure)


def _curves(rows: Sequence[Mapping[str, float]]) -> dict[str, list[tuple[float, float]]]:
  """By task, millions of frames and mean return of the rows in which an episode of the task ended."""
  tasks = [
    name.removeprefix('return/') for name in (rows[0] if rows else ()) if name.startswith('return/')
  ]
  curves = {
    task: [
      (row['frames'] / 1e6, row[f'return/{task}'])
      for row in rows
      if not math.isnan(row[f'return/{task}'])
    ]
    for task in tasks
  }
  return {task: points for task, points in curves.items() if points}


def _panels(
  tasks: Sequence[str], curves: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]
):
  columns = min(_COLUMNS, len(tasks))
  lines = math.ceil(len(tasks) / columns)
  figure, axes = pyplot.subplots(
    lines, columns, figsize=(3.4 * columns, 2.5 * lines), squeeze=False, layout='constrained'
  )
  for axis, task in zip(axes.flat, tasks):
    for i, (name, run) in enumerate(curves.items()):
      if task in run:
        frames, returns = zip(*run[task])
        axis.plot(frames, returns, color=f'C{i}', alpha=0.3, linewidth=1)
        axis.plot(frames, _smooth(returns), color=f'C{i}', linewidth=2, label=name or None)
    axis.set_title(task, fontsize=10)
    axis.grid(alpha=0.3)
  for axis in list(axes.flat)[len(tasks) :]:
    axis.set_visible(False)
  if any(curves):
    labels = {
      label: handle
      for axis in axes.flat
      for handle, label in zip(*axis.get_legend_handles_labels())
    }
    figure.legend(labels.values(), labels.keys(), loc='outside upper center', ncols=4)
  figure.supxlabel('environment frames (millions)', fontsize=10)
  figure.supylabel('mean return of training episodes', fontsize=10)
  return figure


def _smooth(values: Sequence[float]) -> list[float]:
  """Means over the last rows, up to each."""
  windows = (values[max(0, i + 1 - _SMOOTHING) : i + 1] for i in range(len(values)))
  return [sum(window) / len(window) for window in windows]
