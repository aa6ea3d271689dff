"""The 24 combinations that sweeps start from: always the same, distributed as in Table D.1."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from scipy import stats

from common import errors
from impala import config as configs
from impala import hyperparameters

# Table D.1.
ENTROPY_COST = (5e-5, 1e-2)
LEARNING_RATE = (5e-6, 5e-3)
EPSILONS = (1e-1, 1e-3, 1e-5, 1e-7)
MANY = 4000  # Far more than 24, for statistics.


@pytest.fixture(scope='module')
def many():
  """The values of many draws by name."""
  draws = [hyperparameters.draw(number) for number in range(MANY)]
  return {name: np.array([draw[name] for draw in draws]) for name in draws[0]}


def the_24():
  return [hyperparameters.draw(number) for number in range(24)]


def test_there_are_24_and_they_hold_three_settings_of_the_config():
  assert hyperparameters.DRAWS == configs.PRESETS.draws == 24
  fields = {field.name for field in dataclasses.fields(configs.Config)}
  for draw in the_24():
    assert set(draw) == {'entropy_cost', 'learning_rate', 'rmsprop_epsilon'} <= fields
    assert all(type(value) is float for value in draw.values())


def test_they_are_the_same_each_time_and_in_any_order():
  assert the_24() == the_24()
  assert hyperparameters.draw(7) == the_24()[7]


def test_they_are_the_same_in_another_process_whatever_was_drawn_before():
  program = (
    'import numpy; numpy.random.seed(5); numpy.random.random(3)\n'
    'from impala import hyperparameters\n'
    'print([hyperparameters.draw(number) for number in (23, 0)])'
  )
  printed = subprocess.run(
    [sys.executable, '-c', program], capture_output=True, text=True, check=True
  ).stdout
  assert printed.strip() == repr([the_24()[23], the_24()[0]])


def test_they_are_all_different():
  for name in ('entropy_cost', 'learning_rate'):
    assert len({draw[name] for draw in the_24()}) == 24


def test_they_are_within_the_table_s_ranges(many):
  ranges = {'entropy_cost': ENTROPY_COST, 'learning_rate': LEARNING_RATE}
  for name, (low, high) in ranges.items():
    assert np.all((low <= many[name]) & (many[name] <= high))
  assert set(many['rmsprop_epsilon']) == set(EPSILONS)


@pytest.mark.parametrize(
  'name, bounds', [('entropy_cost', ENTROPY_COST), ('learning_rate', LEARNING_RATE)]
)
def test_ranges_are_drawn_from_log_uniformly(many, name, bounds):
  low, high = np.log(bounds)
  assert stats.kstest(np.log(many[name]), stats.uniform(low, high - low).cdf).pvalue > 1e-3
  # The 24 themselves reach both ends of the range, which spans at least two decades.
  drawn = np.log([draw[name] for draw in the_24()])
  assert drawn.min() < low + 0.25 * (high - low) and drawn.max() > low + 0.75 * (high - low)


def test_each_epsilon_is_as_likely_as_the_others(many):
  counts = [np.sum(many['rmsprop_epsilon'] == epsilon) for epsilon in EPSILONS]
  assert stats.chisquare(counts).pvalue > 1e-3
  assert {draw['rmsprop_epsilon'] for draw in the_24()} == set(EPSILONS)


def test_the_three_are_drawn_independently(many):
  columns = [np.log(many[name]) for name in ('entropy_cost', 'learning_rate', 'rmsprop_epsilon')]
  correlations = np.corrcoef(columns)[np.triu_indices(3, 1)]
  assert np.all(np.abs(correlations) < 4 / np.sqrt(MANY))


@pytest.mark.parametrize('row', ['dmlab', 'table_3_deep', 'atari_deep', 'doom'])
def test_any_preset_takes_them(row):
  """All other settings are the preset's."""
  base = dataclasses.asdict(configs.PRESETS.preset(row))
  for number in range(24):
    config = configs.PRESETS.preset(f'{row}:{number}')
    config.check()
    assert dataclasses.asdict(config) == base | the_24()[number]


@pytest.mark.parametrize('number', ['24', '-1', 'one'])
def test_there_is_no_25th(number):
  with pytest.raises(errors.UserError, match='dmlab:0 to dmlab:23'):
    configs.PRESETS.preset(f'dmlab:{number}')
