"""The actions of an environment in the form that suites promise, and back: `Converter`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from common import errors
from common.environments import suite


class Converter(NamedTuple):
  """What an agent chooses from, and how its choice becomes the environment's action.

  Attributes:
    space: The agent's: `Discrete` or `MultiDiscrete`, numbered from 0, or `[-1, 1]^A`.
    size: The number of alternatives, those of all choices together; 0 for continuous actions.
    convert: From an action of `space` to one of the environment's. Raises ValueError if the agent
      chose an action that does not exist, as networks do that have diverged.
  """

  space: suite.ActionSpace
  size: int
  convert: Callable[[Any], Any]


def converter(space: gymnasium.Space) -> Converter:
  """The converter for an environment's action space.

  Raises:
    UserError: If the space is of another kind, or has no bounds. The message lacks the
      environment's name in front.
  """
  if isinstance(space, gymnasium.spaces.Discrete):
    count = int(space.n)
    convert = functools.partial(_numbered_from, int(space.start), count)
    return Converter(gymnasium.spaces.Discrete(count), count, convert)
  if isinstance(space, gymnasium.spaces.MultiDiscrete):
    return _several(space, space.nvec, space.start)
  if isinstance(space, gymnasium.spaces.MultiBinary):
    return _several(space, np.full(space.shape, 2), np.zeros(space.shape, int))
  if isinstance(space, gymnasium.spaces.Box) and _is_bounded(space):
    return Converter(
      suite.continuous_actions(int(np.prod(space.shape))),
      0,
      functools.partial(_rescaled_within, space),
    )
  raise errors.UserError(
    f'has the action space {space}: expected Discrete, MultiDiscrete or MultiBinary, or a Box of '
    'real numbers with finite bounds. Convert it in a wrapper: --wrappers=MODULE:NAME'
  )


def rescaled(action: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
  """Actions in [-1, 1] to ones between bounds, float64; what lies outside is clipped."""
  share = 0.5 * (np.clip(np.asarray(action, np.float64), -1.0, 1.0) + 1.0)
  # Not low + share * (high - low): the difference of large bounds may overflow.
  return np.clip((1.0 - share) * low + share * high, low, high)


def _numbered_from(start: int, count: int, action: Any) -> int:
  # Logits that are not finite draw an action that does not exist.
  if not 0 <= action < count:
    raise ValueError(f'the agent chose action {action} of {count}')
  # An `int`, for environments that look it up in a dict.
  return start + int(action)


def _several(space: gymnasium.Space, counts: np.ndarray, start: np.ndarray) -> Converter:
  """The converter for several discrete actions at once, flattened if they have several axes."""
  flat = np.asarray(counts, np.int64).reshape(-1)

  def convert(action: np.ndarray) -> np.ndarray:
    if not np.all((np.asarray(action) >= 0) & (action < flat)):
      raise ValueError(f'the agent chose the actions {action} of {flat}')
    return (start + np.reshape(action, start.shape)).astype(space.dtype)

  return Converter(gymnasium.spaces.MultiDiscrete(flat), int(flat.sum()), convert)


def _rescaled_within(space: gymnasium.spaces.Box, action: np.ndarray) -> np.ndarray:
  action = np.reshape(action, space.shape)
  if not np.all(np.isfinite(action)):
    raise ValueError(f'the agent chose the action {action}')
  within = rescaled(action, space.low.astype(np.float64), space.high.astype(np.float64))
  # Rounding to the space's dtype may step over a bound.
  return np.clip(within.astype(space.dtype), space.low, space.high)


def _is_bounded(space: gymnasium.spaces.Box) -> bool:
  is_bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.low <= space.high)
  is_real = np.issubdtype(space.dtype, np.floating)
  return is_real and len(space.low.reshape(-1)) > 0 and bool(np.all(is_bounded))
