"""A small task that observes and acts in every form at once: pixels, vector, words, masks.

Each step shows three digits: one by a bright column of pixels, one by a vector, one by a word. They
are to be named, by three actions at once or by the number of their combination.
"""

from collections.abc import Callable

import gymnasium
import numpy as np

from common.environments import suite as suites

SIZES = (3, 2, 4)
WORDS = ('red', 'green', 'blue', 'grey')
LENGTH = 12  # Steps of an episode, which a time limit ends.


class Digits(gymnasium.Env):
  """Pays the share of the digits that are named; 1 or nothing for their combination."""

  def __init__(self, several: bool, masked: bool):
    """Makes the spaces.

    Args:
      several: Whether the three actions are taken at once, or as one.
      masked: Whether only some actions are legal, the right one among them.
    """
    self._several = several
    self._masked = masked
    self.action_space = gymnasium.spaces.Discrete(int(np.prod(SIZES)))
    if several:
      self.action_space = gymnasium.spaces.MultiDiscrete(SIZES)
    self._num_logits = sum(SIZES) if several else int(np.prod(SIZES))
    spaces = {
      'observation': gymnasium.spaces.Box(0, 255, (3, 5, 1), np.uint8),
      'vector': gymnasium.spaces.Box(-np.inf, np.inf, (SIZES[1],), np.float32),
      'instruction': suites.pixels_and_instruction(3, 5)['instruction'],
    }
    if masked:
      spaces['action_mask'] = gymnasium.spaces.Box(0, 1, (self._num_logits,), np.uint8)
    self.observation_space = gymnasium.spaces.Dict(spaces)

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._steps = 0
    return self._next(), {}

  def step(self, action):
    if self._masked and not np.all(self._mask[self._places(action)]):
      raise AssertionError(f'{action} is illegal')
    self._steps += 1
    right = self._digits == (action if self._several else np.unravel_index(action, SIZES))
    reward = float(np.mean(right)) if self._several else float(np.all(right))
    return self._next(), reward, False, self._steps == LENGTH, {}

  def _next(self):
    self._digits = np.array([self.np_random.integers(size) for size in SIZES])
    pixels = np.zeros((3, 5, 1), np.uint8)
    pixels[:, self._digits[0]] = 255
    observation = {
      'observation': pixels,
      'vector': np.eye(SIZES[1], dtype=np.float32)[self._digits[1]],
      'instruction': suites.hash_words(f'press {WORDS[self._digits[2]]}'),
    }
    if self._masked:
      self._mask = (self.np_random.random(self._num_logits) < 0.5).astype(np.uint8)
      right = self._digits if self._several else np.ravel_multi_index(self._digits, SIZES)
      self._mask[self._places(right)] = 1
      observation['action_mask'] = self._mask.copy()
    return observation

  def _places(self, action):
    """Where an action stands among the logits."""
    return np.cumsum((0, *SIZES[:-1])) + action if self._several else action


def make_suite(several: bool, masked: bool) -> suites.Suite:
  """The task as a suite."""

  def make_one() -> gymnasium.Env:
    return Digits(several, masked)

  def make(tasks, training):
    del training
    return gymnasium.vector.SyncVectorEnv(
      [make_one] * len(tasks), autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP
    )

  one = make_one()
  return suites.Suite(
    name='digits',
    tasks=('digits',),
    observation_space=one.observation_space,
    action_space=one.action_space,
    action_repeat=1,
    make=make,
  )


class Masked(gymnasium.vector.VectorWrapper):
  """Vector environments whose masks a test changes; the array is the environment's own."""

  def __init__(self, env, change: Callable[[np.ndarray], None]):
    super().__init__(env)
    self._change = change

  def reset(self, *, seed=None, options=None):
    observations, info = self.env.reset(seed=seed, options=options)
    self._change(observations['action_mask'])
    return observations, info

  def step(self, actions):
    observations, *rest = self.env.step(actions)
    self._change(observations['action_mask'])
    return observations, *rest
