"""Growth is told from noise and outliers."""

import numpy as np
import pytest

from scripts import growth

MINUTES = np.linspace(0.0, 20.0, 241).tolist()
LIMIT = growth.Limit(per_minute=0.5, noise=5.0)


def trend(values, limit=LIMIT):
  return growth.trend('learner MB', MINUTES, np.asarray(values).tolist(), limit)


@pytest.mark.parametrize('per_minute, has_grown', [(0.0, False), (0.4, False), (0.6, True)])
def test_a_slope_is_found_in_noise_and_despite_outliers(per_minute, has_grown):
  rng = np.random.default_rng(0)
  values = 500 + per_minute * np.array(MINUTES) + rng.normal(0, 1, len(MINUTES))
  values[::10] += 300  # A checkpoint is being written.
  found = trend(values)
  assert found.per_minute == pytest.approx(per_minute, abs=0.03)
  assert found.rise == pytest.approx(20 * per_minute, abs=0.6)
  assert found.has_grown == has_grown


def test_a_steep_rise_that_is_small_in_all_is_noise():
  limit = growth.Limit(per_minute=0.5, noise=21.0)
  assert trend(1.0 * np.array(MINUTES)).has_grown
  assert not trend(1.0 * np.array(MINUTES), limit).has_grown


def test_falling_is_not_growing():
  assert not trend(-3.0 * np.array(MINUTES)).has_grown


def test_counts_that_step_up_for_good_have_grown():
  """A process that is left behind halfway."""
  limit = growth.Limit(per_minute=0.0, noise=0.5)
  assert trend(np.array(MINUTES) > 10, limit).has_grown
  assert not trend(np.array(MINUTES) == 10, limit).has_grown  # It was there once.


def test_the_table_and_the_words_name_by_how_much():
  found = trend(100 + 2.0 * np.array(MINUTES))
  assert found.describe() == 'learner MB grew by 40.0: 2.00 a minute, allowed 0.5'
  head, line = growth.table([found]).splitlines()
  assert head.split() == 'after warm-up first last most per minute allowed'.split()
  assert line.split() == 'learner MB 102.0 138.2 140.0 2.00 0.5 GREW'.split()
