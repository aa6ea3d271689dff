"""Running statistics of vectors and returns, by which observations and rewards are normalised.

They are variables of the networks: whoever has a learner's variables (an actor, a checkpoint, an
evaluator, a target network) normalises by the same numbers. Only the learner moves them. What
actors send and replays hold is not normalised, so that old experience is always seen by the latest
statistics.
"""

import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

import tensorflow as tf

from common.config import settings
from common.distributed import wire
from common.environments import suite as suites

# The statistics of discounted returns, among those of the observations' parts.
RETURN = 'return'
# Those of gymnasium and stable-baselines3.
_EPSILON = 1e-8
_MOST_DEVIATIONS = 10.0


class Sums(NamedTuple):
  """What is added up of K vectors, float64.

  Squares are those of deviations from the vectors' own mean: the variance of numbers that are large
  beside it would vanish in the rounding of their squares.

  Attributes:
    count: `[]`, K.
    offsets: `[D]`, the sum of (x - running mean).
    squares: `[D]`, the sum of (x - mean of the K vectors)^2.
  """

  count: tf.Tensor
  offsets: tf.Tensor
  squares: tf.Tensor


def combined(some: Sums, others: Sums) -> Sums:
  """The sums of all vectors together, by the formula of Chan, Golub and LeVeque (1979)."""
  count = some.count + others.count
  distance = _over(others.offsets, others.count) - _over(some.offsets, some.count)
  between = tf.square(distance) * _over(some.count * others.count, count)
  return Sums(count, some.offsets + others.offsets, some.squares + others.squares + between)


def _over(x: tf.Tensor, count: tf.Tensor) -> tf.Tensor:
  """A mean; 0 of nothing."""
  return tf.math.divide_no_nan(x, count)


class Statistics(tf.Module):
  """The mean and the variance of all vectors so far.

  Attributes:
    count: float64 `[]`, the number of vectors.
    mean: float64 `[D]`, 0 before the first.
    variance: float64 `[D]`, of the population; 1 before the first.
  """

  def __init__(self, size: int):
    """Starts without any vector; `size` is D."""
    super().__init__(name='statistics')
    self.count = tf.Variable(0.0, dtype=tf.float64, trainable=False)
    self.mean = tf.Variable(tf.zeros([size], tf.float64), trainable=False)
    self.variance = tf.Variable(tf.ones([size], tf.float64), trainable=False)

  def sums(self, vectors: Any, weights: Any = None) -> Sums:
    """What `merge` needs of vectors float32 `[..., D]`.

    Vectors with numbers that no sane environment shows are left out: a single one would make the
    variance useless for all that come later.

    Args:
      vectors: The vectors.
      weights: `[...]`, 0 for those to leave out, 1 for others; None for all.
    """
    offsets = tf.reshape(tf.cast(vectors, tf.float64), [-1, self.mean.shape[0]]) - self.mean
    sane = tf.reduce_all(tf.abs(offsets) <= wire.LARGEST_SUM, axis=1)  # [K]; not for NaN.
    if weights is not None:
      sane &= tf.reshape(tf.cast(weights, tf.bool), [-1])
    offsets = tf.boolean_mask(offsets, sane)
    count = tf.cast(tf.shape(offsets)[0], tf.float64)
    total = tf.reduce_sum(offsets, axis=0)
    deviations = offsets - _over(total, count)
    return Sums(count, total, tf.reduce_sum(tf.square(deviations), axis=0))

  def merge(self, sums: Sums) -> None:
    """Adds vectors.

    Args:
      sums: As returned by `sums`, or `combined` of several, since the last merge.
    """
    before = Sums(self.count, tf.zeros_like(self.mean), self.variance * self.count)
    count, offsets, squares = combined(before, sums)
    self.variance.assign(tf.where(count > 0, _over(squares, count), self.variance))
    self.mean.assign(self.mean + _over(offsets, count))
    self.count.assign(count)

  def normalised(self, vectors: tf.Tensor) -> tf.Tensor:
    """(x - mean) / deviation, within 10 deviations: float32 `[N, D]` as the argument."""
    # float32, which is what actors get: all compute the same.
    centred = vectors - tf.cast(self.mean, tf.float32)
    return tf.clip_by_value(centred / self.deviation(), -_MOST_DEVIATIONS, _MOST_DEVIATIONS)

  def deviation(self) -> tf.Tensor:
    """The standard deviation, float32 `[D]`; slightly more, so that it is never 0."""
    return tf.sqrt(tf.cast(self.variance, tf.float32) + _EPSILON)


class Normalizer(tf.Module):
  """The statistics of one run.

  Attributes:
    parts: Those of each vector that is observed, by its name in observations, and those of the
      discounted return, as `RETURN`, if rewards are normalised.
  """

  def __init__(self, sizes: Mapping[str, int], has_rewards: bool):
    """Starts without experience: nothing is changed yet.

    Args:
      sizes: The sizes of the vectors to normalise by name; none for raw observations.
      has_rewards: Whether rewards are normalised.
    """
    super().__init__(name='normalizer')
    self.parts = {name: Statistics(size) for name, size in sizes.items()}
    if has_rewards:
      self.parts[RETURN] = Statistics(1)

  def observation(self, observation: Mapping[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    """Observations by name, `[N, ...]`, with vectors normalised."""
    return {
      name: self.parts[name].normalised(part) if name in self.parts else part
      for name, part in observation.items()
    }

  def rewards(self, rewards: tf.Tensor) -> tf.Tensor:
    """Rewards, or sums of them, over the deviation of the discounted return; float32, any shape.

    Nothing is subtracted, which would change what the best policy is. As in gymnasium's
    NormalizeReward.
    """
    if RETURN not in self.parts:
      return rewards
    return rewards / self.parts[RETURN].deviation()[0]

  def sums(self, values: Mapping[str, Any], weights: Any = None) -> dict[str, Sums]:
    """What `merge` needs of new experience.

    Args:
      values: Float32 by the names of `parts`: vectors `[..., D]`, and `RETURN` `[...]`.
      weights: `[...]`, 0 for what to leave out, 1 for the rest; None for all.
    """
    return {name: part.sums(values[name], weights) for name, part in self.parts.items()}

  def merge(self, sums: Mapping[str, Sums]) -> None:
    """Moves the statistics by what `sums` returned since the last merge."""
    for name, part in self.parts.items():
      part.merge(sums[name])


class Gathering:
  """New experience of one thread, until another thread, that of the learner, moves statistics.

  The learner's graph reads them several times in an update, and must find the same each time.
  """

  def __init__(self, normalizer: Normalizer):
    """Nothing is gathered yet."""
    self._normalizer = normalizer
    self._lock = threading.Lock()  # Sums are about the mean, which must not move meanwhile.
    self._sums: dict[str, Sums] | None = None

  def add(self, values: Mapping[str, Any], weights: Any = None) -> None:
    """Adds experience; arguments are those of `Normalizer.sums`."""
    with self._lock, tf.device('/cpu:0'):
      new = self._normalizer.sums(values, weights)
      if self._sums is not None:
        new = {name: combined(self._sums[name], sums) for name, sums in new.items()}
      self._sums = new

  def merge(self) -> None:
    """Moves the statistics by what was added since the last call."""
    with self._lock:
      if self._sums is not None:
        self._normalizer.merge(self._sums)
        self._sums = None


def make(config: settings.Settings, suite: suites.Suite) -> Normalizer | None:
  """The statistics that the settings ask for; None for none."""
  sizes = suites.vector_sizes(suite) if config.normalize_observations else {}
  if not sizes and not config.normalize_rewards:
    return None
  return Normalizer(sizes, config.normalize_rewards)
