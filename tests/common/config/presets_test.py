"""Presets by name, and presets with a combination of hyperparameters."""

import dataclasses

import pytest

from common import errors
from common.config import presets, settings


@dataclasses.dataclass
class Config(settings.Settings):
  """A system's config."""

  num_actors: int = 2
  envs_per_actor: int = 3
  rate: float = 0.5


PRESETS = presets.Presets(
  config=Config,
  rows={'slow': {'rate': 0.1, 'seed': 9}, 'fast': {}},
  families={},
  default='slow',
  draws=3,
  draw=lambda number: {'rate': 10.0 + number},
)


def test_a_numbered_preset_has_that_combination_and_its_own_other_values():
  assert PRESETS.preset('slow') == Config(rate=0.1, seed=9)
  assert PRESETS.preset('slow:0') == Config(rate=10.0, seed=9)
  assert PRESETS.preset('slow:2') == Config(rate=12.0, seed=9)
  assert PRESETS.preset('fast:1') == Config(rate=11.0)


@pytest.mark.parametrize(
  'name', ['slow:3', 'slow:-1', 'slow:x', 'slow:1.0', 'slow:1:1', 'slow: 1', 'slow:', 'slow:99']
)
def test_an_invalid_number_is_refused_with_the_valid_ones(name):
  with pytest.raises(errors.UserError, match='expected slow, or slow:0 to slow:2'):
    PRESETS.preset(name)


def test_a_numbered_preset_that_does_not_exist_suggests_one_that_does():
  with pytest.raises(errors.UserError, match="unknown preset 'slwo:1'. Did you mean slow"):
    PRESETS.preset('slwo:1')


def test_a_system_without_combinations_says_so():
  without = dataclasses.replace(PRESETS, draws=0, draw=None)
  assert without.preset('slow').seed == 9
  with pytest.raises(errors.UserError, match='expected slow, without a number'):
    without.preset('slow:0')


def test_a_preset_is_a_copy():
  PRESETS.preset('slow').seed = 1000
  assert PRESETS.preset('slow').seed == 9
