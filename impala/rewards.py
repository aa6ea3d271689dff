"""Reward clipping (IMPALA, Tables D.3 and G.1, Figure D.1)."""

from typing import Callable

import tensorflow as tf


def _none(rewards: tf.Tensor) -> tf.Tensor:
  return rewards


def _abs_one(rewards: tf.Tensor) -> tf.Tensor:
  """To [-1, 1]: single DMLab tasks and Atari."""
  return tf.clip_by_value(rewards, -1.0, 1.0)


def _asymmetric(rewards: tf.Tensor) -> tf.Tensor:
  """To (-0.3, 5), DMLab-30 as in Figure D.1: optimistic, as positive rewards weigh more."""
  return 0.3 * tf.minimum(tf.tanh(rewards), 0.0) + 5.0 * tf.maximum(tf.tanh(rewards), 0.0)


def _soft_asymmetric(rewards: tf.Tensor) -> tf.Tensor:
  """To (-1.5, 5), DMLab-30 as in the authors' released code.

  It differs from Figure D.1 in its slopes at zero, 0.3 and 1 instead of 0.3 and 5, and in its
  lower bound.
  """
  return tf.where(rewards < 0.0, 0.3, 1.0) * 5.0 * tf.tanh(rewards / 5.0)


# By the name that the config's `reward_clipping` has.
FORMS: dict[str, Callable[[tf.Tensor], tf.Tensor]] = {
  'none': _none,
  'abs_one': _abs_one,
  'asymmetric': _asymmetric,
  'soft_asymmetric': _soft_asymmetric,
}


def clip(rewards: tf.Tensor, form: str) -> tf.Tensor:
  """Clipped rewards.

  Args:
    rewards: float32 of any shape.
    form: One of `FORMS`.

  Raises:
    ValueError: There is no such form.
  """
  tf.debugging.assert_type(rewards, tf.float32)
  if form not in FORMS:
    raise ValueError(f'reward clipping is {form!r}, expected one of {", ".join(FORMS)}')
  return FORMS[form](rewards)
