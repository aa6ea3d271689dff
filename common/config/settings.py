"""The settings of every run, and checks that refuse values that cannot work."""

import dataclasses
import shlex
from collections.abc import Collection
from typing import ClassVar

from common import errors
from common.environments import making, options, stepping
from common.environments import suite as suites
from common.machine import memory

# The torsos of `common.networks`, with the smallest image side that each can read; None for the one
# that reads vectors. Repeated here so that a wrong flag is found without importing TensorFlow.
TORSOS: dict[str, int | None] = {
  'shallow': 20,
  'deep': 1,
  'nature': 36,
  'small': 1,
  'grid': 1,
  'vector': None,
}
# What an environment is made by, each a flag of its own, and how `gym:` shows it.
_OF_ENVIRONMENT = ('env', 'env_kwargs', 'wrappers', 'tasks')
_OF_IMAGES = ('grayscale', 'image_size', 'frame_stack', 'action_repeat')
# The torso is chosen by what is observed.
AUTO = 'auto'


@dataclasses.dataclass
class Settings:
  """Settings of every run. A system's config adds its own and may change the defaults."""

  # The package of the system that these settings belong to.
  SYSTEM: ClassVar[str] = ''

  # The environment, see --help.
  env: str = ''
  # Tasks to use of an environment that has several, separated by commas; empty: all.
  tasks: str = ''
  seed: int = 1
  # Environment frames to train for: agent steps x action repeat.
  total_frames: int = 1_000_000_000

  num_actors: int = 1
  # Environments that each actor steps as one batch.
  envs_per_actor: int = 1
  # The network that reads observations, one of `TORSOS`; auto: vector for vectors, shallow for
  # images, small for those of fewer than 20 pixels a side. Symbols of a grid (MiniGrid) need grid.
  torso: str = 'shallow'
  # Layers of the network for vectors, separated by commas.
  vector_sizes: str = '64,64'
  # Units of the LSTM that reads instructions.
  instruction_size: int = 64

  # Have networks read vectors less their running mean, over their running standard deviation; not
  # images, words and masks.
  normalize_observations: bool = False
  # Multiplies rewards, before they are clipped.
  reward_scale: float = 1.0
  # Divide rewards, before they are clipped, by the running standard deviation of the discounted
  # return.
  normalize_rewards: bool = False
  discount: float = 0.99

  # Threads that share one TensorFlow operation on the CPU; 0: one for each core. Small networks are
  # faster with 1.
  intra_op_threads: int = 0

  log_every_seconds: float = 10.0
  checkpoint_every_seconds: float = 120.0
  # After this long without new experience, the run logs what each of its parts is doing. Actors
  # that do the same for this long are named, whatever the others do.
  stall_seconds: float = 60.0
  # An environment in a child process that takes longer than this for a step, or three times as long
  # to be made or reset, is killed and started again, as if it had crashed.
  environment_timeout_seconds: float = 600.0
  # Episodes of each task to play when training is finished; 0: no evaluation.
  evaluation_episodes: int = 10
  # Whether that films the first episode of each task.
  evaluation_films: bool = False
  # Agent steps after which an episode of an evaluation is cut: some agents never end theirs. Atari
  # cuts its own before, after 108,000 frames.
  max_evaluation_steps: int = 100_000

  # For gym:ID and MODULE:FUNCTION. Arguments of the constructor, NAME=VALUE,NAME=VALUE, with
  # Python's literals; and wrappers, the innermost first, MODULE:NAME,MODULE:NAME.
  env_kwargs: str = ''
  wrappers: str = ''
  # What is done to images: made grey, resized to HEIGHTxWIDTH, stacked (only grey ones).
  grayscale: bool = False
  image_size: str = ''
  frame_stack: int = 1
  # Environment frames in one agent step.
  action_repeat: int = 1
  # Whether each environment steps in a process of its own: always, never, or auto: those that take
  # more than 0.5 ms a step.
  env_processes: str = 'auto'

  # DeepMind Lab. Folder of the images that some Psychlab levels show, or 'dummy' for placeholders.
  dmlab_dataset_path: str = ''
  # Folder where compiled maps are cached for all runs (empty: no cache), and its size limit.
  dmlab_level_cache: str = '~/.cache/dmlab_levels'
  dmlab_level_cache_gb: float = 5.0
  # software or hardware.
  dmlab_renderer: str = 'software'
  # Further settings of the engine or level, KEY=VALUE,KEY=VALUE, e.g. minimalUI=true.
  dmlab_engine: str = ''
  # Number of distinct training episodes of a level, whose maps can then be compiled in advance; 0:
  # no limit.
  dmlab_episode_seeds: int = 0

  def check(self) -> None:
    """Refuses values that cannot work.

    Raises:
      UserError: Names the setting, its value and what is expected.
    """
    self.expect_positive(
      'total_frames',
      'log_every_seconds',
      'checkpoint_every_seconds',
      'stall_seconds',
      'environment_timeout_seconds',
      'max_evaluation_steps',
      'dmlab_level_cache_gb',
      'instruction_size',
      'reward_scale',
      'frame_stack',
      'action_repeat',
    )
    self.expect_at_least_zero(
      'seed', 'evaluation_episodes', 'dmlab_episode_seeds', 'intra_op_threads'
    )
    self.expect_fraction('discount')
    self.expect(
      'reward_scale',
      self.reward_scale == 1.0 or not self.normalize_rewards,
      '1 with normalize_rewards, which divides any scale out again',
    )
    self.expect_one_of('torso', (AUTO, *TORSOS))
    sizes = self.vector_sizes.split(',')
    self.expect(
      'vector_sizes',
      all(size.strip().isdecimal() and int(size) > 0 for size in sizes),
      'numbers of units separated by commas, like 64,64',
    )
    self.expect_one_of('env_processes', stepping.CHOICES)
    self.expect_one_of('dmlab_renderer', ('software', 'hardware'))

  def environment_options(self) -> options.Options:
    """The settings that concern the environment, beside its name."""
    return options.Options(
      tasks=self.tasks,
      environment_timeout_seconds=self.environment_timeout_seconds,
      max_training_frames=self.max_training_frames(),
      env_kwargs=self.env_kwargs,
      wrappers=self.wrappers,
      grayscale=self.grayscale,
      image_size=self.image_size,
      frame_stack=self.frame_stack,
      action_repeat=self.action_repeat,
      reward_scale=self.reward_scale,
      return_discount=self.discount if self.normalize_rewards else None,
      env_processes=self.env_processes,
      dmlab_dataset_path=self.dmlab_dataset_path,
      dmlab_level_cache=self.dmlab_level_cache,
      dmlab_level_cache_gb=self.dmlab_level_cache_gb,
      dmlab_renderer=self.dmlab_renderer,
      dmlab_engine=self.dmlab_engine,
      dmlab_episode_seeds=self.dmlab_episode_seeds,
    )

  def environment_flags(self) -> str:
    """The flags that name the environment and how it is shown, for messages."""
    flags = [f'--{name}={getattr(self, name)}' for name in _OF_ENVIRONMENT if getattr(self, name)]
    for name in _OF_IMAGES:
      value = getattr(self, name)
      if value != getattr(Settings, name):
        flags.append(f'--config.{name}={str(value).lower()}')
    return shlex.join(flags)

  def training_command(self, system: str) -> str:
    """How another system trains in this environment, for messages.

    Args:
      system: Its package.
    """
    if making.given(self.env):
      return f'{system}.train.train(config, make_env=...), with a preset of {system}.config'
    return f'python -m {system}.train {self.environment_flags()}'

  def max_training_frames(self) -> int | None:
    """Environment frames after which a training episode is cut; None for the suite's own limit."""
    return None

  def check_shares(self, suite: suites.Suite, actors: int | None = None) -> None:
    """Refuses numbers of environments that tasks cannot share equally or memory cannot hold.

    Args:
      suite: The environments.
      actors: How many of the run's actors work in this process; None for all.

    Raises:
      UserError: Names the setting, its value and what would work.
    """
    count = self.num_actors * self.envs_per_actor
    tasks = len(suite.tasks)
    # A multiple of the tasks works with any number of actors.
    nearest = max(1, round(self.envs_per_actor / tasks)) * tasks
    self.expect(
      'envs_per_actor',
      count % tasks == 0,
      f'a value for which num_actors x envs_per_actor, now {count}, is a multiple of the {tasks} '
      f'tasks, for example {nearest}: all tasks get the same number of environments',
    )

    count = self.envs_per_actor * (self.num_actors if actors is None else actors)
    each = suite.environment_bytes() if count else 0
    free = memory.available()
    text = (
      f'fewer: {count} environments of {suite.name} take about {count * each / 1e9:.0f} GB, '
      f'{each / 1e6:.0f} MB each, and {free / 1e9:.0f} GB are free'
    )
    if suite.measure_bytes:
      text += '. Each has a process, without which they take less: --config.env_processes=never'
    self.expect('envs_per_actor', count * each <= free, text)

  def vector_layers(self) -> tuple[int, ...]:
    """`vector_sizes` as numbers."""
    return tuple(int(size) for size in self.vector_sizes.split(','))

  def torso_for(self, suite: suites.Suite) -> str:
    """The `torso`; for 'auto', the one that suits the environment's observations."""
    if self.torso != AUTO:
      return self.torso
    shape = suites.observed_shape(suite)
    if len(shape) == 1:
      return 'vector'
    smallest = TORSOS['shallow'] or 0
    return 'shallow' if min(shape[:2]) >= smallest else 'small'

  def check_torso(self, suite: suites.Suite) -> None:
    """Refuses a `torso` that cannot read the environment's observations.

    Raises:
      UserError: Names the torso and the shape of the observations.
    """
    torso = self.torso_for(suite)
    shape = suites.observed_shape(suite)
    smallest = TORSOS[torso]
    reads_vectors = smallest is None
    self.expect(
      'torso',
      reads_vectors == (len(shape) == 1),
      f"'auto', or 'vector' for vectors and another for images; {suite.name} shows {shape}",
    )
    size = shape[:2]
    self.expect(
      'torso',
      smallest is None or min(size) >= smallest,
      f"'auto', or one for images as small as those of {suite.name}, {size}; {torso} needs "
      f'{smallest} pixels',
    )
    self.expect(
      'torso',
      torso != 'grid' or shape[2:] == (3,),
      f"'auto': grid reads an object, a colour and a state in each cell, [height, width, 3]; "
      f'{suite.name} shows {shape}',
    )

  def check_normalization(self, suite: suites.Suite) -> None:
    """Refuses to normalise the observations of an environment that shows no vectors.

    Raises:
      UserError: Names the environment and what it shows.
    """
    shown = ', '.join(suite.observation_space.spaces)
    self.expect(
      'normalize_observations',
      not self.normalize_observations or bool(suites.vector_sizes(suite)),
      f'false: {suite.name} shows no vectors, which alone are normalised, but {shown} of shape '
      f'{suites.observed_shape(suite)}',
    )

  def expect(self, name: str, holds: bool, expected: str) -> None:
    """Raises a UserError about the setting `name` unless `holds`; `expected` ends the sentence."""
    if not holds:
      raise errors.UserError(
        f'{name} is {getattr(self, name)!r}, expected {expected}. Set it with --config.{name}=VALUE'
      )

  def expect_positive(self, *names: str) -> None:
    for name in names:
      # Comparing refuses NaN too.
      self.expect(name, 0 < getattr(self, name) < float('inf'), 'more than 0')

  def expect_at_least_zero(self, *names: str) -> None:
    for name in names:
      self.expect(name, 0 <= getattr(self, name) < float('inf'), '0 or more')

  def expect_fraction(self, *names: str) -> None:
    for name in names:
      self.expect(name, 0.0 <= getattr(self, name) <= 1.0, 'between 0 and 1')

  def expect_one_of(self, name: str, allowed: Collection[str]) -> None:
    self.expect(name, getattr(self, name) in allowed, f'one of {", ".join(allowed)}')
