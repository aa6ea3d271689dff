"""The encoder of observations: the parts it reads, and the networks for small images and grids."""

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common import encoder as encoders
from common import networks

N = 3


def space(**parts):
  boxes = {
    'image': gymnasium.spaces.Box(0, 255, (24, 20, 3), np.uint8),
    'vector': gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32),
    'words': gymnasium.spaces.Box(-1, 999, (32,), np.int32),
    'mask': gymnasium.spaces.Box(0, 1, (4,), np.uint8),
  }
  return gymnasium.spaces.Dict({name: boxes[kind] for name, kind in parts.items()})


ALL = space(observation='image', vector='vector', instruction='words', action_mask='mask')


def draw(of, seed):
  rng = np.random.default_rng(seed)
  drawn = {}
  for name, box in of.spaces.items():
    if box.dtype == np.float32:
      values = rng.normal(size=(N, *box.shape))
    else:
      values = rng.integers(int(box.low.min()), int(box.high.max()) + 1, size=(N, *box.shape))
    drawn[name] = tf.constant(values, tf.as_dtype(box.dtype))
  return drawn


def test_features_of_all_parts_stand_side_by_side():
  encoder = encoders.ObservationEncoder(ALL, 'shallow', vector_sizes=(7, 6), instruction_size=10)
  observation = draw(ALL, 0)
  features = encoder(observation)
  assert features.shape == (N, 256 + 6 + 10) and features.dtype == tf.float32
  # A part changes its own features only.
  places = {'observation': (0, 256), 'vector': (256, 262), 'instruction': (262, 272)}
  for name, (first, last) in places.items():
    other = encoder({**observation, name: draw(ALL, 1)[name]})
    differs = np.any(features.numpy() != other.numpy(), axis=0)
    assert differs[first:last].any()
    assert not differs[:first].any() and not differs[last:].any()


def test_the_mask_is_no_input():
  encoder = encoders.ObservationEncoder(ALL, 'shallow')
  observation = draw(ALL, 0)
  other = {**observation, 'action_mask': 1 - observation['action_mask']}
  np.testing.assert_array_equal(encoder(observation), encoder(other))


def test_without_sizes_vectors_are_their_own_features():
  encoder = encoders.ObservationEncoder(space(observation='vector'), 'vector', vector_sizes=())
  observation = draw(encoder.space, 0)
  np.testing.assert_array_equal(encoder(observation), observation['observation'])


@pytest.mark.parametrize('name', ['observation', 'vector', 'instruction', 'action_mask'])
def test_another_shape_or_dtype_is_refused(name):
  encoder = encoders.ObservationEncoder(ALL, 'shallow')
  observation = draw(ALL, 0)
  with pytest.raises(ValueError, match=name):
    encoder({**observation, name: observation[name][..., tf.newaxis]})
  with pytest.raises(TypeError):
    encoder({**observation, name: tf.cast(observation[name], tf.float64)})


@pytest.mark.parametrize('size', [(1, 1), (7, 7), (10, 3), (19, 19)], ids=str)
@pytest.mark.parametrize('torso', ['small', 'grid', 'deep'])
def test_small_images_of_any_size_can_be_read(torso, size):
  network = networks.TORSOS[torso]()
  images = np.random.default_rng(0).integers(0, 6, (N, *size, 3), dtype=np.uint8)
  features = network(tf.constant(images))
  assert features.shape == (N, 64 if torso == 'grid' else 256)
  assert np.any(features[0] != features[1])


def test_the_small_torso_has_two_convolutions_and_a_layer():
  network = networks.SmallTorso()
  network(tf.zeros([1, 7, 7, 3], tf.uint8))
  expected = (9 * 3 * 16 + 16) + (9 * 16 * 32 + 32) + (7 * 7 * 32 * 256 + 256)
  assert sum(v.shape.num_elements() for v in network.trainable_variables) == expected


class TestGrid:
  """Cells of one row: an object, a colour and a state each."""

  def embedded(self, network, cells):
    """The cells' vectors, computed from the table by hand."""
    (table,) = [v.numpy() for v in network.trainable_variables if 'embed' in v.name]
    rows = np.minimum(cells, 31) + [0, 32, 64]
    return sum(table[rows[..., kind]] for kind in range(3))

  def test_a_cell_is_the_sum_of_its_three_symbols(self):
    network = networks.GridTorso()
    cells = np.random.default_rng(1).integers(0, 256, (N, 1, 1, 3), dtype=np.uint8)
    features = network(tf.constant(cells))
    x = self.embedded(network, cells.astype(int))[:, 0, 0]
    # Of a single cell, a convolution sees no neighbours. Biases begin at 0.
    weights = [v.numpy() for v in network.trainable_variables if v.name.endswith('/w:0')]
    first, second, last = sorted(weights, key=lambda w: (-w.ndim, w.size))
    x = np.maximum(x @ first[1, 1], 0)
    x = np.maximum(x @ second[1, 1], 0)
    x = np.maximum(x @ last, 0)
    np.testing.assert_allclose(features, x, rtol=1e-5, atol=1e-6)

  def test_a_view_of_49_cells_is_halved_twice(self):
    network = networks.GridTorso()
    network(tf.zeros([1, 7, 7, 3], tf.uint8))
    expected = 96 * 8 + (9 * 8 * 32 + 32) + (9 * 32 * 32 + 32) + (2 * 2 * 32 * 64 + 64)
    assert sum(v.shape.num_elements() for v in network.trainable_variables) == expected

  def test_symbols_that_are_seen_are_learned_and_no_others(self):
    network = networks.GridTorso()
    cells = tf.constant([[[[2, 5, 0], [1, 0, 0]]]], tf.uint8)
    with tf.GradientTape() as tape:
      loss = tf.reduce_sum(network(cells))
    (table,) = [v for v in network.trainable_variables if 'embed' in v.name]
    gradient = tf.convert_to_tensor(tape.gradient(loss, table)).numpy()
    assert np.flatnonzero(np.any(gradient != 0, axis=1)).tolist() == [1, 2, 32, 37, 64]
