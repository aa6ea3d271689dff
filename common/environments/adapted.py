"""One environment of a person's own, made to keep the promises of suites: `AdaptedEnv`."""

import collections
import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium
import numpy as np

from common import errors
from common.environments import actions, images, making, observations, suite

_LARGEST = float(np.finfo(np.float32).max)
_OLD_API = (
  'it has the interface of gym before 0.26: reset must return (observation, info), and step '
  '(observation, reward, terminated, truncated, info). Mend it, or wrap it: --wrappers=MODULE:NAME'
)


class AdaptedEnv(gymnasium.Wrapper):
  """The environment of a recipe, with observations and actions as `suite.Suite` describes.

  - Arrays are fresh: an environment may reuse its own.
  - `info` is empty: what an environment puts there is not ours.
  - Where it ends by itself and by the clock at once, it has terminated.
  - Whatever it does wrong is a `UserError`, which names it, the step and the fault.

  Attributes:
    notes: Remarks for the user on what is observed.
    first_info: The environment's own `info` of the last reset.
  """

  def __init__(self, recipe: making.Recipe, has_mask: bool = False):
    """Makes the environment.

    Args:
      recipe: How.
      has_mask: Whether its `info` has masks of actions.

    Raises:
      UserError: If it cannot be made, or its spaces are refused.
    """
    self._name = recipe.name
    self._action_repeat = recipe.action_repeat
    self._has_mask = has_mask
    self._has_pictures = recipe.pictures
    self._steps = 0  # Of the environment, in this episode.
    super().__init__(making.make(recipe))
    try:
      self._actions = actions.converter(self.env.action_space)
      self._reader = observations.Reader(
        self.env.observation_space, self._actions.size, has_mask, recipe.view
      )
    except errors.UserError as error:
      self.env.close()
      raise errors.UserError(f'{self._name} {error}') from error
    self.notes = self._reader.notes
    self.first_info: Mapping[str, Any] = {}
    self.observation_space = self._reader.space
    self.action_space = self._actions.space
    # The last frames, uint8 [H, W], where they are stacked.
    self._frames: collections.deque[np.ndarray] = collections.deque(maxlen=recipe.view.frame_stack)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    del options
    self._steps = 0
    answer = self._ask(self.env.reset, seed=seed)
    if not (isinstance(answer, tuple) and len(answer) == 2 and isinstance(answer[1], Mapping)):
      raise self._fault(_OLD_API)
    observation, self.first_info = answer
    return self._convert(observation, self.first_info, is_first=True), {}

  def step(self, action: Any) -> suite.Step:
    try:
      action = self._actions.convert(action)
    except ValueError as error:
      raise self._fault(f'{error}. Its networks hold NaN?') from error
    total = 0.0
    for _ in range(self._action_repeat):
      self._steps += 1
      answer = self._ask(self.env.step, action)
      if not (isinstance(answer, tuple) and len(answer) == 5 and isinstance(answer[4], Mapping)):
        raise self._fault(_OLD_API)
      observation, reward, terminated, truncated, info = answer
      total += self._number(reward)
      terminated = self._flag(terminated)
      truncated = self._flag(truncated) and not terminated
      if terminated or truncated:
        break
    return self._convert(observation, info), total, terminated, truncated, {}

  def render(self) -> Any:
    """What it shows a person, uint8 `[H, W, 3]`; None if that is no image, or not asked for.

    Raises:
      UserError: If it says that it renders, but cannot.
    """
    if not self._has_pictures:
      return None
    if self.env.render_mode is None:
      # It has not said so: what it does is its own affair.
      with contextlib.suppress(Exception):
        return images.rendered(self.env.render())
      return None
    return images.rendered(self._ask(self.env.render))

  def _convert(
    self, observation: Any, info: Mapping[str, Any], is_first: bool = False
  ) -> suite.Observation:
    """The environment's observation in our form."""
    try:
      result = self._reader(observation)
      if self._has_mask and not self._reader.reads_mask:
        result[observations.MASK] = self._reader.mask(info.get(observations.MASK))
    except observations.Fault as fault:
      raise self._fault(str(fault)) from fault

    if self._frames.maxlen and self._frames.maxlen > 1:
      frame = result['observation']
      if is_first:
        # As Atari's: zeros before a game's start.
        self._frames.extend([np.zeros_like(frame)] * self._frames.maxlen)
      self._frames.append(frame)
      result['observation'] = np.stack(self._frames)
    return result

  def _ask(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    """Calls a method of the environment, whose errors become messages."""
    try:
      return function(*arguments, **named)
    except (errors.UserError, suite.EnvironmentCrashed):
      raise
    except Exception as error:
      # What gymnasium's own wrappers say about a step of four values.
      is_old = isinstance(error, ValueError) and 'expected 5, got 4' in str(error)
      fault = _OLD_API if is_old else making.fault_of(error)
      raise self._fault(fault) from error

  def _flag(self, ended: Any) -> bool:
    return ended if type(ended) is bool else self._ask(bool, ended)

  def _number(self, reward: Any) -> float:
    """A reward; an array of a single number counts as that number."""
    if type(reward) is float and abs(reward) <= _LARGEST:
      return reward
    try:
      number = float(reward) if np.ndim(reward) == 0 else float(np.asarray(reward).item())
    except (TypeError, ValueError) as error:
      raise self._fault(f'the reward is {reward!r:.80}, expected a number') from error
    # Not `abs(number) > _LARGEST`, which is False for NaN.
    if not abs(number) <= _LARGEST:
      raise self._fault(f'the reward is {number}, expected a finite number (as float32)')
    return number

  def _fault(self, text: str) -> errors.UserError:
    when = f'step {self._steps} of an episode' if self._steps else 'reset'
    return errors.UserError(f'{self._name}, {when}: {text}')
