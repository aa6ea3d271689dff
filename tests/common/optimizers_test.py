"""TensorFlow 1's RMSProp and Adam against NumPy, and the two helpers around them.

The IMPALA paper's RMSProp epsilons (arXiv 1802.01561, table D.1) are meant for TensorFlow 1's:
inside the square root, of a mean square that starts at one.
"""

import numpy as np
import pytest
import tensorflow as tf

from common import optimizers
from tests.common import adam

SHAPES = [(2, 3), (4,), ()]
LEARNING_RATES = [0.1, 0.05, 0.02, 0.3, 0.1]
SETTINGS = [
  {},
  {'decay': 0.9, 'epsilon': 1e-5},
  {'momentum': 0.9},
  {'centered': True},
  {'decay': 0.8, 'epsilon': 0.01, 'momentum': 0.5, 'centered': True},
]


class NumpyRMSProp:
  """One parameter's update, in float64."""

  def __init__(self, decay=0.99, epsilon=0.1, momentum=0.0, centered=False):
    self._decay = decay
    self._epsilon = epsilon
    self._momentum = momentum
    self._centered = centered
    self._mean_square = 1.0
    self._mean_gradient = 0.0
    self._step = 0.0

  def apply(self, parameter, gradient, learning_rate):
    self._mean_square = self._decay * self._mean_square + (1 - self._decay) * gradient**2
    self._mean_gradient = self._decay * self._mean_gradient + (1 - self._decay) * gradient
    variance = self._mean_square - self._mean_gradient**2 if self._centered else self._mean_square
    # The learning rate is inside the momentum, so a later change does not affect past gradients.
    step = learning_rate * gradient / np.sqrt(variance + self._epsilon)
    self._step = self._momentum * self._step + step
    return parameter - self._step


def random_arrays(rng):
  return [rng.normal(size=shape) for shape in SHAPES]


def random_gradients(seed=0):
  rng = np.random.default_rng(seed)
  return [random_arrays(rng) for _ in LEARNING_RATES]


def as_tensors(arrays):
  return [tf.constant(array, tf.float32) for array in arrays]


def new_variables():
  return [tf.Variable(array) for array in as_tensors(random_arrays(np.random.default_rng(7)))]


def apply_each(gradients_of_steps, optimizer, variables):
  for gradients in gradients_of_steps:
    optimizer.apply(as_tensors(gradients), variables, 0.1)


def expected_values(settings):
  parameters = [variable.numpy().astype(np.float64) for variable in new_variables()]
  references = [NumpyRMSProp(**settings) for _ in parameters]
  for gradients, learning_rate in zip(random_gradients(), LEARNING_RATES, strict=True):
    parameters = [
      reference.apply(parameter, gradient, learning_rate)
      for reference, parameter, gradient in zip(references, parameters, gradients, strict=True)
    ]
  return parameters


def assert_all_close(actual, expected):
  for one, other in zip(actual, expected, strict=True):
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


class TestRMSProp:
  def test_three_steps_of_a_gradient_of_one(self):
    # The mean square stays one: each step is 0.1 / sqrt(1.1). From zero, the first would be 0.302.
    optimizer = optimizers.RMSProp(decay=0.99, epsilon=0.1)
    variable = tf.Variable(0.0)
    positions = []
    for _ in range(3):
      optimizer.apply([tf.constant(1.0)], [variable], 0.1)
      positions.append(variable.numpy())
    np.testing.assert_allclose(positions, [-0.0953463, -0.1906925, -0.2860388], rtol=1e-6)

  @pytest.mark.parametrize('settings', SETTINGS)
  def test_equals_the_formula(self, settings):
    optimizer, variables = optimizers.RMSProp(**settings), new_variables()
    for gradients, learning_rate in zip(random_gradients(), LEARNING_RATES, strict=True):
      optimizer.apply(as_tensors(gradients), variables, learning_rate)
    assert_all_close(variables, expected_values(settings))

  @pytest.mark.parametrize('settings', SETTINGS)
  def test_equals_the_formula_inside_a_traced_function(self, settings):
    # The slots are created while the first call is being traced.
    optimizer, variables = optimizers.RMSProp(**settings), new_variables()

    @tf.function
    def update(gradients, learning_rate):
      optimizer.apply(gradients, variables, learning_rate)

    for gradients, learning_rate in zip(random_gradients(), LEARNING_RATES, strict=True):
      update(as_tensors(gradients), tf.constant(learning_rate))
    assert update.experimental_get_tracing_count() <= 2
    assert_all_close(variables, expected_values(settings))

  def test_an_epsilon_that_changes_takes_the_place_of_the_constructors(self):
    settings = {'decay': 0.9, 'epsilon': 0.01}
    changing, variables = optimizers.RMSProp(0.9, 7.0), new_variables()
    epsilon = tf.Variable(settings['epsilon'])
    for gradients, learning_rate in zip(random_gradients(), LEARNING_RATES, strict=True):
      changing.apply(as_tensors(gradients), variables, learning_rate, epsilon)
    assert_all_close(variables, expected_values(settings))

  def test_slots_are_created_once(self):
    optimizer, variables = optimizers.RMSProp(momentum=0.9, centered=True), new_variables()
    created = []
    for gradients in random_gradients():
      optimizer.apply(as_tensors(gradients), variables, 0.1)
      created.append({slot.ref() for slot in optimizer.variables})
    assert len(created[0]) >= 3 * len(variables)
    assert all(slots == created[0] for slots in created)

  # A population member restores into an optimizer in use, a restarted learner into a new one.
  @pytest.mark.parametrize('used_before_restoring', [True, False])
  def test_checkpoint_holds_the_whole_state(self, used_before_restoring, tmp_path):
    first, *others = random_gradients()
    saved = optimizers.RMSProp(momentum=0.9, centered=True), new_variables()
    apply_each([first], *saved)
    path = tf.train.Checkpoint(optimizer=saved[0], variables=saved[1]).save(str(tmp_path / 'state'))
    restored = optimizers.RMSProp(momentum=0.9, centered=True), new_variables()
    if used_before_restoring:
      apply_each(others, *restored)
    status = tf.train.Checkpoint(optimizer=restored[0], variables=restored[1]).restore(path)
    apply_each(others, *saved)
    apply_each(others, *restored)
    status.assert_consumed()
    for again, straight_on in zip(restored[1], saved[1], strict=True):
      np.testing.assert_array_equal(again, straight_on)


class TestClipByGlobalNorm:
  # The global norm is 13. Clipping each tensor alone would use 5 and 12.
  GRADIENTS = [[3.0, 4.0], [[12.0], [0.0]]]

  def clip(self, max_norm):
    clipped, norm = optimizers.clip_by_global_norm(as_tensors(self.GRADIENTS), max_norm)
    np.testing.assert_allclose(norm, 13.0, rtol=1e-6)
    return clipped

  def test_a_longer_gradient_is_scaled_to_the_norm(self):
    assert_all_close(self.clip(6.5), [[1.5, 2.0], [[6.0], [0.0]]])

  @pytest.mark.parametrize('max_norm', [14.0, 0, 0.0, None])
  def test_unchanged_where_short_enough_or_without_a_limit(self, max_norm):
    assert_all_close(self.clip(max_norm), self.GRADIENTS)

  @pytest.mark.parametrize('max_norm', [40.0, tf.constant(40.0), tf.constant(0.0)])
  def test_gradient_of_zero(self, max_norm):
    clipped, norm = optimizers.clip_by_global_norm([tf.zeros(3)], max_norm)
    np.testing.assert_array_equal(clipped[0], np.zeros(3))
    assert float(norm) == 0.0

  def test_a_limit_that_changes_does_the_same_without_tracing_again(self):
    limit = tf.Variable(0.0)
    clip = tf.function(
      lambda gradients: optimizers.clip_by_global_norm(gradients, tf.convert_to_tensor(limit))
    )
    for max_norm in (6.5, 0.0, 14.0):
      limit.assign(max_norm)
      for one, other in zip(clip(as_tensors(self.GRADIENTS))[0], self.clip(max_norm), strict=True):
        np.testing.assert_array_equal(one, other)
    assert clip.experimental_get_tracing_count() == 1


class TestLinearDecay:
  @pytest.mark.parametrize(
    'frames, expected',
    [
      (0, 4e-4),
      (2_500_000_000, 3e-4),
      (5_000_000_000, 2e-4),
      (10_000_000_000, 0.0),
      (10_000_012_800, 0.0),
    ],
  )
  @pytest.mark.parametrize('as_count', [int, lambda frames: tf.constant(frames, tf.int64)])
  def test_falls_linearly_and_stays_at_zero(self, frames, expected, as_count):
    # Ten billion frames, the budget of DMLab-30, are more than an int32 holds.
    rate = optimizers.linear_decay(4e-4, as_count(frames), 10_000_000_000)
    np.testing.assert_allclose(rate, expected, rtol=1e-6)

  def test_inside_a_traced_function(self):
    decay = tf.function(lambda frames: optimizers.linear_decay(4e-4, frames, 10_000_000_000))
    np.testing.assert_allclose(decay(tf.constant(7_500_000_000, tf.int64)), 1e-4, rtol=1e-6)


class TestAdam:
  def gradients_of_all_sizes(self, steps):
    """Down to those for which epsilon matters."""
    rng = np.random.default_rng(41)
    scales = [rng.choice([1e-9, 1e-7, 1e-2, 10.0], size=shape) for shape in SHAPES]
    return [
      [scale * array for scale, array in zip(scales, random_arrays(rng), strict=True)]
      for _ in range(steps)
    ]

  @pytest.mark.parametrize(
    'learning_rate, rates',
    [
      (0.01, {}),
      (0.1, {}),
      (0.003, {'beta_1': 0.7, 'beta_2': 0.9, 'epsilon': 0.1}),
      (0.01, {'epsilon': 1e-7}),
    ],
  )
  def test_equals_section_2_of_its_paper(self, learning_rate, rates):
    variables = new_variables()
    expected = [np.array(variable, np.float64) for variable in variables]
    optimizer = optimizers.Adam(variables, learning_rate, **rates)
    by_hand = adam.NumpyAdam(expected, learning_rate, **rates)
    for gradients in self.gradients_of_all_sizes(30):
      optimizer.apply(as_tensors(gradients), variables)
      by_hand.apply(gradients, expected)
      for variable, values in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable, values, rtol=0.0, atol=2e-3 * learning_rate)

  def test_its_whole_state_exists_before_the_first_step(self):
    optimizer = optimizers.Adam(new_variables(), 0.1)
    shapes = sorted(tuple(slot.shape) for slot in optimizer.variables)
    assert shapes == sorted([(), *SHAPES, *SHAPES])
    optimizer.apply(as_tensors(random_gradients()[0]), new_variables())
    assert len(optimizer.variables) == len(shapes)

  @pytest.mark.parametrize('done', [0, 3])
  def test_continues_from_a_checkpoint_as_if_not_interrupted(self, done, tmp_path):
    def make(values):
      module = tf.Module()
      module.variables_of_mine = values
      module.optimizer = optimizers.Adam(values, 0.1)
      return module

    def apply(module, steps):
      for gradients in steps:
        module.optimizer.apply(as_tensors(gradients), module.variables_of_mine)

    once = make(new_variables())
    again = make([tf.Variable(tf.zeros(shape)) for shape in SHAPES])
    steps = random_gradients()
    apply(once, steps[:done])
    path = tf.train.Checkpoint(root=once).write(str(tmp_path / 'saved'))
    saved = [name for name, _ in tf.train.list_variables(path) if 'optimizer' in name]
    assert len(saved) >= len(once.optimizer.variables)
    tf.train.Checkpoint(root=again).read(path).assert_consumed()
    for module in (once, again):
      apply(module, steps[done:])
    pairs = zip(once.variables_of_mine, again.variables_of_mine, strict=True)
    for variable, other in pairs:
      np.testing.assert_array_equal(variable, other)

  def test_gradients_of_other_variables_are_refused(self):
    variables = new_variables()
    with pytest.raises(ValueError, match='shorter'):
      optimizers.Adam(variables[:2], 0.1).apply(as_tensors(random_gradients()[0]), variables)
