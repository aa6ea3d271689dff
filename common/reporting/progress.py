"""The progress line of a training run."""

import types
from typing import Mapping

# With more tasks than this, the line would be too long to read.
_MAX_TASKS = 12


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
  returns: Mapping[str, float],
  scores: Mapping[str, float] = types.MappingProxyType({}),
) -> str:
  """Formats the progress line: frames, speed, estimated time left, the note, scores and returns.

  Args:
    frames: Environment frames trained so far.
    total_frames: Environment frames after which training ends.
    frames_per_second: Environment frames per second; 0 if not yet known.
    note: The system's own statistics.
    returns: Mean returns of recent episodes by task. Of more than a dozen tasks, the line has only
      the number; `metrics.csv` has them all.
    scores: Human-normalised scores over all tasks by name, in percent.
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
  parts.append(_returns(returns))
  return '  '.join(parts)


def _time_left(frames: int, frames_per_second: float) -> str:
  if not frames_per_second:
    return 'unknown'
  # The last update may go beyond the end.
  return duration(max(0, frames) / frames_per_second)


def _returns(returns: Mapping[str, float]) -> str:
  if not returns:
    return 'returns: no episode has ended yet'
  if len(returns) > _MAX_TASKS:
    return f'returns of {len(returns)} tasks'
  return 'returns: ' + ', '.join(f'{task} {value:.4g}' for task, value in returns.items())
