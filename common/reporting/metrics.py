"""What a run measures: rows of `metrics.csv` and TensorBoard events of the same."""

import collections
import csv
import math
import pathlib
from typing import Mapping, Sequence

import numpy as np
import tensorflow as tf

from common.machine import files


class EpisodeWindow:
  """Returns and lengths of finished episodes by task: the newest of each, and those since the last report."""

  def __init__(self, tasks: Sequence[str], size: int = 100):
    self._new = {task: [] for task in tasks}
    self._recent = {task: collections.deque(maxlen=size) for task in tasks}

  def add(self, task: str, episode_return: float, length: int) -> None:
    self._new[task].append((episode_return, length))
    self._recent[task].append(episode_return)

  def recent_returns(self, episodes: int = 1) -> dict[str, float]:
    """Mean return over the last episodes of each task that has ended so many."""
    return {
      task: float(np.mean(returns))
      for task, returns in self._recent.items()
      if len(returns) >= episodes
    }

  def report(self) -> dict[str, float]:
    """Means since the last call, as columns; tasks without a finished episode are left out."""
    row = {}
    for task, episodes in self._new.items():
      if episodes:
        row[f'return/{task}'], row[f'length/{task}'] = np.mean(episodes, axis=0).tolist()
      self._new[task] = []
    return row


class MetricsWriter:
  """Appends rows to `metrics.csv` and to TensorBoard. Each row is on disk when `write` returns."""

  def __init__(self, folder: pathlib.Path, columns: Sequence[str], resumed_frames: int = 0):
    """Starts the file, or goes on after `resumed_frames`: rows of later frames, which a kill left, are taken out."""
    self._path, self._columns = folder / 'metrics.csv', list(columns)
    rows = (
      [row for row in read(self._path) if row['frames'] <= resumed_frames]
      if self._path.exists()
      else []
    )
    with files.replacing(self._path) as file:
      writer = csv.DictWriter(file, self._columns, extrasaction='ignore')
      writer.writeheader()
      writer.writerows(
        {k: '' if math.isnan(v) else _short(v) for k, v in row.items()} for row in rows
      )
    self._file = open(self._path, 'a', newline='')
    self._writer = csv.DictWriter(self._file, self._columns)
    self._events = tf.summary.create_file_writer(str(folder / 'tensorboard'))

  def write(self, row: Mapping[str, float], histograms: Mapping[str, Sequence[float]]) -> None:
    """Adds a row; columns that it lacks stay empty. Histograms go to TensorBoard alone."""
    self._writer.writerow({name: _short(value) for name, value in row.items()})
    self._file.flush()
    with self._events.as_default(step=int(row['frames'])):
      for name, value in row.items():
        tf.summary.scalar(name, value)
      for name, values in histograms.items():
        tf.summary.histogram(name, values)
    self._events.flush()

  def close(self) -> None:
    self._file.close()
    self._events.close()


def read(path: pathlib.Path) -> list[dict[str, float]]:
  """The rows of a `metrics.csv`; NaN where a column is empty. A last row that a kill cut short is left out."""
  with open(path, newline='') as file:
    lines = [line for line in file if line.endswith('\n')]
  return [
    {name: float(value) if value else math.nan for name, value in row.items()}
    for row in csv.DictReader(lines)
  ]


def _short(value: float) -> str:
  value = float(value)
  return str(int(value)) if value.is_integer() else f'{value:.7g}'
