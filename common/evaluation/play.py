"""Plays whole episodes of every task with a policy, and says how good they were."""

import dataclasses
from typing import Any, Callable, Mapping, Sequence

import gymnasium
import numpy as np
import scipy.stats

from common import environments, errors

# From observations [N, ...], last rewards [N] and dones [N] to actions [N]; made anew for each task, it may hold state.
Player = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]
_MAX_ENVIRONMENTS = 10  # Of one task at once.
_MAX_CRASHES = 3


@dataclasses.dataclass
class Episodes:
  """What was played of one task: undiscounted, unclipped returns, lengths in agent steps, pictures of the first one."""

  returns: list[float]
  lengths: list[int]
  pictures: list[np.ndarray] = dataclasses.field(default_factory=list)

  def summary(self) -> dict[str, Any]:
    """Mean return with a 95% bootstrap interval, and what it is made of."""
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
  interval = scipy.stats.bootstrap(
    (np.asarray(values),), np.mean, confidence_level=confidence, method='percentile', rng=0
  ).confidence_interval
  return float(interval.low), float(interval.high)


def random_player(action_space: gymnasium.Space, seed: int) -> Player:
  """Draws actions uniformly."""
  rng = np.random.default_rng(seed)
  return lambda observations, rewards, done: random_actions(action_space, len(done), rng)


def random_actions(
  action_space: gymnasium.Space, count: int, rng: np.random.Generator
) -> np.ndarray:
  """Uniform actions for `count` environments: int64 `[count]`, or float32 `[count, A]` in [-1, 1]."""
  if isinstance(action_space, gymnasium.spaces.Discrete):
    return rng.integers(action_space.n, size=count)
  return rng.uniform(-1.0, 1.0, (count, *action_space.shape)).astype(np.float32)


def play(
  suite: environments.Suite,
  task: str,
  make_player: Callable[[str, int], Player],
  episodes: int,
  seed: int,
  pictures: bool = False,
) -> Episodes:
  """Plays a number of episodes of a task.

  Args:
    suite: that has the task.
    task: its name.
    make_player: makes the policy for a task and its number of environments.
    episodes: how many.
    seed: of the environments.
    pictures: whether to keep the observations of the first episode.

  Raises:
    UserError: if the environments crash again and again.
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
  """How many environments play so many episodes of a task."""
  return min(episodes, _MAX_ENVIRONMENTS)


def table(columns: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
  """A text table: a line for each task, for each column its mean return and interval."""
  tasks = list(next(iter(columns.values())))
  width = max(len(task) for task in [*tasks, 'task'])
  lines = ['task'.ljust(width) + ''.join(f'{name:>34}' for name in columns)]
  for task in tasks:
    cells = (
      f'{c[task]["mean"]:10.2f}  [{c[task]["low"]:9.2f}, {c[task]["high"]:9.2f}]'
      for c in columns.values()
    )
    lines.append(task.ljust(width) + ''.join(f'{cell:>34}' for cell in cells))
  return '\n'.join(lines)


def _play(suite, task, make_player, episodes, seed, pictures) -> Episodes:
  """Every environment plays its share, however long its episodes are: no bias towards short ones."""
  count = environments_at_once(episodes)
  share = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
  environment, result = suite.make([task] * count, False), Episodes([], [])
  try:
    observations, _ = environment.reset(seed=seed)
    player, rewards, done = (
      make_player(task, count),
      np.zeros(count, np.float32),
      np.ones(count, bool),
    )
    returns, lengths, played = np.zeros(count), np.zeros(count, int), np.zeros(count, int)
    while np.any(played < share):
      if pictures and not played[0]:
        result.pictures.append(np.array(observations['observation'][0]))
      actions = player(observations, rewards, done)
      observations, rewards, terminated, truncated, info = environment.step(actions)
      rewards, done = rewards.astype(np.float32), terminated | truncated
      returns, lengths = returns + rewards, lengths + 1
      for i in np.flatnonzero(info.get('game_over', done)):
        if played[i] < share[i]:
          result.returns.append(float(returns[i]))
          result.lengths.append(int(lengths[i]))
        played[i] += 1
        returns[i] = lengths[i] = 0
      for i in info.get(
        'crashes', {}
      ):  # Its engine was started again: an episode that has no end does not count.
        returns[i] = lengths[i] = 0
        done[i] = True
  finally:
    environment.close()
  return result
