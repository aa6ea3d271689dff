"""Learning that neither a random nor a broken agent shows, through the command that users run."""

from tests.common import learning


def test_cartpole_is_learned(tmp_path):
  # At most 500. Random play reaches 20 and one that always pushes the same way 9.
  result = learning.train('apex', tmp_path / 'run', '--env=gym:CartPole-v1')
  assert result['random']['mean'] < 40
  assert result['agent']['mean'] > 150
