"""Plays whole episodes of a task with any policy, and summarizes their returns."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import scipy.stats

from common import environments, errors
from common.environments import masks

# Maps observations [N, ...], last rewards float32 [N] and dones bool [N] to actions [N]. May hold
# state: a new player is made for each task.
Player = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]

_MAX_ENVIRONMENTS = 10  # Of one task at once.
_MAX_CRASHES = 3


@dataclasses.dataclass
class Episodes:
  """Episodes of one task.

  Attributes:
    returns: Undiscounted and unclipped.
    lengths: In agent steps.
    pictures: The observations of the first episode, if asked for.
  """

  returns: list[float] = dataclasses.field(default_factory=list)
  lengths: list[int] = dataclasses.field(default_factory=list)
  pictures: list[np.ndarray] = dataclasses.field(default_factory=list)

  def summary(self) -> dict[str, Any]:
    """The mean return with its 95% bootstrap interval, and every episode's return and length."""
    low, high = bootstrap_interval(self.returns)
    return {
      'mean': float(np.mean(self.returns)),
      'low': low,
      'high': high,
      'episodes': len(self.returns),
      'returns': self.returns,
      'lengths': self.lengths,
    }


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
  """The percentile bootstrap interval of the mean; of zero width if all values are equal."""
  # SciPy warns of degenerate data and returns NaN for it.
  if len(set(values)) == 1:
    return float(values[0]), float(values[0])
  # A fixed `rng`: the same episodes always have the same interval.
  result = scipy.stats.bootstrap(
    (np.asarray(values),), np.mean, confidence_level=confidence, method='percentile', rng=0
  )
  interval = result.confidence_interval
  return float(interval.low), float(interval.high)


def random_player(action_space: gymnasium.Space, seed: int) -> Player:
  """A player whose actions are uniformly random, and legal where masks say which are."""
  rng = np.random.default_rng(seed)

  def act(
    observations: Mapping[str, np.ndarray], rewards: np.ndarray, done: np.ndarray
  ) -> np.ndarray:
    del rewards
    if masks.NAME in observations:
      return masks.random_legal(action_space, observations[masks.NAME], rng)
    return random_actions(action_space, len(done), rng)

  return act


def random_actions(
  action_space: gymnasium.Space, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Uniformly random actions for N = `count` environments.

  Returns:
    int64 `[N]` for discrete actions, `[N, K]` for K of them at once, float32 `[N, A]` in [-1, 1]
    for continuous ones.
  """
  if isinstance(action_space, gymnasium.spaces.Discrete):
    return rng.integers(action_space.n, size=count)
  if isinstance(action_space, gymnasium.spaces.MultiDiscrete):
    return rng.integers(action_space.nvec, size=(count, len(action_space.nvec)))
  assert action_space.shape is not None
  return rng.uniform(-1.0, 1.0, (count, *action_space.shape)).astype(np.float32)


def play_episodes(
  suite: environments.Suite,
  task: str,
  make_player: Callable[[str, int], Player],
  episodes: int,
  seed: int,
  pictures: bool = False,
) -> Episodes:
  """Plays a number of episodes of a task.

  Args:
    suite: The suite that has the task.
    task: The task's name.
    make_player: Makes a player for a task and a number of environments.
    episodes: The number of episodes.
    seed: Seed of the environments.
    pictures: Whether to keep the observations of the first episode.

  Raises:
    UserError: If all environments crash in each of three attempts, or a mask forbids all actions.
  """
  for attempt in range(_MAX_CRASHES):
    try:
      # Another seed for each attempt: the same episodes would crash again.
      return _play(suite, task, make_player, episodes, seed + attempt, pictures)
    except environments.EnvironmentCrashed as error:
      crash = error
  raise errors.UserError(
    f'{suite.name}: {_MAX_CRASHES} attempts at {task} ended in a crash: {crash}'
  )


def environments_at_once(episodes: int) -> int:
  """The number of environments that share a task's episodes."""
  return min(episodes, _MAX_ENVIRONMENTS)


def table(columns: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  """Formats summaries as a text table.

  Args:
    columns: For each player, the summaries of `Episodes` by task.

  Returns:
    A line for each task with the mean return and interval of each player.
  """
  tasks = list(next(iter(columns.values())))
  width = max(len(task) for task in [*tasks, 'task'])
  lines = ['task'.ljust(width) + ''.join(f'{name:>34}' for name in columns)]
  for task in tasks:
    cells = ''.join(f'{_cell(column[task]):>34}' for column in columns.values())
    lines.append(task.ljust(width) + cells)
  return '\n'.join(lines)


def _cell(summary: Mapping[str, Any]) -> str:
  return f'{summary["mean"]:10.2f}  [{summary["low"]:9.2f}, {summary["high"]:9.2f}]'


def _play(
  suite: environments.Suite,
  task: str,
  make_player: Callable[[str, int], Player],
  episodes: int,
  seed: int,
  pictures: bool,
) -> Episodes:
  """Plays the episodes in one attempt. Raises EnvironmentCrashed."""
  # Each environment plays a fixed share, however long its episodes are: counting those that end
  # first would favour short ones.
  count = environments_at_once(episodes)
  share = np.full(count, episodes // count) + (np.arange(count) < episodes % count)

  result = Episodes()
  environment = suite.make([task] * count, False)
  try:
    observations, _ = environment.reset(seed=seed)
    player = make_player(task, count)
    rewards = np.zeros(count, np.float32)
    done = np.ones(count, bool)
    returns = np.zeros(count)
    lengths = np.zeros(count, int)
    played = np.zeros(count, int)

    while np.any(played < share):
      if pictures and not played[0]:
        # Copied, since the environment may reuse the array.
        result.pictures.append(np.array(observations['observation'][0]))
      masks.check(suite, observations)
      actions = player(observations, rewards, done)
      observations, rewards, terminated, truncated, info = environment.step(actions)
      rewards = rewards.astype(np.float32)
      done = terminated | truncated
      returns += rewards
      lengths += 1

      # `done` may be a lost life, but returns are those of whole games.
      for i in np.flatnonzero(info.get('game_over', done)):
        if played[i] < share[i]:
          result.returns.append(float(returns[i]))
          result.lengths.append(int(lengths[i]))
        played[i] += 1
        returns[i] = lengths[i] = 0
      # The engine was restarted: its episode did not finish and does not count.
      for i in info.get('crashes', {}):
        returns[i] = lengths[i] = 0
        done[i] = True
  finally:
    environment.close()
  return result
