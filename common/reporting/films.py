"""Films of episodes from their observations."""

import pathlib
from typing import Sequence

import numpy as np
from PIL import Image

from common.machine import files

_MIN_WIDTH = 288


def write_gif(path: pathlib.Path, pictures: Sequence[np.ndarray], frames_per_second: float) -> None:
  """Writes an animated GIF of observations: `[H, W, 3]`, or stacks `[S, H, W]`, whose newest frame is shown."""
  scale = max(1, _MIN_WIDTH // pictures[0].shape[-2 if pictures[0].shape[-1] == 3 else -1])
  images = []
  for picture in pictures:
    image = Image.fromarray(picture if picture.shape[-1] == 3 else picture[-1])
    images.append(
      image.resize((image.width * scale, image.height * scale), Image.Resampling.NEAREST)
    )
  with files.replacing(path, 'wb') as file:
    images[0].save(
      file,
      format='GIF',
      save_all=True,
      append_images=images[1:],
      loop=0,
      duration=round(1000 / frames_per_second),
    )
