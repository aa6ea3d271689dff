"""RMSProp as TensorFlow 1 had it, which both papers used; Adam; the learning rate's schedule; gradient clipping."""

from typing import Sequence

import sonnet as snt
import tensorflow as tf


class RMSProp(snt.Module):
  """TensorFlow 1's RMSProp: epsilon inside the square root, mean square started at ones.

  ms <- decay ms + (1 - decay) g^2,  mom <- momentum mom + lr g / sqrt(ms - mg^2 + epsilon),  variable -= mom,
  where mg, the mean gradient, is zero unless `centered`. Sonnet, Keras and PyTorch differ in the start value or in the
  place of epsilon, and the papers' learning rates do not carry over to those. The kernels are TensorFlow's own.
  """

  def __init__(
    self, decay: float = 0.99, epsilon: float = 0.1, momentum: float = 0.0, centered: bool = False
  ):
    super().__init__(name='rmsprop')
    self._decay, self._epsilon, self._momentum, self._centered = decay, epsilon, momentum, centered
    self._mean_squares, self._momenta, self._mean_gradients = [], [], []

  def create_slots(self, variables: Sequence[tf.Variable]) -> None:
    """Makes the accumulators, once; `apply` does where it was not done before.

    Raises:
      ValueError: if they were made for other variables.
    """
    if self._mean_squares:
      if [slot.shape for slot in self._mean_squares] != [variable.shape for variable in variables]:
        raise ValueError('the variables are not those that the optimizer was first used with')
      return
    for variable in variables:
      self._mean_squares.append(
        tf.Variable(tf.ones_like(variable), trainable=False, name='mean_square')
      )
      self._momenta.append(tf.Variable(tf.zeros_like(variable), trainable=False, name='momentum'))
      if self._centered:
        self._mean_gradients.append(
          tf.Variable(tf.zeros_like(variable), trainable=False, name='mean_gradient')
        )

  def apply(
    self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable], learning_rate
  ) -> None:
    """Takes one step; gradients and variables in the same order in every call."""
    with tf.init_scope():
      self.create_slots(variables)
    for i, (gradient, variable) in enumerate(zip(gradients, variables, strict=True)):
      slots = dict(
        var=variable.handle, ms=self._mean_squares[i].handle, mom=self._momenta[i].handle
      )
      rates = dict(
        lr=tf.cast(learning_rate, variable.dtype),
        rho=self._decay,
        momentum=self._momentum,
        epsilon=self._epsilon,
        grad=gradient,
      )
      if self._centered:
        tf.raw_ops.ResourceApplyCenteredRMSProp(mg=self._mean_gradients[i].handle, **slots, **rates)
      else:
        tf.raw_ops.ResourceApplyRMSProp(**slots, **rates)


class Adam(snt.Module):
  """Adam (Kingma and Ba 2015), its moments made before the first step, so that checkpoints have them from the start.

  By TensorFlow's own kernel, whose epsilon is the paper's epsilon-hat, at the end of its section 2.
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
    self._learning_rate, self._beta_1, self._beta_2, self._epsilon = (
      learning_rate,
      beta_1,
      beta_2,
      epsilon,
    )
    zeros = lambda: [
      tf.Variable(tf.zeros_like(variable), trainable=False) for variable in variables
    ]
    self._first_moments, self._second_moments = zeros(), zeros()
    self._steps = tf.Variable(0.0, trainable=False)

  def apply(self, gradients: Sequence[tf.Tensor], variables: Sequence[tf.Variable]) -> None:
    """Takes one step; gradients of the variables that it was made for, in their order."""
    self._steps.assign_add(1.0)
    slots = zip(gradients, variables, self._first_moments, self._second_moments, strict=True)
    for gradient, variable, first, second in slots:
      tf.raw_ops.ResourceApplyAdam(
        var=variable.handle,
        m=first.handle,
        v=second.handle,
        beta1_power=self._beta_1**self._steps,
        beta2_power=self._beta_2**self._steps,
        lr=self._learning_rate,
        beta1=self._beta_1,
        beta2=self._beta_2,
        epsilon=self._epsilon,
        grad=gradient,
      )


def clip_by_global_norm(
  gradients: Sequence[tf.Tensor], max_norm: float | None
) -> tuple[list[tf.Tensor], tf.Tensor]:
  """Scales the gradients down to a global norm of at most `max_norm` (none or 0: left alone).

  Returns:
    The gradients, and their global norm before clipping.
  """
  norm = tf.linalg.global_norm(gradients)
  if not max_norm:
    return list(gradients), norm
  return tf.clip_by_global_norm(gradients, max_norm, use_norm=norm)[0], norm


def linear_decay(initial: float, frames, total_frames) -> tf.Tensor:
  """Anneals from `initial` at frame 0 to zero at `total_frames`, and stays there."""
  done = tf.cast(frames, tf.float32) / tf.cast(total_frames, tf.float32)
  return initial * tf.maximum(0.0, 1.0 - done)
