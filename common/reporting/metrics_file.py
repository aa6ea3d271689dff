"""Reads `metrics.csv`. Apart from its writer, which needs TensorFlow."""

import csv
import math
import pathlib


def read(path: pathlib.Path) -> list[dict[str, float]]:
  """Reads the rows of a `metrics.csv`, with NaN for empty cells.

  Skips a last line without a line end: the run was killed while it wrote, or is writing now. Skips
  damaged rows, too.
  """
  return read_damaged(path)[0]


def read_damaged(path: pathlib.Path) -> tuple[list[dict[str, float]], int]:
  """The rows of a `metrics.csv` that can be read, and the number of those that cannot."""
  with open(path, newline='', encoding='utf-8', errors='replace') as file:
    lines = [line.replace('\0', '') for line in file if line.endswith('\n')]
  rows = []
  damaged = 0
  for cells in csv.DictReader(lines):
    try:
      # A row that is cut lacks values, one with a line end lost in it has too many.
      if None in cells or None in cells.values():
        raise ValueError('another number of columns')
      row = {name: _number(cell) for name, cell in cells.items()}
      if not math.isfinite(row['frames']):
        raise ValueError('no frames')
      rows.append(row)
    except (ValueError, KeyError):
      damaged += 1
  return rows, damaged


def _number(cell: str) -> float:
  return float(cell) if cell else math.nan
