"""Films: their pictures, sizes and speeds, as libraries read them back."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from common.reporting import films


def read_gif(path):
  """The film's pictures as RGB arrays, and their durations in milliseconds."""
  pictures = []
  durations = []
  with Image.open(path) as film:
    assert film.format == 'GIF'
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


def film_of(pictures):
  film = films.Film()
  for picture in pictures:
    film.add(picture)
  return film


@pytest.fixture
def no_ffmpeg(monkeypatch):
  monkeypatch.setitem(sys.modules, 'imageio_ffmpeg', None)


@pytest.mark.usefixtures('no_ffmpeg')
class TestGif:
  def test_pictures_are_shown_in_order_and_enlarged(self, tmp_path):
    pictures = [checkered(72, 96, brightness) for brightness in range(0, 250, 50)]
    path = film_of(pictures).write(tmp_path, 'a', 10.0)
    assert path == tmp_path / 'a.gif'
    shown, durations = read_gif(path)
    assert len(shown) == len(pictures)
    for actual, picture in zip(shown, pictures, strict=True):
      np.testing.assert_array_equal(actual, picture.repeat(3, axis=0).repeat(3, axis=1))
    assert durations == [100] * len(pictures)

  @pytest.mark.parametrize('width, shown', [(84, 336), (288, 288), (300, 300)])
  def test_narrow_pictures_are_enlarged_by_a_whole_factor(self, tmp_path, width, shown):
    path = film_of([checkered(10, width, 0)]).write(tmp_path, 'a', 10.0)
    with Image.open(path) as film:
      assert film.size == (shown, 10 * shown // width) and film.n_frames == 1

  @pytest.mark.parametrize('speed, each', [(8.75, 1), (50.0, 1), (100.0, 2), (101.0, 3)])
  def test_speed(self, tmp_path, speed, each):
    path = film_of([checkered(8, 8, b) for b in range(0, 240, 20)]).write(tmp_path, 'a', speed)
    shown, durations = read_gif(path)
    assert [picture[0, 0, 1] for picture in shown] == list(range(0, 240, 20))[::each]
    for duration in durations:
      # GIF counts in hundredths of a second.
      assert abs(duration - each * 1000 / speed) < 10

  def test_equal_pictures_take_their_time(self, tmp_path):
    """A GIF may hold them once, with a longer duration."""
    path = film_of([checkered(8, 8, b) for b in (0, 90, 90, 90, 0)]).write(tmp_path, 'a', 10.0)
    assert sum(read_gif(path)[1]) == 500

  def test_it_repeats_without_end(self, tmp_path):
    path = film_of([checkered(8, 8, b) for b in (0, 90)]).write(tmp_path, 'a', 10.0)
    with Image.open(path) as film:
      assert film.info['loop'] == 0

  def test_pictures_of_another_size_are_shown_in_that_of_the_first(self, tmp_path):
    path = film_of([checkered(300, 300, 0), checkered(30, 60, 90)]).write(tmp_path, 'a', 10.0)
    assert [picture.shape for picture in read_gif(path)[0]] == [(300, 300, 3)] * 2


def test_a_film_starts_again():
  film = film_of([checkered(8, 8, 0)])
  film.clear()
  film.add(checkered(9, 9, 5))
  (kept,) = film.pictures()
  np.testing.assert_array_equal(kept, checkered(9, 9, 5))


@pytest.mark.usefixtures('no_ffmpeg')
def test_a_long_film_ends_early_and_says_so(tmp_path, monkeypatch, caplog):
  monkeypatch.setattr(films, '_MOST', 3)
  path = film_of([checkered(8, 8, b) for b in (0, 50, 100, 150, 200)]).write(tmp_path, 'a', 10.0)
  assert len(read_gif(path)[0]) == 3
  assert 'The film of a ends after 3 steps, 2 before the episode does.' in caplog.messages


class TestMp4:
  """With any ffmpeg: by imageio-ffmpeg, which is in the requirements."""

  @pytest.fixture(autouse=True)
  def ffmpeg(self):
    self.ffmpeg = pytest.importorskip('imageio_ffmpeg').get_ffmpeg_exe()

  def read(self, path, height, width):
    raw = subprocess.run(
      [self.ffmpeg, '-loglevel', 'error', '-i', path, '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-'],
      check=True,
      capture_output=True,
    ).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)

  def test_pictures_are_shown_in_order_with_even_sides(self, tmp_path):
    colours = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (128, 128, 128)]
    (tmp_path / 'a.gif').write_text('of before')
    path = film_of([np.full((9, 7, 3), c, np.uint8) for c in colours]).write(tmp_path, 'a', 12.5)
    assert [path] == list(tmp_path.iterdir()) and path.name == 'a.mp4'
    # 42 times as large: 294 x 378.
    shown = self.read(path, 378, 294)
    assert len(shown) == 4
    for picture, colour in zip(shown, colours, strict=True):
      assert np.abs(picture.astype(int) - colour).max() < 12
    odd = film_of([np.full((9, 301, 3), 7, np.uint8)]).write(tmp_path, 'b', 10.0)
    assert len(self.read(odd, 10, 302)) == 1

  def test_it_is_a_gif_where_ffmpeg_fails(self, tmp_path, monkeypatch, caplog):
    # A program that reads nothing, and ends with a fault.
    monkeypatch.setattr(films, '_ffmpeg', lambda: '/bin/false')
    many = [
      np.random.default_rng(i).integers(256, size=(300, 300, 3), dtype=np.uint8) for i in (1, 2)
    ]
    path = film_of(many * 3).write(tmp_path, 'a', 10.0)
    assert [path] == list(tmp_path.iterdir()) and len(read_gif(path)[0]) == 6
    assert 'becomes a GIF: exit status 1' in caplog.text
