"""What finished runs have measured: a curve, one number for each metric, and both for each task."""

import dataclasses
import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from common.experiments import definitions, plan
from common.reporting import metrics_file, scores

_LAST = 0.1  # The share of frames over which a final return is the mean.
_STEADY = 0.3  # The share of rows after which a speed is no longer that of a start.
# What a suite with published scores is judged by, in percent.
_STATISTICS = {'atari57': 'median', 'dmlab30': 'mean_capped'}

Rows = Sequence[Mapping[str, float]]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """A finished run's measurements.

  Attributes:
    run: The run.
    frames: int `[P]`, environment frames of its curve.
    hours: float `[P]`, hours of training at the same points.
    returns: float `[P]`, mean return of the episodes since the point before, over all tasks of a
      suite; for one with published scores, what the papers report of it.
    learning_rate: float `[P]`, NaN where it is not recorded.
    metrics: The run as one number, by metric of `definitions.METRICS`.
    levels: The final return by task of the suite.
  """

  run: plan.Run
  frames: np.ndarray
  hours: np.ndarray
  returns: np.ndarray
  learning_rate: np.ndarray
  metrics: Mapping[str, float]
  levels: Mapping[str, float]


# By variant, then by task: outcomes in the order of combinations and seeds, None for missing ones.
Outcomes = dict[str, dict[str, list[Outcome | None]]]


def collect(planned: plan.Plan) -> Outcomes:
  """Reads all finished runs of a plan."""
  found: Outcomes = {}
  for run in planned.runs:
    folder = planned.folder / run.name
    outcomes = read_all(run, folder) if plan.is_finished(folder) else [None]
    found.setdefault(run.variant, {}).setdefault(run.task.name, []).extend(outcomes)
  return found


def read_all(run: plan.Run, folder: pathlib.Path) -> list[Outcome | None]:
  """The outcome of a run, or those of a population's members, which began with its combinations."""
  members = sorted(path for path in folder.glob('member-*') if path.is_dir())
  return [read(run, each) for each in members or [folder]]


def read(run: plan.Run, folder: pathlib.Path) -> Outcome | None:
  """Reads a run's `metrics.csv`; None if it has no rows."""
  path = folder / 'metrics.csv'
  rows = metrics_file.read(path) if path.exists() else []
  if not rows:
    return None
  levels = [name.removeprefix('return/') for name in rows[0] if name.startswith('return/')]
  frames = np.array([row['frames'] for row in rows])
  by_level = {level: np.array([row[f'return/{level}'] for row in rows]) for level in levels}
  final = {level: _final(frames, values) for level, values in by_level.items()}
  returns = _means(by_level, run.task.references)
  known = ~np.isnan(returns)
  return Outcome(
    run=run,
    frames=frames[known],
    hours=np.array([row['seconds'] for row in rows])[known] / 3600,
    returns=returns[known],
    learning_rate=np.array([row.get('learning_rate', math.nan) for row in rows])[known],
    metrics={
      'final_return': _mean_over_levels(final, run.task.references),
      'mean_return': _mean_over_frames(frames[known], returns[known]),
      'frames_per_second': _speed(rows),
    },
    levels=final,
  )


def normalised(outcome: Outcome, metric: str) -> float:
  """A run's metric to average over tasks: returns from 0 to 1, rates as logarithms."""
  value = outcome.metrics[metric]
  if metric == 'frames_per_second':
    return math.log(value) if value > 0 else math.nan
  task = outcome.run.task
  return (value - task.low) / (task.high - task.low)


def table(
  outcomes: Outcomes, metric: str, scaled: bool = False
) -> dict[str, dict[str, np.ndarray]]:
  """The runs' metric by variant and task: float `[R]`, NaN for missing runs."""

  def value(outcome: Outcome | None) -> float:
    if outcome is None:
      return math.nan
    return normalised(outcome, metric) if scaled else outcome.metrics[metric]

  return {
    variant: {task: np.array([value(each) for each in runs]) for task, runs in tasks.items()}
    for variant, tasks in outcomes.items()
  }


def _final(frames: np.ndarray, values: np.ndarray) -> float:
  """The mean of the last tenth of the frames; of the last row with an episode if it has none."""
  known = ~np.isnan(values)
  late = known & (frames >= (1 - _LAST) * frames[-1])
  if late.any():
    return float(values[late].mean())
  return float(values[known][-1]) if known.any() else math.nan


def _means(by_level: Mapping[str, np.ndarray], references: str) -> np.ndarray:
  """A suite's curve. Levels without an episode in a row keep their value of the row before."""
  filled = {level: _filled(values) for level, values in by_level.items()}
  count = len(next(iter(filled.values()))) if filled else 0
  points = [{level: values[i] for level, values in filled.items()} for i in range(count)]
  return np.array([_mean_over_levels(point, references) for point in points])


def _filled(values: np.ndarray) -> np.ndarray:
  """`values` with each NaN replaced by the last number before it."""
  last = np.maximum.accumulate(np.where(np.isnan(values), 0, np.arange(len(values))))
  return values[last]


def _mean_over_levels(returns: Mapping[str, float], references: str) -> float:
  if not returns or any(math.isnan(value) for value in returns.values()):
    return math.nan
  if references:
    return scores.summary(references, returns)[_STATISTICS[references]]
  return float(np.mean(list(returns.values())))


def _mean_over_frames(frames: np.ndarray, returns: np.ndarray) -> float:
  if len(frames) < 2 or frames[-1] == frames[0]:
    return float(returns.mean()) if len(returns) else math.nan
  return float(np.trapezoid(returns, frames) / (frames[-1] - frames[0]))


def _speed(rows: Rows) -> float:
  """Frames a second once the run is under way, without the first rows."""
  begin = rows[int(_STEADY * (len(rows) - 1))]
  end = rows[-1]
  seconds = end['seconds'] - begin['seconds']
  if seconds <= 0:
    return end['frames_per_second']
  return (end['frames'] - begin['frames']) / seconds


def needed_tasks(experiment: definitions.Experiment, scale: str) -> list[definitions.Task]:
  """All tasks of an experiment at a scale, those of single variants included."""
  tasks = {task.name: task for task in experiment.scales[scale].tasks}
  for variant in experiment.variants:
    tasks |= {task.name: task for task in variant.tasks.get(scale, ())}
  return list(tasks.values())
