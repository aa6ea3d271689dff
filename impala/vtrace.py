"""V-trace (IMPALA, section 4.1) and the corrections it is compared with (section 5.2.2).

All tensors are float32 and time-major, `[T, B]`: steps 0 to T-1 of B unrolls. The discount is zero
at a step that ends an episode, which cuts both the trace and the bootstrap there. The results are
targets: no gradient flows through them.
"""

from typing import Any, NamedTuple

import tensorflow as tf

from impala import actions as acting


class VTraceReturns(NamedTuple):
  """Value targets and policy gradient advantages, float32 `[T, B]`, gradients stopped.

  Attributes:
    vs: V_s, the target for V(x_s).
    pg_advantages: Rho_s (q_s - V(x_s)), the weight of grad log pi(a_s|x_s) (section 4.2).
  """

  vs: tf.Tensor
  pg_advantages: tf.Tensor


def from_logits(
  behaviour_logits: tf.Tensor,
  target_logits: tf.Tensor,
  actions: tf.Tensor,
  discounts: tf.Tensor,
  rewards: tf.Tensor,
  values: tf.Tensor,
  bootstrap_value: tf.Tensor,
  **settings: Any,
) -> VTraceReturns:
  """V-trace from the logits of the two policies.

  Args:
    behaviour_logits: float32 `[T, B, A]`, of mu, the policy that acted.
    target_logits: float32 `[T, B, A]`, of pi, the policy being learned.
    actions: int32 `[T, B]`, drawn from mu.
    discounts: See `from_importance_weights`, as for all further arguments.
    rewards: float32 `[T, B]`.
    values: float32 `[T, B]`.
    bootstrap_value: float32 `[B]`.
    **settings: Clipping thresholds, `lambda_` and `pg_bootstrap`.
  """
  log_rhos = log_importance_weights(behaviour_logits, target_logits, actions)
  return from_importance_weights(log_rhos, discounts, rewards, values, bootstrap_value, **settings)


def log_importance_weights(
  behaviour_logits: tf.Tensor,
  target_logits: tf.Tensor,
  actions: tf.Tensor,
  sizes: acting.Sizes = None,
) -> tf.Tensor:
  """log pi(a_t|x_t) - log mu(a_t|x_t), float32 `[T, B]`, not clipped.

  Args:
    behaviour_logits: float32 `[T, B, A]`, of mu.
    target_logits: float32 `[T, B, A]`, of pi.
    actions: int32 `[T, B]`, or `[T, B, K]` for K choices at once.
    sizes: See `impala.actions`.
  """
  for logits in (behaviour_logits, target_logits):
    acting.assert_shapes(logits, actions, sizes)
  tf.debugging.assert_shapes([(behaviour_logits, 'TBA'), (target_logits, 'TBA')])

  log_pi = acting.log_prob(target_logits, actions, sizes)
  return log_pi - acting.log_prob(behaviour_logits, actions, sizes)  # [T, B]


def from_importance_weights(
  log_rhos: tf.Tensor,
  discounts: tf.Tensor,
  rewards: tf.Tensor,
  values: tf.Tensor,
  bootstrap_value: tf.Tensor,
  clip_rho_threshold: float | None = 1.0,
  clip_c_threshold: float | None = 1.0,
  clip_pg_rho_threshold: float | None = 1.0,
  lambda_: float = 1.0,
  pg_bootstrap: str = 'vs',
) -> VTraceReturns:
  """V-trace (equation 1) by the recursion of Remark 1, with the lambda of Remark 2.

    v_s = V(x_s) + delta_s V + gamma c_s (v_{s+1} - V(x_{s+1}))
    delta_s V = rho_s (r_s + gamma V(x_{s+1}) - V(x_s))

  Args:
    log_rhos: float32 `[T, B]`, log of the importance weights pi(a_s|x_s) / mu(a_s|x_s).
    discounts: float32 `[T, B]`, gamma, or 0 at a step that ends an episode.
    rewards: float32 `[T, B]`, r_s, the reward for the action at x_s.
    values: float32 `[T, B]`, V(x_s).
    bootstrap_value: float32 `[B]`, V(x_T).
    clip_rho_threshold: Rho-bar, which decides whose value function is learned; None: no clipping.
    clip_c_threshold: C-bar, which decides how far corrections travel back; None: no clipping.
    clip_pg_rho_threshold: Rho-bar of the policy gradient (section 4.2); None: no clipping.
    lambda_: Decay of the traces; 1 in the paper's experiments.
    pg_bootstrap: 'vs' for q_s = r_s + gamma v_{s+1} (section 4.2), 'values' for
      q_s = r_s + gamma V(x_{s+1}) (appendix E.3).

  Raises:
    ValueError: `pg_bootstrap` is neither.
  """
  _check(log_rhos, discounts, rewards, values, bootstrap_value)
  if pg_bootstrap not in ('vs', 'values'):
    raise ValueError(f"pg_bootstrap is {pg_bootstrap!r}, expected 'vs' or 'values'")

  # The same ratios truncated twice: rho-bar determines the fixed point, c-bar only the speed of
  # convergence and the variance (section 4.1).
  rhos = tf.exp(log_rhos)
  clipped_rhos = _clip(rhos, clip_rho_threshold)
  cs = lambda_ * _clip(rhos, clip_c_threshold)

  values_s_plus_1 = _shift(values, bootstrap_value)
  deltas = clipped_rhos * (rewards + discounts * values_s_plus_1 - values)

  vs_minus_values = _accumulate(deltas, discounts * cs)
  vs = values + vs_minus_values

  # q_s estimates the return after a_s. It bootstraps from v_{s+1}, not from v_s.
  vs_s_plus_1 = _shift(vs, bootstrap_value)
  qs = rewards + discounts * (vs_s_plus_1 if pg_bootstrap == 'vs' else values_s_plus_1)
  pg_advantages = _clip(rhos, clip_pg_rho_threshold) * (qs - values)
  return VTraceReturns(vs=tf.stop_gradient(vs), pg_advantages=tf.stop_gradient(pg_advantages))


def no_correction(
  discounts: tf.Tensor, rewards: tf.Tensor, values: tf.Tensor, bootstrap_value: tf.Tensor
) -> VTraceReturns:
  """Ablation 1: on-policy n-step returns as in A2C, whichever policy acted.

  Ablation 2, epsilon-correction, has the same targets and differs in the loss.

  Args:
    discounts: float32 `[T, B]`, as for `from_importance_weights`.
    rewards: float32 `[T, B]`.
    values: float32 `[T, B]`.
    bootstrap_value: float32 `[B]`.
  """
  # On-policy, every rho_s and c_s is 1: V-trace is then the n-step Bellman target (equation 2).
  log_rhos = tf.zeros_like(values)
  return from_importance_weights(log_rhos, discounts, rewards, values, bootstrap_value)


def one_step_importance_sampling(
  log_rhos: tf.Tensor,
  discounts: tf.Tensor,
  rewards: tf.Tensor,
  values: tf.Tensor,
  bootstrap_value: tf.Tensor,
  clip_pg_rho_threshold: float | None = 1.0,
) -> VTraceReturns:
  """Ablation 3, V-trace without traces: only each step's advantage is weighted, by its own rho_s.

  Args:
    log_rhos: float32 `[T, B]`, as for `from_importance_weights`.
    discounts: float32 `[T, B]`.
    rewards: float32 `[T, B]`.
    values: float32 `[T, B]`.
    bootstrap_value: float32 `[B]`.
    clip_pg_rho_threshold: Rho-bar of that weight; None: no clipping.
  """
  _check(log_rhos, discounts, rewards, values, bootstrap_value)
  returns = no_correction(discounts, rewards, values, bootstrap_value)
  rhos = tf.stop_gradient(_clip(tf.exp(log_rhos), clip_pg_rho_threshold))
  return returns._replace(pg_advantages=rhos * returns.pg_advantages)


def corrected_returns(
  correction: str,
  log_rhos: tf.Tensor,
  discounts: tf.Tensor,
  rewards: tf.Tensor,
  values: tf.Tensor,
  bootstrap_value: tf.Tensor,
  *,
  clip_rho_threshold: float | None = 1.0,
  clip_c_threshold: float | None = 1.0,
  clip_pg_rho_threshold: float | None = 1.0,
  lambda_: float = 1.0,
  pg_bootstrap: str = 'vs',
) -> VTraceReturns:
  """Targets by any of the corrections of section 5.2.2.

  Args:
    correction: 'vtrace', 'one_step', 'epsilon' or 'none'.
    log_rhos: float32 `[T, B]`, as for `from_importance_weights`; no gradient flows through them.
    discounts: float32 `[T, B]`.
    rewards: float32 `[T, B]`.
    values: float32 `[T, B]`.
    bootstrap_value: float32 `[B]`.
    clip_rho_threshold: For 'vtrace'.
    clip_c_threshold: For 'vtrace'.
    clip_pg_rho_threshold: For 'vtrace' and 'one_step'.
    lambda_: For 'vtrace'.
    pg_bootstrap: For 'vtrace'.

  Raises:
    ValueError: There is no such correction.
  """
  # The ratios depend on the logits being learned, but targets are constants (section 4.2).
  log_rhos = tf.stop_gradient(log_rhos)
  steps = (discounts, rewards, values, bootstrap_value)
  if correction == 'vtrace':
    return from_importance_weights(
      log_rhos,
      *steps,
      clip_rho_threshold=clip_rho_threshold,
      clip_c_threshold=clip_c_threshold,
      clip_pg_rho_threshold=clip_pg_rho_threshold,
      lambda_=lambda_,
      pg_bootstrap=pg_bootstrap,
    )
  if correction == 'one_step':
    return one_step_importance_sampling(
      log_rhos, *steps, clip_pg_rho_threshold=clip_pg_rho_threshold
    )
  # These two differ only in the policy gradient loss.
  if correction in ('epsilon', 'none'):
    return no_correction(*steps)
  raise ValueError(
    f"correction is {correction!r}, expected 'vtrace', 'one_step', 'epsilon' or 'none'"
  )


def _accumulate(deltas: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
  """x_s = delta_s + weight_s x_{s+1} from the last step to the first, float32 `[T, B]`.

  Args:
    deltas: float32 `[T, B]`, delta_s V.
    weights: float32 `[T, B]`, gamma c_s.
  """
  # v_T is V(x_T), so the difference starts at zero. T steps of two operations each: a loop in the
  # graph would cost more than its body.
  x = tf.zeros_like(deltas[0])  # [B]
  results = []
  for delta, weight in reversed(list(zip(tf.unstack(deltas), tf.unstack(weights), strict=True))):
    x = delta + weight * x
    results.append(x)
  return tf.stack(results[::-1])


def _check(
  log_rhos: tf.Tensor,
  discounts: tf.Tensor,
  rewards: tf.Tensor,
  values: tf.Tensor,
  bootstrap_value: tf.Tensor,
) -> None:
  """Asserts shapes and dtypes while the graph is traced; static shapes add no operation to it."""
  tf.debugging.assert_shapes(
    [(log_rhos, 'TB'), (discounts, 'TB'), (rewards, 'TB'), (values, 'TB'), (bootstrap_value, 'B')]
  )
  for tensor in (log_rhos, discounts, rewards, values, bootstrap_value):
    tf.debugging.assert_type(tensor, tf.float32)


def _clip(rhos: tf.Tensor, threshold: float | None) -> tf.Tensor:
  """min(threshold, rho), `[T, B]`."""
  return rhos if threshold is None else tf.minimum(rhos, threshold)


def _shift(steps: tf.Tensor, last: tf.Tensor) -> tf.Tensor:
  """The value of the next step at every step, `[T, B]`: `last`, `[B]`, follows step T-1."""
  return tf.concat([steps[1:], last[tf.newaxis]], axis=0)
