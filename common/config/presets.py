"""Presets: a system's configs by name."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar

from common import errors
from common.config import settings

_Config = TypeVar('_Config', bound=settings.Settings)


@dataclasses.dataclass(frozen=True)
class Presets(Generic[_Config]):
  """A system's configs by name.

  Attributes:
    config: The system's dataclass.
    rows: By name, the values that differ from the dataclass's defaults.
    families: The preset for each environment family, where --env is given without --preset; or a
      function to it from the environment's name.
    default: The preset where neither is given.
    draws: The number of combinations of hyperparameters to start from, as in `PRESET:7`.
    draw: From the number of a combination to its values.
  """

  config: type[_Config]
  rows: Mapping[str, Mapping[str, Any]]
  families: Mapping[str, str | Callable[[str], str]]
  default: str
  draws: int = 0
  draw: Callable[[int], Mapping[str, Any]] | None = None

  def preset(self, name: str) -> _Config:
    """The config of the preset `NAME`, or `NAME:N` with combination N of hyperparameters.

    Raises:
      UserError: If there is none of this name or number.
    """
    row, colon, number = name.partition(':')
    if row not in self.rows:
      raise errors.unknown('preset', name, self.rows)
    values = dict(self.rows[row])
    if colon:
      if not (self.draw and number.isdecimal() and int(number) < self.draws):
        raise errors.UserError(f'preset {name!r}: expected {row}, {self._numbers(row)}')
      values |= self.draw(int(number))
    return self.config(**values)

  def preset_for(self, env: str) -> str:
    """The name of the preset for an environment.

    Raises:
      UserError: If it depends on what the environment is, and there is no such environment.
    """
    suited = self.families.get(env.partition(':')[0], self.default)
    return suited(env) if callable(suited) else suited

  def from_json(self, values: Mapping[str, Any]) -> _Config:
    """The config of a run's `config.json`.

    Settings that an older version did not have get their defaults.

    Raises:
      UserError: If a value's type is not the setting's.
    """
    config = self.config()
    for field in dataclasses.fields(self.config):
      value = values.get(field.name, getattr(config, field.name))
      if field.type is float and type(value) is int:
        value = float(value)
      if type(value) is not field.type:
        expected = getattr(field.type, '__name__', field.type)
        raise errors.UserError(f'config.json says {field.name} is {value!r}, expected {expected}')
      setattr(config, field.name, value)
    return config

  def _numbers(self, row: str) -> str:
    if not self.draws:
      return 'without a number: there are no combinations of hyperparameters to take'
    return f'or {row}:0 to {row}:{self.draws - 1} for a combination of hyperparameters'
