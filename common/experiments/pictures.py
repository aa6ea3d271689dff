"""Draws an experiment as the papers do. Beside each picture is a CSV of the numbers in it.

Colours are those of Okabe and Ito, which the colour-blind tell apart; line styles, markers and
hatches tell the variants apart in grey.
"""

import csv
import dataclasses
import math
import pathlib
import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np

# Draws without a display; has to come before pyplot is imported.
matplotlib.use('Agg')
from matplotlib import pyplot

from common.experiments import definitions, plan, results, statistics
from common.machine import files

_COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#000000', '#E69F00', '#56B4E9', '#7F7F7F')
_LINES = ('-', '--', '-.', ':')
_MARKERS = 'osD^vP*X'
_HATCHES = ('', '//', '..', 'xx', '--', '\\\\', '++', 'oo')
_POINTS = 60
_COLUMNS = 3
_SMOOTHING = 5
_RESAMPLES = 500
_FEW_FRAMES = 2_000_000  # Up to which the axis counts thousands.
# SVG with text as text: small, and it can be searched. No date, so that a redraw changes nothing.
_SVG: Any = {'svg.fonttype': 'none', 'svg.hashsalt': 'experiments'}

# Rows of the CSV: values by column.
_Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Drawn:
  """A picture's files, without their endings: .png, .svg and .csv."""

  kind: str
  path: pathlib.Path
  caption: str


def draw(
  planned: plan.Plan, outcomes: results.Outcomes, folder: pathlib.Path, ran: str
) -> list[Drawn]:
  """Draws all pictures of an experiment that have anything to show.

  Args:
    planned: The experiment at a scale.
    outcomes: Its finished runs.
    folder: Where the pictures go.
    ran: What the pictures rest on, for captions.
  """
  drawn = []
  for kind in planned.experiment.pictures:
    title, rows, figure = _KINDS[kind](planned, outcomes)
    if not rows:
      pyplot.close(figure)
      continue
    caption = f'{planned.experiment.title}: {title}. Scale {planned.name}: {planned.scale.changes} '
    caption += ran
    figure.suptitle(textwrap.fill(caption, 110), fontsize=8, x=0.01, ha='left')
    save(figure, rows, folder / kind)
    drawn.append(Drawn(kind, folder / kind, caption))
  return drawn


def save(figure: Any, rows: Sequence[Mapping[str, Any]], path: pathlib.Path) -> None:
  """Writes a figure as PNG and SVG, and its numbers as CSV."""
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path.with_suffix('.png'), 'wb') as file:
    figure.savefig(file, format='png', dpi=110)
  with files.replacing(path.with_suffix('.svg')) as file, matplotlib.rc_context(_SVG):
    figure.savefig(file, format='svg', metadata={'Date': None})
  # pyplot keeps every open figure in memory.
  pyplot.close(figure)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  with files.replacing(path.with_suffix('.csv')) as file:
    writer = csv.DictWriter(file, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)


def bars(
  values: Mapping[str, Mapping[str, statistics.Estimate]], label: str, is_wide: bool = False
) -> tuple[_Rows, Any]:
  """A group of bars for each task, a bar for each variant, with intervals where there are any.

  Args:
    values: Estimates by variant and task.
    label: Of the axis of values.
    is_wide: Whether values range over orders of magnitude.
  """
  tasks = list(dict.fromkeys(task for by_task in values.values() for task in by_task))
  figure, axis = pyplot.subplots(
    figsize=(8, 1.8 + (0.07 if is_wide else 0.13) * (len(values) + 1) * len(tasks)),
    layout='constrained',
  )
  height = 0.8 / max(1, len(values))
  rows: _Rows = []
  for i, (variant, by_task) in enumerate(values.items()):
    for j, task in enumerate(tasks):
      if task not in by_task:
        continue
      value, low, high = by_task[task]
      errors = None if math.isnan(low) else [[max(0.0, value - low)], [max(0.0, high - value)]]
      axis.barh(
        -j - i * height,
        value,
        height,
        xerr=errors,
        color=_COLOURS[i % len(_COLOURS)],
        hatch=_HATCHES[i % len(_HATCHES)],
        edgecolor='white',
        error_kw={'ecolor': '#444444', 'capsize': 2},
        label=variant if j == next(k for k, t in enumerate(tasks) if t in by_task) else None,
      )
      rows.append({'variant': variant, 'task': task, 'value': value, 'low': low, 'high': high})
  axis.set_yticks([-j - 0.4 + height / 2 for j in range(len(tasks))], tasks, fontsize=8)
  axis.set_ylim(-len(tasks) + 0.1, height)
  if is_wide:
    axis.set_xscale('symlog', linthresh=100)
    # By itself the axis would have as many decades below zero.
    axis.set_xlim(left=1.2 * min(0.0, *(row['value'] for row in rows)))
  axis.set_xlabel(label)
  axis.grid(alpha=0.3, axis='x')
  figure.legend(loc='outside lower center', ncols=min(4, max(1, len(values))), fontsize=8)
  return rows, figure


def _style(i: int) -> dict[str, Any]:
  """Colour and line style of variant number `i`."""
  return {
    'color': _COLOURS[i % len(_COLOURS)],
    'linestyle': _LINES[(i // len(_COLOURS) + i) % len(_LINES)],
  }


def _panels(names: Sequence[str], x: str, y: str) -> tuple[Any, dict[str, Any]]:
  """A figure with a panel for each name."""
  columns = max(1, min(_COLUMNS, len(names)))
  height = max(1, math.ceil(len(names) / columns))
  figure, grid = pyplot.subplots(
    height, columns, figsize=(max(7.0, 3.6 * columns), 2.9 * height + 1.2), squeeze=False,
    layout='constrained',
  )  # fmt: skip
  axes = list(grid.flat)
  for axis in axes[len(names) :]:
    axis.set_visible(False)
  for axis, name in zip(axes, names, strict=False):
    axis.set_title(name, fontsize=10)
    axis.grid(alpha=0.3)
    axis.set_xlabel(x, fontsize=9)
    axis.set_ylabel(y, fontsize=9)
  return figure, dict(zip(names, axes, strict=False))


def _legend(figure: Any, axes: Mapping[str, Any]) -> None:
  """One legend for all panels: every panel may lack some of the variants."""
  handles = {}
  for axis in axes.values():
    for handle, name in zip(*axis.get_legend_handles_labels(), strict=True):
      handles[name] = handle
  if handles:
    figure.legend(handles.values(), handles.keys(), loc='outside lower center', ncols=4, fontsize=8)


def _tasks(planned: plan.Plan) -> list[str]:
  return [task.name for task in results.needed_tasks(planned.experiment, planned.name)]


def _curves(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  longest = max((run.config.total_frames for run in planned.runs), default=0)
  if longest < _FEW_FRAMES:
    return _over(planned, outcomes, 'frames', 'environment frames (thousands)', 1e-3)
  return _over(planned, outcomes, 'frames', 'environment frames (millions)', 1e-6)


def _hours(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  return _over(planned, outcomes, 'hours', 'minutes of training', 60.0)


def _over(
  planned: plan.Plan, outcomes: results.Outcomes, axis_name: str, label: str, unit: float
) -> tuple[str, _Rows, Any]:
  """Learning curves over frames or hours."""
  is_sweep = planned.scale.draws > 0
  figure, axes = _panels(_tasks(planned), label, 'mean return')
  rows: _Rows = []
  for i, (variant, by_task) in enumerate(outcomes.items()):
    for task, runs in by_task.items():
      found = [run for run in runs if run is not None and len(run.returns)]
      if not found:
        continue
      x, line, low, high = _band(found, axis_name, is_sweep)
      axes[task].plot(x * unit, line, linewidth=1.8, label=variant, **_style(i))
      axes[task].fill_between(
        x * unit, low, high, color=_style(i)['color'], alpha=0.15, linewidth=0
      )
      rows += [
        {'variant': variant, 'task': task, axis_name: a, 'return': b, 'low': c, 'high': d}
        for a, b, c, d in zip(x.tolist(), line.tolist(), low.tolist(), high.tolist(), strict=True)
      ]
  _legend(figure, axes)
  shown = 'mean and range of the three best combinations' if is_sweep else (
    'interquartile mean over seeds, 95% bootstrap interval'
  )  # fmt: skip
  return shown, rows, figure


def _band(
  runs: Sequence[results.Outcome], axis_name: str, is_sweep: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
  """Several runs' curves as one: places, the line, and the band's edges, each `[P]`."""
  ends = [getattr(run, axis_name)[-1] for run in runs]
  x = np.linspace(0.0, float(np.median(ends)), _POINTS)
  curves = np.array([_on_grid(getattr(run, axis_name), run.returns, x) for run in runs])
  if is_sweep:
    # As in the paper: the best by final return, not the best at each point.
    order = np.argsort([run.metrics['final_return'] for run in runs])
    best = curves[order[-3:]]
    return x, best.mean(axis=0), best.min(axis=0), best.max(axis=0)
  line = statistics.aggregate(curves.T, 'iqm')
  chosen = np.random.default_rng(0).integers(len(runs), size=(_RESAMPLES, len(runs)))
  again = statistics.aggregate(np.moveaxis(curves[chosen], 1, -1), 'iqm')  # [resamples, P]
  low, high = np.percentile(again, [2.5, 97.5], axis=0)
  return x, line, low, high


def _on_grid(places: np.ndarray, values: np.ndarray, x: np.ndarray) -> np.ndarray:
  """A curve at the places `x`, smoothed by trailing means."""
  windows = [values[max(0, i + 1 - _SMOOTHING) : i + 1].mean() for i in range(len(values))]
  return np.interp(x, places, windows)


def _sorted(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  """Final returns of all combinations, from the best to the worst (Figures 4 and E.2)."""
  figure, axes = _panels(_tasks(planned), 'combinations, from the best', 'final return')
  rows: _Rows = []
  for i, (variant, by_task) in enumerate(outcomes.items()):
    for task, runs in by_task.items():
      values = sorted(
        (run.metrics['final_return'] for run in runs if run is not None), reverse=True
      )
      values = [value for value in values if not math.isnan(value)]
      if not values:
        continue
      axes[task].plot(
        range(1, len(values) + 1), values, label=variant, marker=_MARKERS[i % len(_MARKERS)],
        markersize=3.5, linewidth=1.2, **_style(i),
      )  # fmt: skip
      rows += [
        {'variant': variant, 'task': task, 'rank': rank, 'final_return': value}
        for rank, value in enumerate(values, start=1)
      ]
  _legend(figure, axes)
  return 'final returns of all combinations, sorted', rows, figure


def _schedule(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  """The learning rate of each variant's best run over frames (Figure F.1)."""
  figure, axes = _panels(_tasks(planned), 'environment frames (millions)', 'learning rate')
  rows: _Rows = []
  for i, (variant, by_task) in enumerate(outcomes.items()):
    for task, runs in by_task.items():
      known = [run for run in runs if run is not None and not np.isnan(run.learning_rate).all()]
      if not known:
        continue
      best = max(known, key=lambda run: run.metrics['final_return'])
      axes[task].plot(best.frames / 1e6, best.learning_rate, label=variant, **_style(i))
      axes[task].set_yscale('log')
      rows += [
        {'variant': variant, 'task': task, 'frames': frames, 'learning_rate': rate}
        for frames, rate in zip(best.frames.tolist(), best.learning_rate.tolist(), strict=True)
      ]
  _legend(figure, axes)
  return 'learning rate of the best run', rows, figure


def _bars(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  """Final returns by task; of suites, by task within them (Figure B.1)."""
  how = 'best3' if planned.scale.draws else 'iqm'
  values: dict[str, dict[str, statistics.Estimate]] = {}
  for variant, by_task in outcomes.items():
    runs = [run for each in by_task.values() for run in each if run is not None]
    levels = dict.fromkeys(level for run in runs for level in run.levels)
    for level in levels:
      final = np.array([run.levels[level] for run in runs if level in run.levels])
      final = final[~np.isnan(final)]
      if len(final):
        values.setdefault(variant, {})[level] = statistics.estimate({level: final}, how)
  rows, figure = bars(values, 'final return')
  return 'final return by task, 95% bootstrap interval', rows, figure


def _rates(planned: plan.Plan, outcomes: results.Outcomes) -> tuple[str, _Rows, Any]:
  """Frames a second: over the variants' numbers if they have any, else as bars."""
  numbers = {variant.name: variant.number for variant in planned.experiment.variants}
  values: dict[str, dict[str, statistics.Estimate]] = {}
  for variant, by_task in outcomes.items():
    for task, runs in by_task.items():
      speeds = np.array([r.metrics['frames_per_second'] for r in runs if r is not None])
      if len(speeds):
        values.setdefault(variant, {})[task] = statistics.estimate({task: speeds}, 'mean')
  if not values or any(numbers[variant] is None for variant in values):
    rows, figure = bars(values, 'environment frames a second')
    return 'frames a second', rows, figure

  figure, axes = _panels(_tasks(planned), 'actors', 'environment frames a second')
  points: _Rows = [
    {'variant': v, 'number': numbers[v], 'task': t, 'value': e.value, 'low': e.low, 'high': e.high}
    for v, by_task in values.items()
    for t, e in by_task.items()
  ]
  for task, axis in axes.items():
    own = sorted((p for p in points if p['task'] == task), key=lambda p: p['number'])
    if own:
      x = [point['number'] for point in own]
      axis.plot(x, [point['value'] for point in own], marker='o', **_style(0))
  return 'frames a second over the number of actors', points, figure


_KINDS: dict[str, Callable[[plan.Plan, results.Outcomes], tuple[str, _Rows, Any]]] = {
  'curves': _curves,
  'hours': _hours,
  'sorted': _sorted,
  'bars': _bars,
  'schedule': _schedule,
  'rates': _rates,
}
assert tuple(_KINDS) == definitions.PICTURES
