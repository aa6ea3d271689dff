"""Films: their pictures, sizes and speeds, as an image library reads them back."""

import numpy as np
import pytest
from PIL import Image

from common.reporting import films


def read(path):
  """The film's pictures as RGB arrays, and their durations in milliseconds."""
  pictures = []
  durations = []
  with Image.open(path) as film:
    for i in range(film.n_frames):
      film.seek(i)
      pictures.append(np.array(film.convert('RGB')))
      durations.append(film.info['duration'])
  return pictures, durations


def checkered(height, width, brightness):
  """An RGB picture `[H, W, 3]` of few colours, so that a GIF keeps it exactly."""
  pattern = np.indices((height, width)).sum(0) % 2 * 255
  channels = [pattern, np.full_like(pattern, brightness), 255 - pattern]
  return np.stack(channels, axis=-1).astype(np.uint8)


def test_pictures_are_shown_in_order_and_enlarged(tmp_path):
  pictures = [checkered(72, 96, brightness) for brightness in range(0, 250, 50)]
  films.write_gif(tmp_path / 'a.gif', pictures, 10.0)
  shown, durations = read(tmp_path / 'a.gif')
  assert len(shown) == len(pictures)
  for actual, picture in zip(shown, pictures, strict=True):
    assert actual.shape == (216, 288, 3)
    np.testing.assert_array_equal(actual, picture.repeat(3, axis=0).repeat(3, axis=1))
  assert durations == [100] * len(pictures)


def test_the_newest_frame_of_a_stack_is_shown(tmp_path):
  # Frame 4 is the newest.
  stacks = [
    np.stack([np.full((84, 84), frame + 40 * t, np.uint8) for frame in (1, 2, 3, 4)])
    for t in range(3)
  ]
  films.write_gif(tmp_path / 'a.gif', stacks, 15.0)
  shown, _ = read(tmp_path / 'a.gif')
  assert [picture.shape for picture in shown] == [(252, 252, 3)] * 3
  assert [set(picture.flat) for picture in shown] == [{4}, {44}, {84}]


@pytest.mark.parametrize('width', [288, 300])
def test_large_pictures_keep_their_size(tmp_path, width):
  films.write_gif(tmp_path / 'a.gif', [checkered(10, width, 0), checkered(10, width, 100)], 10.0)
  assert [picture.shape for picture in read(tmp_path / 'a.gif')[0]] == [(10, width, 3)] * 2


@pytest.mark.parametrize('frames_per_second', [8.75, 15.0, 50.0])
def test_speed(tmp_path, frames_per_second):
  films.write_gif(tmp_path / 'a.gif', [checkered(8, 8, b) for b in (0, 90, 180)], frames_per_second)
  _, durations = read(tmp_path / 'a.gif')
  assert len(durations) == 3
  for duration in durations:
    # GIF counts in hundredths of a second.
    assert abs(duration - 1000 / frames_per_second) < 10


def test_repeated_pictures_take_their_time(tmp_path):
  """A GIF may hold equal pictures once, with a longer duration."""
  pictures = [checkered(8, 8, brightness) for brightness in (0, 90, 90, 90, 0)]
  films.write_gif(tmp_path / 'a.gif', pictures, 10.0)
  assert sum(read(tmp_path / 'a.gif')[1]) == 500


def test_a_single_picture(tmp_path):
  films.write_gif(tmp_path / 'a.gif', [checkered(8, 8, 0)], 10.0)
  with Image.open(tmp_path / 'a.gif') as film:
    assert film.n_frames == 1 and film.size == (288, 288)


def test_it_repeats_without_end(tmp_path):
  films.write_gif(tmp_path / 'a.gif', [checkered(8, 8, 0), checkered(8, 8, 90)], 10.0)
  with Image.open(tmp_path / 'a.gif') as film:
    assert film.info['loop'] == 0
