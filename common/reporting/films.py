"""Films of episodes: MP4 if ffmpeg is there, which imageio-ffmpeg brings, else animated GIF."""

import itertools
import logging
import math
import pathlib
import subprocess
import tempfile
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from PIL import Image

from common.machine import files

# Narrower pictures are enlarged by a whole factor: at 96 x 72 a film is hard to watch.
_MIN_WIDTH = 288
_MOST = 3000  # Pictures: some episodes never end.
_FASTEST = 50.0  # Pictures per second. Players of GIFs know no faster ones.


class _Kept(NamedTuple):
  """A picture, compressed: 3,000 of them as they are may take gigabytes."""

  shape: tuple[int, ...]
  content: bytes


class Film:
  """The pictures of an episode, in order."""

  def __init__(self) -> None:
    self._kept: list[_Kept] = []
    self._left_out = 0

  def add(self, picture: np.ndarray) -> None:
    """Adds a picture, uint8 `[H, W, 3]`. Those after the first 3,000 are left out."""
    if len(self._kept) >= _MOST:
      self._left_out += 1
      return
    content = zlib.compress(picture.tobytes(), level=1)
    self._kept.append(_Kept(picture.shape, content))

  def clear(self) -> None:
    """Starts again."""
    self._kept.clear()
    self._left_out = 0

  def pictures(self, each: int = 1) -> Iterator[np.ndarray]:
    """The pictures as they were added; of `each` so many, the first."""
    for shape, content in self._kept[::each]:
      yield np.frombuffer(zlib.decompress(content), np.uint8).reshape(shape)

  def write(self, folder: pathlib.Path, name: str, pictures_per_second: float) -> pathlib.Path:
    """Writes `NAME.mp4`, or `NAME.gif` if ffmpeg is missing or fails.

    Args:
      folder: Where to.
      name: Of the file, without its ending.
      pictures_per_second: The speed at which they were added. A film of more than 50 leaves some
        out, GIF rounds to hundredths of a second for each picture.

    Returns:
      The file.
    """
    if self._left_out:
      logging.warning(
        'The film of %s ends after %s steps, %s before the episode does.',
        name,
        f'{_MOST:,}',
        f'{self._left_out:,}',
      )
    each = math.ceil(pictures_per_second / _FASTEST)
    speed = pictures_per_second / each
    path = folder / f'{name}.mp4'
    try:
      _write_mp4(path, self._enlarged(each), speed)
    except _NoFfmpeg as error:
      if str(error):
        logging.warning('ffmpeg cannot write %s, which becomes a GIF: %s', path, error)
      path = folder / f'{name}.gif'
      _write_gif(path, self._enlarged(each), speed)
    # A film of before, of another kind, would pass for this one.
    path.with_suffix('.gif' if path.suffix == '.mp4' else '.mp4').unlink(missing_ok=True)
    return path

  def _enlarged(self, each: int) -> Iterator[Image.Image]:
    """The pictures in their size on the screen, which is that of the first."""
    size = (0, 0)
    for picture in self.pictures(each):
      image = Image.fromarray(picture)
      if size == (0, 0):
        scale = math.ceil(_MIN_WIDTH / image.width)
        size = (image.width * scale, image.height * scale)
      # Pixels stay sharp squares, so that the film shows what the agent saw.
      yield image.resize(size, Image.Resampling.NEAREST)


class _NoFfmpeg(Exception):
  """There is no ffmpeg; or the text says why it failed."""


def _ffmpeg() -> str:
  """The path of ffmpeg.

  Raises:
    _NoFfmpeg: If there is none.
  """
  try:
    import imageio_ffmpeg

    return imageio_ffmpeg.get_ffmpeg_exe()
  except (ImportError, RuntimeError) as error:
    raise _NoFfmpeg from error


def _write_mp4(path: pathlib.Path, images: Iterator[Image.Image], speed: float) -> None:
  """Writes an MP4 that all browsers play.

  Raises:
    _NoFfmpeg: If ffmpeg is missing or fails.
  """
  ffmpeg = _ffmpeg()
  first = next(images)
  # Its colours are stored for squares of two by two pixels.
  width = first.width + first.width % 2
  height = first.height + first.height % 2
  with files.replacing(path, 'wb') as file, tempfile.TemporaryFile() as notes:
    command = [ffmpeg, '-loglevel', 'error', '-y', '-f', 'rawvideo', '-pix_fmt', 'rgb24']
    command += ['-s', f'{width}x{height}', '-r', f'{speed:g}', '-i', '-', '-c:v', 'libx264']
    command += ['-crf', '18', '-pix_fmt', 'yuv420p', '-f', 'mp4', f'/dev/fd/{file.fileno()}']
    with subprocess.Popen(
      command, stdin=subprocess.PIPE, stderr=notes, pass_fds=[file.fileno()]
    ) as encoder:
      assert encoder.stdin is not None
      try:
        for image in itertools.chain([first], images):
          margin = ((0, height - image.height), (0, width - image.width), (0, 0))
          encoder.stdin.write(np.pad(np.asarray(image), margin, mode='edge').tobytes())
        encoder.stdin.close()
      except BrokenPipeError:
        pass  # It has ended, and says why.
      except BaseException:  # Ctrl-C too.
        encoder.kill()
        raise
    if encoder.returncode:
      notes.seek(0)
      reason = notes.read().decode(errors='replace').strip()
      raise _NoFfmpeg(reason[-300:] or f'exit status {encoder.returncode}')


def _write_gif(path: pathlib.Path, images: Iterator[Image.Image], speed: float) -> None:
  """Writes an animated GIF that repeats without end."""
  first = next(images)
  with files.replacing(path, 'wb') as file:
    first.save(
      file,
      format='GIF',
      save_all=True,
      append_images=images,
      loop=0,
      duration=round(1000 / speed),
    )
