"""Spaces of every kind become pixels, words, masks and vectors, as gymnasium flattens them."""

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from common import errors
from common.environments import images, observations, suite

Reader = observations.Reader
PIXELS = spaces.Box(0, 255, (9, 8, 3), np.uint8)

NUMBERS = [
  spaces.Box(-2.0, 3.0, (4,), np.float32),
  spaces.Box(-np.inf, np.inf, (5, 5), np.float64),
  spaces.Box(0, 9, (2, 3, 2), np.int64),
  spaces.Box(-1.0, 1.0, (), np.float32),
  spaces.Discrete(5),
  spaces.Discrete(3, start=-1),
  spaces.MultiDiscrete([3, 4]),
  spaces.MultiDiscrete([2, 3], start=[1, -2]),
  spaces.MultiBinary(6),
  spaces.MultiBinary((2, 3)),
  spaces.Tuple((spaces.Discrete(32), spaces.Discrete(11), spaces.Discrete(2))),
  spaces.Dict(
    goal=spaces.Box(-1.0, 1.0, (3,)),
    inner=spaces.Dict(b=spaces.Discrete(4), a=spaces.Tuple((spaces.MultiBinary(2),))),
  ),
]


@pytest.mark.parametrize('space', NUMBERS, ids=str)
def test_numbers_are_flattened_as_gymnasium_does(space):
  space.seed(1)
  reader = Reader(space)
  for _ in range(20):
    sample = space.sample()
    read = reader(sample)
    assert read.keys() == {'observation'} == reader.space.spaces.keys()
    expected = spaces.utils.flatten(space, sample).astype(np.float32)
    np.testing.assert_array_equal(read['observation'], expected)
    assert read['observation'] in reader.space['observation']


def test_images_texts_and_numbers_of_a_nested_dict_are_told_apart():
  space = spaces.Dict(
    camera=PIXELS,
    body=spaces.Dict(speed=spaces.Box(-1.0, 1.0, (2,)), gear=spaces.Discrete(3)),
    told=spaces.Tuple((spaces.Text(20), spaces.Text(20))),
  )
  sample = {
    'camera': np.full((9, 8, 3), 7, np.uint8),
    'body': {'speed': np.array([0.5, -0.5], np.float32), 'gear': 2},
    'told': ('go to', 'the red door'),
  }
  read = Reader(space)(sample)
  np.testing.assert_array_equal(read['observation'], sample['camera'])
  np.testing.assert_array_equal(read['vector'], [0.5, -0.5, 0, 0, 1])
  np.testing.assert_array_equal(read['instruction'], suite.hash_words('go to the red door'))
  assert read in Reader(space).space


class Mission(spaces.Space):
  """MiniGrid's own space of texts is no `Text`."""

  def __init__(self):
    super().__init__(dtype=str)


def test_a_space_of_strings_of_its_own_is_text():
  read = Reader(spaces.Dict(image=PIXELS, mission=Mission()))
  sample = {'image': np.zeros((9, 8, 3), np.uint8), 'mission': 'open the door'}
  np.testing.assert_array_equal(read(sample)['instruction'], suite.hash_words('open the door'))


def test_text_alone_stands_beside_one_zero():
  read = Reader(spaces.Text(9))('go')
  np.testing.assert_array_equal(read['observation'], [0.0])


@pytest.mark.parametrize(
  'shape, dtype, high, expected',
  [
    ((9, 8, 3), np.uint8, 255, (9, 8, 3)),
    ((9, 8, 1), np.uint8, 255, (9, 8, 1)),
    ((9, 8, 4), np.uint8, 255, (9, 8, 4)),
    ((9, 8), np.uint8, 255, (9, 8, 1)),
    ((3, 9, 8), np.uint8, 255, (9, 8, 3)),
    ((4, 84, 84), np.uint8, 255, (84, 84, 4)),
    ((12, 84, 84), np.uint8, 255, (84, 84, 12)),
    ((7, 7, 3), np.uint8, 255, (7, 7, 3)),
    ((4, 9, 8, 3), np.uint8, 255, (9, 8, 12)),
    ((9, 8, 3), np.float32, 1.0, (9, 8, 3)),
    ((1, 9, 8), np.float64, 1.0, (9, 8, 1)),
    ((10, 10, 6), np.bool_, 1, (10, 10, 6)),
    ((9, 8, 3), np.float32, 255.0, (9, 8, 3)),
  ],
)
def test_images_get_their_channels_last(shape, dtype, high, expected):
  space = spaces.Box(0, high, shape, dtype)
  reader = Reader(space)
  assert reader.space['observation'] == spaces.Box(0, 255, expected, np.uint8)
  assert bool(reader.notes) == (len(shape) == 3 and shape != expected)
  # A pixel at row 2, column 5, of the last channel.
  image = np.zeros(shape, dtype)
  at = {2: (2, 5), 3: (2, 5, -1), 4: (-1, 2, 5, -1)}[len(shape)]
  if len(shape) == 3 and shape != expected:
    at = (-1, 2, 5)
  image[at] = high
  pixels = reader(image)['observation']
  assert pixels[2, 5, -1] == 255 and pixels.astype(int).sum() == 255


@pytest.mark.parametrize(
  'space',
  [
    spaces.Box(-1.0, 1.0, (9, 8, 3)),
    spaces.Box(0.0, 1.0, (5, 5)),
    spaces.Box(0, 255, (84,), np.uint8),
    spaces.Box(0, 10, (9, 9), np.int32),
    spaces.Box(0.0, 1.0, (9, 8, 7)),
  ],
  ids=str,
)
def test_other_boxes_are_no_images(space):
  assert Reader(space).space['observation'].shape == (np.prod(space.shape),)


def test_fractions_of_brightness_are_rounded_to_bytes():
  read = Reader(spaces.Box(0.0, 1.0, (8, 8, 1)))
  image = np.full((8, 8, 1), 0.5, np.float32)
  image[0, 0] = 1.0001  # Some overshoot.
  pixels = read(image)['observation']
  assert pixels[0, 0] == 255 and pixels[1, 1] == 128


def test_images_of_one_size_stand_side_by_side():
  space = spaces.Dict(left=PIXELS, right=spaces.Box(0, 255, (9, 8), np.uint8))
  left = np.arange(9 * 8 * 3).astype(np.uint8).reshape(9, 8, 3)
  right = np.full((9, 8), 3, np.uint8)
  pixels = Reader(space)({'left': left, 'right': right})['observation']
  np.testing.assert_array_equal(pixels, np.concatenate([left, right[..., np.newaxis]], axis=-1))


def test_images_of_two_sizes_need_a_size():
  space = spaces.Dict(near=PIXELS, far=spaces.Box(0, 255, (16, 16, 3), np.uint8))
  with pytest.raises(errors.UserError, match='several sizes.*--config.image_size'):
    Reader(space)
  read = Reader(space, view=observations.View(size=(8, 8)))
  assert read.space['observation'].shape == (8, 8, 6)
  assert read(space.sample())['observation'].shape == (8, 8, 6)


class Shows(gymnasium.Env):
  """For gymnasium's wrappers."""

  action_space = spaces.Discrete(2)

  def __init__(self, space):
    self.observation_space = space

  def reset(self, *, seed=None, options=None):
    return self.observation_space.sample(), {}


def test_grey_and_resized_are_what_gymnasiums_wrappers_make():
  space = spaces.Box(0, 255, (40, 50, 3), np.uint8, seed=3)
  env = gymnasium.wrappers.GrayscaleObservation(Shows(space), keep_dim=True)
  env = gymnasium.wrappers.ResizeObservation(env, (20, 25))
  read = Reader(space, view=observations.View(grayscale=True, size=(20, 25)))
  for _ in range(3):
    image = space.sample()
    expected = env.observation(env.env.observation(image))
    np.testing.assert_array_equal(read(image)['observation'], expected)
  assert read.space['observation'] == env.observation_space


def test_transparency_is_dropped_from_grey_images():
  read = Reader(spaces.Box(0, 255, (9, 8, 4), np.uint8), view=observations.View(grayscale=True))
  assert read.space['observation'].shape == (9, 8, 1)


@pytest.mark.parametrize(
  'space, view, message',
  [
    (spaces.Box(-1.0, 1.0, (3,)), observations.View(grayscale=True), 'no images.*grayscale'),
    (spaces.Box(-1.0, 1.0, (3,)), observations.View(size=(8, 8)), 'no images.*image_size'),
    (spaces.Box(-1.0, 1.0, (3,)), observations.View(frame_stack=4), 'no images.*frame_stack'),
    (PIXELS, observations.View(frame_stack=4), 'only grey ones.*--config.grayscale'),
    (spaces.Box(0, 255, (9, 8, 6), np.uint8), observations.View(grayscale=True), '6 channels'),
    (spaces.Sequence(spaces.Discrete(2)), observations.View(), 'Sequence.*--wrappers=MODULE:NAME'),
    (spaces.Dict(a=spaces.Graph(spaces.Discrete(2), None)), observations.View(), "Graph.*'a'"),
    (spaces.Discrete(10**9), observations.View(), '1,000,000,000 numbers'),
  ],
)
def test_what_cannot_be_shown_is_refused_with_the_next_step(space, view, message):
  with pytest.raises(errors.UserError, match=message):
    Reader(space, view=view)


def test_sizes_are_height_and_width():
  assert images.parse_size('') is None and images.parse_size('60x80') == (60, 80)
  for wrong in ('84', '84,84', '0x84', 'x', '84x84x3'):
    with pytest.raises(errors.UserError, match=f"image_size is '{wrong}'.*84x84"):
      images.parse_size(wrong)


def test_a_mask_among_the_observations_is_told_apart():
  space = spaces.Dict(action_mask=spaces.MultiBinary(3), board=spaces.Box(0.0, 1.0, (2,)))
  reader = Reader(space, num_actions=3)
  read = reader({'action_mask': [1, 0, 1], 'board': np.zeros(2, np.float32)})
  np.testing.assert_array_equal(read['action_mask'], np.array([1, 0, 1], np.uint8))
  assert read in reader.space and reader.reads_mask
  # A mask of another size, or where actions are continuous, is an observation like others.
  assert 'action_mask' not in Reader(space, num_actions=4).space.spaces
  assert Reader(space).space['observation'].shape == (5,)


def test_arrays_are_never_the_environments_own():
  space = spaces.Dict(camera=PIXELS, speed=spaces.Box(-1.0, 1.0, (2,), np.float32))
  sample = space.sample()
  read = Reader(space)(sample)
  assert not np.shares_memory(read['observation'], sample['camera'])
  assert not np.shares_memory(read['vector'], sample['speed'])
  alone = Reader(space['speed'])
  assert not np.shares_memory(alone(sample['speed'])['observation'], sample['speed'])


@pytest.mark.parametrize(
  'space, value, message',
  [
    (NUMBERS[0], np.array([0, np.nan, 0, 0], np.float32), 'has nan at index 1'),
    (NUMBERS[1], np.full((5, 5), 1e300), 'has inf at index 0'),
    (NUMBERS[0], np.zeros(5, np.float32), r'shape \(5,\), declared is \(4,\)'),
    (NUMBERS[0], np.array(['a'] * 4), 'is <U1, declared is float32'),
    (PIXELS, np.full((9, 8, 3), 300), 'is int64, declared is uint8'),
    (PIXELS, np.full((9, 8, 3), -1), 'is int64, declared is uint8'),
    (PIXELS, np.full((9, 8, 3), 0.5), 'is float64, declared is uint8'),
    (spaces.Box(0.0, 1.0, (8, 8, 3)), np.full((8, 8, 3), np.nan), 'not all .* finite'),
    (spaces.Discrete(3), 3, r'is 3, declared is Discrete\(3\)'),
    (spaces.Discrete(3), -1, r'is -1, declared is Discrete\(3\)'),
    (spaces.MultiDiscrete([2, 2]), [0, 2], 'declared is MultiDiscrete'),
    (spaces.MultiBinary(2), [0, 2], 'declared is MultiBinary'),
    (spaces.Dict(a=spaces.Discrete(2)), {}, "'a' is missing"),
    (spaces.Dict(a=spaces.Dict(b=NUMBERS[0])), {'a': {'b': np.full(4, np.inf)}}, "'a.b' has inf"),
    (spaces.Tuple([spaces.Discrete(2)] * 2), (0,), "'1' is missing"),
  ],
)
def test_what_is_not_of_its_space_is_a_fault_that_names_the_entry(space, value, message):
  with pytest.raises(observations.Fault, match=message):
    Reader(space)(value)


def test_whole_numbers_of_another_dtype_are_taken():
  """Environments are careless about it, and nothing is lost."""
  np.testing.assert_array_equal(Reader(PIXELS)(np.full((9, 8, 3), 200))['observation'], 200)
  np.testing.assert_array_equal(Reader(NUMBERS[0])([1, 2, 3, 4])['observation'], [1, 2, 3, 4])
