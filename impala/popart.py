"""PopArt: a scale of its own for each task's values (arXiv 1809.04474, the sequel to IMPALA).

Tasks whose returns are a thousand times larger pull on the shared network a thousand times harder.
PopArt learns the values of each task i in units of its own scale, V = sigma_i U + mu_i, and weighs
policy gradients by 1 / sigma_i. When the statistics move, the value head moves the other way, so
that all values V stay what they were ("preserving outputs precisely").
"""

from typing import NamedTuple

import sonnet as snt
import tensorflow as tf

# Bounds of sigma, as in the paper.
_SMALLEST_SCALE = 1e-4
_LARGEST_SCALE = 1e6


class Moments(NamedTuple):
  """Sums over the steps of each task in a batch, float32 `[N]`.

  They are sums of offsets from the task's mean, not of targets, since the variance of large targets
  would vanish in the rounding of their squares.

  Attributes:
    steps: The number of steps.
    offsets: The sum of (target - mu).
    squares: The sum of (target - mu)^2.
  """

  steps: tf.Tensor
  offsets: tf.Tensor
  squares: tf.Tensor


class PopArt(tf.Module):
  """The statistics of the value targets of N tasks. They are part of the learner's checkpoint.

  The paper tracks mu and the second moment nu. Here the variance stands for nu - mu^2, and follows
  from the same rule.

  Attributes:
    mean: Mu, float32 `[N]`.
    variance: Sigma^2, float32 `[N]`.
  """

  def __init__(self, num_tasks: int, step_size: float):
    """Starts at mean 0 and variance 1, where values are what they are without PopArt.

    Args:
      num_tasks: N.
      step_size: How far an update's targets move the statistics, 0 to 1: beta.
    """
    super().__init__(name='popart')
    self._step_size = step_size
    self.mean = tf.Variable(tf.zeros([num_tasks]), trainable=False)
    self.variance = tf.Variable(tf.ones([num_tasks]), trainable=False)

  def scale(self) -> tf.Tensor:
    """Sigma, float32 `[N]`."""
    return _scale(self.variance.read_value())

  def select(self, values: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    """The values of each trajectory's own task, `[T, B]`, from those of all tasks.

    Args:
      values: float32 `[T, B, N]`, of the value head.
      task: int32 `[B]`, the task's index.
    """
    own = tf.one_hot(task, values.shape[-1], dtype=values.dtype)  # [B, N]
    return tf.reduce_sum(values * own, axis=-1)

  def unnormalised(self, values: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    """V = sigma U + mu: the value head's `[T, B]` in units of rewards."""
    return values * self._of(self.scale(), task) + self._of(self.mean, task)

  def normalised(self, targets: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    """(target - mu) / sigma: targets `[T, B]` in the value head's units."""
    return (targets - self._of(self.mean, task)) / self._of(self.scale(), task)

  def scaled(self, advantages: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    """Advantages `[T, B]` divided by their tasks' scales."""
    return advantages / self._of(self.scale(), task)

  def moments(self, targets: tf.Tensor, task: tf.Tensor) -> Moments:
    """What `update` needs of a batch. The moments of several batches add up.

    Args:
      targets: float32 `[T, B]`, v_s of V-trace, not normalised.
      task: int32 `[B]`.
    """
    own = tf.one_hot(task, self.mean.shape[0], dtype=tf.float32)  # [B, N]
    offsets = targets - self._of(self.mean, task)  # [T, B]
    return Moments(
      steps=tf.reduce_sum(own, axis=0) * tf.cast(tf.shape(targets)[0], tf.float32),
      offsets=tf.einsum('tb,bn->n', offsets, own),
      squares=tf.einsum('tb,bn->n', tf.square(offsets), own),
    )

  def update(self, moments: Moments, head: snt.Linear) -> None:
    """Moves the statistics of the tasks in a batch; V of every task stays what it was.

      mu <- (1 - beta) mu + beta E[target]
      nu <- (1 - beta) nu + beta E[target^2],   sigma^2 = nu - mu^2

    Args:
      moments: Of the targets of all learners.
      head: The value head, with an output for each task. Its optimizer's statistics are left.
    """
    beta = self._step_size
    mean = self.mean.read_value()
    variance = self.variance.read_value()
    offset = tf.math.divide_no_nan(moments.offsets, moments.steps)  # E[target] - mu
    square = tf.math.divide_no_nan(moments.squares, moments.steps)
    # The same rule, written about mu: it cancels out of nu - mu^2.
    moved = tf.maximum((1.0 - beta) * variance + beta * square - tf.square(beta * offset), 0.0)
    seen = moments.steps > 0
    new_mean = tf.where(seen, mean + beta * offset, mean)
    new_variance = tf.where(seen, moved, variance)

    old_scale = _scale(variance)
    new_scale = _scale(new_variance)
    _assign(head.w, head.w * old_scale / new_scale)  # [D, N]
    _assign(head.b, (old_scale * head.b + mean - new_mean) / new_scale)
    _assign(self.mean, new_mean)
    _assign(self.variance, new_variance)

  def _of(self, statistic: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    """The statistic of each trajectory's task, `[B]`."""
    return tf.gather(tf.convert_to_tensor(statistic), task)


def _scale(variance: tf.Tensor) -> tf.Tensor:
  return tf.clip_by_value(tf.sqrt(variance), _SMALLEST_SCALE, _LARGEST_SCALE)


def _assign(variable: tf.Variable, value: tf.Tensor) -> None:
  """Assigns this replica's copy. All replicas assign the same, so their copies stay alike."""
  tf.raw_ops.AssignVariableOp(resource=variable.handle, value=value)
