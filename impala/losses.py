"""The three parts of the actor-critic loss (IMPALA, section 4.2), summed over time and batch as in the paper.

A sum, not a mean: the paper's learning rates (Table D.1) belong to sums over T x B steps.
"""

import tensorflow as tf
import tensorflow_probability as tfp


def policy_gradient_loss(logits, actions, advantages, epsilon: float = 0.0) -> tf.Tensor:
  """- sum log pi(a_s|x_s) * advantage_s, whose gradient is section 4.2's with its sign turned.

  Args:
    logits: `[T, B, A]` of pi.
    actions: `[T, B]` int32.
    advantages: `[T, B]`; no gradient flows through them.
    epsilon: added to pi(a) inside the logarithm: 1e-6 in the ablation's epsilon-correction, else 0.
  """
  log_probs = tfp.distributions.Categorical(logits=logits).log_prob(actions)
  if epsilon:
    log_probs = tf.math.log(tf.exp(log_probs) + epsilon)
  return -tf.reduce_sum(log_probs * tf.stop_gradient(advantages))


def baseline_loss(values, targets) -> tf.Tensor:
  """1/2 sum (v_s - V(x_s))^2 for values and targets `[T, B]`; no gradient flows through the targets."""
  return 0.5 * tf.reduce_sum(tf.square(tf.stop_gradient(targets) - values))


def entropy_loss(logits) -> tf.Tensor:
  """Minus the sum of the policies' entropies, logits `[T, B, A]`: minimising it keeps the policy from collapsing."""
  return -tf.reduce_sum(tfp.distributions.Categorical(logits=logits).entropy())
