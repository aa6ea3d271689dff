"""The progress line of a training run."""

import types
from typing import Mapping, Sequence

from common.reporting import episodes

# With more tasks than this, the line would be too long to read.
_MAX_TASKS = 12
# Columns of a terminal that a line may take; what is left goes on below, indented.
_WIDTH = 100
_INDENT = 4 * ' '


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
  num_tasks: int = 1,
  scores: Mapping[str, float] = types.MappingProxyType({}),
) -> str:
  """Formats the progress line: frames, speed, estimated time left, the note, scores and returns.

  Args:
    frames: Environment frames trained so far.
    total_frames: Environment frames after which training ends.
    frames_per_second: Environment frames per second; 0 if not yet known.
    note: The system's own statistics.
    returns: Means of recent episodes by task. Of more than a dozen tasks, the line has only the
      number; `metrics.csv` has them all.
    num_tasks: The number of tasks of the run, whether they have ended an episode or not.
    scores: Human-normalised scores over all tasks by name, in percent.

  Returns:
    The line, broken where it would be longer than 100 columns.
  """
  parts = [
    f'{frames:>12,} frames ({frames / total_frames:4.0%})',
    f'{frames_per_second:8,.0f} frames/s',
    f'ETA {_time_left(total_frames - frames, frames_per_second)}',
    note,
  ]
  if scores:
    named = ', '.join(f'{name} {value:.1f}' for name, value in scores.items())
    parts.append(f'human-normalised (%): {named}')
  words = [f'  {part}' for part in parts if part]
  words[0] = parts[0]
  return _broken(words + _returns(returns, num_tasks))


def _time_left(frames: int, frames_per_second: float) -> str:
  if not frames_per_second:
    return 'unknown'
  # The last update may go beyond the end.
  return duration(max(0, frames) / frames_per_second)


def _returns(returns: Mapping[str, episodes.Recent], num_tasks: int) -> list[str]:
  """The mean returns as words, between which the line may be broken."""
  if not returns:
    return ['  returns: no episode has ended yet']
  if len(returns) > _MAX_TASKS:
    return [f'  returns of {len(returns)} tasks']
  if num_tasks == 1:
    (recent,) = returns.values()
    plural = '' if recent.episodes == 1 else 's'
    return [f'  return {recent.mean_return:.4g} ({recent.episodes} episode{plural})']
  words = [
    f' {task} {recent.mean_return:.4g} ({recent.episodes})' for task, recent in returns.items()
  ]
  first, *others = [f'{word},' for word in words[:-1]] + words[-1:]
  return [f'  returns (episodes):{first}', *others]


def _broken(words: Sequence[str]) -> str:
  """Joins words, which begin with the space before them, in lines of at most 100 columns."""
  lines = ['']
  for word in words:
    if lines[-1] and len(lines[-1]) + len(word) > _WIDTH:
      lines.append(_INDENT + word.lstrip())
    else:
      lines[-1] += word
  return '\n'.join(lines)
