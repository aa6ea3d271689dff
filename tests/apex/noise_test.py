"""Ornstein-Uhlenbeck noise against its recursion and its moments; Gaussian noise beside it."""

import numpy as np
import pytest
from scipy import stats

from apex import config as configs
from apex import noise

THETA = 0.15
SIGMA = 0.2
# A draw less likely than this fails a test; seeds are fixed, so that it is decided once.
SIGNIFICANCE = 1e-3


def play(process, steps, count, starts=()):
  """The noise of some steps, `[T, N, A]`; at (step, environment) in `starts` a game starts."""
  start = np.zeros((steps, count), bool)
  for place in starts:
    start[place] = True
  return np.stack([process(row) for row in start])


def test_a_step_is_the_recursion_and_a_game_begins_at_zero():
  process = noise.OrnsteinUhlenbeck(3, 2, THETA, SIGMA, seed=5)
  drawn = play(process, 40, 3, starts=[(20, 1)])
  assert drawn.dtype == np.float32 and drawn.shape == (40, 3, 2)
  draws = np.random.default_rng(5).normal(scale=SIGMA, size=drawn.shape)
  x = np.zeros((3, 2))
  for t in range(40):
    if t == 20:
      x[1] = 0.0
    x = x + THETA * (0.0 - x) + draws[t]
    np.testing.assert_allclose(drawn[t], x, rtol=1e-6, atol=1e-7)


def test_its_moments_are_those_of_the_stationary_process():
  count = 4_000
  drawn = play(noise.OrnsteinUhlenbeck(count, 1, THETA, SIGMA, seed=1), 60, count)[:, :, 0]
  keep = 1.0 - THETA
  for t in (0, 2, 59):
    variance = SIGMA**2 * (1 - keep ** (2 * (t + 1))) / (1 - keep**2)
    assert stats.kstest(drawn[t], stats.norm(0.0, np.sqrt(variance)).cdf).pvalue > SIGNIFICANCE
  for lag in (1, 5):
    # Fisher's transformation of a correlation is normal with this standard deviation.
    found = np.arctanh(np.corrcoef(drawn[59], drawn[59 - lag])[0, 1])
    assert abs(found - np.arctanh(keep**lag)) < 3.3 / np.sqrt(count - 3)


@pytest.mark.parametrize(
  'preset, kind', [('ddpg', noise.OrnsteinUhlenbeck), ('control', noise.Gaussian)]
)
def test_the_config_chooses(preset, kind):
  config = configs.PRESETS.preset(preset)
  made = noise.make(config, 2, seed=3)
  assert isinstance(made, kind)
  start = np.zeros(config.envs_per_actor, bool)
  again = noise.make(config, 2, seed=3)
  np.testing.assert_array_equal(made(start), again(start))
  assert np.all(made(start) != noise.make(config, 2, seed=4)(start))
