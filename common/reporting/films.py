"""Films of episodes, as animated GIFs of their observations."""

import pathlib
from typing import Sequence

import numpy as np
from PIL import Image

from common.machine import files

# Narrower observations are enlarged by a whole factor: at 96 x 72 a film is hard to watch.
_MIN_WIDTH = 288


def write_gif(path: pathlib.Path, pictures: Sequence[np.ndarray], frames_per_second: float) -> None:
  """Writes observations as an animated GIF that repeats.

  Args:
    path: The file to write.
    pictures: Observations, uint8: RGB `[H, W, 3]`, or stacks of grey frames `[S, H, W]`, oldest
      first, whose newest frame is shown.
    frames_per_second: The speed of the film. GIF rounds it to hundredths of a second per picture.
  """
  images = [_enlarged(picture) for picture in pictures]
  with files.replacing(path, 'wb') as file:
    images[0].save(
      file,
      format='GIF',
      save_all=True,
      append_images=images[1:],
      loop=0,  # Repeats without end.
      duration=round(1000 / frames_per_second),
    )


def _enlarged(picture: np.ndarray) -> Image.Image:
  is_rgb = picture.shape[-1] == 3
  image = Image.fromarray(picture if is_rgb else picture[-1])
  scale = max(1, _MIN_WIDTH // image.width)
  # Pixels stay sharp squares, so that the film shows what the agent saw.
  return image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
