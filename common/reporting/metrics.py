"""A run's measurements: rows of `metrics.csv`, and the same values as TensorBoard events."""

import csv
import logging
import math
import pathlib
import shutil
import time
from typing import Mapping, Sequence

import tensorflow as tf
from tensorboard.compat.proto import event_pb2

from common.machine import files
from common.reporting import metrics_file


class MetricsWriter:
  """Appends rows to `metrics.csv` and to TensorBoard. Each row is on disk when `write` returns."""

  def __init__(self, folder: pathlib.Path, columns: Sequence[str], resumed_frames: int = 0):
    """Starts the file, or continues that of a resumed run.

    Args:
      folder: The run's folder.
      columns: The names of all columns, with `frames` among them. A resumed run may have others
        than before, whose columns are kept.
      resumed_frames: Environment frames at the restored checkpoint. Rows beyond it are deleted: the
        resumed run trains those frames again.
    """
    self._path = folder / 'metrics.csv'
    before, damaged = metrics_file.read_damaged(self._path) if self._path.exists() else ([], 0)
    if damaged:
      _keep_aside(self._path, f'{damaged} of its rows cannot be read')
    old_columns = before[0] if before else {}
    self._columns = list(dict.fromkeys([*columns, *old_columns]))

    # Even if no row is deleted, since the columns may have changed.
    self._rewrite([row for row in before if row['frames'] <= resumed_frames])

    self._file = open(self._path, 'a', newline='')
    self._writer = csv.DictWriter(self._file, self._columns)
    events = folder / 'tensorboard'
    if events.is_file():
      _keep_aside(events, 'it is a file, expected a folder')
      events.unlink()
    self._events = tf.summary.create_file_writer(str(events))
    self._start_events(resumed_frames + 1)

  def _rewrite(self, kept: Sequence[Mapping[str, float]]) -> None:
    with files.replacing(self._path) as file:
      writer = csv.DictWriter(file, self._columns)
      writer.writeheader()
      for row in kept:
        writer.writerow({name: _cell(value) for name, value in row.items()})

  def _start_events(self, step: int) -> None:
    """Notes a start: TensorBoard drops what earlier parts of the run wrote from this step on."""
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    event = event_pb2.Event(wall_time=time.time(), step=step, session_log=log)
    # Only the resource takes whole events; the writer's public functions take summaries.
    tf.raw_ops.ImportEvent(writer=self._events._resource, event=event.SerializeToString())
    self._events.flush()

  def write(self, row: Mapping[str, float], histograms: Mapping[str, Sequence[float]]) -> None:
    """Adds a row.

    Args:
      row: Values by column, `frames` among them; missing columns stay empty.
      histograms: Samples by name, for TensorBoard only.

    Raises:
      ValueError: If `row` has an unknown column.
    """
    self._writer.writerow({name: _short(value) for name, value in row.items()})
    self._file.flush()

    # Both are over environment frames, the unit of the papers' curves.
    with self._events.as_default(step=int(row['frames'])):
      for name, value in row.items():
        tf.summary.scalar(name, value)
      for name, values in histograms.items():
        tf.summary.histogram(name, values)
    self._events.flush()

  def close(self) -> None:
    """Closes both files."""
    self._file.close()
    self._events.close()


def _keep_aside(path: pathlib.Path, reason: str) -> None:
  """Copies a damaged file to another name before it is replaced; warns."""
  copy = path.with_name(f'{path.name}.damaged')
  shutil.copy2(path, copy)
  logging.warning('%s is damaged: %s. A copy is kept: %s', path, reason, copy)


def _cell(value: float) -> str:
  # An empty cell is read as NaN; this writes it back as it was.
  return '' if math.isnan(value) else _short(value)


def _short(value: float) -> str:
  value = float(value)
  # Whole numbers, such as counts of frames, keep all of their digits.
  return str(int(value)) if value.is_integer() else f'{value:.7g}'
