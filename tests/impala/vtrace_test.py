"""V-trace against ground truth written from section 4 of the IMPALA paper (arXiv 1802.01561).

The ground truth is the explicit sum of equation 1, in float64 and episode by episode. It uses
neither the recursion of Remark 1 nor a discount that is zero at an episode's end.
"""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from impala import vtrace

GAMMA = 0.9
# A few float32 roundings a step, each relative to the largest addends, over at most six steps.
ROUNDING = 2e-6
# A log probability of -100 has a rounding error of 4e-6, which is the ratio's relative error.
LOGIT_ROUNDING = 1e-5
TINY = np.finfo(np.float32).tiny


class Unroll(NamedTuple):
  """A batch of unrolls, time-major."""

  log_rhos: np.ndarray  # [T, B]
  dones: np.ndarray  # [T, B]
  rewards: np.ndarray  # [T, B]
  values: np.ndarray  # [T, B]
  bootstrap_value: np.ndarray  # [B]

  @property
  def discounts(self):
    return (GAMMA * (1.0 - self.dones)).astype(np.float32)

  @property
  def estimates(self):
    """The arguments that all corrections share."""
    return self.discounts, self.rewards, self.values, self.bootstrap_value


def done_patterns(length, rng):
  """Columns: no end, one end at each single step, an end at every step, three random ones."""
  singles = np.eye(length)
  randoms = rng.random((length, 3)) < 0.4
  return np.concatenate([np.zeros((length, 1)), singles, np.ones((length, 1)), randoms], axis=1)


def random_unroll(length=5, largest_ratio=1e6, seed=0):
  rng = np.random.default_rng(seed)
  dones = done_patterns(length, rng)
  limit = np.log(largest_ratio)
  unroll = Unroll(
    log_rhos=rng.uniform(-limit, limit, dones.shape),
    dones=dones,
    rewards=rng.normal(size=dones.shape),
    values=rng.normal(size=dones.shape),
    bootstrap_value=rng.normal(size=dones.shape[1]),
  )
  return Unroll(*(array.astype(np.float32) for array in unroll))


def clipped(ratios, threshold):
  return ratios if threshold is None else np.minimum(threshold, ratios)


def next_value(unroll, t, b):
  if unroll.dones[t, b]:
    return 0.0
  return float([*unroll.values[1:, b], unroll.bootstrap_value[b]][t])


def rest_of_episode(unroll, s, b):
  """The steps from s to the end of its episode, or of the unroll."""
  ends = np.flatnonzero(unroll.dones[s:, b])
  last = s + ends[0] if ends.size else len(unroll.dones) - 1
  return range(s, last + 1)


def eq1_addends(unroll, s, b, rhos, cs):
  """The addends of equation 1 for one v_s, kept apart so that their magnitude is known too."""
  addends = [float(unroll.values[s, b])]
  for t in rest_of_episode(unroll, s, b):
    weight = GAMMA ** (t - s) * np.prod(cs[s:t, b]) * rhos[t, b]
    td_parts = (unroll.rewards[t, b], GAMMA * next_value(unroll, t, b), -unroll.values[t, b])
    addends += [weight * part for part in td_parts]
  return addends


def eq1(unroll, rhos, cs):
  """The v_s of equation 1 and the sums of their addends' absolute values, both `[T, B]`."""
  vs = np.zeros(rhos.shape)
  magnitudes = np.zeros(rhos.shape)
  for s, b in np.ndindex(*rhos.shape):
    addends = eq1_addends(unroll, s, b, rhos, cs)
    vs[s, b] = np.sum(addends)
    magnitudes[s, b] = np.sum(np.abs(addends))
  return vs, magnitudes


def one_later(steps, last):
  return np.concatenate([steps[1:], [last]])


def advantages_of(unroll, following, following_magnitudes, weights):
  """weight_s (r_s + gamma following_s - V(x_s)) of section 4.2, and its addends' magnitude."""
  continues = GAMMA * (1.0 - unroll.dones)
  advantages = unroll.rewards + continues * following - unroll.values
  magnitudes = np.abs(unroll.rewards) + continues * following_magnitudes + np.abs(unroll.values)
  return weights * advantages, weights * magnitudes


def assert_equal_up_to_rounding(actual, expected, magnitudes, rounding):
  assert actual.dtype == tf.float32
  assert actual.shape == expected.shape
  # TINY allows magnitudes of zero: the comparison is <, not <=.
  np.testing.assert_array_less(np.abs(actual.numpy() - expected), rounding * magnitudes + TINY)


def assert_is_vtrace(
  returns,
  unroll,
  clip_rho_threshold=1.0,
  clip_c_threshold=1.0,
  clip_pg_rho_threshold=1.0,
  lambda_=1.0,
  pg_bootstrap='vs',
  rounding=ROUNDING,
):
  """Checks both outputs; the defaults are the paper's.

  Those are a threshold of 1 everywhere (section 5.2.2) and q_s = r_s + gamma v_{s+1} (section 4.2).
  """
  ratios = np.exp(unroll.log_rhos.astype(np.float64))
  rhos = clipped(ratios, clip_rho_threshold)
  cs = lambda_ * clipped(ratios, clip_c_threshold)
  vs = eq1(unroll, rhos, cs)
  assert_equal_up_to_rounding(returns.vs, *vs, rounding)

  bootstraps = {'vs': vs, 'values': (unroll.values, np.abs(unroll.values))}[pg_bootstrap]
  lasts = (unroll.bootstrap_value, np.abs(unroll.bootstrap_value))
  following = [one_later(steps, last) for steps, last in zip(bootstraps, lasts, strict=True)]
  advantages = advantages_of(unroll, *following, clipped(ratios, clip_pg_rho_threshold))
  assert_equal_up_to_rounding(returns.pg_advantages, *advantages, rounding)


def n_step_return(unroll, s, b, steps):
  """The discounted rewards of `steps` steps plus the value of the state reached."""
  span = list(rest_of_episode(unroll, s, b))[:steps]
  rewards = sum(GAMMA ** (t - s) * unroll.rewards[t, b] for t in span)
  return rewards + GAMMA ** len(span) * next_value(unroll, span[-1], b)


def bellman_targets(unroll):
  """Equation 2: the n-step Bellman target over the rest of the episode in the unroll."""
  shape = unroll.rewards.shape
  return np.reshape([n_step_return(unroll, s, b, shape[0]) for s, b in np.ndindex(*shape)], shape)


def lambda_return(unroll, s, b, lambda_):
  """The forward view of TD(lambda): n-step returns mixed, the last with all remaining weight."""
  longest = len(rest_of_episode(unroll, s, b))
  returns = [n_step_return(unroll, s, b, n) for n in range(1, longest + 1)]
  mixed = sum((1 - lambda_) * lambda_**n * g for n, g in enumerate(returns[:-1]))
  return mixed + lambda_ ** (longest - 1) * returns[-1]


def on_policy(unroll):
  return unroll._replace(log_rhos=np.zeros_like(unroll.log_rhos))


class TestFromImportanceWeights:
  def test_worked_example(self):
    # The columns differ in their first step: the second's ends an episode with a reward of 2.
    returns = vtrace.from_importance_weights(
      log_rhos=np.log(np.float32([[2.0, 2.0], [0.5, 0.5]])),
      discounts=np.float32([[0.5, 0.0], [0.5, 0.5]]),
      rewards=np.float32([[1.0, 2.0], [3.0, 3.0]]),
      values=np.float32([[1.0, 1.0], [2.0, 2.0]]),
      bootstrap_value=np.float32([4.0, 4.0]),
    )
    np.testing.assert_allclose(returns.vs, [[2.75, 2.0], [3.5, 3.5]], rtol=1e-6)
    np.testing.assert_allclose(returns.pg_advantages, [[1.75, 1.0], [1.5, 1.5]], rtol=1e-6)

  # With ratios near one no addend is lost beside larger ones; ratios far from one test clipping.
  @pytest.mark.parametrize('largest_ratio', [3.0, 1e6])
  @pytest.mark.parametrize('pg_bootstrap', ['vs', 'values'])
  @pytest.mark.parametrize('lambda_', [0.0, 0.5, 1.0])
  @pytest.mark.parametrize(
    'clip_rho, clip_c, clip_pg_rho',
    [
      (1.0, 1.0, 1.0),
      (10.0, 1.0, 1.0),
      (100.0, 10.0, 10.0),
      (2.0, 0.5, 0.75),
      (None, 1.0, 1.0),
      (1.0, None, 1.0),
      (1.0, 1.0, None),
      (None, None, None),
    ],
  )
  def test_equals_the_explicit_sum(
    self, clip_rho, clip_c, clip_pg_rho, lambda_, pg_bootstrap, largest_ratio
  ):
    unroll = random_unroll(largest_ratio=largest_ratio)
    keywords = {
      'clip_rho_threshold': clip_rho,
      'clip_c_threshold': clip_c,
      'clip_pg_rho_threshold': clip_pg_rho,
      'lambda_': lambda_,
      'pg_bootstrap': pg_bootstrap,
    }
    returns = vtrace.from_importance_weights(unroll.log_rhos, *unroll.estimates, **keywords)
    assert_is_vtrace(returns, unroll, **keywords)

  def test_defaults_are_the_papers(self):
    unroll = random_unroll(largest_ratio=3.0, seed=1)
    assert_is_vtrace(vtrace.from_importance_weights(unroll.log_rhos, *unroll.estimates), unroll)

  def test_unroll_of_one_step(self):
    unroll = random_unroll(length=1, largest_ratio=3.0)
    returns = vtrace.from_importance_weights(unroll.log_rhos, *unroll.estimates)
    rhos = np.minimum(1.0, np.exp(unroll.log_rhos))
    advantages = rhos * (unroll.rewards + unroll.discounts * unroll.bootstrap_value - unroll.values)
    np.testing.assert_allclose(returns.vs, unroll.values + advantages, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(returns.pg_advantages, advantages, rtol=1e-5, atol=2e-6)

  def test_same_inside_a_traced_function(self):
    unroll = random_unroll()
    arguments = [tf.constant(array) for array in (unroll.log_rhos, *unroll.estimates)]
    assert_is_vtrace(tf.function(vtrace.from_importance_weights)(*arguments), unroll)

  @pytest.mark.parametrize('clip_c', [1.0, 10.0, None])
  def test_on_policy_is_the_n_step_bellman_target(self, clip_c):
    unroll = on_policy(random_unroll(length=6))
    returns = vtrace.from_importance_weights(
      unroll.log_rhos, *unroll.estimates, clip_c_threshold=clip_c
    )
    np.testing.assert_allclose(returns.vs, bellman_targets(unroll), rtol=1e-5, atol=2e-6)

  @pytest.mark.parametrize('lambda_', [0.0, 0.5, 0.9])
  def test_on_policy_with_lambda_is_td_lambda(self, lambda_):
    unroll = on_policy(random_unroll(length=6))
    returns = vtrace.from_importance_weights(unroll.log_rhos, *unroll.estimates, lambda_=lambda_)
    shape = unroll.rewards.shape
    expected = [lambda_return(unroll, s, b, lambda_) for s, b in np.ndindex(*shape)]
    np.testing.assert_allclose(returns.vs, np.reshape(expected, shape), rtol=1e-5, atol=2e-6)

  @pytest.mark.parametrize('pg_bootstrap', ['vs', 'values'])
  def test_a_finished_episode_ignores_what_follows_it(self, pg_bootstrap):
    end = 2
    unroll = random_unroll(largest_ratio=3.0, seed=2)
    unroll.dones[end] = 1.0
    other = random_unroll(largest_ratio=3.0, seed=3)
    other.dones[end] = 1.0

    def spliced(ours, theirs):
      return np.concatenate([ours[: end + 1], theirs[end + 1 :]])

    mixed = Unroll(
      log_rhos=spliced(unroll.log_rhos, other.log_rhos),
      dones=spliced(unroll.dones, other.dones),
      rewards=spliced(unroll.rewards, other.rewards),
      values=spliced(unroll.values, other.values),
      bootstrap_value=other.bootstrap_value,
    )
    before = vtrace.from_importance_weights(
      unroll.log_rhos, *unroll.estimates, pg_bootstrap=pg_bootstrap
    )
    after = vtrace.from_importance_weights(
      mixed.log_rhos, *mixed.estimates, pg_bootstrap=pg_bootstrap
    )
    for original, changed in zip(before, after, strict=True):
      np.testing.assert_array_equal(original[: end + 1], changed[: end + 1])
      assert np.all(original[end + 1 :] != changed[end + 1 :])

  @pytest.mark.parametrize('log_ratio', [-200.0, -100.0, 100.0, 200.0])
  def test_ratios_beyond_float32_are_clipped_and_not_nan(self, log_ratio):
    # In float32, exp(100) is infinite and exp(-200) is zero; clipping makes them 1 and 0.
    unroll = random_unroll()
    extreme = unroll._replace(log_rhos=np.full_like(unroll.log_rhos, log_ratio))
    returns = vtrace.from_importance_weights(extreme.log_rhos, *extreme.estimates)
    on_policy_targets = bellman_targets(unroll)
    expected = on_policy_targets if log_ratio > 0 else unroll.values
    np.testing.assert_allclose(returns.vs, expected, rtol=1e-5, atol=2e-6)
    advantages = (
      on_policy_targets - unroll.values if log_ratio > 0 else np.zeros_like(unroll.values)
    )
    np.testing.assert_allclose(returns.pg_advantages, advantages, rtol=1e-5, atol=2e-6)

  def test_unknown_pg_bootstrap_is_named(self):
    unroll = random_unroll()
    with pytest.raises(ValueError, match='no-such-bootstrap'):
      vtrace.from_importance_weights(
        unroll.log_rhos, *unroll.estimates, pg_bootstrap='no-such-bootstrap'
      )


def log_probabilities(logits, actions):
  """The log softmax of the logits at the actions, in float64."""
  logits = logits.astype(np.float64)
  highest = logits.max(axis=-1, keepdims=True)
  log_pi = logits - highest - np.log(np.sum(np.exp(logits - highest), axis=-1, keepdims=True))
  return np.take_along_axis(log_pi, actions[..., None], axis=-1)[..., 0]


def random_policies(shape, seed=0):
  rng = np.random.default_rng(seed)
  behaviour, target = rng.normal(size=(2, *shape, 4)).astype(np.float32)
  return behaviour, target, rng.integers(0, 4, shape).astype(np.int32)


def with_log_ratios(unroll, behaviour, target, actions):
  log_rhos = log_probabilities(target, actions) - log_probabilities(behaviour, actions)
  return unroll._replace(log_rhos=log_rhos.astype(np.float32))


class TestFromLogits:
  @pytest.mark.parametrize('scale', [1.0, 6.0])
  @pytest.mark.parametrize(
    'keywords',
    [
      {},
      {
        'clip_rho_threshold': 2.0,
        'clip_c_threshold': 0.5,
        'clip_pg_rho_threshold': 0.75,
        'lambda_': 0.5,
      },
      {'clip_rho_threshold': None, 'clip_pg_rho_threshold': 10.0, 'pg_bootstrap': 'values'},
    ],
  )
  def test_equals_ratios_by_hand(self, keywords, scale):
    unroll = random_unroll()
    behaviour, target, actions = random_policies(unroll.rewards.shape)
    behaviour, target = scale * behaviour, scale * target
    returns = vtrace.from_logits(behaviour, target, actions, *unroll.estimates, **keywords)
    unroll = with_log_ratios(unroll, behaviour, target, actions)
    assert_is_vtrace(returns, unroll, rounding=LOGIT_ROUNDING, **keywords)

  def test_logits_of_fifty_either_way(self):
    # Probabilities down to exp(-100): the logarithm of a softmax would be infinite here.
    unroll = random_unroll()
    behaviour, target, actions = random_policies(unroll.rewards.shape, seed=1)
    behaviour, target = np.copysign(50.0, behaviour), np.copysign(50.0, target)
    returns = vtrace.from_logits(behaviour, target, actions, *unroll.estimates)
    unroll = with_log_ratios(unroll, behaviour, target, actions)
    assert np.any(unroll.log_rhos > 99.0) and np.any(unroll.log_rhos < -99.0)
    assert_is_vtrace(returns, unroll, rounding=LOGIT_ROUNDING)


class TestAblations:
  """The corrections of section 5.2.2."""

  def test_no_correction_is_the_n_step_return(self):
    unroll = random_unroll(length=6)
    returns = vtrace.no_correction(*unroll.estimates)
    targets = bellman_targets(unroll)
    np.testing.assert_allclose(returns.vs, targets, rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(returns.pg_advantages, targets - unroll.values, rtol=1e-5, atol=2e-6)

  @pytest.mark.parametrize(
    'keywords, threshold',
    [
      ({}, 1.0),
      *(({'clip_pg_rho_threshold': threshold}, threshold) for threshold in (0.5, 10.0, None)),
    ],
  )
  def test_one_step_importance_sampling_weighs_only_the_advantage(self, keywords, threshold):
    unroll = random_unroll(length=6, largest_ratio=30.0)
    returns = vtrace.one_step_importance_sampling(unroll.log_rhos, *unroll.estimates, **keywords)
    targets = bellman_targets(unroll)
    weights = clipped(np.exp(unroll.log_rhos), threshold)
    np.testing.assert_allclose(returns.vs, targets, rtol=1e-5, atol=2e-6)
    # Divided by the weights, between 1/30 and 30, so that all steps are equally precise.
    np.testing.assert_allclose(
      returns.pg_advantages / weights, targets - unroll.values, rtol=1e-5, atol=2e-6
    )


class TestCorrectedReturns:
  """The choice of a correction by its name."""

  SETTINGS = {
    'clip_rho_threshold': 2.0,
    'clip_c_threshold': 0.5,
    'clip_pg_rho_threshold': 0.75,
    'lambda_': 0.9,
    'pg_bootstrap': 'values',
  }

  def corrected(self, correction, unroll):
    return vtrace.corrected_returns(correction, unroll.log_rhos, *unroll.estimates, **self.SETTINGS)

  def test_vtrace_takes_every_setting(self):
    unroll = random_unroll(largest_ratio=3.0)
    assert_is_vtrace(self.corrected('vtrace', unroll), unroll, **self.SETTINGS)

  def test_one_step_takes_the_threshold_of_the_policy_gradient(self):
    unroll = random_unroll(largest_ratio=3.0)
    expected = vtrace.one_step_importance_sampling(
      unroll.log_rhos, *unroll.estimates, clip_pg_rho_threshold=0.75
    )
    for part, wanted in zip(self.corrected('one_step', unroll), expected, strict=True):
      np.testing.assert_array_equal(part, wanted)

  @pytest.mark.parametrize('correction', ['epsilon', 'none'])
  def test_epsilon_and_none_correct_no_target(self, correction):
    unroll = random_unroll(largest_ratio=3.0)
    expected = vtrace.no_correction(*unroll.estimates)
    for part, wanted in zip(self.corrected(correction, unroll), expected, strict=True):
      np.testing.assert_array_equal(part, wanted)

  def test_unknown_correction_is_named(self):
    with pytest.raises(ValueError, match='no-such-correction'):
      self.corrected('no-such-correction', random_unroll())


class TestArguments:
  """Wrong shapes and dtypes are refused: broadcasting would hide them."""

  @pytest.mark.parametrize(
    'correction',
    [
      vtrace.from_importance_weights,
      vtrace.one_step_importance_sampling,
      lambda log_rhos, *estimates: vtrace.no_correction(*estimates),
    ],
  )
  @pytest.mark.parametrize('name', ['rewards', 'values', 'bootstrap_value'])
  def test_shapes_and_dtypes_are_checked(self, correction, name):
    unroll = random_unroll()
    array = getattr(unroll, name)
    with pytest.raises(ValueError):
      wrong_shape = unroll._replace(**{name: array[..., :1]})
      correction(wrong_shape.log_rhos, *wrong_shape.estimates)
    with pytest.raises(TypeError):
      wrong_dtype = unroll._replace(**{name: array.astype(np.float64)})
      correction(wrong_dtype.log_rhos, *wrong_dtype.estimates)


def as_logits(log_rhos):
  """Behaviour and target logits and actions whose log ratio is a function of `log_rhos`."""
  zeros = tf.zeros_like(log_rhos)
  actions = tf.zeros(tf.shape(log_rhos), tf.int32)
  return tf.stack([zeros, log_rhos], -1), tf.stack([log_rhos, zeros], -1), actions


class TestGradients:
  """Section 4.2 differentiates only log pi and V(x_s): targets and advantages are constants."""

  @pytest.mark.parametrize(
    'correction',
    [
      vtrace.from_importance_weights,
      vtrace.one_step_importance_sampling,
      lambda log_rhos, *estimates: vtrace.no_correction(*estimates),
      lambda log_rhos, *estimates: vtrace.from_logits(*as_logits(log_rhos), *estimates),
      lambda *arguments: vtrace.from_importance_weights(*arguments, pg_bootstrap='values'),
    ],
  )
  @pytest.mark.parametrize('output', ['vs', 'pg_advantages'])
  def test_none_passes(self, correction, output):
    unroll = random_unroll(largest_ratio=3.0)
    inputs = [tf.constant(array) for array in (unroll.log_rhos, *unroll.estimates)]
    with tf.GradientTape() as tape:
      tape.watch(inputs)
      total = tf.reduce_sum(getattr(correction(*inputs), output))
    for gradient in tape.gradient(total, inputs):
      assert gradient is None or not np.any(gradient)
