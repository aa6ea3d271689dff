"""Learning that neither a random nor a broken agent shows, through the command that users run."""

import pytest

from tests.common import learning


def test_cartpole_is_learned(tmp_path):
  # At most 500. Random play reaches 20 and one that always pushes the same way 9.
  result = learning.train('apex', tmp_path / 'run', '--env=gym:CartPole-v1')
  assert result['random']['mean'] < 40
  assert result['agent']['mean'] > 150


def test_pendulum_is_learned(tmp_path):
  # At most 0; hanging down without a motion is -1,900 or so, and random play reaches -1,200.
  result = learning.train('apex', tmp_path / 'run', '--env=gym:Pendulum-v1', '--total_frames=40000')
  assert result['random']['mean'] < -900
  assert result['agent']['mean'] > -400


@pytest.mark.long
def test_cartpole_swingup_is_learned(tmp_path):
  # At most 1,000. With critics that were broken on purpose, 150,000 frames came to 98 (without bootstrap values), and
  # 118,000 to 73 (without steps of the critic).
  result = learning.train(
    'apex', tmp_path / 'run', '--env=control:cartpole-swingup', '--total_frames=160000'
  )
  assert result['random']['mean'] < 60
  assert result['agent']['mean'] > 250
