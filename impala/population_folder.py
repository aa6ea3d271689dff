"""The folder of a population: what its members tell each other, by files that are written whole.

    POPULATION/
      config.json            the settings that all members share
      population.json        how many members there are, and the rule by which they evolve
      random.json            mean returns of random play, for suites without human scores
      member-07/             an ordinary run
        published.json       its newest fitness, and which of its checkpoints that belongs to
        published/latest/    those checkpoints
        history.json         whenever it evolved: what it decided, and its hyperparameters

Members never write to each other's folders. There is no server, and nothing is locked: a reader
finds the file before or the one after.
"""

import dataclasses
import json
import logging
import pathlib
from collections.abc import Callable, Mapping
from typing import Any, Self, TypeVar

from common import errors
from common.machine import files
from impala import exploit_explore

_MEMBER = 'member-'
_Parsed = TypeVar('_Parsed')


@dataclasses.dataclass(frozen=True)
class Population:
  """What a population's members have in common, beside their settings.

  Attributes:
    size: The number of members.
    seed: Determines whom each compares itself with, and how hyperparameters are changed.
    adapted: The hyperparameters that evolve.
    rule: How.
  """

  size: int
  seed: int
  adapted: tuple[str, ...]
  rule: exploit_explore.Rule

  def to_json(self) -> dict[str, Any]:
    return dataclasses.asdict(self)

  @classmethod
  def from_json(cls, values: Mapping[str, Any]) -> Self:
    rule = exploit_explore.Rule(**values['rule'])
    return cls(int(values['size']), int(values['seed']), tuple(values['adapted']), rule)


@dataclasses.dataclass(frozen=True)
class Published:
  """What a member lets the others know at the end of a generation.

  Attributes:
    generation: How often the member had evolved before.
    frames: Its environment frames.
    updates: Its updates, which name its checkpoint.
    returns: Mean returns by task over the generation's episodes.
    best: The best of these in all generations, by task.
    hyperparameters: Those that it has learned with.
  """

  generation: int
  frames: int
  updates: int
  returns: dict[str, float]
  best: dict[str, float]
  hyperparameters: dict[str, float]


@dataclasses.dataclass(frozen=True)
class Event:
  """What a member decided at the end of a generation.

  Attributes:
    generation: How often it had evolved before.
    frames: Its environment frames.
    returns: Mean returns by task over the generation's episodes.
    fitness: Its fitness as it was then, in percent.
    before: The hyperparameters of the generation that has ended.
    after: Those of the next.
    partner: The member with which it compared itself; None if there was no other yet.
    partner_fitness: That one's fitness.
    taken_generation: The generation of the partner's checkpoint that was taken over; None if it
      was not.
    taken_frames: The partner's frames at that checkpoint.
  """

  generation: int
  frames: int
  returns: dict[str, float]
  fitness: float
  before: dict[str, float]
  after: dict[str, float]
  partner: int | None = None
  partner_fitness: float | None = None
  taken_generation: int | None = None
  taken_frames: int | None = None


def member_folder(folder: pathlib.Path, number: int) -> pathlib.Path:
  """The folder of a member's run."""
  return folder / f'{_MEMBER}{number:02d}'


def number_of(run_dir: pathlib.Path) -> int:
  """The number of the member whose run has this folder.

  Raises:
    UserError: If it is no member's.
  """
  number = run_dir.name.removeprefix(_MEMBER)
  if run_dir.name == number or not number.isdecimal():
    raise errors.UserError(
      f'the run folder {run_dir} is not that of a member of a population, which is named '
      f'{_MEMBER}00, {_MEMBER}01, ... The setting population is set by python -m impala.population'
    )
  return int(number)


def save(folder: pathlib.Path, population: Population) -> None:
  """Writes `population.json`."""
  _write(folder / 'population.json', population.to_json())


def load(folder: pathlib.Path) -> Population:
  """Reads `population.json`.

  Raises:
    UserError: If there is none, or it is damaged.
  """
  path = folder / 'population.json'
  try:
    population = Population.from_json(json.loads(path.read_text()))
  except OSError as error:
    raise errors.UserError(
      f'{folder} is not the folder of a population: it has no readable population.json '
      f'({error.strerror}). Begin one with python -m impala.population --run_dir={folder}'
    ) from error
  except (ValueError, TypeError, KeyError, AttributeError) as error:
    raise errors.UserError(f'{path} is damaged: {type(error).__name__}: {error}') from error
  population.rule.check()
  return population


def publish(folder: pathlib.Path, number: int, published: Published) -> None:
  """Writes a member's `published.json`, once its checkpoint is there."""
  _write(member_folder(folder, number) / 'published.json', dataclasses.asdict(published))


def published(folder: pathlib.Path, number: int) -> Published | None:
  """What a member has published last; None if nothing, or with a warning if it is damaged."""
  path = member_folder(folder, number) / 'published.json'
  return _parsed(path, lambda values: Published(**values), None)


def published_checkpoints(folder: pathlib.Path, number: int) -> pathlib.Path:
  """Where a member publishes its checkpoints."""
  return member_folder(folder, number) / 'published'


def write_history(folder: pathlib.Path, number: int, history: list[Event]) -> None:
  """Writes a member's `history.json`, a generation after the other."""
  path = member_folder(folder, number) / 'history.json'
  _write(path, {'events': [dataclasses.asdict(event) for event in history]})


def history(folder: pathlib.Path, number: int) -> list[Event]:
  """A member's generations so far; none, with a warning, if the file is damaged."""
  path = member_folder(folder, number) / 'history.json'
  nothing: list[Event] = []
  events = _parsed(path, lambda values: [Event(**event) for event in values['events']], nothing)
  # One that was damaged and begun anew cannot be told by place: it counts as none.
  return [event for place, event in enumerate(events) if event.generation == place]


def write_random(folder: pathlib.Path, returns: Mapping[str, float]) -> None:
  """Writes `random.json`: the mean returns of random play by task."""
  _write(folder / 'random.json', dict(returns))


def random(folder: pathlib.Path) -> dict[str, float]:
  """The mean returns of random play by task; none if they have not been measured."""
  return _parsed(folder / 'random.json', dict, {})


def _write(path: pathlib.Path, values: Mapping[str, Any]) -> None:
  with files.replacing(path) as file:
    json.dump(values, file, indent=1)


def _parsed(path: pathlib.Path, parse: Callable[[Any], _Parsed], otherwise: _Parsed) -> _Parsed:
  """What is in a file; `otherwise` if there is none or, with a warning, if it is damaged."""
  try:
    return parse(json.loads(path.read_text()))
  except FileNotFoundError:
    return otherwise
  except (OSError, ValueError, TypeError, KeyError) as error:
    logging.warning('%s cannot be read: %r. Going on without it.', path, error)
    return otherwise
