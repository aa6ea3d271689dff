"""What every environment family offers, and what a learner may know before any environment exists."""

import dataclasses
import zlib
from typing import Callable, Mapping, Sequence

import gymnasium
import numpy as np

from common.machine import workers

MAX_WORDS = 32  # Room for the words of one instruction.
INSTRUCTION_BUCKETS = 1000  # IMPALA, released code: words are hashed to 1000 buckets.
_NO_WORD = -1


class EnvironmentCrashed(workers.Expected):
  """An environment's engine ended by itself. Resetting the vector environment starts it again."""


@dataclasses.dataclass(frozen=True)
class Suite:
  """One or many tasks that share observations and actions.

  Attributes:
    name: as on the command line, e.g. `doom` or `atari:pong`.
    tasks: task names; environments are assigned to them in turn.
    observation_space: of one environment, without a batch axis: `observation` (pixels uint8 or float32 vectors), and
      `instruction` (int32 `[MAX_WORDS]`) in suites that give one. With `frame_stack` > 1: `[stack, height, width]`.
    action_space: of one environment: `Discrete`, numbered from 0, or a `Box` of vectors in [-1, 1].
    action_repeat: environment frames per agent step.
    make: `make(tasks, training)` builds one gymnasium vector environment, `SAME_STEP` autoreset, an environment per
      name in `tasks`. Its observations may be views that the next step overwrites. Besides gymnasium's own, `info`
      may hold `game_over`, bool `[N]`: where a `done` does not end the episode whose return counts (a lost life).
    steps_per_second: agent steps of a second of the game's own time, for films.
    reward_scales: by task, what the learner's rewards are multiplied with before clipping; 1 where a task is missing.
      Statistics and evaluation are in the task's own units.
    frame_stack: how many grey frames make one observation; 1 where frames are not stacked.
    references: which scores of `common.reporting.scores` tasks are measured against; '' for none.
    note: what is to be said of every score of this suite; '' for nothing.
    bytes_per_environment: what the engine of one takes; 0 where that does not matter.
  """

  name: str
  tasks: tuple[str, ...]
  observation_space: gymnasium.spaces.Dict
  action_space: gymnasium.spaces.Discrete | gymnasium.spaces.Box
  action_repeat: int
  make: Callable[[Sequence[str], bool], gymnasium.vector.VectorEnv]
  steps_per_second: float = 15.0
  reward_scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
  frame_stack: int = 1
  references: str = ''
  note: str = ''
  bytes_per_environment: int = 0

  @property
  def is_discrete(self) -> bool:
    return isinstance(self.action_space, gymnasium.spaces.Discrete)

  @property
  def num_actions(self) -> int:
    """How many discrete actions there are."""
    return int(self.action_space.n)


def continuous_actions(size: int) -> gymnasium.spaces.Box:
  """The action space of a suite with `size` continuous actions."""
  return gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)


def network_space(suite: Suite) -> gymnasium.spaces.Box:
  """The `observation` as networks read it: stacked frames are the channels of one image."""
  space = suite.observation_space['observation']
  if suite.frame_stack == 1:
    return space
  stack, height, width = space.shape
  return gymnasium.spaces.Box(0, 255, (height, width, stack), space.dtype)


def integer_bounds(suite: Suite) -> dict[str, tuple[int, int]]:
  """The lowest and highest value of observations that are whole numbers and cannot have all values of their type."""
  spaces = {
    name: space
    for name, space in suite.observation_space.spaces.items()
    if np.issubdtype(space.dtype, np.integer)
  }
  bounds = {name: (int(space.low.min()), int(space.high.max())) for name, space in spaces.items()}
  every = {
    name: (np.iinfo(space.dtype).min, np.iinfo(space.dtype).max) for name, space in spaces.items()
  }
  return {name: pair for name, pair in bounds.items() if pair != every[name]}


def final_observations(info: Mapping, which: np.ndarray) -> np.ndarray:
  """The last `observation`s of episodes that a step ended, `[M, ...]`, for environments int `[M]`."""
  return np.stack([info['final_obs'][i]['observation'] for i in which])


def hash_words(instruction: str) -> np.ndarray:
  """Hashes an instruction's words to buckets; int32 `[MAX_WORDS]`, filled up with -1. Further words are left out.

  Done on the actor's side, as string operations run neither on a GPU nor under XLA.
  """
  words = instruction.split()[:MAX_WORDS]
  hashed = np.full(MAX_WORDS, _NO_WORD, np.int32)
  hashed[: len(words)] = [zlib.crc32(word.encode()) % INSTRUCTION_BUCKETS for word in words]
  return hashed


def pixels_and_instruction(height: int, width: int) -> gymnasium.spaces.Dict:
  """The observation space of the first-person suites: RGB pixels and a hashed instruction."""
  return gymnasium.spaces.Dict(
    {
      'instruction': gymnasium.spaces.Box(
        _NO_WORD, INSTRUCTION_BUCKETS - 1, (MAX_WORDS,), np.int32
      ),
      'observation': gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8),
    }
  )


def assign(tasks: Sequence[str], actor: int, num_actors: int, envs_per_actor: int) -> list[str]:
  """The tasks of an actor's environments, fixed for a run: each task has as many environments as any other.

  With one actor for each task, or several, each keeps to one task: what resets slowly holds up its own like only. Else
  environments take tasks in turn.
  """
  if num_actors % len(tasks) == 0:
    return [tasks[actor % len(tasks)]] * envs_per_actor
  numbers = (np.arange(envs_per_actor) + actor * envs_per_actor) % len(tasks)
  return [tasks[i] for i in sorted(numbers)]
