"""A small task for the benchmark: a room seen as a grid of symbols, as in MiniGrid."""

from typing import Any

import gymnasium
import numpy as np

_VIEW = 7  # Cells a side that the agent sees, itself in the middle.
_ROOM = 8  # Cells a side of the room, walls included.
_EMPTY, _WALL, _GOAL = 1, 2, 8  # MiniGrid's numbers of these objects.
_MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1))
_MOST_STEPS = 64


class Room(gymnasium.Env):
  """The agent walks to a goal in a walled room; it pays 1 to arrive, after 64 steps it is late."""

  observation_space = gymnasium.spaces.Box(0, 255, (_VIEW, _VIEW, 3), np.uint8)
  action_space = gymnasium.spaces.Discrete(len(_MOVES))

  def __init__(self) -> None:
    margin = _VIEW // 2
    side = _ROOM + 2 * margin
    self._cells = np.zeros((side, side, 3), np.uint8)
    self._cells[margin:-margin, margin:-margin, 0] = _WALL
    self._first = margin + 1
    self._last = side - margin - 2
    inside = slice(self._first, self._last + 1)
    self._cells[inside, inside, 0] = _EMPTY

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> tuple[np.ndarray, dict[str, Any]]:
    super().reset(seed=seed, options=options)
    places = self.np_random.integers(self._first, self._last + 1, 4).tolist()
    self._agent = places[0], places[1]
    self._goal = places[2], places[3]
    self._steps = 0
    return self._view(), {}

  def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
    down, right = _MOVES[action]
    row = min(max(self._agent[0] + down, self._first), self._last)
    column = min(max(self._agent[1] + right, self._first), self._last)
    self._agent = row, column
    self._steps += 1
    arrived = self._agent == self._goal
    late = self._steps == _MOST_STEPS and not arrived
    return self._view(), float(arrived), arrived, late, {}

  def _view(self) -> np.ndarray:
    """The cells around the agent, uint8 `[7, 7, 3]`."""
    row, column = self._agent
    half = _VIEW // 2
    view = self._cells[row - half : row + half + 1, column - half : column + half + 1].copy()
    down, right = self._goal[0] - row, self._goal[1] - column
    if abs(down) <= half and abs(right) <= half:
      view[half + down, half + right, 0] = _GOAL
    return view
