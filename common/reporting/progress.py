"""The progress line of a training run."""

from typing import Mapping, NamedTuple, Sequence

from common.reporting import episodes

# Columns of a terminal that a line may take; what is left goes on below, indented.
_WIDTH = 100
_INDENT = 4 * ' '
_SHORTEST_NAME = 8


class Comparable(NamedTuple):
  """Recent returns in a unit that all tasks share.

  Attributes:
    values: By task, of those that have ended an episode.
    unit: `%` of the way from random play to a human; empty for returns that the suite has scaled.
  """

  values: Mapping[str, float]
  unit: str


def duration(seconds: float) -> str:
  """Formats a duration as `1:02:03` or `2:03`, rounded down."""
  minutes, seconds = divmod(int(seconds), 60)
  hours, minutes = divmod(minutes, 60)
  return f'{hours}:{minutes:02}:{seconds:02}' if hours else f'{minutes}:{seconds:02}'


def line(
  frames: int,
  total_frames: int,
  frames_per_second: float,
  note: str,
  returns: Mapping[str, episodes.Recent],
  comparable: Comparable | None = None,
) -> str:
  """Formats the progress line: frames, speed, estimated time left, the note, and returns.

  Args:
    frames: Environment frames trained so far.
    total_frames: Environment frames after which training ends.
    frames_per_second: Environment frames per second; 0 if not yet known.
    note: The system's own statistics.
    returns: Means of recent episodes by task.
    comparable: In a run of several tasks, what mean, worst and best task are told by.

  Returns:
    One line, broken only where the note makes it longer than 100 columns.
  """
  parts = [
    f'{frames:>11,} frames {frames / total_frames:4.0%}',
    f'{frames_per_second:7,.0f}/s',
    f'ETA {_time_left(total_frames - frames, frames_per_second)}',
    note,
  ]
  text = '  '.join(part for part in parts if part)
  if not returns:
    return _broken([text, '  returns: no episode has ended yet'])
  if comparable is None:
    (recent,) = returns.values()
    plural = '' if recent.episodes == 1 else 's'
    return _broken([text, f'  return {recent.mean_return:.4g} ({recent.episodes} episode{plural})'])
  told = f'  {_extremes(comparable, _WIDTH - len(text) - 2)}'
  if len(text) + len(told) > _WIDTH:
    told = f'  {_extremes(comparable, _WIDTH - len(_INDENT))}'
  return _broken([text, told])


def all_tasks(returns: Mapping[str, episodes.Recent], scores: Mapping[str, float]) -> str:
  """Formats the mean returns of all tasks.

  Args:
    returns: Means of recent episodes by task.
    scores: Human-normalised scores over all tasks by name, in percent; empty without references.

  Returns:
    Lines of at most 100 columns.
  """
  words = [f' {task} {one.mean_return:.4g} ({one.episodes}),' for task, one in returns.items()]
  words[-1] = words[-1].removesuffix(',')
  if scores:
    named = ', '.join(f'{name} {value:.1f}' for name, value in scores.items())
    words.append(f'  human-normalised (%): {named}')
  return _broken([f'{_INDENT}returns (episodes):', *words])


def _extremes(comparable: Comparable, width: int) -> str:
  """Mean, worst and best task, in `width` columns if names of tasks can be cut to that."""
  values, unit = comparable
  worst = min(values, key=lambda task: values[task])
  best = max(values, key=lambda task: values[task])
  mean = sum(values.values()) / len(values)

  def told(names: Sequence[str]) -> str:
    first, second = names
    lowest = f'{first} {_number(values[worst], unit)}'
    highest = f'{second} {_number(values[best], unit)}'
    return f'mean {_number(mean, unit)}: {lowest} to {highest}'

  room = (width - len(told(('', '')))) // 2
  return told([_shortened(name, max(_SHORTEST_NAME, room)) for name in (worst, best)])


def _number(value: float, unit: str) -> str:
  return f'{value:.0f}{unit}' if unit or abs(value) >= 100 else f'{value:.2f}'


def _shortened(name: str, length: int) -> str:
  return name if len(name) <= length else f'{name[: length - 1]}…'


def _time_left(frames: int, frames_per_second: float) -> str:
  if not frames_per_second:
    return 'unknown'
  # The last update may go beyond the end.
  return duration(max(0, frames) / frames_per_second)


def _broken(words: Sequence[str]) -> str:
  """Joins words, which begin with the space before them, in lines of at most 100 columns."""
  lines = ['']
  for word in words:
    if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
      lines.append(_INDENT + word.lstrip())
    else:
      lines[-1] += word
  return '\n'.join(lines)
