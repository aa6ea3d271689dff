"""Action masks, in NumPy: which actions are legal, and random legal ones."""

from typing import Mapping

import gymnasium
import numpy as np

from common import errors
from common.environments import suite as suites

# The part of an observation that says which actions may be taken now, uint8 `[N, A]`.
NAME = 'action_mask'


def sizes(space: gymnasium.Space) -> tuple[int, ...]:
  """The number of actions of each component: one for `Discrete`, K for `MultiDiscrete`."""
  if isinstance(space, gymnasium.spaces.MultiDiscrete):
    return tuple(int(n) for n in space.nvec)
  assert isinstance(space, gymnasium.spaces.Discrete), 'actions are continuous'
  return (int(space.n),)


def check(suite: suites.Suite, observation: Mapping[str, np.ndarray]) -> None:
  """Refuses masks that leave no action. Call it on what is acted on, with N environments.

  Raises:
    UserError: Names the suite and the environment.
  """
  if NAME not in observation:
    return
  last = 0
  for component, size in enumerate(sizes(suite.action_space)):
    first, last = last, last + size
    stuck = np.flatnonzero(~observation[NAME][:, first:last].any(axis=1))
    if len(stuck):
      which = 'all actions'
      if isinstance(suite.action_space, gymnasium.spaces.MultiDiscrete):
        which = f'all {size} actions of component {component}'
      raise errors.UserError(
        f'{suite.name}: the action mask of environment {stuck[0]} forbids {which}. In every state '
        'in which an episode goes on, at least one must be legal; a state in which none is must '
        'end the episode.'
      )


def random_legal(space: gymnasium.Space, mask: np.ndarray, rng: np.random.Generator) -> np.ndarray:
  """Actions drawn uniformly from the legal ones.

  Args:
    space: `Discrete` or `MultiDiscrete`.
    mask: `[N, A]`, at least one action of each component legal.
    rng: Where random numbers come from.

  Returns:
    int64 `[N]`, or `[N, K]` for K components.
  """
  # The largest of independent uniform numbers is equally likely to be any of them.
  drawn = np.where(mask > 0, 1.0 - rng.random(mask.shape), 0.0)
  ends = np.cumsum(sizes(space))[:-1]
  chosen = [part.argmax(axis=1) for part in np.split(drawn, ends, axis=1)]
  return (
    np.stack(chosen, axis=1) if isinstance(space, gymnasium.spaces.MultiDiscrete) else chosen[0]
  )
