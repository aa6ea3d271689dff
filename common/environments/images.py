"""Images among observations: which spaces are images, and how they become uint8 [H, W, C]."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from common import errors

# Of a side, in pixels: smaller arrays of numbers, such as a board or a table, stay numbers, unless
# they are [H, W, C] of bytes or bits, as in MiniGrid and MinAtar.
_SMALLEST = 8
_CHANNELS = (1, 3, 4)


class Layout(NamedTuple):
  """How an array becomes an image.

  Attributes:
    order: Its axes in the order in which channels come last.
    shape: `(H, W, C)`.
    scale: What its numbers are multiplied by to become bytes.
    note: A remark for the user; '' for none.
  """

  order: tuple[int, ...]
  shape: tuple[int, int, int]
  scale: float
  note: str = ''


def layout_of(space: gymnasium.Space) -> Layout | None:
  """The layout of an image; None for a space that holds no image.

  Images are bytes, or numbers whose bounds are 0 and 1 or 0 and 255. Their axes are `[H, W]`,
  `[H, W, C]`, `[C, H, W]`, or, for stacked images, `[S, H, W, C]`, whose S x C become channels.
  """
  if not isinstance(space, gymnasium.spaces.Box) or not all(space.shape):
    return None
  scale = _scale(space)
  if scale is None:
    return None
  shape = space.shape
  if len(shape) == 2:
    layout = Layout((0, 1), (*shape, 1), scale)
  elif len(shape) == 3:
    layout = _with_channels(shape, scale)
  elif len(shape) == 4 and shape[-1] in _CHANNELS:
    layout = Layout((1, 2, 0, 3), (*shape[1:3], shape[0] * shape[3]), scale)
  else:
    return None

  is_large = min(layout.shape[:2]) >= _SMALLEST
  if len(shape) == 3:
    # Bytes and bits are symbols of cells, if they are no pixels: a network of images reads both.
    is_of_bytes = space.dtype in (np.uint8, np.bool_)
    return layout if is_of_bytes or (is_large and layout.shape[2] in _CHANNELS) else None
  return layout if is_large else None


def to_bytes(layout: Layout, image: np.ndarray) -> np.ndarray:
  """The image as a fresh array, uint8 `[H, W, C]`.

  Raises:
    ValueError: If it has numbers that are not finite.
  """
  if image.dtype.kind == 'f' and not np.all(np.isfinite(image)):
    raise ValueError('not all of its numbers are finite')
  if layout.scale != 1.0 or image.dtype != np.uint8:
    image = np.clip(np.rint(image * layout.scale), 0, 255)
  return np.array(image.transpose(layout.order), np.uint8, order='C').reshape(layout.shape)


def to_rgb(image: np.ndarray) -> np.ndarray:
  """An image uint8 `[H, W, C]` as a person sees it, uint8 `[H, W, 3]`.

  One channel is grey, three are colours, four are colours if the last is opaque everywhere. Others
  stand side by side, in colour if their number allows.
  """
  if image.shape[-1] == 4 and np.all(image[..., 3] == 255):
    return image[..., :3]
  depth = 1 if image.shape[-1] % 3 else 3
  parts = np.split(image, image.shape[-1] // depth, axis=-1)
  shown = np.concatenate(parts, axis=1)
  return shown if depth == 3 else np.repeat(shown, 3, axis=-1)


def rendered(shown: object) -> np.ndarray | None:
  """What `render` returns, as uint8 `[H, W, 3]`; None if that is no image.

  Grey images, transparency, channels that come first, and numbers from 0 to 1 are understood; of a
  list of images, the last is taken.
  """
  if isinstance(shown, (list, tuple)) and shown:
    shown = shown[-1]
  image = np.asarray(shown)
  if image.ndim not in (2, 3) or not image.size or image.dtype.kind not in 'buif':
    return None
  if image.ndim == 2:
    image = image[..., None]
  if image.dtype.kind == 'b' or (image.dtype.kind == 'f' and np.max(image) <= 1.0):
    image = np.multiply(image, 255.0)
  layout = _with_channels(image.shape, 1.0)
  image = np.clip(np.rint(np.nan_to_num(image)), 0, 255) if image.dtype != np.uint8 else image
  # A copy: the environment may draw into its own.
  return to_rgb(np.array(image.transpose(layout.order), np.uint8))


def parse_size(text: str) -> tuple[int, int] | None:
  """The height and width of a text such as `84x84`; None for ''.

  Raises:
    UserError: If the text has another form.
  """
  if not text:
    return None
  height, _, width = text.lower().partition('x')
  if not (height.isdecimal() and width.isdecimal() and int(height) and int(width)):
    raise errors.UserError(
      f'image_size is {text!r}, expected HEIGHTxWIDTH in pixels, such as 84x84. Set it with '
      '--config.image_size=84x84'
    )
  return int(height), int(width)


class Preprocessing:
  """Makes images grey and resizes them, with gymnasium's wrappers.

  Attributes:
    shape: `(H, W, C)` of the results.
  """

  def __init__(self, shape: Sequence[int], grayscale: bool, size: tuple[int, int] | None):
    """Chooses the steps that images of a shape need.

    Args:
      shape: `(H, W, C)`.
      grayscale: Whether to make them grey. A fourth channel, transparency, is dropped then.
      size: The height and width to resize them to; None to leave them.

    Raises:
      ValueError: If images of these channels cannot be made grey.
      gymnasium.error.DependencyNotInstalled: If resizing needs a package that is missing.
    """
    self._steps: list[Callable[[np.ndarray], np.ndarray]] = []
    shape = tuple(shape)
    if grayscale and shape[-1] != 1:
      if shape[-1] not in (3, 4):
        raise ValueError(f'{shape[-1]} channels cannot be made grey')
      shape = (*shape[:2], 3)
      self._steps.append(lambda image: image[..., :3])
      shape = self._add(shape, gymnasium.wrappers.GrayscaleObservation, keep_dim=True)
    if size and shape[:2] != size:
      shape = self._add(shape, gymnasium.wrappers.ResizeObservation, shape=size)
    self.shape = shape

  def __call__(self, image: np.ndarray) -> np.ndarray:
    for step in self._steps:
      image = step(image)
    return image

  def _add(self, before: tuple[int, ...], wrapper: Any, **settings: Any) -> tuple[int, ...]:
    """Adds a wrapper's step; returns the shape of its images."""
    # Wrappers of one image would refuse the environment, which may show several, and vectors.
    added = wrapper(_Shows(gymnasium.spaces.Box(0, 255, before, np.uint8)), **settings)
    self._steps.append(added.observation)
    return added.observation_space.shape


class _Shows(gymnasium.Env):
  """Stands for an environment that shows images."""

  def __init__(self, space: gymnasium.spaces.Box):
    self.observation_space = space
    self.action_space = gymnasium.spaces.Discrete(1)


def _scale(space: gymnasium.spaces.Box) -> float | None:
  """The factor from a Box's numbers to bytes; None if they are none of an image."""
  if space.dtype == np.uint8:
    return 1.0
  if space.dtype == np.bool_:
    return 255.0
  low = float(space.low.min())
  high = float(space.high.max())
  is_uniform = space.low.max() == low and space.high.min() == high
  if not is_uniform or low != 0.0 or high not in (1.0, 255.0):
    return None
  return 255.0 / high


def _with_channels(shape: tuple[int, ...], scale: float) -> Layout:
  """The layout of three axes, of which the last or the first holds the channels."""
  first, last = shape[0], shape[-1]
  # A stack of many grey frames has any number of channels, but fewer than pixels.
  is_first = last not in _CHANNELS and (first in _CHANNELS or first < min(shape[1:]))
  if not is_first:
    return Layout((0, 1, 2), (shape[0], shape[1], shape[2]), scale)
  turned = (shape[1], shape[2], shape[0])
  note = f'shows images {shape}, channels first: they are turned to {turned}'
  return Layout((1, 2, 0), turned, scale, note)


def same_size(shapes: Sequence[Sequence[int]]) -> bool:
  """Whether images of these shapes have one height and width."""
  return len({tuple(shape[:2]) for shape in shapes}) == 1


def joined_shape(shapes: Sequence[Sequence[int]]) -> tuple[int, int, int]:
  """The shape of images of one size whose channels stand side by side."""
  height, width = shapes[0][:2]
  return height, width, sum(shape[2] for shape in shapes)
