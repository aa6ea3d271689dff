"""Plays whole episodes of a task with any policy, and summarizes their returns."""

import contextlib
import dataclasses
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np

from common import environments, errors
from common.environments import images, masks
from common.environments import suite as suites
from common.reporting import films

# Maps observations [N, ...], last rewards float32 [N] and dones bool [N] to actions [N]. May hold
# state: a new player is made for each task.
Player = Callable[[Mapping[str, np.ndarray], np.ndarray, np.ndarray], np.ndarray]

_MAX_ENVIRONMENTS = 10  # Of one task at once.
_MAX_CRASHES = 3


class NothingToFilm(errors.UserError):
  """The environment neither shows images nor renders."""


@dataclasses.dataclass
class Episodes:
  """Episodes of one task, so far.

  Attributes:
    asked: How many are played.
    max_steps: Agent steps after which an episode is cut.
    returns: Of those that have ended, undiscounted and unclipped.
    lengths: Of the same, in agent steps.
    cut: How many of them were cut.
    running: The agent steps so far of those being played.
  """

  asked: int
  max_steps: int
  returns: list[float] = dataclasses.field(default_factory=list)
  lengths: list[int] = dataclasses.field(default_factory=list)
  cut: int = 0
  running: list[int] = dataclasses.field(default_factory=list)

  def standing(self) -> 'Standing':
    """How far these episodes are."""
    # As long as none has ended, all may take as many steps as they may.
    expected = np.mean(self.lengths) if self.lengths else self.max_steps
    parts = sum(min(1.0, steps / expected) for steps in self.running)
    return Standing(
      episodes=len(self.lengths),
      steps=sum(self.lengths) + sum(self.running),
      work=len(self.lengths) + float(parts),
    )

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
      'cut': self.cut,
    }


class Standing(NamedTuple):
  """How far the episodes of a task are.

  Attributes:
    episodes: Those that have ended.
    steps: Agent steps so far.
    work: Episodes, where one being played counts by its share of the steps expected of it.
  """

  episodes: int
  steps: int
  work: float


def bootstrap_interval(values: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
  """The percentile bootstrap interval of the mean; of zero width if all values are equal."""
  # SciPy warns of degenerate data and returns NaN for it.
  if len(set(values)) == 1:
    return float(values[0]), float(values[0])
  # Only now: it takes 50 MB, which every actor process would have for nothing.
  import scipy.stats

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


def repeating_player(action_space: gymnasium.Space, action: int) -> Player:
  """A player that takes the same action of a `Discrete` space over and over.

  Where masks forbid it, a random legal one.
  """
  rng = np.random.default_rng(action)

  def act(
    observations: Mapping[str, np.ndarray], rewards: np.ndarray, done: np.ndarray
  ) -> np.ndarray:
    del rewards
    wanted = np.full(len(done), action)
    if masks.NAME not in observations:
      return wanted
    legal = observations[masks.NAME]
    others = masks.random_legal(action_space, legal, rng)
    return np.where(legal[:, action], wanted, others)

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
  max_steps: int,
  film: films.Film | None = None,
) -> Generator[Episodes, None, None]:
  """Plays a number of episodes of a task.

  Args:
    suite: The suite that has the task.
    task: The task's name.
    make_player: Makes a player for a task and a number of environments.
    episodes: The number of episodes.
    seed: Seed of the environments.
    max_steps: Agent steps after which an episode is cut: some never end by themselves.
    film: Gets the pictures of the first episode; None for none.

  Yields:
    The episodes so far, after each step of the environments; the last ones are complete.

  Raises:
    UserError: If all environments crash in each of three attempts, a mask forbids all actions, or
      there is nothing to film.
  """
  for attempt in range(_MAX_CRASHES):
    result = Episodes(episodes, max_steps)
    if film:
      film.clear()
    try:
      # Another seed for each attempt: the same episodes would crash again.
      yield from _play(suite, task, make_player, result, seed + attempt, film)
      return
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


def cut_note(columns: Mapping[str, Mapping[str, Mapping[str, Any]]], max_steps: int) -> str:
  """A sentence about episodes that were cut; '' if none was.

  Args:
    columns: As for `table`.
    max_steps: Agent steps after which episodes were cut.
  """
  parts = []
  for name, column in columns.items():
    # Results of earlier versions do not have the number.
    cut = {task: summary.get('cut', 0) for task, summary in column.items()}
    tasks = [task for task, number in cut.items() if number]
    if tasks:
      asked = sum(column[task]['episodes'] for task in tasks)
      parts.append(f'{name}, {sum(cut.values())} of {asked} episodes of {", ".join(tasks)}')
  if not parts:
    return ''
  return f'Cut after {max_steps:,} agent steps (max_evaluation_steps): {"; ".join(parts)}.'


def _cell(summary: Mapping[str, Any]) -> str:
  return f'{summary["mean"]:10.2f}  [{summary["low"]:9.2f}, {summary["high"]:9.2f}]'


def _play(
  suite: environments.Suite,
  task: str,
  make_player: Callable[[str, int], Player],
  result: Episodes,
  seed: int,
  film: films.Film | None,
) -> Iterator[Episodes]:
  """Plays the episodes in one attempt. Raises EnvironmentCrashed."""
  count = environments_at_once(result.asked)
  tally = _Tally(count, result)
  with contextlib.closing(suite.make([task] * count, False)) as environment:
    observations, _ = environment.reset(seed=seed)
    player = make_player(task, count)
    rewards = np.zeros(count, np.float32)
    done = np.ones(count, bool)

    while not tally.is_complete():
      if tally.only_waits():
        # Goes on with the generators of the environments: other episodes than those before.
        observations, _ = environment.reset()
        tally.restart()
        rewards = np.zeros(count, np.float32)
        done = np.ones(count, bool)
      if film and tally.plays_first():
        film.add(_picture(suite, environment, observations['observation'][0]))

      masks.check(suite, observations)
      actions = player(observations, rewards, done)
      observations, rewards, terminated, truncated, info = environment.step(actions)
      rewards = rewards.astype(np.float32)
      done = terminated | truncated
      # `done` may be a lost life, but returns are those of whole games.
      tally.count_step(rewards, info.get('game_over', done))
      # The engine was restarted: its episode did not finish and does not count.
      for i in info.get('crashes', {}):
        tally.drop(i)
        done[i] = True
      yield result


def _picture(
  suite: environments.Suite, environment: gymnasium.vector.VectorEnv, observation: np.ndarray
) -> np.ndarray:
  """What environment 0 shows a person, uint8 `[H, W, 3]`, or else what it shows the agent.

  Raises:
    UserError: If that is a vector.
  """
  shown = suites.picture(environment)
  if shown is not None:
    return shown
  if observation.ndim != 3:
    raise NothingToFilm(
      f'{suite.name} observes vectors, and has no render() that returns an rgb_array: there is '
      'nothing to film. Leave out --video'
    )
  # The newest frame of a stack.
  return images.to_rgb(observation if suite.frame_stack == 1 else observation[-1, :, :, None])


class _Tally:
  """Which episodes of N environments count, and their returns and lengths.

  Each environment plays a fixed share, however long its episodes are: counting those that end first
  would favour short ones.

  An environment whose episode was cut cannot be reset alone. It waits until that episode ends after
  all, or until no other environment plays one that counts: then all of them are reset.
  """

  def __init__(self, count: int, result: Episodes):
    """Starts with `count` first episodes; those that end are added to `result`."""
    episodes = result.asked
    self._result = result
    self._share = np.full(count, episodes // count) + (np.arange(count) < episodes % count)
    self._played = np.zeros(count, int)
    self._returns = np.zeros(count)
    self._lengths = np.zeros(count, int)
    self._waits = np.zeros(count, bool)

  def is_complete(self) -> bool:
    return not np.any(self._played < self._share)

  def only_waits(self) -> bool:
    """Whether no environment plays an episode that counts."""
    return not np.any(self._counts())

  def plays_first(self) -> bool:
    """Whether environment 0 plays its first episode."""
    return not self._played[0]

  def restart(self) -> None:
    """Begins episodes in all environments, which were reset."""
    self._returns[:] = 0.0
    self._lengths[:] = 0
    self._waits[:] = False

  def drop(self, i: int) -> None:
    """Forgets environment i's episode so far, which another one has replaced."""
    self._returns[i] = 0.0
    self._lengths[i] = 0
    self._waits[i] = False

  def count_step(self, rewards: np.ndarray, game_over: np.ndarray) -> None:
    """Counts a step of all environments.

    Args:
      rewards: float32 `[N]`.
      game_over: bool `[N]`, episodes that ended with this step.
    """
    self._returns += rewards
    self._lengths += 1
    counts = self._counts()
    cut = counts & ~game_over & (self._lengths >= self._result.max_steps)
    for i in np.flatnonzero(counts & (game_over | cut)):
      self._result.returns.append(float(self._returns[i]))
      self._result.lengths.append(int(self._lengths[i]))
      self._played[i] += 1
    self._result.cut += int(cut.sum())

    self._waits |= cut
    for i in np.flatnonzero(game_over):
      self.drop(int(i))
    self._result.running = self._lengths[self._counts()].tolist()

  def _counts(self) -> np.ndarray:
    """bool `[N]`: the environment plays an episode that counts."""
    return (self._played < self._share) & ~self._waits
