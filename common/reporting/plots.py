"""Learning curves of runs, from their `metrics.csv`, and bar charts of scores."""

import math
import pathlib
from typing import Any, Mapping, Sequence

import matplotlib

# Draws without a display; has to come before pyplot is imported.
matplotlib.use('Agg')
from matplotlib import pyplot

from common.machine import files
from common.reporting import metrics_file

# Panels next to each other.
_MAX_COLUMNS = 4

# Points of a learning curve by task: millions of environment frames, mean return.
_Curves = dict[str, list[tuple[float, float]]]


def learning_curves(folder: pathlib.Path) -> pathlib.Path | None:
  """Draws `curves.png` in a run's folder; returns its path, or None if no episode has ended."""
  return compare({'': folder}, folder / 'curves.png')


def compare(runs: Mapping[str, pathlib.Path], path: pathlib.Path) -> pathlib.Path | None:
  """Draws mean return over environment frames: one panel per task, one colour per run.

  Args:
    runs: Folders of runs by their name in the legend, '' for none.
    path: The PNG to write.

  Returns:
    `path`, or None if no episode has ended.
  """
  curves = {
    name: _curves(metrics_file.read(folder / 'metrics.csv')) for name, folder in runs.items()
  }
  # A dict, since a set would lose the order of the tasks.
  tasks = list(dict.fromkeys(task for run in curves.values() for task in run))
  if not tasks:
    return None
  _save(_panels(tasks, curves), path)
  return path


def bars(
  columns: Mapping[str, Mapping[str, float]], path: pathlib.Path, label: str, note: str = ''
) -> None:
  """Draws a bar per task and column, with the best task of the first column on top.

  Args:
    columns: Values by task, by their name in the legend; all columns have the same tasks.
    path: The PNG to write.
    label: The label of the value axis, which is linear up to 100 and logarithmic beyond.
    note: The text above the chart.
  """
  first = next(iter(columns.values()))
  tasks = sorted(first, key=lambda task: first[task])

  figure, axis = pyplot.subplots(figsize=(8, 1.2 + 0.24 * len(tasks)), layout='constrained')
  height = 0.8 / len(columns)
  for i, (name, values) in enumerate(columns.items()):
    centres = [place - i * height for place in range(len(tasks))]
    axis.barh(centres, [values[task] for task in tasks], height, label=name)

  # A task's name stands at the middle of its group of bars.
  middle = height * (len(columns) - 1) / 2
  axis.set_yticks([place - middle for place in range(len(tasks))], tasks, fontsize=8)
  axis.set_ylim(-1, len(tasks))

  # Scores beyond a human's range over orders of magnitude; negative ones rule out a plain log axis.
  axis.set_xscale('symlog', linthresh=100)
  axis.axvline(100, color='grey', linewidth=1, linestyle='--')
  axis.grid(alpha=0.3, axis='x')
  axis.set_xlabel(label)
  axis.set_title(note, fontsize=8, wrap=True)
  axis.legend(fontsize=8, loc='lower right')
  _save(figure, path)


def _curves(rows: Sequence[Mapping[str, float]]) -> _Curves:
  """Curves of the tasks that have any: a point per row in which an episode of the task ended."""
  columns = rows[0] if rows else ()
  tasks = [name.removeprefix('return/') for name in columns if name.startswith('return/')]
  curves = {}
  for task in tasks:
    points = [(row['frames'] / 1e6, row[f'return/{task}']) for row in rows]
    points = [(frames, value) for frames, value in points if not math.isnan(value)]
    if points:
      curves[task] = points
  return curves


def _panels(tasks: Sequence[str], curves: Mapping[str, _Curves]) -> Any:
  """Returns a figure with a panel for each task, and a legend if a run has a name."""
  columns = min(_MAX_COLUMNS, len(tasks))
  rows = math.ceil(len(tasks) / columns)
  figure, grid = pyplot.subplots(
    rows, columns, figsize=(3.4 * columns, 2.5 * rows), squeeze=False, layout='constrained'
  )
  axes = list(grid.flat)
  for axis, task in zip(axes, tasks, strict=False):
    _panel(axis, task, curves)
  # The last row may have room for more panels than there are tasks.
  for axis in axes[len(tasks) :]:
    axis.set_visible(False)

  if any(curves):
    # Every panel may lack some of the runs: the legend lists those of all panels, each once.
    handles = {}
    for axis in axes:
      for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        handles[label] = handle
    figure.legend(handles.values(), handles.keys(), loc='outside upper center', ncols=4)
  figure.supxlabel('environment frames (millions)', fontsize=10)
  figure.supylabel('mean return of training episodes', fontsize=10)
  return figure


def _panel(axis: Any, task: str, curves: Mapping[str, _Curves]) -> None:
  # A run keeps its number, and so its colour, in panels of tasks that other runs lack.
  for i, (name, run) in enumerate(curves.items()):
    if task not in run:
      continue
    frames, returns = zip(*run[task], strict=True)
    # Not smoothed: its last point is what the run's last line said.
    axis.plot(frames, returns, color=f'C{i}', linewidth=2, label=name or None)
  axis.set_title(task, fontsize=10)
  axis.grid(alpha=0.3)


def _save(figure: Any, path: pathlib.Path) -> None:
  with files.replacing(path, 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  # pyplot keeps every open figure in memory.
  pyplot.close(figure)
