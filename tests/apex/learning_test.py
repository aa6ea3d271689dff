"""Learning through the command that users run, which neither a random nor a broken agent shows."""

import pytest

from tests.common import learning


@pytest.mark.long
def test_pendulum_is_learned(tmp_path):
  # At most 0. Hanging down without moving returns about -1,900, and random play -1,200.
  # With a shorter horizon than the preset's it takes half the frames.
  flags = ['--env=gym:Pendulum-v1', '--total_frames=24000', '--config.discount=0.95']
  result = learning.train('apex', tmp_path / 'run', *flags)
  assert result['random']['mean'] < -900
  assert result['agent']['mean'] > -400


@pytest.mark.long
def test_cartpole_is_learned(tmp_path):
  # At most 500. Random play returns about 20, and always pushing the same way 9.
  result = learning.train('apex', tmp_path / 'run', '--env=gym:CartPole-v1')
  assert result['random']['mean'] < 40
  assert result['agent']['mean'] > 150


@pytest.mark.long
def test_cartpole_swingup_is_learned(tmp_path):
  # At most 1,000. With critics broken on purpose, 150,000 frames reached 98 (without bootstrap
  # values), and 118,000 reached 73 (without steps of the critic).
  result = learning.train(
    'apex', tmp_path / 'run', '--env=control:cartpole-swingup', '--total_frames=160000'
  )
  assert result['random']['mean'] < 60
  assert result['agent']['mean'] > 250
