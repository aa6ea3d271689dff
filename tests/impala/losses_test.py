"""The three terms of IMPALA's loss (arXiv 1802.01561, section 4.2) against float64 NumPy.

Losses are sums over time and batch (note of the paper's Table D.1). Gradients are checked against
central differences of the NumPy formulas.
"""

import numpy as np
import pytest
import tensorflow as tf

from impala import losses

SHAPE = (3, 2)  # [T, B]
NUM_ACTIONS = 4
CORRECTION = 1e-6  # The epsilon of section 5.2.2.


def random_step_data(seed=0):
  rng = np.random.default_rng(seed)
  logits = rng.normal(size=(*SHAPE, NUM_ACTIONS)).astype(np.float32)
  actions = rng.integers(0, NUM_ACTIONS, SHAPE).astype(np.int32)
  return logits, actions, rng.normal(size=SHAPE).astype(np.float32)


def softmax(logits):
  exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
  return exponentials / exponentials.sum(axis=-1, keepdims=True)


def expected_policy_gradient_loss(logits, actions, advantages, epsilon):
  taken = np.take_along_axis(softmax(logits), actions[..., None], axis=-1)[..., 0]
  return -np.sum(np.log(taken + epsilon) * advantages)


def expected_entropy_loss(logits):
  probabilities = softmax(logits)
  return np.sum(probabilities * np.log(probabilities))


def central_differences(function, point, step=1e-5):
  point = point.astype(np.float64)
  gradient = np.zeros_like(point)
  for index in np.ndindex(*point.shape):
    offset = np.zeros_like(point)
    offset[index] = step
    gradient[index] = (function(point + offset) - function(point - offset)) / (2 * step)
  return gradient


def gradient_of(loss, *arguments):
  """The gradients of a loss with respect to its floating-point arguments."""
  arguments = [tf.constant(argument) for argument in arguments]
  sources = [argument for argument in arguments if argument.dtype.is_floating]
  with tf.GradientTape() as tape:
    tape.watch(sources)
    total = loss(*arguments)
  return tape.gradient(total, sources)


def assert_scalar(loss, expected):
  assert loss.shape == ()
  assert loss.dtype == tf.float32
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def assert_nothing_flows(gradient):
  assert gradient is None or not np.any(gradient)


# One state and a policy of (3/4, 1/4), from logits of log 3 and 0.
THREE_TO_ONE = np.float32([[[np.log(3.0), 0.0]]])


class TestPolicyGradientLoss:
  def test_worked_example(self):
    logits = np.tile(THREE_TO_ONE, (2, 1, 1))
    actions = np.int32([[0], [1]])
    advantages = np.float32([[2.0], [-1.0]])
    loss = losses.policy_gradient_loss(logits, actions, advantages)
    assert_scalar(loss, -2.0 * np.log(0.75) + np.log(0.25))

  @pytest.mark.parametrize('epsilon', [0.0, CORRECTION, 0.1])
  def test_equals_the_formula(self, epsilon):
    data = random_step_data()
    loss = losses.policy_gradient_loss(*data, epsilon=epsilon)
    assert_scalar(loss, expected_policy_gradient_loss(*data, epsilon))

  def test_no_correction_by_default(self):
    data = random_step_data()
    assert_scalar(losses.policy_gradient_loss(*data), expected_policy_gradient_loss(*data, 0.0))

  @pytest.mark.parametrize('epsilon', [0.0, CORRECTION, 0.1])
  def test_gradient_is_that_of_the_formula(self, epsilon):
    logits, actions, advantages = random_step_data(seed=1)
    actual, _ = gradient_of(
      lambda *data: losses.policy_gradient_loss(*data, epsilon=epsilon), logits, actions, advantages
    )
    expected = central_differences(
      lambda point: expected_policy_gradient_loss(point, actions, advantages, epsilon), logits
    )
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)

  @pytest.mark.parametrize('epsilon', [0.0, CORRECTION])
  def test_advantages_are_constants(self, epsilon):
    _, gradient = gradient_of(
      lambda *data: losses.policy_gradient_loss(*data, epsilon=epsilon), *random_step_data()
    )
    assert_nothing_flows(gradient)

  def test_an_action_all_but_ruled_out(self):
    # log pi is -100, below the logarithm of any float32; its gradient is still one-hot minus pi.
    logits = np.float32([[[0.0, 100.0]]])
    actions = np.int32([[0]])
    advantages = np.float32([[2.0]])
    loss = losses.policy_gradient_loss(logits, actions, advantages)
    gradient, _ = gradient_of(losses.policy_gradient_loss, logits, actions, advantages)
    assert_scalar(loss, 200.0)
    np.testing.assert_allclose(gradient, [[[-2.0, 2.0]]], rtol=1e-6)

  def test_correction_bounds_the_loss_of_such_an_action_and_stops_its_gradient(self):
    logits = np.float32([[[0.0, 100.0]]])
    actions = np.int32([[0]])
    advantages = np.float32([[2.0]])

    def corrected_loss(*data):
      return losses.policy_gradient_loss(*data, epsilon=CORRECTION)

    gradient, _ = gradient_of(corrected_loss, logits, actions, advantages)
    assert_scalar(corrected_loss(logits, actions, advantages), -2.0 * np.log(CORRECTION))
    np.testing.assert_allclose(gradient, [[[0.0, 0.0]]], atol=1e-6)

  def test_correction_halves_the_gradient_where_the_probability_equals_it(self):
    # d log(pi + eps) = pi / (pi + eps) d log pi.
    logits = np.float32([[[np.log(CORRECTION), np.log1p(-CORRECTION)]]])
    actions = np.int32([[0]])
    advantages = np.float32([[1.0]])

    def corrected_loss(*data):
      return losses.policy_gradient_loss(*data, epsilon=CORRECTION)

    gradient, _ = gradient_of(corrected_loss, logits, actions, advantages)
    np.testing.assert_allclose(gradient, [[[-0.5, 0.5]]], rtol=1e-5)


class TestBaselineLoss:
  def test_worked_example(self):
    values = np.float32([[1.0, 2.0], [0.0, -1.0]])
    targets = np.float32([[2.0, 0.0], [3.0, -1.0]])
    loss = losses.baseline_loss(values, targets)
    assert_scalar(loss, 0.5 * (1.0 + 4.0 + 9.0))

  def test_gradient_reaches_only_the_values(self):
    # Section 4.2: V moves along (v_s - V(x_s)); the loss is minimised, hence the sign.
    _, _, values = random_step_data(seed=0)
    _, _, targets = random_step_data(seed=1)
    of_values, of_targets = gradient_of(losses.baseline_loss, values, targets)
    np.testing.assert_allclose(of_values, values - targets, rtol=1e-5, atol=1e-7)
    assert_nothing_flows(of_targets)


class TestEntropyLoss:
  def test_uniform_policy(self):
    logits = np.zeros((*SHAPE, NUM_ACTIONS), np.float32)
    assert_scalar(losses.entropy_loss(logits), -6.0 * np.log(4.0))

  def test_worked_example(self):
    assert_scalar(losses.entropy_loss(THREE_TO_ONE), 0.75 * np.log(0.75) + 0.25 * np.log(0.25))

  def test_equals_the_formula_and_its_gradient(self):
    logits, _, _ = random_step_data()
    assert_scalar(losses.entropy_loss(logits), expected_entropy_loss(logits))
    (gradient,) = gradient_of(losses.entropy_loss, logits)
    expected = central_differences(expected_entropy_loss, logits)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)

  def test_deterministic_policy_has_no_entropy(self):
    # 0 log 0 counts as 0, in the loss and in its gradient.
    logits = np.float32([[[0.0, 200.0, 0.0], [-200.0, -200.0, 200.0]]])
    (gradient,) = gradient_of(losses.entropy_loss, logits)
    np.testing.assert_allclose(losses.entropy_loss(logits), 0.0, atol=1e-6)
    np.testing.assert_allclose(gradient, np.zeros_like(logits), atol=1e-6)


class TestArguments:
  """Wrong shapes and dtypes are refused: broadcasting would hide them."""

  def test_shapes_are_checked(self):
    logits, actions, advantages = random_step_data()
    with pytest.raises(ValueError):
      losses.policy_gradient_loss(logits, actions, advantages[:1])
    with pytest.raises(ValueError):
      losses.baseline_loss(advantages, advantages[:1])
    with pytest.raises(ValueError):
      losses.entropy_loss(logits[0])

  def test_dtypes_are_checked(self):
    logits, actions, advantages = random_step_data()
    with pytest.raises(TypeError):
      losses.policy_gradient_loss(logits, actions.astype(np.int64), advantages)
    with pytest.raises(TypeError):
      losses.baseline_loss(advantages, advantages.astype(np.float64))
    with pytest.raises(TypeError):
      losses.entropy_loss(logits.astype(np.float64))
