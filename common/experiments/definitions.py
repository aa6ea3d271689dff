"""An experiment as data: what is varied, on which tasks, what the paper says, what would show it.

The papers' experiments are in `impala/figures.py` and `apex/figures.py`; docs/reproduce.md shows
how to write one of your own.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from common import errors

# From the largest to the smallest.
SCALES = ('paper', 'medium', 'small', 'smoke')
PICTURES = ('curves', 'hours', 'sorted', 'bars', 'schedule', 'rates')
# With their names in text.
AGGREGATES = {'best3': 'mean of the best three', 'iqm': 'interquartile mean', 'mean': 'mean'}
METRICS = {
  'final_return': 'final return',
  'mean_return': 'mean return over training',
  'frames_per_second': 'environment frames a second',
}

_NOTHING: Mapping[str, Any] = {}


@dataclasses.dataclass(frozen=True)
class Task:
  """What a run is trained on.

  Attributes:
    name: Its name in tables and pictures.
    env: The value of `--env`.
    low: The return that counts as 0 when tasks are averaged: that of random play.
    high: The return that counts as 1: solved, or a human's.
    settings: Settings of all runs on this task.
    preset: The preset to start from, in place of the scale's.
    references: `atari57` or `dmlab30` if each task of the suite has published scores, which then
      take the place of `low` and `high`. A run on a suite counts as the mean over its tasks.
  """

  name: str
  env: str
  low: float = 0.0
  high: float = 1.0
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  preset: str = ''
  references: str = ''


@dataclasses.dataclass(frozen=True)
class Variant:
  """One of the methods compared.

  Attributes:
    name: Its name in tables and pictures.
    settings: What makes it this variant, at every scale.
    at: Further settings, by scale.
    presets: By scale, a preset to start from in place of the scale's. The scale's settings, made
      for its own preset, are then left out.
    system: The package that is trained; '' for the one in the experiment's id. Another one has a
      preset of its own.
    program: The module of the package that trains it. If it has a function `train`, it trains one
      run with that; otherwise it is a program that trains many, such as a population, in place of
      the scale's combinations of hyperparameters.
    flags: By scale, flags for such a program.
    tasks: By scale, tasks in place of the scale's.
    number: Its value on the axis of pictures over a number, such as the number of actors.
  """

  name: str
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  at: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
  presets: Mapping[str, str] = dataclasses.field(default_factory=dict)
  system: str = ''
  program: str = 'train'
  flags: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
  tasks: Mapping[str, tuple[Task, ...]] = dataclasses.field(default_factory=dict)
  number: float | None = None

  def settings_at(self, scale: str) -> dict[str, Any]:
    """All settings of the variant at a scale."""
    return {**self.settings, **self.at.get(scale, _NOTHING)}


@dataclasses.dataclass(frozen=True)
class Needs:
  """What one run takes.

  Attributes:
    cores: Cores; fewer would change what is measured.
    gpus: GPUs.
    gigabytes: Memory.
    packages: Python packages beyond `requirements.txt`.
  """

  cores: int = 1
  gpus: int = 0
  gigabytes: float = 1.5
  packages: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Scale:
  """How an experiment is run on a machine of some size.

  Attributes:
    preset: The preset that all runs start from.
    tasks: What is trained on.
    changes: What differs from the paper, in words, for reports and captions.
    frames_per_second: The speed of a run, which is stated here for the first estimate. Runs that
      are finished replace it by what they measured.
    settings: Settings of all runs.
    draws: How many of the fixed combinations of hyperparameters; 0 for the preset's own.
    seeds: Runs of each variant, task and combination, with different seeds.
    needs: What one run takes.
  """

  preset: str
  tasks: tuple[Task, ...]
  changes: str
  frames_per_second: float
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  draws: int = 0
  seeds: int = 1
  needs: Needs = Needs()


@dataclasses.dataclass(frozen=True)
class Better:
  """The test that one variant has more of the metric than another.

  Attributes:
    variant: The one that should have more.
    than: The other.
    by: The least difference that counts, of returns between `low` and `high`; of rates, in e-folds.
  """

  variant: str
  than: str
  by: float = 0.0


@dataclasses.dataclass(frozen=True)
class Rising:
  """The test that the metric rises from one variant to the next.

  Attributes:
    variants: In the order in which it should rise.
    by: The least slope that counts, as a difference between two neighbours.
  """

  variants: tuple[str, ...]
  by: float = 0.0


@dataclasses.dataclass(frozen=True)
class Claim:
  """A sentence of the paper in our words, and the test of it, fixed before any run.

  Attributes:
    text: What the paper claims.
    section: Where.
    tests: Those that all must hold.
    metric: What is compared.
    aggregate: How the runs of a variant on a task become one number.
  """

  text: str
  section: str
  tests: tuple[Better | Rising, ...]
  metric: str = 'final_return'
  aggregate: str = 'iqm'


@dataclasses.dataclass(frozen=True)
class Published:
  """A number of the paper that its per-task scores must give again.

  Attributes:
    title: What the number is of.
    suite: `atari57` or `dmlab30`.
    column: The column of `common.reporting.scores.references` with the agent's scores.
    statistic: Which of `common.reporting.scores.summary`.
    printed: The number in the paper.
    within: By how much rounding of the per-task scores may move it.
    human_starts: Whether Atari episodes started from states of human play.
  """

  title: str
  suite: str
  column: str
  statistic: str
  printed: float
  within: float
  human_starts: bool = False


@dataclasses.dataclass(frozen=True)
class Experiment:
  """One figure or table.

  Attributes:
    id: `SYSTEM.NAME`.
    title: What is shown, in a line.
    claims: What the paper says about it.
    variants: The methods compared.
    scales: How it is run, by name; see `SCALES`.
    pictures: Which of `PICTURES` to draw.
    also: Further ids that the same runs answer.
    published: Numbers that the published scores must give again.
    command: In place of runs, a command whose success shows the claims, without its interpreter.
    minutes: What the command takes.
  """

  id: str
  title: str
  claims: tuple[Claim, ...]
  variants: tuple[Variant, ...] = ()
  scales: Mapping[str, Scale] = dataclasses.field(default_factory=dict)
  pictures: tuple[str, ...] = ('curves',)
  also: tuple[str, ...] = ()
  published: tuple[Published, ...] = ()
  command: tuple[str, ...] = ()
  minutes: float = 0.0

  def __post_init__(self) -> None:
    """Refuses definitions that contradict themselves, such as tests of variants that are not there.

    Raises:
      UserError: Names the experiment and what is wrong in it.
    """
    _expect(self, 'scale', self.scales, SCALES)
    _expect(self, 'picture', self.pictures, PICTURES)
    _expect(self, 'metric', [claim.metric for claim in self.claims], METRICS)
    _expect(self, 'aggregate', [claim.aggregate for claim in self.claims], AGGREGATES)
    _expect(self, 'variant', _tested(self.claims), self.names())
    if not self.command and not (self.variants and self.scales):
      raise errors.UserError(f'experiment {self.id}: expected variants and scales, or a command')

  @property
  def system(self) -> str:
    return self.id.partition('.')[0]

  def names(self) -> list[str]:
    """The names of the variants, in order."""
    return [variant.name for variant in self.variants]


def _tested(claims: tuple[Claim, ...]) -> list[str]:
  """The variants that tests name."""
  named: list[str] = []
  for claim in claims:
    for test in claim.tests:
      named += test.variants if isinstance(test, Rising) else (test.variant, test.than)
  return named


def _expect(experiment: Experiment, kind: str, named: Any, known: Any) -> None:
  for name in named:
    if name not in known:
      raise errors.unknown(f'{kind} of experiment {experiment.id}', name, known)


def find(experiments: Mapping[str, Experiment], name: str) -> Experiment:
  """The experiment with an id, or with a further id.

  Raises:
    UserError: If there is none, with the nearest.
  """
  ids = {other: experiment for experiment in experiments.values() for other in experiment.also}
  ids |= experiments
  if name not in ids:
    raise errors.unknown('figure or table', name, ids, 'All: scripts/reproduce.py list')
  return ids[name]


def scale_of(experiment: Experiment, name: str) -> Scale:
  """An experiment's scale by name.

  Raises:
    UserError: If the experiment does not have it.
  """
  if name not in experiment.scales:
    raise errors.unknown(f'scale of {experiment.id}', name, experiment.scales)
  return experiment.scales[name]
