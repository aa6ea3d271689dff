"""The noise that DPG's actors add to their actions: float32 `[N, A]` at each step.

Gaussian (Ape-X, section 4.2), or Ornstein-Uhlenbeck (DDPG, Lillicrap et al. 2016).
"""

from typing import Protocol

import numpy as np

from apex import config as configs


class Noise(Protocol):
  """A random process for each environment of one actor. Its draws are seeded."""

  def __call__(self, start: np.ndarray) -> np.ndarray:
    """The noise of the next step.

    Args:
      start: bool `[N]`, where a game starts.

    Returns:
      float32 `[N, A]`.
    """


class Gaussian:
  """Independent draws, uncorrelated over time too."""

  def __init__(self, size: int, sigma: float, seed: int):
    """Makes a generator.

    Args:
      size: A, the length of an action.
      sigma: The standard deviation of each element.
      seed: Seeds the draws.
    """
    self._size = size
    self._sigma = sigma
    self._rng = np.random.default_rng(seed)

  def __call__(self, start: np.ndarray) -> np.ndarray:
    """See `Noise`."""
    return self._rng.normal(scale=self._sigma, size=(len(start), self._size)).astype(np.float32)


class OrnsteinUhlenbeck:
  """x <- x + theta (0 - x) + sigma N(0, 1), which begins at 0 in each game.

  The process in steps of time 1. It explores with momentum: after many steps its standard deviation
  is sigma / sqrt(1 - (1 - theta)^2), and k steps apart its values correlate by (1 - theta)^k.
  """

  def __init__(self, count: int, size: int, theta: float, sigma: float, seed: int):
    """Begins at 0.

    Args:
      count: N.
      size: A, the length of an action.
      theta: The share of the noise that fades in a step.
      sigma: The standard deviation of each element's draw.
      seed: Seeds the draws.
    """
    self._theta = theta
    self._sigma = sigma
    self._rng = np.random.default_rng(seed)
    self._state = np.zeros([count, size])

  def __call__(self, start: np.ndarray) -> np.ndarray:
    """See `Noise`."""
    self._state[start] = 0.0
    draws = self._rng.normal(scale=self._sigma, size=self._state.shape)
    self._state += draws - self._theta * self._state
    return self._state.astype(np.float32)


def make(config: configs.Config, size: int, seed: int) -> Noise:
  """The noise of one actor for actions of length `size`, by `config.noise`."""
  if config.noise == 'gaussian':
    return Gaussian(size, config.noise_sigma, seed)
  return OrnsteinUhlenbeck(
    config.envs_per_actor, size, config.noise_theta, config.noise_sigma, seed
  )
