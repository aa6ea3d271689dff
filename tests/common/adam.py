"""Adam in plain NumPy, float64."""

from typing import Sequence

import numpy as np


class NumpyAdam:
  """Adam as at the end of section 2 of its paper (arXiv 1412.6980)."""

  def __init__(self, arrays: Sequence[np.ndarray], learning_rate: float):
    self._learning_rate = learning_rate
    self._steps = 0
    self._first_moments = [np.zeros_like(array) for array in arrays]
    self._second_moments = [np.zeros_like(array) for array in arrays]

  def apply(self, gradients: Sequence[np.ndarray], arrays: Sequence[np.ndarray]) -> None:
    """Takes one step; changes `arrays` in place."""
    self._steps += 1
    rate = self._learning_rate * np.sqrt(1.0 - 0.999**self._steps) / (1.0 - 0.9**self._steps)
    moments = (self._first_moments, self._second_moments)
    for array, gradient, first, second in zip(arrays, gradients, *moments, strict=True):
      first[...] = 0.9 * first + 0.1 * gradient
      second[...] = 0.999 * second + 0.001 * gradient**2
      array -= rate * first / (np.sqrt(second) + 1e-8)
