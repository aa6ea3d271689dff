"""The lines of a population: each follows a network back through the checkpoints it was copied of.

The paper's curves of a population are those of such lines (section 5.3.1): a member's own curve
would jump wherever it took over another one.
"""

import csv
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from common.machine import files
from impala import population_folder as folders


class Part(NamedTuple):
  """Frames of one member that belong to a line: those after `start`, up to `end`.

  Attributes:
    member: The member's number.
    start: Of the member's frames, the first not included.
    end: Of the member's frames, the last.
    shift: Added to the member's frames, it gives the frames of the line.
    generations: The member's generations that ended in this part.
  """

  member: int
  start: int
  end: float
  shift: int
  generations: range


class Point(NamedTuple):
  """The end of a generation of a line.

  Attributes:
    frames: Environment frames of the line.
    event: What the member that was then in the line measured.
    after: The hyperparameters with which the line went on.
  """

  frames: int
  event: folders.Event
  after: dict[str, float]


def line(histories: Mapping[int, Sequence[folders.Event]], member: int) -> list[Part]:
  """The parts of a member's line, the earliest first.

  Args:
    histories: Of each member, its generations in order.
    member: The member whose network is followed back.
  """
  parts = []
  until = len(histories[member])
  end = math.inf
  while True:
    taken = _last_taken(histories[member][:until])
    start = taken.frames if taken else 0
    first = taken.generation + 1 if taken else 0
    # A generation ends with the decision: what was learned in it belongs to the network before.
    last = until if math.isinf(end) else until + 1
    parts.append(Part(member, start, end, 0, range(first, min(last, len(histories[member])))))
    if not taken:
      return _shifted(parts[::-1])
    assert taken.partner is not None and taken.taken_generation is not None
    assert taken.taken_frames is not None
    member, until, end = taken.partner, taken.taken_generation, taken.taken_frames


def _last_taken(history: Sequence[folders.Event]) -> folders.Event | None:
  return next((event for event in history[::-1] if event.taken_generation is not None), None)


def _shifted(parts: Sequence[Part]) -> list[Part]:
  """The parts, with each beginning where the one before it ends."""
  shifted = []
  frames = 0
  for part in parts:
    shifted.append(part._replace(shift=frames - part.start))
    frames += int(part.end) - part.start if math.isfinite(part.end) else 0
  return shifted


def points(histories: Mapping[int, Sequence[folders.Event]], member: int) -> list[Point]:
  """The generations of a member's line, the earliest first."""
  found: list[Point] = []
  for part in line(histories, member):
    history = histories[part.member]
    if found:
      # The one that was copied went its own way; the copy was perturbed by the one who took it.
      found[-1] = found[-1]._replace(after=history[part.generations.start - 1].after)
    for generation in part.generations:
      event = history[generation]
      found.append(Point(event.frames + part.shift, event, event.after))
  return found


def write_metrics(folder: pathlib.Path, parts: Sequence[Part], path: pathlib.Path) -> bool:
  """Writes the rows of a line as a `metrics.csv`; returns whether there are any.

  Args:
    folder: The population's.
    parts: The result of `line`.
    path: The file to write, in a folder that exists.
  """
  rows = [row for part in parts for row in _rows(folder, part)]
  columns = list(dict.fromkeys(name for row in rows for name in row))
  with files.replacing(path) as file:
    writer = csv.DictWriter(file, columns)
    writer.writeheader()
    writer.writerows(rows)
  return bool(rows)


def _rows(folder: pathlib.Path, part: Part) -> list[dict[str, str]]:
  """The rows of one member that belong to a line, with the frames of the line."""
  path = folders.member_folder(folder, part.member) / 'metrics.csv'
  if not path.exists():
    return []
  with open(path, newline='', errors='replace') as file:
    # A last line without an end is being written.
    found = list(csv.DictReader(text for text in file if text.endswith('\n')))
  rows = []
  for row in found:
    frames = row.get('frames') or ''
    if frames.isdecimal() and part.start < int(frames) <= part.end:
      rows.append({**row, 'frames': str(int(frames) + part.shift)})
  return rows
