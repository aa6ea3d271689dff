"""What an environment observes, in the form that suites promise: `Reader`.

Any Box, Discrete, MultiDiscrete, MultiBinary or Text, and Dicts and Tuples of these, nested. Images
become `observation`, texts `instruction`, an entry `action_mask` the mask of legal actions. All
else is flattened by gymnasium into one vector, which is `vector` beside an image, and `observation`
where there is none.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from typing import Any

import gymnasium
import numpy as np
from gymnasium.spaces import utils

from common import errors
from common.environments import images, suite

MASK = 'action_mask'
_MOST_NUMBERS = 100_000  # In one vector.


class Fault(ValueError):
  """An observation that is not what its space declares, or not finite."""


@dataclasses.dataclass(frozen=True)
class View:
  """How images are shown to the agent.

  Attributes:
    grayscale: Whether they are made grey.
    size: Their height and width; None for the environment's own.
    frame_stack: The number of grey frames in one observation.
  """

  grayscale: bool = False
  size: tuple[int, int] | None = None
  frame_stack: int = 1


@dataclasses.dataclass(frozen=True)
class _Entry:
  """A part of the observation that has no parts: its place in Dicts and Tuples, and its space."""

  path: tuple[Any, ...]
  space: gymnasium.Space
  is_box: bool
  dtype: Any  # Of the space, whose properties are slow to ask for.
  shape: Any

  @property
  def label(self) -> str:
    """Its name in messages, such as `the observation's 'camera'`."""
    path = '.'.join(str(key) for key in self.path)
    return f"the observation's {path!r}" if path else 'the observation'

  def of(self, observation: Any) -> Any:
    """Its value in an observation.

    Raises:
      Fault: If the observation has no such entry.
    """
    for key in self.path:
      try:
        observation = observation[key]
      except (KeyError, IndexError, TypeError) as error:
        raise Fault(f'{self.label} is missing') from error
    return observation

  def array(self, observation: Any) -> np.ndarray:
    """Its value, of the declared shape and dtype.

    Raises:
      Fault: If it has another shape, or numbers that the dtype cannot hold.
    """
    value = np.asarray(self.of(observation))
    if value.shape != self.shape:
      raise Fault(f'{self.label} has the shape {value.shape}, declared is {self.shape}')
    if value.dtype == self.dtype:
      return value
    with np.errstate(all='ignore'):
      cast = value.astype(self.dtype) if value.dtype.kind in 'biuf' else None
    # float64 for float32 loses digits, which is common and does no harm.
    is_rounded = cast is not None and cast.dtype.kind == 'f'
    if cast is None or not (is_rounded or np.array_equal(cast, value)):
      raise Fault(f'{self.label} is {value.dtype}, declared is {self.dtype}')
    return cast


class Reader:
  """Converts the observations of a space.

  Attributes:
    space: Of the results.
    shows_images: Whether `observation` is an image.
    notes: Remarks for the user.
  """

  def __init__(
    self,
    space: gymnasium.Space,
    num_actions: int = 0,
    has_mask: bool = False,
    view: View = View(),
  ):
    """Finds out what an observation holds.

    Args:
      space: The environment's.
      num_actions: The size of a mask of actions; 0 where actions are continuous.
      has_mask: Whether masks come from elsewhere, by `mask`.
      view: How images are shown.

    Raises:
      UserError: If it has a part of another kind, or settings of images do not fit it. The message
        lacks the environment's name in front.
    """
    self._num_actions = num_actions
    self._view = view
    self._masks: list[_Entry] = []
    self._texts: list[_Entry] = []
    self._images: list[tuple[_Entry, images.Layout]] = []
    self._numbers: list[_Entry] = []
    for entry in _entries(space):
      self._sort(entry)
    self._masks = self._masks[:1]
    self._has_mask = has_mask or bool(self._masks)
    self.shows_images = bool(self._images)
    self.notes = tuple(layout.note for _, layout in self._images if layout.note)
    self._shown = [self._preprocessing(layout.shape) for _, layout in self._images]
    self.space = gymnasium.spaces.Dict(self._spaces())

  def __call__(self, observation: Any) -> suite.Observation:
    """Converts an observation; all arrays are fresh.

    Raises:
      Fault: If the observation is not of its space, or not finite.
    """
    result: suite.Observation = {}
    if self.shows_images:
      result['observation'] = self._pixels(observation)
    if self._numbers or not self.shows_images:
      result['vector' if self.shows_images else 'observation'] = self._vector(observation)
    if self._texts:
      words = ' '.join(str(entry.of(observation)) for entry in self._texts)
      result['instruction'] = _hashed(words).copy()
    if self._masks:
      result[MASK] = self.mask(self._masks[0].of(observation))
    return result

  def mask(self, value: Any) -> np.ndarray:
    """A mask, uint8 `[A]`; all ones for None.

    Raises:
      Fault: If it has another size.
    """
    if value is None:
      return np.ones(self._num_actions, np.uint8)
    mask = np.not_equal(value, 0).astype(np.uint8).reshape(-1)
    if mask.size != self._num_actions:
      raise Fault(f'{MASK} has {mask.size} entries for {self._num_actions} actions')
    return mask

  @property
  def reads_mask(self) -> bool:
    """Whether the mask is a part of the observation."""
    return bool(self._masks)

  def _sort(self, entry: _Entry) -> None:
    """Puts an entry among those of its kind."""
    layout = images.layout_of(entry.space)
    if self._num_actions and entry.path[-1:] == (MASK,) and _size(entry) == self._num_actions:
      self._masks.append(entry)
    elif _is_text(entry.space):
      self._texts.append(entry)
    elif layout:
      self._images.append((entry, layout))
    else:
      _check_numbers(entry)
      self._numbers.append(entry)

  def _preprocessing(self, shape: tuple[int, int, int]) -> images.Preprocessing:
    try:
      return images.Preprocessing(shape, self._view.grayscale, self._view.size)
    except ValueError as error:
      raise errors.UserError(
        f'shows images {shape}: {error}. Leave out --config.grayscale'
      ) from error

  def _spaces(self) -> dict[str, gymnasium.Space]:
    """The spaces of the results by name."""
    spaces: dict[str, gymnasium.Space] = {}
    if self.shows_images:
      spaces['observation'] = self._image_space()
    else:
      self._refuse_view()
    if self._numbers or not self.shows_images:
      size = sum(utils.flatdim(entry.space) for entry in self._numbers)
      if size > _MOST_NUMBERS:
        raise errors.UserError(
          f'observes {size:,} numbers, more than {_MOST_NUMBERS:,}. Shorten them in a wrapper: '
          '--wrappers=MODULE:NAME'
        )
      name = 'vector' if self.shows_images else 'observation'
      spaces[name] = gymnasium.spaces.Box(-np.inf, np.inf, (max(size, 1),), np.float32)
    if self._texts:
      spaces['instruction'] = suite.instruction_space()
    if self._has_mask:
      spaces[MASK] = gymnasium.spaces.Box(0, 1, (self._num_actions,), np.uint8)
    return spaces

  def _image_space(self) -> gymnasium.spaces.Box:
    shapes = [shown.shape for shown in self._shown]
    if not images.same_size(shapes):
      raise errors.UserError(
        f'shows images of several sizes, {", ".join(map(str, shapes))}. Bring them to one size '
        'with --config.image_size=HEIGHTxWIDTH'
      )
    shape = images.joined_shape(shapes)
    stack = self._view.frame_stack
    if stack == 1:
      return gymnasium.spaces.Box(0, 255, shape, np.uint8)
    if shape[2] != 1:
      raise errors.UserError(
        f'shows images {shape}, and only grey ones are stacked: add --config.grayscale'
      )
    return gymnasium.spaces.Box(0, 255, (stack, *shape[:2]), np.uint8)

  def _refuse_view(self) -> None:
    """Refuses settings of images where there are none."""
    settings = {'grayscale': 'grayscale', 'size': 'image_size', 'frame_stack': 'frame_stack'}
    for name, setting in settings.items():
      if getattr(self._view, name) != getattr(View, name):
        raise errors.UserError(f'shows no images: leave out --config.{setting}')

  def _pixels(self, observation: Any) -> np.ndarray:
    """All images side by side, uint8 `[H, W, C]`; one frame of a stack is `[H, W]`."""
    shown = []
    for (entry, layout), preprocess in zip(self._images, self._shown, strict=True):
      try:
        shown.append(preprocess(images.to_bytes(layout, entry.array(observation))))
      except ValueError as error:
        # A `Fault` names its entry.
        raise error if isinstance(error, Fault) else Fault(f'{entry.label}: {error}') from error
    pixels = shown[0] if len(shown) == 1 else np.concatenate(shown, axis=-1)
    return pixels if self._view.frame_stack == 1 else pixels[..., 0]

  def _vector(self, observation: Any) -> np.ndarray:
    """All that is neither image nor text nor mask, float32 `[D]`; one zero if there is nothing."""
    if not self._numbers:
      return np.zeros(1, np.float32)
    flat = [_flat(entry, observation) for entry in self._numbers]
    vector = flat[0] if len(flat) == 1 else np.concatenate(flat)
    # The quickest test of a few numbers. Squares that are too large are looked at closely, too.
    if not math.isfinite(vector.dot(vector)):
      self._name_infinite(flat)
    return vector

  def _name_infinite(self, flat: list[np.ndarray]) -> None:
    """Raises the `Fault` about numbers that are not finite, if there are any."""
    for entry, values in zip(self._numbers, flat, strict=True):
      wrong = np.flatnonzero(~np.isfinite(values))
      if wrong.size:
        raise Fault(
          f'{entry.label} has {values[wrong[0]]} at index {wrong[0]}, expected finite numbers (as '
          'float32)'
        )


# Instructions stay for whole episodes.
_hashed = functools.lru_cache(maxsize=1024)(suite.hash_words)


def _entries(space: gymnasium.Space, path: tuple[Any, ...] = ()) -> Iterator[_Entry]:
  """All entries of Dicts and Tuples, nested, in gymnasium's order."""
  if isinstance(space, gymnasium.spaces.Dict):
    for key, part in space.spaces.items():
      yield from _entries(part, (*path, key))
  elif isinstance(space, gymnasium.spaces.Tuple):
    for i, part in enumerate(space.spaces):
      yield from _entries(part, (*path, i))
  else:
    is_box = isinstance(space, gymnasium.spaces.Box)
    yield _Entry(path, space, is_box, space.dtype, space.shape)


def _size(entry: _Entry) -> int:
  return int(np.prod(entry.shape)) if entry.shape is not None else 0


def _is_text(space: gymnasium.Space) -> bool:
  """Whether values are strings: `Text`, or a space of the environment's own, as in MiniGrid."""
  is_own = space.dtype is not None and space.dtype.kind == 'U'
  return isinstance(space, gymnasium.spaces.Text) or is_own


def _check_numbers(entry: _Entry) -> None:
  """Refuses what has no fixed number of numbers.

  Raises:
    UserError: Names the entry.
  """
  known = (
    gymnasium.spaces.Box,
    gymnasium.spaces.Discrete,
    gymnasium.spaces.MultiDiscrete,
    gymnasium.spaces.MultiBinary,
  )
  if not isinstance(entry.space, known):
    raise errors.UserError(
      f'observes {entry.space} ({entry.label}): expected Box, Discrete, MultiDiscrete, MultiBinary '
      'or Text, and Dicts and Tuples of these. Convert or leave out that part in a wrapper: '
      '--wrappers=MODULE:NAME'
    )


def _flat(entry: _Entry, observation: Any) -> np.ndarray:
  """An entry as gymnasium flattens it, float32 and fresh.

  Raises:
    Fault: If the value is not of its space.
  """
  space = entry.space
  value = entry.array(observation)
  if entry.is_box:
    if value.dtype == np.float32:
      return value.flatten()
    # What is cast may overflow: the caller finds what is not finite.
    with np.errstate(over='ignore'):
      return np.array(value, np.float32).reshape(-1)
  if not _is_within(space, value):
    raise Fault(f'{entry.label} is {value}, declared is {space}')
  return np.array(utils.flatten(space, value), np.float32)


def _is_within(space: gymnasium.Space, value: np.ndarray) -> bool:
  """Whether whole numbers are those of their space, whatever their dtype."""
  if isinstance(space, gymnasium.spaces.MultiBinary):
    return bool(np.all((value == 0) | (value == 1)))
  if isinstance(space, gymnasium.spaces.MultiDiscrete):
    return bool(np.all((value >= space.start) & (value < space.start + space.nvec)))
  assert isinstance(space, gymnasium.spaces.Discrete)
  return bool(space.start <= value < space.start + space.n)
