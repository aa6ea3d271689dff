"""Adam against its formula over many steps, and its state in checkpoints."""

import numpy as np
import tensorflow as tf

from common import optimizers
from tests.common import adam

SHAPES = [(2, 3), (4,), ()]
RATE = 0.01


def new_variables():
  rng = np.random.default_rng(40)
  return [tf.Variable(rng.normal(size=shape), dtype=tf.float32) for shape in SHAPES]


def random_gradients(steps, seed=41):
  """Gradients of all sizes, down to those for which epsilon matters."""
  rng = np.random.default_rng(seed)
  scales = [rng.choice([1e-9, 1e-7, 1e-2, 10.0], size=shape) for shape in SHAPES]
  return [
    [
      tf.constant(scale * rng.normal(size=shape), tf.float32)
      for scale, shape in zip(scales, SHAPES, strict=True)
    ]
    for _ in range(steps)
  ]


def test_equals_the_formula():
  variables = new_variables()
  arrays = [np.array(variable, np.float64) for variable in variables]
  optimizer = optimizers.Adam(variables, RATE)
  by_hand = adam.NumpyAdam(arrays, RATE)
  for gradients in random_gradients(30):
    optimizer.apply(gradients, variables)
    by_hand.apply([np.float64(gradient) for gradient in gradients], arrays)
    for variable, array in zip(variables, arrays, strict=True):
      np.testing.assert_allclose(variable, array, rtol=0.0, atol=2e-3 * RATE)


def test_its_whole_state_exists_before_the_first_step_and_is_in_checkpoints(tmp_path):
  variables, straight_on = new_variables(), new_variables()
  one = optimizers.Adam(variables, RATE)
  other = optimizers.Adam(straight_on, RATE)
  shapes = sorted(tuple(slot.shape) for slot in one.variables)
  assert shapes == sorted([(), *SHAPES, *SHAPES])

  # Saved at the start, and after three steps.
  gradients = random_gradients(6)
  for done in (0, 3):
    for step in gradients[:done]:
      one.apply(step, variables)
      other.apply(step, straight_on)
    assert len(one.variables) == len(shapes)
    checkpoint = tf.train.Checkpoint(adam=one, variables=variables)
    path = checkpoint.save(str(tmp_path / f'after_{done}'))
    saved = [name for name, _ in tf.train.list_variables(path) if name.startswith('adam/')]
    assert len(saved) >= len(shapes)

    again = [tf.Variable(tf.zeros(shape)) for shape in SHAPES]
    restored = optimizers.Adam(again, RATE)
    tf.train.Checkpoint(adam=restored, variables=again).restore(path).assert_consumed()

  for step in gradients[3:]:
    restored.apply(step, again)
    other.apply(step, straight_on)
  for one_variable, other_variable in zip(again, straight_on, strict=True):
    np.testing.assert_array_equal(one_variable, other_variable)
