"""How the actors explore (Ape-X, sections 4.1 and 4.2)."""

import numpy as np

BASE_EPSILON, EXPONENT = 0.4, 7.0


def epsilons(count: int, distinct: int = 0) -> np.ndarray:
  """The ladder: epsilon_i = eps^(1 + i / (N - 1) * alpha), eps = 0.4, alpha = 7 (section 4.1).

  Args:
    count: N, all environments of all actors.
    distinct: how many rungs there are, each with as many environments as the next (Figure 7 has 6); 0 for N.

  Returns:
    float32 `[N]`, falling from 0.4 to 0.4^8 = 6.55e-4; a single rung is 0.4.
  """
  rungs = distinct or count
  rung = np.arange(count) * rungs // count
  return (BASE_EPSILON ** (1 + EXPONENT * rung / max(rungs - 1, 1))).astype(np.float32)


def greediest(epsilon: np.ndarray, share: float = 1 / 8) -> np.ndarray:
  """Whose episodes make the learning curves: bool `[N]`, the eighth with the smallest epsilons, at least one."""
  return np.argsort(np.argsort(epsilon, kind='stable'), kind='stable') < max(
    1, round(share * len(epsilon))
  )


def epsilon_greedy(
  q_values: np.ndarray, epsilon: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
  """Actions int32 `[N]` for q-values `[N, A]`: any with probability epsilon `[N]`, else the best."""
  explores = rng.random(len(q_values)) < epsilon
  anything = rng.integers(q_values.shape[1], size=len(q_values))
  return np.where(explores, anything, q_values.argmax(axis=1)).astype(np.int32)


def gaussian_noise(count: int, size: int, sigma: float, rng: np.random.Generator) -> np.ndarray:
  """What is added to actions, float32 `[N, A]`: each number independent of all others, also of those before it."""
  return rng.normal(scale=sigma, size=(count, size)).astype(np.float32)
