"""The 24 combinations of hyperparameters that sweeps and populations start from (IMPALA, Table D.1)."""

from typing import Any

import numpy as np

DRAWS = 24
_SEED = 180201561
_ENTROPY_COST, _LEARNING_RATE = (5e-5, 1e-2), (5e-6, 5e-3)  # Log-uniform.
_RMSPROP_EPSILON = (1e-1, 1e-3, 1e-5, 1e-7)


def draw(number: int) -> dict[str, Any]:
  """Combination `number` of 0 to 23: the same for every method that is compared, as in section 5.2."""
  rng = np.random.default_rng([_SEED, number])
  entropy_cost, learning_rate = (
    float(np.exp(rng.uniform(*np.log(bounds)))) for bounds in (_ENTROPY_COST, _LEARNING_RATE)
  )
  return dict(
    entropy_cost=entropy_cost,
    learning_rate=learning_rate,
    rmsprop_epsilon=_RMSPROP_EPSILON[rng.integers(len(_RMSPROP_EPSILON))],
  )
