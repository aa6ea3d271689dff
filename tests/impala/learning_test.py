"""Learning beyond what random play or a broken agent reaches, through the command users run."""

import pytest

from tests.common import learning


# About 80 s of CPU time.
@pytest.mark.long
def test_cartpole_is_learned_with_an_lstm(tmp_path):
  # The maximum is 500. Random play reaches 20, always pushing the same way 9; seed 1 reached 497.
  result = learning.train('impala', tmp_path / 'run', '--env=gym:CartPole-v1')
  assert result['random']['mean'] < 40
  assert result['agent']['mean'] > 250


@pytest.mark.long
def test_cartpole_in_other_units_is_learned_with_normalised_observations(tmp_path):
  flags = (
    '--env=gym:CartPole-v1',
    '--wrappers=environments:Magnified',
    '--config.lstm=false',
    '--total_frames=100000',
  )
  result = learning.train('impala', tmp_path / 'with', '--config.normalize_observations', *flags)
  assert result['agent']['mean'] > 250
  assert learning.train('impala', tmp_path / 'without', *flags)['agent']['mean'] < 100


@pytest.mark.long
def test_catch_is_learned_from_pixels(tmp_path):
  # The maximum is 1. Random play reaches -0.6, no fixed action more; seed 1 reached 1.0 in all 30
  # episodes.
  result = learning.train(
    'impala',
    tmp_path / 'run',
    '--env=gym:environments:Catch-v0',
    '--config.torso=shallow',
    '--total_frames=150000',
  )
  assert result['random']['mean'] < 0
  assert result['agent']['mean'] > 0.8
