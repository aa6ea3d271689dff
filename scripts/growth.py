"""Whether what should stay constant grows: slopes of measurements over time, as a table."""

from typing import NamedTuple, Sequence

from scipy import stats


class Limit(NamedTuple):
  """How much a quantity may grow."""

  per_minute: float
  noise: float  # Growth that short runs show by chance, in all.


class Trend(NamedTuple):
  """A quantity over time.

  Attributes:
    name: The quantity.
    first: The median of the first tenth of its values.
    last: The median of the last tenth.
    most: The largest.
    per_minute: The median slope between any two values (Theil and Sen): outliers do not count.
    rise: What that slope amounts to over the whole time.
    limit: What it may be.
  """

  name: str
  first: float
  last: float
  most: float
  per_minute: float
  rise: float
  limit: Limit

  @property
  def has_grown(self) -> bool:
    """Whether the slope is beyond the limit, and the rise beyond noise."""
    return self.per_minute > self.limit.per_minute and self.rise > self.limit.noise

  def describe(self) -> str:
    """By how much it has grown."""
    return (
      f'{self.name} grew by {self.rise:.1f}: {self.per_minute:.2f} a minute, '
      f'allowed {self.limit.per_minute:g}'
    )


def trend(name: str, minutes: Sequence[float], values: Sequence[float], limit: Limit) -> Trend:
  """The trend of at least two values at the given times."""
  tenth = max(1, len(values) // 10)
  per_minute = float(stats.theilslopes(values, minutes).slope)
  return Trend(
    name=name,
    first=_median(values[:tenth]),
    last=_median(values[-tenth:]),
    most=max(values),
    per_minute=per_minute,
    rise=per_minute * (minutes[-1] - minutes[0]),
    limit=limit,
  )


def table(trends: Sequence[Trend]) -> str:
  """Formats trends, one line each."""
  lines = [
    f'{"after warm-up":<24}{"first":>10}{"last":>10}{"most":>10}{"per minute":>12}{"allowed":>10}'
  ]
  for one in trends:
    lines.append(
      f'{one.name:<24}{one.first:>10.1f}{one.last:>10.1f}{one.most:>10.1f}'
      f'{one.per_minute:>12.2f}{one.limit.per_minute:>10g}  {"GREW" if one.has_grown else "held"}'
    )
  return '\n'.join(lines)


def _median(values: Sequence[float]) -> float:
  return sorted(values)[len(values) // 2]
