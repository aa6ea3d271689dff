"""Films of episodes."""

import numpy as np
import pytest
from PIL import Image

from common.reporting import films as video


def read(path):
  """The film's pictures as RGB arrays, and how long each is shown, in milliseconds."""
  with Image.open(path) as film:
    pictures, durations = [], []
    for i in range(film.n_frames):
      film.seek(i)
      pictures.append(np.array(film.convert('RGB')))
      durations.append(film.info['duration'])
  return pictures, durations


def checkered(height, width, brightness):
  """A picture of few colours, which a GIF keeps exactly, different for each brightness."""
  pattern = np.indices((height, width)).sum(0) % 2 * 255
  return np.stack([pattern, np.full_like(pattern, brightness), 255 - pattern], axis=-1).astype(
    np.uint8
  )


def test_pictures_are_shown_in_order_and_enlarged(tmp_path):
  pictures = [checkered(72, 96, brightness) for brightness in range(0, 250, 50)]
  video.write_gif(tmp_path / 'a.gif', pictures, 10.0)
  shown, durations = read(tmp_path / 'a.gif')
  assert len(shown) == len(pictures)
  for actual, picture in zip(shown, pictures):
    assert actual.shape == (216, 288, 3)
    np.testing.assert_array_equal(actual, picture.repeat(3, axis=0).repeat(3, axis=1))
  assert durations == [100] * len(pictures)


def test_of_stacks_the_newest_frame_is_shown(tmp_path):
  stacks = [
    np.stack([np.full((84, 84), age + 40 * t, np.uint8) for age in (1, 2, 3, 4)]) for t in range(3)
  ]
  video.write_gif(tmp_path / 'a.gif', stacks, 15.0)
  shown, _ = read(tmp_path / 'a.gif')
  assert [picture.shape for picture in shown] == [(252, 252, 3)] * 3
  assert [set(picture.flat) for picture in shown] == [{4}, {44}, {84}]


@pytest.mark.parametrize('width', [288, 300])
def test_large_pictures_keep_their_size(tmp_path, width):
  video.write_gif(tmp_path / 'a.gif', [checkered(10, width, 0), checkered(10, width, 100)], 10.0)
  assert [picture.shape for picture in read(tmp_path / 'a.gif')[0]] == [(10, width, 3)] * 2


@pytest.mark.parametrize('frames_per_second', [8.75, 15.0, 50.0])
def test_speed(tmp_path, frames_per_second):
  video.write_gif(tmp_path / 'a.gif', [checkered(8, 8, b) for b in (0, 90, 180)], frames_per_second)
  _, durations = read(tmp_path / 'a.gif')
  assert len(durations) == 3
  for duration in durations:  # GIF counts in hundredths of a second.
    assert abs(duration - 1000 / frames_per_second) < 10


def test_pictures_that_repeat_take_their_time(tmp_path):
  """A GIF may hold them once, and show them longer."""
  pictures = [checkered(8, 8, brightness) for brightness in (0, 90, 90, 90, 0)]
  video.write_gif(tmp_path / 'a.gif', pictures, 10.0)
  assert sum(read(tmp_path / 'a.gif')[1]) == 500


def test_a_single_picture(tmp_path):
  video.write_gif(tmp_path / 'a.gif', [checkered(8, 8, 0)], 10.0)
  with Image.open(tmp_path / 'a.gif') as film:
    assert film.n_frames == 1 and film.size == (288, 288)


def test_it_plays_for_ever(tmp_path):
  video.write_gif(tmp_path / 'a.gif', [checkered(8, 8, 0), checkered(8, 8, 90)], 10.0)
  with Image.open(tmp_path / 'a.gif') as film:
    assert film.info['loop'] == 0
