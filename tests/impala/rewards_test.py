"""Reward clipping against hand-computed values (arXiv 1802.01561, Tables D.2, D.3, Figure D.1)."""

import numpy as np
import pytest
import tensorflow as tf

from impala import rewards

TANH_1 = 0.7615941559557649
TANH_2 = 0.9640275800758169
RAW = [[-1e6, -10.0, -5.0, -1.0], [0.0, 1.0, 2.0, 5.0], [10.0, 1e6, -0.001, 0.001]]
CLIPPED = {
  'none': RAW,
  'abs_one': [[-1.0, -1.0, -1.0, -1.0], [0.0, 1.0, 1.0, 1.0], [1.0, 1.0, -0.001, 0.001]],
  # Figure D.1: slopes of 0.3 and 5 at zero, limits of -0.3 and 5. In float32, tanh 10 is one and
  # tanh 5 is not.
  'asymmetric': [
    [-0.3, -0.3, -0.3 * 0.9999092042625951, -0.3 * TANH_1],
    [0.0, 5 * TANH_1, 5 * TANH_2, 5 * 0.9999092042625951],
    [5.0, 5.0, -0.0003, 0.005],
  ],
  # The released agent's form: slopes of 0.3 and 1 at zero, limits of -1.5 and 5.
  'soft_asymmetric': [
    [-1.5, -1.5 * TANH_2, -1.5 * TANH_1, -1.5 * 0.197375320224904],
    [0.0, 5 * 0.197375320224904, 5 * 0.3799489622552249, 5 * TANH_1],
    [5 * TANH_2, 5.0, -0.0003, 0.001],
  ],
}


@pytest.mark.parametrize('form', CLIPPED)
def test_equals_the_formula(form):
  clipped = rewards.clip(tf.constant(RAW, tf.float32), form)
  assert clipped.dtype == tf.float32
  # tanh(0.001) is taken as 0.001: the error is a third of the tolerance.
  np.testing.assert_allclose(clipped, np.float32(CLIPPED[form]), rtol=1e-6)


@pytest.mark.parametrize('form', CLIPPED)
def test_same_inside_a_traced_function(form):
  traced = tf.function(lambda raw: rewards.clip(raw, form))
  clipped = traced(tf.constant(RAW, tf.float32))
  np.testing.assert_allclose(clipped, np.float32(CLIPPED[form]), rtol=1e-6)


def test_unknown_form_is_named():
  with pytest.raises(ValueError, match='no-such-form'):
    rewards.clip(tf.constant(RAW, tf.float32), 'no-such-form')


def test_other_dtypes_are_refused():
  with pytest.raises(TypeError):
    rewards.clip(tf.constant(RAW, tf.float64), 'abs_one')
