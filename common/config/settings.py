"""What the configs of both systems share: the fields of every run, presets by name, and refusal of what cannot work."""

import dataclasses
from typing import Any, Callable, Generic, Mapping, TypeVar

from common import errors
from common.environments import options
from common.environments import suite as suites
from common.machine import memory

# Names of `common.networks.TORSOS`, said again here: a mistaken flag is not to wait seconds for TensorFlow's import.
# With the smallest height and width of an image that each can read; None for those that read vectors.
TORSOS = {'shallow': 20, 'deep': 1, 'nature': 36, 'vector': None}


@dataclasses.dataclass
class Settings:
  """Settings of any run; a system's config adds its own."""

  # The environment, see --help.
  env: str = ''
  # Tasks to take of an environment with many, separated by commas; all of them if empty.
  tasks: str = ''
  seed: int = 1
  # Environment frames to train for: agent steps x action repeat.
  total_frames: int = 1_000_000_000

  log_every_seconds: float = 10.0
  checkpoint_every_seconds: float = 120.0
  # After so long without anything to learn from the run says who is silent.
  stall_seconds: float = 60.0
  # Episodes for each task in the table at the end; 0 for no table.
  evaluation_episodes: int = 10

  # DeepMind Lab. The folder of the images that two psychlab levels show, or 'dummy' for dummy images.
  dmlab_dataset_path: str = ''
  # Where compiled maps are kept, for all runs; empty for nowhere. And how much, at most.
  dmlab_level_cache: str = '~/.cache/dmlab_levels'
  dmlab_level_cache_gb: float = 5.0
  # software or hardware.
  dmlab_renderer: str = 'software'
  # Further settings of the engine or level, KEY=VALUE,KEY=VALUE, e.g. minimalUI=true.
  dmlab_engine: str = ''
  # Different episodes of a level in training, whose maps can be compiled in advance; 0 for as many as there are.
  dmlab_episode_seeds: int = 0

  def check(self) -> None:
    """Refuses values that cannot work.

    Raises:
      UserError: naming the field, its value and what is expected.
    """
    self.expect_positive(
      'total_frames',
      'log_every_seconds',
      'checkpoint_every_seconds',
      'stall_seconds',
      'dmlab_level_cache_gb',
    )
    self.expect_at_least_zero('seed', 'evaluation_episodes', 'dmlab_episode_seeds')
    self.expect_one_of('dmlab_renderer', ('software', 'hardware'))

  def environment_options(self) -> options.Options:
    """What is asked of the environment, beside its name."""
    return options.Options(
      tasks=self.tasks,
      max_training_frames=getattr(self, 'max_episode_frames', None),
      **{
        field.name: getattr(self, field.name)
        for field in dataclasses.fields(self)
        if field.name.startswith('dmlab_')
      },
    )

  def check_shares(self, suite: suites.Suite) -> None:
    """Refuses numbers of environments that tasks cannot share equally, or that the machine cannot hold.

    Raises:
      UserError: naming them.
    """
    count, tasks = self.num_actors * self.envs_per_actor, len(suite.tasks)
    self.expect(
      'envs_per_actor',
      count % tasks == 0,
      f'that num_actors x envs_per_actor, now {count}, is a '
      f'multiple of the {tasks} tasks, for example {max(1, round(self.envs_per_actor / tasks)) * tasks}: all '
      'tasks get equally many environments',
    )
    needed, free = count * suite.bytes_per_environment, memory.available()
    self.expect(
      'envs_per_actor',
      needed <= free,
      f'fewer: {count} environments of {suite.name} take about '
      f'{needed / 1e9:.0f} GB, {suite.bytes_per_environment / 1e6:.0f} MB each, and {free / 1e9:.0f} GB are '
      'free',
    )

  def check_torso(self, suite: suites.Suite) -> None:
    """Refuses a `torso` that cannot read what the environment shows.

    Raises:
      UserError: naming both.
    """
    shape = suite.observation_space['observation'].shape
    smallest = TORSOS[self.torso]
    self.expect(
      'torso',
      (smallest is None) == (len(shape) == 1),
      f"'vector' for vectors, another for images; {suite.name} shows {shape}",
    )
    size = suites.network_space(suite).shape[:2]
    self.expect(
      'torso',
      smallest is None or min(size) >= smallest,
      f'one for images as small as those of {suite.name}, {size}; {self.torso} needs {smallest} pixels',
    )

  def expect(self, name: str, holds: bool, expected: str) -> None:
    if not holds:
      raise errors.UserError(
        f'{name} is {getattr(self, name)!r}, expected {expected}. Set it with --config.{name}=VALUE'
      )

  def expect_positive(self, *names: str) -> None:
    for name in names:
      self.expect(name, 0 < getattr(self, name) < float('inf'), 'more than 0')

  def expect_at_least_zero(self, *names: str) -> None:
    for name in names:
      self.expect(name, 0 <= getattr(self, name) < float('inf'), '0 or more')

  def expect_fraction(self, *names: str) -> None:
    for name in names:
      self.expect(name, 0.0 <= getattr(self, name) <= 1.0, 'between 0 and 1')

  def expect_one_of(self, name: str, allowed) -> None:
    self.expect(name, getattr(self, name) in allowed, f'one of {", ".join(allowed)}')


_Config = TypeVar('_Config', bound=Settings)


@dataclasses.dataclass(frozen=True)
class Presets(Generic[_Config]):
  """A system's configs by name.

  Attributes:
    config: the system's dataclass.
    rows: by name, the values that differ from its defaults.
    families: by environment family, the preset for an environment that is asked for by --env alone, or a function that
      tells it from the environment's name.
    default: the preset where nothing is asked for.
    draws: how many combinations of hyperparameters there are to start from, as in `PRESET:7`; 0 for none.
    draw: from the number of a combination to its values.
  """

  config: type[_Config]
  rows: Mapping[str, Mapping[str, Any]]
  families: Mapping[str, str | Callable[[str], str]]
  default: str
  draws: int = 0
  draw: Callable[[int], Mapping[str, Any]] | None = None

  def preset(self, name: str) -> _Config:
    """The config of a preset, `NAME`, or of combination N of hyperparameters with the rest of it, `NAME:N`.

    Raises:
      UserError: if there is none of this name or number.
    """
    row, drawn, number = name.partition(':')
    if row not in self.rows:
      raise errors.unknown('preset', name, self.rows)
    if drawn and not (number.isdecimal() and int(number) < self.draws):
      raise errors.UserError(
        f'preset {name!r}: expected {row}, '
        + (
          f'or {row}:0 to {row}:{self.draws - 1} for a combination of hyperparameters'
          if self.draws
          else 'without a number: there are no combinations of hyperparameters to take'
        )
      )
    return self.config(**{**self.rows[row], **(self.draw(int(number)) if drawn else {})})

  def preset_for(self, env: str) -> str:
    """The preset that suits an environment.

    Raises:
      UserError: if that depends on what the environment is, and there is no such environment.
    """
    suited = self.families.get(env.partition(':')[0], self.default)
    return suited(env) if callable(suited) else suited

  def from_json(self, values: Mapping[str, Any]) -> _Config:
    """The config of a run's `config.json`; settings it lacks, of an older version, have their defaults.

    Raises:
      UserError: for a value of another type than the setting's.
    """
    config = self.config()
    for field in dataclasses.fields(self.config):
      value = values.get(field.name, getattr(config, field.name))
      if field.type is float and type(value) is int:
        value = float(value)
      if type(value) is not field.type:
        raise errors.UserError(
          f'config.json says {field.name} is {value!r}, expected {field.type.__name__}'
        )
      setattr(config, field.name, value)
    return config
