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
import tensorflow_probability as tfp

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
    return tfp.distributions.Categorical(logits=logits).log_prob(actions)
  return tf.reduce_sum(_components(logits, sizes).log_prob(actions), axis=-1)


def entropy(logits: tf.Tensor, sizes: Sizes = None) -> tf.Tensor:
  """The entropy of the policy, float32 `[...]`, for logits float32 `[..., A]`."""
  if sizes is None:
    return tfp.distributions.Categorical(logits=logits).entropy()
  return tf.reduce_sum(_components(logits, sizes).entropy(), axis=-1)


def sample(logits: tf.Tensor, sizes: Sizes, seed: int) -> tf.Tensor:
  """Actions drawn from the policy, int32 `[N]`, or `[N, K]`, for logits float32 `[N, A]`.

  From logits that are NaN, TensorFlow draws A, which no environment or loss can take: the highest
  action then stands in its place. The learner drops the trajectory for its logits.
  """
  if sizes is None:
    drawn = tfp.distributions.Categorical(logits=logits).sample(seed=seed)
    return tf.minimum(drawn, logits.shape[-1] - 1)
  return tf.minimum(_components(logits, sizes).sample(seed=seed), np.array(sizes, np.int32) - 1)


def most_likely(logits: tf.Tensor, sizes: Sizes = None) -> tf.Tensor:
  """The policy's most likely actions, int32 `[N]`, or `[N, K]`, for logits float32 `[N, A]`."""
  if sizes is None:
    return tf.argmax(logits, axis=-1, output_type=tf.int32)
  return _components(logits, sizes).mode()


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


def _components(logits: tf.Tensor, sizes: Sequence[int]) -> Any:
  """The K distributions as one of batch shape `[..., K]`.

  Components of fewer actions than the largest are padded with actions that are never drawn: their
  probabilities are zero, and so is their share of the entropy.
  """
  largest = max(sizes)
  is_real = _is_real(sizes)  # [K, largest]
  if is_real.all():
    parts = tf.reshape(logits, [*logits.shape[:-1], len(sizes), largest])
  else:
    at = np.where(is_real, np.cumsum(is_real).reshape(is_real.shape) - 1, 0)
    parts = tf.where(is_real, tf.gather(logits, at, axis=-1), networks.ILLEGAL)
  return tfp.distributions.Categorical(logits=parts)  # [..., K, largest]


def _is_real(sizes: Sequence[int]) -> np.ndarray:
  """bool `[K, largest]`: the component has that many actions."""
  return np.arange(max(sizes)) < np.array(sizes)[:, np.newaxis]
