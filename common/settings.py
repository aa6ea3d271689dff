"""What the configs of both systems share: the fields of every run, presets by name, and refusal of what cannot work."""

import dataclasses
from typing import Any, Callable, Generic, Mapping, TypeVar

from common import errors
from common.environments import suite as suites

# Names of `common.networks.TORSOS`, said again here: a mistaken flag is not to wait seconds for TensorFlow's import. With
# the smallest height and width of an image that each can read; None for those that read vectors.
TORSOS = {'shallow': 20, 'deep': 1, 'nature': 36, 'vector': None}


@dataclasses.dataclass
class Settings:
  """Settings of any run; a system's config adds its own."""
  # The environment, see --help.
  env: str = ''
  seed: int = 1
  # Environment frames to train for: agent steps x action repeat.
  total_frames: int = 1_000_000_000

  log_every_seconds: float = 10.0
  checkpoint_every_seconds: float = 120.0
  # After so long without anything to learn from the run says who is silent.
  stall_seconds: float = 60.0
  # Episodes for each task in the table at the end; 0 for no table.
  evaluation_episodes: int = 10

  def check(self) -> None:
    """Refuses values that cannot work.

    Raises:
      UserError: naming the field, its value and what is expected.
    """
    self.expect_positive('total_frames', 'log_every_seconds', 'checkpoint_every_seconds', 'stall_seconds')
    self.expect_at_least_zero('seed', 'evaluation_episodes')

  def check_torso(self, suite: suites.Suite) -> None:
    """Refuses a `torso` that cannot read what the environment shows.

    Raises:
      UserError: naming both.
    """
    shape = suite.observation_space['observation'].shape
    smallest = TORSOS[self.torso]
    self.expect('torso', (smallest is None) == (len(shape) == 1),
                f"'vector' for vectors, another for images; {suite.name} shows {shape}")
    size = suites.network_space(suite).shape[:2]
    self.expect('torso', smallest is None or min(size) >= smallest,
                f'one for images as small as those of {suite.name}, {size}; {self.torso} needs {smallest} pixels')

  def expect(self, name: str, holds: bool, expected: str) -> None:
    if not holds:
      raise errors.UserError(
          f'{name} is {getattr(self, name)!r}, expected {expected}. Set it with --config.{name}=VALUE')

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
  """
  config: type[_Config]
  rows: Mapping[str, Mapping[str, Any]]
  families: Mapping[str, str | Callable[[str], str]]
  default: str

  def preset(self, name: str) -> _Config:
    """The config of a preset.

    Raises:
      UserError: if there is none of this name.
    """
    if name not in self.rows:
      raise errors.unknown('preset', name, self.rows)
    return self.config(**self.rows[name])

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
        raise errors.UserError(f'config.json says {field.name} is {value!r}, expected {field.type.__name__}')
      setattr(config, field.name, value)
    return config
