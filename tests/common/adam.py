"""Adam in plain NumPy, float64."""

from typing import Sequence

import numpy as np


class NumpyAdam:
  """Adam as at the end of section 2 of its paper (arXiv 1412.6980)."""

  def __init__(
    self,
    arrays: Sequence[np.ndarray],
    learning_rate: float,
    beta_1: float = 0.9,
    beta_2: float = 0.999,
    epsilon: float = 1e-8,
  ):
    self._learning_rate = learning_rate
    self._beta_1 = beta_1
    self._beta_2 = beta_2
    self._epsilon = epsilon
    self._steps = 0
    self._first_moments = [np.zeros_like(array) for array in arrays]
    self._second_moments = [np.zeros_like(array) for array in arrays]

  def apply(self, gradients: Sequence[np.ndarray], arrays: Sequence[np.ndarray]) -> None:
    """Takes one step; changes `arrays` in place."""
    self._steps += 1
    beta_1 = self._beta_1
    beta_2 = self._beta_2
    rate = self._learning_rate * np.sqrt(1.0 - beta_2**self._steps) / (1.0 - beta_1**self._steps)
    moments = (self._first_moments, self._second_moments)
    for array, gradient, first, second in zip(arrays, gradients, *moments, strict=True):
      first[...] = beta_1 * first + (1.0 - beta_1) * gradient
      second[...] = beta_2 * second + (1.0 - beta_2) * gradient**2
      array -= rate * first / (np.sqrt(second) + self._epsilon)
