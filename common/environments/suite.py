"""The interfaces between environments and everything else.

- `Family`: what a module of this package provides, e.g. `doom` or `atari`.
- `Suite`: what a family returns, and all that a learner knows before any environment exists.
- `MakeVectorEnv`: what the vector environments of a suite promise to those that step them.
- `StepInfo`: the keys of a step's `info` that the rest of the code reads.
"""

import dataclasses
import zlib
from collections.abc import Callable
from typing import Any, Mapping, Protocol, Sequence, TypedDict, cast

import gymnasium
import numpy as np

from common import errors
from common.environments import options as option_sets
from common.machine import workers

MAX_WORDS = 32  # Room for the words of one instruction.
INSTRUCTION_BUCKETS = 1000  # IMPALA, released code: words are hashed to 1000 buckets.
_NO_WORD = -1

# What gymnasium's methods return here: `Env` (one environment) and `VectorEnv` (N of them).
Observation = dict[str, np.ndarray]
Reset = tuple[Observation, dict[str, Any]]
Step = tuple[Observation, float, bool, bool, dict[str, Any]]
VectorStep = tuple[Observation, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]
ActionSpace = gymnasium.spaces.Discrete | gymnasium.spaces.MultiDiscrete | gymnasium.spaces.Box


class EnvironmentCrashed(workers.Expected):
  """An environment's engine died. Resetting the vector environment restarts it."""


class StepInfo(TypedDict, total=False):
  """The keys of a vector environment's `info` that actors and evaluation read; all are optional.

  Families may return other keys beside them, which nothing reads.

  Attributes:
    final_obs: Object array `[N]`, in gymnasium's form: the last observation of an episode that this
      step ended (a dict by name), as the observation returned is already the next episode's first.
      Present whenever an environment is truncated, with an entry for each truncated one; other
      entries mean nothing and may be None. Read with `final_observations`, to bootstrap from a
      time limit.
    game_over: bool `[N]`: the episodes whose return counts have ended. A subset of `terminated |
      truncated`, and equal to it where the key is absent. They differ on Atari in training, where
      a lost life terminates the learner's episode but not the game.
    crashes: Why engines died, by index of the environment. Those engines were restarted within the
      step or reset: the observation is the first of a new episode, and unless `terminated |
      truncated` the old episode has no end. Absent or empty if none died.
  """

  final_obs: np.ndarray
  game_over: np.ndarray
  crashes: Mapping[int, str]


class MakeVectorEnv(Protocol):
  """Builds vector environments that keep the promises below."""

  def __call__(self, tasks: Sequence[str], training: bool, /) -> gymnasium.vector.VectorEnv:
    """Builds one vector environment of N = `len(tasks)` environments.

    Autoreset mode: `SAME_STEP`. A step that ends an episode also resets, and returns the first
    observation of the next episode; the last one is in `info['final_obs']`, see `StepInfo`.

    Arrays: those that `reset` and `step` return belong to the environment, which may overwrite them
    in the next step. Callers copy what they keep.

    Rewards are in the task's own units, and terminated and truncated exclude each other.

    Seeds: `reset(seed=s)` gives environment i the seed s + i. The same seed and actions repeat an
    episode; without a seed the environment's generator goes on.

    Crashes: an engine that dies either raises `EnvironmentCrashed` from `reset` or `step` (all N
    have then lost their episodes, and the next `reset` restarts the engine), or the environment
    restarts it alone and reports it in `info['crashes']`. Engines that can never run raise
    `UserError`.

    Hangs: environments in child processes are killed and restarted as if they had died, if they do
    not answer for `environment_timeout_seconds`. A method `awaited`, if there is one, says what the
    vector environment is waiting for; any thread may call it.

    Pictures: `picture` says what environment 0 shows a person, if `options.pictures` is set.

    Lifetime: `close` ends the engine's processes and may be called again.

    Args:
      tasks: The task of each environment, from the suite's tasks; tasks may repeat.
      training: False in evaluation, which some papers run under other rules (on Atari a lost life
        ends no episode then; DMLab-30 has variants of levels for testing).
    """


@dataclasses.dataclass(frozen=True)
class Suite:
  """One or many tasks that share observations and actions.

  Attributes:
    name: The value of `--env`, e.g. `doom` or `atari:pong`.
    tasks: The names of the tasks; `assign` gives them to environments.
    observation_space: Of one environment, without a batch axis. `observation` is what the torso
      reads, uint8 pixels or float32 vectors. Pixels are `[height, width, channels]`, or
      `[stack, height, width]` if `frame_stack` > 1. The others are optional: `instruction` (int32
      `[MAX_WORDS]`), `vector` (float32 `[D]`, what is observed beside pixels) and `action_mask`
      (uint8 `[A]`, 1 for the actions that may be taken now; only with discrete actions. With
      several of them at once, the actions of each stand side by side).
    action_space: Of one environment: `Discrete` or `MultiDiscrete`, numbered from 0, or a float32
      `Box` of vectors in [-1, 1].
    action_repeat: Environment frames per agent step.
    make: Builds the vector environments.
    steps_per_second: Agent steps in a second of the game's own time, for films.
    reward_scales: Factors for the learner's rewards by task, applied before clipping; 1 where a
      task is missing. Statistics and evaluation stay in the task's own units.
    return_discount: Gamma of the discounted returns that actors report, by whose deviation the
      learner divides rewards; None if they report none.
    frame_stack: Grey frames in one observation; 1 where frames are not stacked.
    references: The table of `common.reporting.scores` that scores are compared with; '' for none.
    note: A remark that every report of this suite's scores must carry; '' for none.
    bytes_per_environment: Memory that one engine takes; 0 where that does not matter.
    measure_bytes: Measures it, where only running one can tell; None elsewhere.
    max_episode_steps: Agent steps after which every episode is truncated in training; None if that
      is not known.
    closing_seconds: How long its environments may take to end, whatever they are doing.
  """

  name: str
  tasks: tuple[str, ...]
  observation_space: gymnasium.spaces.Dict
  action_space: ActionSpace
  action_repeat: int
  make: MakeVectorEnv
  steps_per_second: float = 15.0
  reward_scales: Mapping[str, float] = dataclasses.field(default_factory=dict)
  return_discount: float | None = None
  frame_stack: int = 1
  references: str = ''
  note: str = ''
  bytes_per_environment: int = 0
  measure_bytes: Callable[[], int] | None = None
  max_episode_steps: int | None = None
  closing_seconds: float = 10.0

  @property
  def is_discrete(self) -> bool:
    return isinstance(self.action_space, gymnasium.spaces.Discrete)

  @property
  def is_continuous(self) -> bool:
    return isinstance(self.action_space, gymnasium.spaces.Box)

  def environment_bytes(self) -> int:
    """`bytes_per_environment`; measured, which may take seconds, where that is not known."""
    if self.measure_bytes and not self.bytes_per_environment:
      return self.measure_bytes()
    return self.bytes_per_environment

  @property
  def num_actions(self) -> int:
    """The number of discrete actions."""
    assert isinstance(self.action_space, gymnasium.spaces.Discrete), 'actions are continuous'
    return int(self.action_space.n)


class Family(Protocol):
  """What a module of this package provides, so that `environments.load` finds its suites.

  To add a family, write such a module and enter it in `_MODULES` of `common/environments`.
  `control.py` is a short example with one task per suite, `doom.py` one with many.
  """

  def load(self, name: str, member: str, options: option_sets.Options, /) -> Suite:
    """Finds a suite, without starting an engine that outlives the call.

    Args:
      name: The value of `--env`, FAMILY or FAMILY:MEMBER; it becomes the suite's name.
      member: What follows the first colon of `name`; '' if nothing does.
      options: Settings of the run. Every family honours `tasks` (see `select_tasks`).

    Raises:
      UserError: If there is no such member or task, or what it needs is not installed.
    """

  def names(self) -> Sequence[str]:
    """Values of `--env` to suggest for a misspelled one; not necessarily all that exist."""


def select_tasks(name: str, tasks: Sequence[str], options: option_sets.Options) -> tuple[str, ...]:
  """The tasks of a suite that `options.tasks` names, in the suite's order; all if it names none.

  Raises:
    UserError: If it names a task that the suite `name` does not have.
  """
  wanted = [task.strip() for task in options.tasks.split(',') if task.strip()]
  for task in wanted:
    if task not in tasks:
      raise errors.unknown(f'task of {name}', task, tasks)
  return tuple(task for task in tasks if not wanted or task in wanted)


def refuse_member(name: str, member: str, form: str) -> None:
  """Refuses a member of a whole suite, e.g. `atari57:pong`.

  Args:
    name: The value of `--env`.
    member: What follows its first colon.
    form: How a single task is written instead, e.g. `atari:GAME`.

  Raises:
    UserError: If there is a member.
  """
  if member:
    suite = name.partition(':')[0]
    raise errors.UserError(
      f'{name!r} is not an environment: write a single task as {form}, or some tasks of the suite '
      f'as --env={suite} --tasks={member}'
    )


def assign(tasks: Sequence[str], actor: int, num_actors: int, envs_per_actor: int) -> list[str]:
  """Assigns tasks to an actor's environments, for the whole run; tasks get equally many of them.

  If the number of actors is a multiple of the number of tasks, each actor keeps to one task, so
  that a level that resets slowly holds up only its own kind. Otherwise environments take tasks in
  turn (IMPALA, section 5.3).
  """
  if num_actors % len(tasks) == 0:
    return [tasks[actor % len(tasks)]] * envs_per_actor

  first = actor * envs_per_actor
  numbers = [(first + i) % len(tasks) for i in range(envs_per_actor)]
  # Sorted, because environments of one task must stand side by side to share an engine (Atari).
  return [tasks[number] for number in sorted(numbers)]


def continuous_actions(size: int) -> gymnasium.spaces.Box:
  """The action space of a suite with `size` continuous actions."""
  return gymnasium.spaces.Box(-1.0, 1.0, (size,), np.float32)


def pixels_and_instruction(height: int, width: int) -> gymnasium.spaces.Dict:
  """The observation space of the first-person suites: RGB pixels and a hashed instruction."""
  pixels = gymnasium.spaces.Box(0, 255, (height, width, 3), np.uint8)
  return gymnasium.spaces.Dict({'instruction': instruction_space(), 'observation': pixels})


def instruction_space() -> gymnasium.spaces.Box:
  """The space of what `hash_words` returns."""
  return gymnasium.spaces.Box(_NO_WORD, INSTRUCTION_BUCKETS - 1, (MAX_WORDS,), np.int32)


def network_space(suite: Suite) -> gymnasium.spaces.Dict:
  """The observation space as networks read it: stacked frames become channels."""
  if suite.frame_stack == 1:
    return suite.observation_space
  space = suite.observation_space['observation']
  assert isinstance(space, gymnasium.spaces.Box)
  stack, height, width = space.shape
  channels = gymnasium.spaces.Box(0, 255, (height, width, stack), space.dtype.type)
  return gymnasium.spaces.Dict({**suite.observation_space.spaces, 'observation': channels})


def observed_shape(suite: Suite) -> tuple[int, ...]:
  """The shape of `observation` as networks read it: `[D]`, or `[height, width, channels]`."""
  shape = network_space(suite)['observation'].shape
  assert shape is not None  # Suites observe boxes.
  return shape


def vector_sizes(suite: Suite) -> dict[str, int]:
  """The sizes of the vectors that a suite shows, by their names in observations."""
  sizes = {}
  for name, space in suite.observation_space.spaces.items():
    if space.dtype == np.float32 and space.shape and len(space.shape) == 1:
      sizes[name] = space.shape[0]
  return sizes


def with_rewards(suite: Suite, options: option_sets.Options) -> Suite:
  """The suite with rewards as the settings ask for them."""
  if options.reward_scale == 1.0 and options.return_discount is None:
    return suite
  scales = suite.reward_scales
  if options.reward_scale != 1.0:
    scales = {task: options.reward_scale * scales.get(task, 1.0) for task in suite.tasks}
  return dataclasses.replace(suite, reward_scales=scales, return_discount=options.return_discount)


def integer_bounds(suite: Suite) -> dict[str, tuple[int, int]]:
  """The lowest and highest value of integer observations that do not use all of their type."""
  bounds = {}
  for name, space in suite.observation_space.spaces.items():
    if not isinstance(space, gymnasium.spaces.Box) or not np.issubdtype(space.dtype, np.integer):
      continue
    limits = np.iinfo(space.dtype)
    low = int(space.low.min())
    high = int(space.high.max())
    if (low, high) != (limits.min, limits.max):
      bounds[name] = (low, high)
  return bounds


def awaited(environment: Any) -> str:
  """What a vector environment is waiting for, if it can say so; see `MakeVectorEnv`."""
  say = getattr(environment, 'awaited', None)
  return say() if say else ''


def picture(environment: gymnasium.vector.VectorEnv) -> np.ndarray | None:
  """What environment 0 shows a person now, uint8 `[H, W, 3]`; None if only observations show it.

  Only where `options.pictures` was set. Vector environments have a method `picture` for that; those
  that gymnasium steps in turn are asked to `render`.
  """
  for each in (environment, environment.unwrapped):
    show = getattr(each, 'picture', None)
    if show:
      return show()
    if isinstance(each, gymnasium.vector.SyncVectorEnv):
      return cast(np.ndarray | None, each.envs[0].render())
  return None


def final_observations(info: StepInfo, which: np.ndarray) -> Observation:
  """The last observations of episodes that a step truncated, by name, `[M, ...]`.

  Args:
    info: The step's.
    which: int `[M]`, indices of truncated environments; at least one.
  """
  last = [info['final_obs'][i] for i in which]
  return {name: np.stack([one[name] for one in last]) for name in last[0]}


def hash_words(instruction: str) -> np.ndarray:
  """Hashes the first words of an instruction to buckets.

  Runs in the actor's environment, because string operations run neither on a GPU nor under XLA.

  Returns:
    int32 `[MAX_WORDS]`: a bucket for each word, then -1.
  """
  words = instruction.split()[:MAX_WORDS]
  hashed = np.full(MAX_WORDS, _NO_WORD, np.int32)
  # CRC-32 and not Python's `hash`, whose values differ between processes.
  hashed[: len(words)] = [zlib.crc32(word.encode()) % INSTRUCTION_BUCKETS for word in words]
  return hashed
