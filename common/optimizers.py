"""TensorFlow 1's RMSProp, which both papers used; Adam; gradient clipping; learning rate decay."""

from typing import Sequence

import sonnet as snt
import tensorflow as tf


class RMSProp(snt.Module):
  """TensorFlow 1's RMSProp: epsilon inside the square root, mean squares that start at one.

  For each variable, with gradient g and learning rate lr:

    ms <- decay ms + (1 - decay) g^2
    mg <- decay mg + (1 - decay) g if `centered`, otherwise 0
    mom <- momentum mom + lr g / sqrt(ms - mg^2 + epsilon)
    variable <- variable - mom

  Sonnet, Keras and PyTorch differ in the initial value or in the place of epsilon, so the papers'
  learning rates do not carry over to them. The kernels are TensorFlow's own.
  """

  def __init__(
    self, decay: float = 0.99, epsilon: float = 0.1, momentum: float = 0.0, centered: bool = False
  ):
    super().__init__(name='rmsprop')
    self._decay = decay
    self._epsilon = epsilon
    self._momentum = momentum
    self._centered = centered
    self._mean_squares: list[tf.Variable] = []
    self._momenta: list[tf.Variable] = []
    self._mean_gradients: list[tf.Variable] = []

  def create_slots(self, variables: Sequence[tf.Variable]) -> None:
    """Makes the accumulators, unless they exist. `apply` calls this, too.

    Raises:
      ValueError: If they were made for variables of other shapes.
    """
    # A restored or new set of other variables must not inherit these accumulators.
    if self._mean_squares:
      if [slot.shape for slot in self._mean_squares] != [variable.shape for variable in variables]:
        raise ValueError('the variables are not those that the optimizer was first used with')
      return
    for variable in variables:
      ones = tf.ones_like(variable)
      zeros = tf.zeros_like(variable)
      self._mean_squares.append(tf.Variable(ones, trainable=False, name='mean_square'))
      self._momenta.append(tf.Variable(zeros, trainable=False, name='momentum'))
      if self._centered:
        self._mean_gradients.append(tf.Variable(zeros, trainable=False, name='mean_gradient'))

  def apply(
    self,
    gradients: Sequence[tf.Tensor],
    variables: Sequence[tf.Variable],
    learning_rate: tf.Tensor | float,
    epsilon: tf.Tensor | float | None = None,
  ) -> None:
    """Takes one step.

    Args:
      gradients: One for each variable, of its shape.
      variables: The same in every call, in the same order.
      learning_rate: A scalar.
      epsilon: A scalar, if it changes while the optimizer is used; None for the constructor's.
    """
    epsilon = self._epsilon if epsilon is None else epsilon
    # Variables cannot be made in a graph that runs again, so this leaves one being traced.
    with tf.init_scope():
      self.create_slots(variables)
    for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
      slots = {
        'var': variable.handle,
        'ms': self._mean_squares[i].handle,
        'mom': self._momenta[i].handle,
      }
      rates = {
        'lr': tf.cast(learning_rate, variable.dtype),
        'rho': self._decay,
        'momentum': self._momentum,
        'epsilon': tf.cast(epsilon, variable.dtype),
      }
      if self._centered:
        slots['mg'] = self._mean_gradients[i].handle
        tf.raw_ops.ResourceApplyCenteredRMSProp(grad=gradient, **slots, **rates)
      else:
        tf.raw_ops.ResourceApplyRMSProp(grad=gradient, **slots, **rates)


class Adam(snt.Module):
  """Adam (Kingma and Ba 2015). Its moments are made at once, so that every checkpoint has them.

  The kernel is TensorFlow's own. Its epsilon is the paper's epsilon-hat (end of section 2).
  """

  def __init__(
    self,
    variables: Sequence[tf.Variable],
    learning_rate: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
  ):
    super().__init__(name='adam')
    self._learning_rate = learning_rate
    self._beta_1 = beta_1
    self._beta_2 = beta_2
    self._epsilon = epsilon
    self._first_moments = _zeros_like_each(variables)
    self._second_moments = _zeros_like_each(variables)
    self._steps = tf.Variable(0.0, trainable=False)

  def apply(self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]) -> None:
    """Takes one step.

    Args:
      gradients: One for each variable, of its shape.
      variables: Those that the optimizer was made for, in the same order.
    """
    self._steps.assign_add(1.0)
    moments = zip(self._first_moments, self._second_moments, strict=True)
    for gradient, variable, (first, second) in zip(gradients, variables, moments, strict=True):
      tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.handle,
        v=second.handle,
        # The kernel corrects the bias of the zero-initialised moments by beta^t.
        beta1_power=self._beta_1**self._steps,
        beta2_power=self._beta_2**self._steps,
        lr=self._learning_rate,
        beta1=self._beta_1,
        beta2=self._beta_2,
        epsilon=self._epsilon,
        grad=gradient,
      )


def clip_by_global_norm(
  gradients: Sequence[tf.Tensor], max_norm: tf.Tensor | float | None
) -> tuple[list[tf.Tensor], tf.Tensor]:
  """Scales gradients down to a global norm of at most `max_norm`.

  Args:
    gradients: Of any shapes.
    max_norm: A scalar. None or 0 leaves them unchanged.

  Returns:
    The gradients, and their global norm before clipping.
  """
  # Computed once, for clipping and for the statistics.
  norm = tf.linalg.global_norm(gradients)
  is_tensor = tf.is_tensor(max_norm)
  if not is_tensor and not max_norm:
    return list(gradients), norm
  clipped, _ = tf.clip_by_global_norm(gradients, max_norm, use_norm=norm)
  if not is_tensor:
    return clipped, norm
  # Whether a tensor is 0 is known only when the graph runs.
  is_unlimited = tf.equal(max_norm, 0.0)
  pairs = zip(gradients, clipped, strict=True)
  return [tf.where(is_unlimited, whole, part) for whole, part in pairs], norm


def linear_decay(
  initial: tf.Tensor | float, frames: tf.Tensor | int, total_frames: tf.Tensor | int
) -> tf.Tensor:
  """Falls linearly from `initial` at frame 0 to zero at `total_frames`, and stays there.

  Args:
    initial: The value at frame 0.
    frames: A scalar, in environment frames.
    total_frames: A scalar, in environment frames.

  Returns:
    float32 `[]`.
  """
  # In float32: budgets of billions of frames overflow int32.
  done = tf.cast(frames, tf.float32) / tf.cast(total_frames, tf.float32)
  return initial * tf.maximum(0.0, 1.0 - done)


def _zeros_like_each(variables: Sequence[tf.Variable]) -> list[tf.Variable]:
  return [tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables]
