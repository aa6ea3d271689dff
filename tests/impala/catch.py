"""Catch, from pixels: a ball falls through ten rows, and the paddle below has to be where it lands."""

import gymnasium
import numpy as np

_ROWS, _COLUMNS, _SCALE = 10, 5, 4


class Catch(gymnasium.Env):
  """Nine steps an episode; 1 at its end if the ball is caught, else -1. A paddle that never moves catches one in five."""

  observation_space = gymnasium.spaces.Box(0, 255, (_ROWS * _SCALE, 2 * _COLUMNS * _SCALE, 1), np.uint8)
  action_space = gymnasium.spaces.Discrete(3)  # Left, stay, right.

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    self._row, self._ball, self._paddle = 0, int(self.np_random.integers(_COLUMNS)), _COLUMNS // 2
    return self._pixels(), {}

  def step(self, action):
    self._paddle = int(np.clip(self._paddle + action - 1, 0, _COLUMNS - 1))
    self._row += 1
    landed = self._row == _ROWS - 1
    reward = (1.0 if self._ball == self._paddle else -1.0) if landed else 0.0
    return self._pixels(), reward, landed, False, {}

  def _pixels(self) -> np.ndarray:
    board = np.zeros((_ROWS, _COLUMNS), np.uint8)
    board[self._row, self._ball] = board[-1, self._paddle] = 255
    return board.repeat(_SCALE, 0).repeat(2 * _SCALE, 1)[:, :, np.newaxis]


gymnasium.register('Catch-v0', Catch)
