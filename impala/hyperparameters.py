"""The 24 combinations of hyperparameters that sweeps and populations start from (Table D.1)."""

import numpy as np

DRAWS = 24
_SEED = 180201561

# Table D.1: two log-uniform ranges and a categorical.
_ENTROPY_COST = (5e-5, 1e-2)
_LEARNING_RATE = (5e-6, 5e-3)
_RMSPROP_EPSILON = (1e-1, 1e-3, 1e-5, 1e-7)


def draw(number: int) -> dict[str, float]:
  """Combination `number` of 0 to 23: config fields by name.

  The combinations are fixed, so all methods compared in a sweep get the same ones (section 5.2).
  """
  rng = np.random.default_rng([_SEED, number])
  # The order of the draws is part of the combination: never change it.
  entropy_cost = _log_uniform(rng, *_ENTROPY_COST)
  learning_rate = _log_uniform(rng, *_LEARNING_RATE)
  rmsprop_epsilon = _RMSPROP_EPSILON[rng.integers(len(_RMSPROP_EPSILON))]
  return {
    'entropy_cost': entropy_cost,
    'learning_rate': learning_rate,
    'rmsprop_epsilon': rmsprop_epsilon,
  }


def _log_uniform(rng: np.random.Generator, low: float, high: float) -> float:
  return float(np.exp(rng.uniform(*np.log([low, high]))))
