"""Discrete actions of IMPALA's policy: one choice, or several independent ones at once.

`Discrete(A)` is one categorical distribution over A logits. `MultiDiscrete([A_1, ..., A_K])` is K
independent ones, whose logits stand side by side, `[..., A_1 + ... + A_K]`; log-probabilities and
entropies of the whole action are sums over the K.

Functions of logits take `sizes`: None for one choice, or (A_1, ..., A_K).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from common import networks
from common.environments import masks
from common.environments import suite as suites

Sizes = Sequence[int] | None


def sizes_of(space: suites.ActionSpace) -> Sizes:
  """The `sizes` of an action space."""
  return None if space.shape == () else masks.sizes(space)


def shape_of(space: suites.ActionSpace) -> tuple[int, ...]:
  """The shape of one action: `()`, or `(K,)`."""
  return space.shape or ()


def num_logits(space: suites.ActionSpace) -> int:
  """The number of logits: A, or A_1 + ... + A_K."""
  return sum(masks.sizes(space))


def bounds(space: suites.ActionSpace) -> tuple[Any, Any]:
  """The lowest and the highest action, for `wire.Codec`; with several at once, of each `[K]`."""
  highest = np.array(masks.sizes(space)) - 1
  return 0, highest[0] if sizes_of(space) is None else highest


def log_prob(logits: tf.Tensor, actions: tf.Tensor, sizes: Sizes = None) -> tf.Tensor:
  """The logarithm of the probability of whole actions, float32 `[...]`.

  Args:
    logits: float32 `[..., A]`.
    actions: int32 `[...]`, or `[..., K]`.
    sizes: See the module.
  """
  if sizes is None:
    return -tf.nn.sparse_softmax_cross_entropy_with_logits(labels=actions, logits=logits)
  return tf.reduce_sum(log_prob(_components(logits, sizes), actions), axis=-1)


def entropy(logits: tf.Tensor, sizes: Sizes = None) -> tf.Tensor:
  """The entropy of the policy, float32 `[...]`, for logits float32 `[..., A]`."""
  if sizes is None:
    log_probs = tf.nn.log_softmax(logits)
    return -tf.reduce_sum(tf.exp(log_probs) * log_probs, axis=-1)
  return tf.reduce_sum(entropy(_components(logits, sizes)), axis=-1)


def sample(logits: tf.Tensor, sizes: Sizes, seed: int) -> tf.Tensor:
  """Actions drawn from the policy, int32 `[N]`, or `[N, K]`, for logits float32 `[N, A]`.

  From logits that are NaN, TensorFlow draws A, which no environment or loss can take: the highest
  action then stands in its place. The learner drops the trajectory for its logits.
  """
  if sizes is None:
    drawn = tf.random.categorical(logits, 1, dtype=tf.int32, seed=seed)  # [N, 1]
    return tf.minimum(tf.squeeze(drawn, axis=1), logits.shape[-1] - 1)
  parts = tf.reshape(_components(logits, sizes), [-1, max(sizes)])  # [N * K, largest]
  drawn = tf.reshape(sample(parts, None, seed), [-1, len(sizes)])
  return tf.minimum(drawn, np.array(sizes, np.int32) - 1)


def most_likely(logits: tf.Tensor, sizes: Sizes = None) -> tf.Tensor:
  """The policy's most likely actions, int32 `[N]`, or `[N, K]`, for logits float32 `[N, A]`."""
  if sizes is None:
    return tf.argmax(logits, axis=-1, output_type=tf.int32)
  return most_likely(_components(logits, sizes))


def one_hot(actions: tf.Tensor, space: suites.ActionSpace) -> tf.Tensor:
  """Actions int32 `[N]`, or `[N, K]`, as float32 `[N, A]`: a one in each component's part."""
  sizes = masks.sizes(space)
  if sizes_of(space) is None:
    return tf.one_hot(actions, sizes[0])
  padded = tf.one_hot(actions, max(sizes))  # [N, K, largest]
  return tf.boolean_mask(padded, _is_real(sizes), axis=1)


def assert_shapes(logits: tf.Tensor, actions: tf.Tensor, sizes: Sizes) -> None:
  """Asserts that actions `[T, B]`, or `[T, B, K]`, fit logits `[T, B, A]`, and their dtypes."""
  tf.debugging.assert_shapes([(logits, 'TBA'), (actions, 'TB' if sizes is None else 'TBK')])
  tf.debugging.assert_type(logits, tf.float32)
  tf.debugging.assert_type(actions, tf.int32)
  if sizes is not None and (logits.shape[-1], actions.shape[-1]) != (sum(sizes), len(sizes)):
    raise ValueError(
      f'{logits.shape[-1]} logits and {actions.shape[-1]} actions at once, expected {sum(sizes)} '
      f'and {len(sizes)}'
    )


def _components(logits: tf.Tensor, sizes: Sequence[int]) -> tf.Tensor:
  """The logits of the K distributions, float32 `[..., K, largest]`.

  Components of fewer actions than the largest are padded with actions that are never drawn: their
  probabilities are zero, and so is their share of the entropy.
  """
  largest = max(sizes)
  is_real = _is_real(sizes)  # [K, largest]
  if is_real.all():
    # Actors have an unknown number of environments.
    leading = [-1 if size is None else size for size in logits.shape[:-1]]
    return tf.reshape(logits, [*leading, len(sizes), largest])
  at = np.where(is_real, np.cumsum(is_real).reshape(is_real.shape) - 1, 0)
  return tf.where(is_real, tf.gather(logits, at, axis=-1), networks.ILLEGAL)


def _is_real(sizes: Sequence[int]) -> np.ndarray:
  """bool `[K, largest]`: the component has that many actions."""
  return np.arange(max(sizes)) < np.array(sizes)[:, np.newaxis]
