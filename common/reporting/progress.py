"""The line of progress that a long run shows."""

import types
from typing import Mapping

_MOST_TASKS = 12


def duration(seconds: float) -> str:
  """`1:02:03` or `2:03`."""
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
  """Frames, speed, time to go, a note on the run's state, scores over all tasks, mean returns of tasks' last episodes.

  Of more than a dozen tasks only how many have ended an episode is told: `metrics.csv` has them all.
  """
  left = max(0, total_frames - frames) / frames_per_second if frames_per_second else float('inf')
  eta = 'unknown' if left == float('inf') else duration(left)
  text = (
    f'{frames:>12,} frames ({frames / total_frames:4.0%})  {frames_per_second:8,.0f} frames/s  ETA {eta}  '
    f'{note}  '
  )
  if scores:
    text += (
      'human-normalised (%): '
      + ', '.join(f'{name} {value:.1f}' for name, value in scores.items())
      + '  '
    )
  if len(returns) > _MOST_TASKS:
    return text + f'returns of {len(returns)} tasks'
  return (
    text
    + 'returns: '
    + (
      ', '.join(f'{task} {value:.4g}' for task, value in returns.items())
      or 'no episode has ended yet'
    )
  )
