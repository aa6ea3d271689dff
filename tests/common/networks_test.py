"""The torsos."""

import numpy as np
import pytest
import tensorflow as tf

from common import networks


@pytest.mark.parametrize(
  'torso, shape, width',
  [
    ('shallow', (72, 96, 3), 256),
    ('deep', (72, 96, 3), 256),
    ('shallow', (84, 84, 4), 256),
    ('deep', (84, 84, 4), 256),
    ('vector', (5,), 64),
  ],
)
def test_torsos_read_each_observation_by_itself(torso, shape, width):
  rng, network = np.random.default_rng(0), networks.TORSOS[torso]()
  if torso == 'vector':
    observations = rng.normal(size=(3, *shape)).astype(np.float32)
  else:
    observations = rng.integers(256, size=(3, *shape), dtype=np.uint8)
  features = network(tf.constant(observations))
  assert features.shape == (3, width) and features.dtype == tf.float32
  for i in range(3):
    alone = network(tf.constant(observations[i : i + 1]))[0]
    np.testing.assert_allclose(alone, features[i], rtol=1e-4, atol=1e-5)
  assert np.any(np.abs(features[0] - features[1]) > 1e-3)


def test_the_deep_torso_has_fifteen_convolutions():
  network = networks.DeepTorso()
  network(tf.zeros([1, 72, 96, 3], tf.uint8))
  assert sum(variable.shape.rank == 4 for variable in network.trainable_variables) == 15
