"""The three terms of the actor-critic loss (IMPALA, section 4.2), summed over time and batch.

A sum, not a mean: the paper's learning rates (Table D.1) belong to sums over T x B steps.
"""

import tensorflow as tf

from impala import actions as acting


def policy_gradient_loss(
  logits: tf.Tensor,
  actions: tf.Tensor,
  advantages: tf.Tensor,
  epsilon: float = 0.0,
  sizes: acting.Sizes = None,
) -> tf.Tensor:
  """- sum_s log pi(a_s|x_s) advantage_s, float32 `[]`.

  Its gradient is minus the policy gradient of section 4.2, as the loss is minimised.

  Args:
    logits: float32 `[T, B, A]`, of pi.
    actions: int32 `[T, B]`, a_s, or `[T, B, K]` for K choices at once.
    advantages: float32 `[T, B]`, rho_s (q_s - V(x_s)); no gradient flows through them.
    epsilon: Added to pi(a_s|x_s) inside the logarithm: 1e-6 for the epsilon-correction of
      section 5.2.2, 0 for every other.
    sizes: See `impala.actions`.
  """
  acting.assert_shapes(logits, actions, sizes)
  tf.debugging.assert_shapes([(logits, 'TBA'), (advantages, 'TB')])
  tf.debugging.assert_type(advantages, tf.float32)

  log_probs = acting.log_prob(logits, actions, sizes)  # [T, B]
  if epsilon:
    log_probs = tf.math.log(tf.exp(log_probs) + epsilon)
  return -tf.reduce_sum(log_probs * tf.stop_gradient(advantages))


def baseline_loss(values: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
  """1/2 sum_s (v_s - V(x_s))^2, float32 `[]`.

  Args:
    values: float32 `[T, B]`, V(x_s).
    targets: float32 `[T, B]`, v_s; no gradient flows through them.
  """
  tf.debugging.assert_shapes([(values, 'TB'), (targets, 'TB')])
  tf.debugging.assert_type(values, tf.float32)
  tf.debugging.assert_type(targets, tf.float32)

  return 0.5 * tf.reduce_sum(tf.square(tf.stop_gradient(targets) - values))


def entropy_loss(logits: tf.Tensor, sizes: acting.Sizes = None) -> tf.Tensor:
  """Negative entropy, sum_s sum_a pi(a|x_s) log pi(a|x_s), float32 `[]`.

  Minimising it keeps the policy from becoming deterministic too early.

  Args:
    logits: float32 `[T, B, A]`, of pi.
    sizes: See `impala.actions`.
  """
  tf.debugging.assert_shapes([(logits, 'TBA')])
  tf.debugging.assert_type(logits, tf.float32)

  entropies = acting.entropy(logits, sizes)  # [T, B]
  return -tf.reduce_sum(entropies)
