"""Plays whole episodes of a task with any policy, and sums them up."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium
import numpy as np
import scipy.stats

from common import environments, errors

# From observations [N, ...], last rewards float32 [N] and dones bool [N] to actions [N]. It may
# hold state: one is made for each task.
Player = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]

_MAX_ENVIRONMENTS = 10  # Of one task, at once.
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
    """The mean return, its 95% bootstrap interval, and what they were computed from."""
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
  """The percentile bootstrap interval of the mean; of zero width where all values are equal."""
  if len(set(values)) == 1:
    return float(values[0]), float(values[0])
  result = scipy.stats.bootstrap(
    (np.asarray(values),), np.mean, confidence_level=confidence, method='percentile', rng=0
  )
  interval = result.confidence_interval
  return float(interval.low), float(interval.high)


def random_player(action_space: gymnasium.Space, seed: int) -> Player:
  """A player that draws its actions uniformly."""
  rng = np.random.default_rng(seed)
  return lambda observations, rewards, done: random_actions(action_space, len(done), rng)


def random_actions(
  action_space: gymnasium.Space, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Uniform actions of N = `count` environments: int64 `[N]`, or float32 `[N, A]` in [-1, 1]."""
  if isinstance(action_space, gymnasium.spaces.Discrete):
    return rng.integers(action_space.n, size=count)
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
    suite: Has the task.
    task: Its name.
    make_player: Makes the policy for a task and its number of environments.
    episodes: How many to play.
    seed: Seeds the environments.
    pictures: Whether to keep the observations of the first episode.

  Raises:
    UserError: If the environments crash three times.
  """
  for attempt in range(_MAX_CRASHES):
    try:
      return _play(suite, task, make_player, episodes, seed + attempt, pictures)
    except environments.EnvironmentCrashed as error:
      crash = error
  raise errors.UserError(
    f'{suite.name}: {_MAX_CRASHES} attempts at {task} ended in a crash: {crash}'
  )


def environments_at_once(episodes: int) -> int:
  """How many environments share the episodes of a task."""
  return min(episodes, _MAX_ENVIRONMENTS)


def table(columns: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  """A text table: a line for each task, and in each column its mean return and interval."""
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
  """One attempt.

  Every environment plays its share of the episodes, however long they are: to take whichever end
  first would favour short ones.
  """
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
        result.pictures.append(np.array(observations['observation'][0]))
      actions = player(observations, rewards, done)
      observations, rewards, terminated, truncated, info = environment.step(actions)
      rewards = rewards.astype(np.float32)
      done = terminated | truncated
      returns += rewards
      lengths += 1
      # A lost life may end an episode for the agent; its return is the whole game's.
      for i in np.flatnonzero(info.get('game_over', done)):
        if played[i] < share[i]:
          result.returns.append(float(returns[i]))
          result.lengths.append(int(lengths[i]))
        played[i] += 1
        returns[i] = lengths[i] = 0
      # An engine that was started again: its episode has no end and does not count.
      for i in info.get('crashes', {}):
        returns[i] = lengths[i] = 0
        done[i] = True
  finally:
    environment.close()
  return result
