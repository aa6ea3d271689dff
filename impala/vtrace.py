"""V-trace (IMPALA, section 4) and the three other corrections of its ablation (section 5.2.2).

Everything is time-major, float32: `[T, B]` for time steps 0..T-1 of B trajectories. Where an episode ends, the
discount is zero, which cuts the trace and the bootstrap there. The results are targets: no gradient flows through them.
"""

from typing import NamedTuple

import tensorflow as tf
import tensorflow_probability as tfp


class VTraceReturns(NamedTuple):
  """Value targets `vs` and policy gradient advantages `pg_advantages`, both `[T, B]`, gradients stopped."""

  vs: tf.Tensor
  pg_advantages: tf.Tensor


def from_logits(
  behaviour_logits,
  target_logits,
  actions,
  discounts,
  rewards,
  values,
  bootstrap_value,
  **thresholds,
) -> VTraceReturns:
  """V-trace from the two policies' logits.

  Args:
    behaviour_logits: `[T, B, A]`, of mu, the policy that acted.
    target_logits: `[T, B, A]`, of pi, the policy being learned.
    actions: `[T, B]` int32, drawn from mu.
    discounts, rewards, values, bootstrap_value, **thresholds: see `from_importance_weights`.
  """
  log_rhos = log_importance_weights(behaviour_logits, target_logits, actions)
  return from_importance_weights(
    log_rhos, discounts, rewards, values, bootstrap_value, **thresholds
  )


def log_importance_weights(behaviour_logits, target_logits, actions) -> tf.Tensor:
  """log pi(a|x) - log mu(a|x), `[T, B]`, from logits `[T, B, A]` and actions `[T, B]`."""
  target, behaviour = (
    tfp.distributions.Categorical(logits=logits) for logits in (target_logits, behaviour_logits)
  )
  return target.log_prob(actions) - behaviour.log_prob(actions)


def from_importance_weights(
  log_rhos,
  discounts,
  rewards,
  values,
  bootstrap_value,
  clip_rho_threshold=1.0,
  clip_c_threshold=1.0,
  clip_pg_rho_threshold=1.0,
  lambda_=1.0,
  pg_bootstrap='vs',
) -> VTraceReturns:
  """V-trace by the recursion of Remark 1, with Remark 2's lambda.

  v_s = V(x_s) + delta_s V + gamma c_s (v_{s+1} - V(x_{s+1})),
  delta_t V = rho_t (r_t + gamma V(x_{t+1}) - V(x_t)).

  Args:
    log_rhos: `[T, B]`, log of the importance weights pi(a|x) / mu(a|x), not clipped.
    discounts: `[T, B]`, gamma, or 0 at the step that ends an episode.
    rewards: `[T, B]`, r_t, received for the action at x_t.
    values: `[T, B]`, V(x_t).
    bootstrap_value: `[B]`, V(x_T).
    clip_rho_threshold: rho-bar, None for no clipping. Says which policy's values are learned.
    clip_c_threshold: c-bar, None for no clipping. Says how far corrections travel back.
    clip_pg_rho_threshold: the rho-bar of the policy gradient's weight (section 4.2), None for no clipping.
    lambda_: Remark 2; 1 in the paper's experiments.
    pg_bootstrap: 'vs' for q_s = r_s + gamma v_{s+1}, 'values' for q_s = r_s + gamma V(x_{s+1}) (appendix E.3).

  Raises:
    ValueError: for another `pg_bootstrap`.
  """
  tf.debugging.assert_shapes(
    [(log_rhos, 'TB'), (discounts, 'TB'), (rewards, 'TB'), (values, 'TB'), (bootstrap_value, 'B')]
  )
  if pg_bootstrap not in ('vs', 'values'):
    raise ValueError(f"pg_bootstrap is {pg_bootstrap!r}, expected 'vs' or 'values'")
  rhos = tf.exp(log_rhos)
  clipped_rhos = _clip(rhos, clip_rho_threshold)
  cs = lambda_ * _clip(rhos, clip_c_threshold)
  values_t_plus_1 = tf.concat([values[1:], bootstrap_value[tf.newaxis]], axis=0)
  deltas = clipped_rhos * (rewards + discounts * values_t_plus_1 - values)

  def recursion(acc, step):
    delta, discount, c = step
    return delta + discount * c * acc

  vs_minus_values = tf.scan(
    recursion, (deltas, discounts, cs), initializer=tf.zeros_like(bootstrap_value), reverse=True
  )
  vs = values + vs_minus_values
  vs_t_plus_1 = tf.concat([vs[1:], bootstrap_value[tf.newaxis]], axis=0)
  q = rewards + discounts * (vs_t_plus_1 if pg_bootstrap == 'vs' else values_t_plus_1)
  pg_advantages = _clip(rhos, clip_pg_rho_threshold) * (q - values)
  return VTraceReturns(tf.stop_gradient(vs), tf.stop_gradient(pg_advantages))


def no_correction(discounts, rewards, values, bootstrap_value) -> VTraceReturns:
  """Ablation 1: the on-policy n-step returns of A2C, whatever policy acted. Also epsilon-correction's (ablation 2)."""
  return from_importance_weights(tf.zeros_like(values), discounts, rewards, values, bootstrap_value)


def one_step_importance_sampling(
  log_rhos, discounts, rewards, values, bootstrap_value, clip_pg_rho_threshold=1.0
) -> VTraceReturns:
  """Ablation 3: values uncorrected, each step's advantage weighted by its own rho; V-trace without traces."""
  returns = no_correction(discounts, rewards, values, bootstrap_value)
  rhos = tf.stop_gradient(_clip(tf.exp(log_rhos), clip_pg_rho_threshold))
  return returns._replace(pg_advantages=rhos * returns.pg_advantages)


def _clip(rhos: tf.Tensor, threshold: float | None) -> tf.Tensor:
  return rhos if threshold is None else tf.minimum(rhos, threshold)
