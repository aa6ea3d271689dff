"""Presets: a system's configs by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from common import environments, errors
from common.config import settings

_Config = TypeVar('_Config', bound=settings.Settings)


@dataclasses.dataclass(frozen=True)
class Presets(Generic[_Config]):
  """A system's configs by name.

  Attributes:
    config: The system's config class, a dataclass.
    rows: For each preset, the values that differ from the dataclass's defaults.
    families: For each environment family, the preset used if --env is given without --preset; or a
      function from the environment's name and options to that preset.
    default: The preset for other families, or if neither flag is given.
    draws: How many combinations of hyperparameters `PRESET:N` can choose from; 0 for none.
    draw: Maps a combination's number N to its values.
  """

  config: type[_Config]
  rows: Mapping[str, Mapping[str, Any]]
  families: Mapping[str, str | Callable[[str, environments.Options], str]]
  default: str
  draws: int = 0
  draw: Callable[[int], Mapping[str, Any]] | None = None

  def preset(self, name: str) -> _Config:
    """The config of preset `NAME`; for `NAME:N`, with hyperparameter combination N.

    Raises:
      UserError: If there is no such preset or combination.
    """
    row, colon, number = name.partition(':')
    if row not in self.rows:
      raise errors.unknown('preset', name, self.rows)
    # A copy: the caller may change its config.
    values = dict(self.rows[row])
    if colon:
      # `isdecimal` also refuses signs and spaces, which `int` would accept.
      if not (self.draw and number.isdecimal() and int(number) < self.draws):
        raise errors.UserError(f'preset {name!r}: expected {row}, {self._numbers(row)}')
      values |= self.draw(int(number))
    return self.config(**values)

  def preset_for(self, env: str, options: environments.Options = environments.Options()) -> str:
    """The name of the preset for an environment, with options that may change what it is.

    Raises:
      UserError: If the environment must be loaded to choose, and does not exist.
    """
    suited = self.families.get(environments.family_of(env), self.default)
    return suited(env, options) if callable(suited) else suited

  def from_json(self, values: Mapping[str, Any], source: str = 'config.json says') -> _Config:
    """The config in a run's `config.json`, or what another process has sent of the same form.

    Settings that are missing, as in runs of an older version, get their defaults.

    Args:
      values: The settings by name.
      source: Begins the sentence about a wrong value.

    Raises:
      UserError: If a value has the wrong type.
    """
    config = self.config()
    for field in dataclasses.fields(self.config):
      value = values.get(field.name, getattr(config, field.name))
      # JSON written by hand may say 1 for 1.0.
      if field.type is float and type(value) is int:
        value = float(value)
      # Not `isinstance`, for which True is an int.
      if type(value) is not field.type:
        expected = getattr(field.type, '__name__', field.type)
        raise errors.UserError(f'{source} {field.name} is {value!r}, expected {expected}')
      setattr(config, field.name, value)
    return config

  def _numbers(self, row: str) -> str:
    """Which numbers the preset takes, for a message."""
    if not self.draws:
      return 'without a number: there are no combinations of hyperparameters'
    return f'or {row}:0 to {row}:{self.draws - 1} for a combination of hyperparameters'
