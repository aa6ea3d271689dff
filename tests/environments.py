"""Small environments for tests of whole runs.

Selected as `gym:environments:NAME`, with tests/ in PYTHONPATH.
"""

import contextlib
import os
import time

import gymnasium
import numpy as np

_ROWS = 10
_COLUMNS = 5
_SCALE = 4  # Pixels per row.


class Catch(gymnasium.Env):
  """A paddle catches a falling ball; observed as pixels.

  An episode lasts nine steps and pays 1 at its end if the ball is caught, otherwise -1. A paddle
  that never moves catches one ball in five.
  """

  observation_space = gymnasium.spaces.Box(
    0, 255, (_ROWS * _SCALE, 2 * _COLUMNS * _SCALE, 1), np.uint8
  )
  action_space = gymnasium.spaces.Discrete(3)  # Left, stay, right.

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._row = 0
    self._ball = int(self.np_random.integers(_COLUMNS))
    self._paddle = _COLUMNS // 2
    return self._pixels(), {}

  def step(self, action):
    self._paddle = int(np.clip(self._paddle + action - 1, 0, _COLUMNS - 1))
    self._row += 1
    landed = self._row == _ROWS - 1
    reward = (1.0 if self._ball == self._paddle else -1.0) if landed else 0.0
    return self._pixels(), reward, landed, False, {}

  def _pixels(self) -> np.ndarray:
    board = np.zeros((_ROWS, _COLUMNS), np.uint8)
    board[self._row, self._ball] = 255
    board[-1, self._paddle] = 255
    # Twice as wide as high, to tell the axes apart.
    return board.repeat(_SCALE, 0).repeat(2 * _SCALE, 1)[:, :, np.newaxis]


class Stuck(gymnasium.Env):
  """Hangs in every step, for the report about stalled runs."""

  observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    return np.zeros(2, np.float32), {}

  def step(self, action):
    time.sleep(30.0)
    return np.zeros(2, np.float32), 0.0, False, False, {}


class Faulty(Stuck):
  """Divides by zero in every step."""

  def step(self, action):
    return np.zeros(2, np.float32), 1.0 / int(action * 0), False, False, {}


class Halting(Stuck):
  """Goes on, but the first one to find the file that HALT names hangs until it finds another."""

  def step(self, action):
    halt = os.environ['HALT']
    with contextlib.suppress(FileNotFoundError):
      os.rename(halt, f'{halt}ed')
      while not os.path.exists(f'{halt}-no-more'):
        time.sleep(0.05)
    time.sleep(0.001)
    return np.zeros(2, np.float32), 0.0, False, False, {}


class Overflowing(Stuck):
  """Pays so much that the sum of several rewards is infinite."""

  def step(self, action):
    return np.zeros(2, np.float32), 3e38, False, False, {}


class Patient(gymnasium.ObservationWrapper):
  """Adds a number to a whole number that is observed."""

  def __init__(self, env: gymnasium.Env):
    super().__init__(env)
    own = env.observation_space
    self.observation_space = gymnasium.spaces.Dict(own=own, waits=gymnasium.spaces.Discrete(2))

  def observation(self, observation):
    return {'own': observation, 'waits': 1}


class Magnified(gymnasium.ObservationWrapper):
  """Shows a vector a thousand times as large, and far from 0."""

  def __init__(self, env: gymnasium.Env):
    super().__init__(env)
    self.observation_space = gymnasium.spaces.Box(
      -np.inf, np.inf, env.observation_space.shape, np.float32
    )

  def observation(self, observation):
    return np.float32(1000.0 * observation + 5000.0)


class Surge(gymnasium.Env):
  """Episodes of ten steps that pay 1 each; one step in 500 pays what cannot be squared."""

  observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)
  _total = None  # Steps of all episodes; environments begin at different numbers.

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._steps = 0
    if self._total is None:
      self._total = int(self.np_random.integers(400))
    return np.zeros(2, np.float32), {}

  def step(self, action):
    self._steps += 1
    self._total += 1
    reward = 1.0 if self._total % 500 else 3e38
    return np.zeros(2, np.float32), reward, self._steps == 10, False, {}


class Fleeting(gymnasium.Env):
  """Cuts its episodes after seven steps, without stating that as its time limit."""

  observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    self._steps = 0
    return np.zeros(2, np.float32), {}

  def step(self, action):
    self._steps += 1
    return np.zeros(2, np.float32), 1.0, False, self._steps == 7, {}


class FleetingPush(Fleeting):
  """The same with continuous actions."""

  action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)


gymnasium.register('Catch-v0', Catch)
gymnasium.register('Stuck-v0', Stuck)
gymnasium.register('Faulty-v0', Faulty)
gymnasium.register('Halting-v0', Halting)
gymnasium.register('Overflowing-v0', Overflowing)
gymnasium.register('Surge-v0', Surge)
gymnasium.register('Fleeting-v0', Fleeting)
gymnasium.register('FleetingPush-v0', FleetingPush)
