"""Reward clipping (IMPALA, Tables D.3 and G.1, Figure D.1)."""

import tensorflow as tf

FORMS = {
  'none': lambda r: r,
  # Single DMLab tasks and Atari.
  'abs_one': lambda r: tf.clip_by_value(r, -1.0, 1.0),
  # DMLab-30 as Figure D.1 has it: optimistic, as positive rewards count for more.
  'asymmetric': lambda r: 0.3 * tf.minimum(tf.tanh(r), 0.0) + 5.0 * tf.maximum(tf.tanh(r), 0.0),
  # DMLab-30 as the authors' released code has it: it differs in slope near zero and in the negatives' floor.
  'soft_asymmetric': lambda r: tf.where(r < 0.0, 0.3, 1.0) * 5.0 * tf.tanh(r / 5.0),
}


def clip(rewards: tf.Tensor, form: str) -> tf.Tensor:
  """Clips rewards of any shape, float32, by one of `FORMS`.

  Raises:
    ValueError: if there is no such form.
  """
  if form not in FORMS:
    raise ValueError(f'reward clipping {form!r}, expected one of {", ".join(FORMS)}')
  return FORMS[form](rewards)
