"""How DQN's actors explore: epsilons (Ape-X, section 4.1) and actions."""

import gymnasium
import numpy as np

from common.environments import masks

BASE_EPSILON = 0.4
EXPONENT = 7.0


def epsilons(count: int, distinct: int = 0) -> np.ndarray:
  """The ladder epsilon_i = eps^(1 + i / (N - 1) * alpha), eps = 0.4, alpha = 7 (section 4.1).

  Args:
    count: N, the number of environments of all actors together.
    distinct: The number of rungs, shared evenly by the environments (Figure 7 has 6); 0 for N.

  Returns:
    float32 `[N]`, falling from 0.4 to 0.4^8 = 6.55e-4; a single rung is 0.4.
  """
  rungs = distinct or count
  rung = np.arange(count) * rungs // count
  exponent = 1 + EXPONENT * rung / max(rungs - 1, 1)
  return (BASE_EPSILON**exponent).astype(np.float32)


def annealed(frames: int, period: int, final: float, count: int) -> np.ndarray:
  """Epsilons that fall linearly from 1 to `final`, and stay there (Mnih et al. 2015).

  Args:
    frames: Environment frames of the run so far.
    period: Frames in which they fall.
    final: The last value.
    count: N.

  Returns:
    float32 `[N]`, all equal.
  """
  share = min(1.0, frames / period)
  return np.full(count, 1.0 + share * (final - 1.0), np.float32)


def greediest(epsilon: np.ndarray, share: float = 1 / 8) -> np.ndarray:
  """Selects the share of environments with the smallest epsilons, at least one: bool `[N]`."""
  # The inverse permutation of argsort ranks the environments from the smallest epsilon on.
  rank = np.argsort(np.argsort(epsilon, kind='stable'), kind='stable')
  return rank < max(1, round(share * len(epsilon)))


def epsilon_greedy(
  q_values: np.ndarray,
  epsilon: np.ndarray,
  rng: np.random.Generator,
  mask: np.ndarray | None = None,
) -> np.ndarray:
  """Draws a uniform action with probability epsilon, else takes the best one.

  Args:
    q_values: `[N, A]`; those of illegal actions are lower than all others.
    epsilon: `[N]`.
    rng: Where random numbers come from.
    mask: `[N, A]`, the actions to draw from; None for all.

  Returns:
    Actions int32 `[N]`.

  Raises:
    ValueError: If there is not one epsilon for each row; it would be broadcast.
  """
  if q_values.ndim != 2 or epsilon.shape != q_values.shape[:1]:
    raise ValueError(
      f'q_values have shape {q_values.shape} and epsilon {epsilon.shape}, expected [N, A] and [N]'
    )
  explores = rng.random(len(q_values)) < epsilon
  if mask is None:
    uniform = rng.integers(q_values.shape[1], size=len(q_values))
  else:
    uniform = masks.random_legal(gymnasium.spaces.Discrete(q_values.shape[1]), mask, rng)
  return np.where(explores, uniform, q_values.argmax(axis=1)).astype(np.int32)
