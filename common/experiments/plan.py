"""Plans an experiment at a scale: its runs, what is missing, what it costs, what it needs."""

import dataclasses
import hashlib
import importlib.util
import json
import pathlib
import shlex
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from common import environments, errors
from common.config import presets as all_presets
from common.config import settings
from common.experiments import definitions
from common.machine import cores, memory, version

_FIRST_SEED = 1
_MISSING = 'not available in this version: '
# Of a run's folder before any is measured: checkpoints of a small network, metrics, events.
_BYTES_PER_RUN = 4e6
# To trace a run's graphs and make its environments, and to save it at the end.
_START_SECONDS = 4.0


@dataclasses.dataclass(frozen=True)
class Run:
  """One training run of an experiment.

  Attributes:
    number: Its position in the plan.
    variant, task: What is trained on what.
    draw: The combination of hyperparameters; None for the preset's own.
    system: The package that is trained.
    program: Its module.
    preset: The preset to start from, with the combination's number.
    config: The run's settings.
    asked: The settings that differ from the preset's.
    flags: Further flags of its program.
    name: The name of its folder: a hash of all that decides its outcome.
  """

  number: int
  variant: str
  task: definitions.Task
  draw: int | None
  system: str
  program: str
  preset: str
  config: settings.Settings
  asked: Mapping[str, Any]
  flags: tuple[str, ...]
  name: str

  @property
  def module(self) -> str:
    return f'{self.system}.{self.program}'

  def arguments(self, folder: pathlib.Path) -> list[str]:
    """The flags with which its program trains this run alone."""
    flags = [f'--preset={self.preset}', f'--run_dir={folder / self.name}', *self.flags]
    return flags + [f'--config.{name}={value}' for name, value in self.asked.items()]

  def command(self, folder: pathlib.Path) -> str:
    """The command that trains this run alone."""
    return shlex.join(['python', '-m', self.module, *self.arguments(folder)])

  def describe(self) -> str:
    draw = '' if self.draw is None else f', draw {self.draw}'
    return f'{self.variant} on {self.task.name}{draw}, seed {self.config.seed}'


@dataclasses.dataclass(frozen=True)
class Plan:
  """An experiment's runs at a scale.

  Attributes:
    experiment, scale: What is planned.
    name: The scale's name.
    runs: All runs.
    folder: Where the runs' folders are.
    unavailable: What keeps variants from being run in this version, by variant.
  """

  experiment: definitions.Experiment
  scale: definitions.Scale
  name: str
  runs: Sequence[Run]
  folder: pathlib.Path
  unavailable: Mapping[str, str]

  def missing(self) -> list[Run]:
    """The runs that are not finished, each once: variants may share some."""
    by_name = {run.name: run for run in reversed(self.runs)}
    return [
      run
      for run in self.runs
      if by_name[run.name] is run and not is_finished(self.folder / run.name)
    ]

  def finished(self) -> int:
    """How many of the runs are finished."""
    return sum(is_finished(self.folder / run.name) for run in self.runs)


def make(
  experiment: definitions.Experiment,
  name: str,
  presets: Mapping[str, all_presets.Presets],
  folder: pathlib.Path,
) -> Plan:
  """Plans an experiment.

  Args:
    experiment: What to run.
    name: The scale.
    presets: The presets of each system.
    folder: Where runs are kept, for all experiments: two that have a run in common share it.

  Returns:
    The plan. Variants with settings that this version lacks have no runs, see `Plan.unavailable`.

  Raises:
    UserError: If there is no such scale, or a setting has a value that cannot work.
  """
  scale = definitions.scale_of(experiment, name)
  runs: list[Run] = []
  unavailable = {}
  for variant in experiment.variants:
    lacking = _lacking(experiment, variant, scale, name, presets)
    if lacking:
      unavailable[variant.name] = lacking
      continue
    for task in variant.tasks.get(name, scale.tasks):
      for draw in _draws(variant, scale):
        for seed in range(_FIRST_SEED, _FIRST_SEED + scale.seeds):
          runs.append(_run(len(runs), experiment, variant, task, draw, seed, name, presets))
  return Plan(experiment, scale, name, runs, folder, unavailable)


def _draws(variant: definitions.Variant, scale: definitions.Scale) -> Sequence[int] | tuple[None]:
  """The combinations of hyperparameters; one run without any for a program that has its own."""
  return range(scale.draws) if scale.draws and variant.program == 'train' else (None,)


def _run(
  number: int,
  experiment: definitions.Experiment,
  variant: definitions.Variant,
  task: definitions.Task,
  draw: int | None,
  seed: int,
  scale_name: str,
  presets: Mapping[str, all_presets.Presets],
) -> Run:
  scale = experiment.scales[scale_name]
  system = variant.system or experiment.system
  known = presets[system]
  base = _preset(variant, task, scale, scale_name)
  preset = base if draw is None else f'{base}:{draw}'
  # A combination of hyperparameters comes before the scale's and the task's own values.
  drawn = {} if draw is None or known.draw is None else known.draw(draw)
  shared = _shared(variant, scale, scale_name)
  asked = {
    'env': task.env,
    'seed': seed,
    **{k: v for k, v in {**shared, **task.settings}.items() if k not in drawn},
    **variant.settings_at(scale_name),
  }
  try:
    config = dataclasses.replace(known.preset(preset), **asked)
    config.check()
  except errors.UserError as error:
    raise errors.UserError(f'{experiment.id}, {variant.name}, {task.name}: {error}') from error
  return Run(
    number=number,
    variant=variant.name,
    task=task,
    draw=draw,
    system=system,
    program=variant.program,
    preset=preset,
    config=config,
    asked=asked,
    flags=variant.flags.get(scale_name, ()),
    name=_hash(system, [variant.program, *variant.flags.get(scale_name, ())], config),
  )


def _preset(
  variant: definitions.Variant,
  task: definitions.Task,
  scale: definitions.Scale,
  name: str,
) -> str:
  return variant.presets.get(name) or task.preset or scale.preset


def _shared(variant: definitions.Variant, scale: definitions.Scale, name: str) -> Mapping[str, Any]:
  """The scale's settings, unless the variant has a preset of its own at that scale."""
  return {} if name in variant.presets else scale.settings


def _hash(system: str, program: Sequence[str], config: settings.Settings) -> str:
  """Names a run by what decides its outcome."""
  decisive = [system, program, vars(config), version.of_training(system)]
  return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()[:16]


def _lacking(
  experiment: definitions.Experiment,
  variant: definitions.Variant,
  scale: definitions.Scale,
  name: str,
  presets: Mapping[str, all_presets.Presets],
) -> str:
  """What this version lacks for a variant, in words; '' if nothing."""
  system = variant.system or experiment.system
  if not importlib.util.find_spec(f'{system}.{variant.program}'):
    return f'{_MISSING}program {system}.{variant.program}'
  tasks = variant.tasks.get(name, scale.tasks)
  strange = {task.env for task in tasks if not environments.is_known(task.env)}
  if strange:
    return f'{_MISSING}environment {", ".join(sorted(strange))}'
  lacking = {_preset(variant, task, scale, name) for task in tasks} - set(presets[system].rows)
  if lacking:
    return f'{_MISSING}preset {", ".join(sorted(lacking))}'
  fields = {field.name for field in dataclasses.fields(presets[system].config)}
  asked = set(variant.settings_at(name)) | set(_shared(variant, scale, name))
  for task in tasks:
    asked |= set(task.settings)
  unknown = sorted(asked - fields)
  return f'{_MISSING}setting {", ".join(unknown)}' if unknown else ''


def is_finished(folder: pathlib.Path) -> bool:
  """Whether the run in a folder has been trained to its end."""
  return (folder / 'finished.json').exists()


def seconds_per_run(plan: Plan) -> dict[str, float]:
  """Seconds that each run takes, by name: measured by runs of the same kind, or stated."""
  measured = _measured(plan)
  stated = plan.scale.frames_per_second
  seconds = {}
  for run in plan.runs:
    rate = measured.get(_kind(run))
    frames = run.config.total_frames
    # What is measured includes the start.
    seconds[run.name] = frames / rate if rate else frames / stated + _START_SECONDS
  return seconds


def _kind(run: Run) -> tuple[str, str]:
  return run.variant, run.task.name


def _measured(plan: Plan) -> dict[tuple[str, str], float]:
  """Frames a second, start and end of a run included, of finished runs."""
  rates: dict[tuple[str, str], list[float]] = {}
  for run in plan.runs:
    path = plan.folder / run.name / 'finished.json'
    if path.exists():
      seconds = json.loads(path.read_text())['seconds']
      rates.setdefault(_kind(run), []).append(run.config.total_frames / max(seconds, 1e-3))
  return {kind: statistics.median(values) for kind, values in rates.items()}


def total_seconds(plan: Plan, runs: Iterable[Run], jobs: int) -> float:
  """How long runs take, `jobs` at once."""
  seconds = seconds_per_run(plan)
  lengths = [seconds[run.name] for run in runs]
  # The last run of each job ends on its own.
  return max(sum(lengths) / jobs, max(lengths, default=0.0))


def disk_bytes(runs: Sequence[Run]) -> float:
  return len(runs) * _BYTES_PER_RUN


def lacking_machine(needs: definitions.Needs, jobs: int) -> list[str]:
  """What this machine lacks to run `jobs` runs at once, in words."""
  lacks = []
  gpus = len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))
  free = memory.available() / 1e9
  if needs.cores > cores.count():
    lacks.append(f'{needs.cores} cores for a run, where {cores.count()} are usable')
  if needs.gpus > gpus:
    lacks.append(f'{needs.gpus} GPU, where there are {gpus}')
  if needs.gigabytes * jobs > free:
    lacks.append(f'{needs.gigabytes * jobs:.0f} GB of memory, where {free:.0f} are free')
  for package in needs.packages:
    if not importlib.util.find_spec(package):
      lacks.append(f'the package {package}, which is not installed')
  return lacks


def duration(seconds: float) -> str:
  """A duration for people: `3 h 20 min`."""
  if seconds < 90:
    return f'{seconds:.0f} s'
  if seconds < 90 * 60:
    return f'{seconds / 60:.0f} min'
  if seconds < 72 * 3600:
    return f'{seconds / 3600:.1f} h'
  days = seconds / 86400
  return f'{days:,.0f} days' if days < 1000 else f'{days / 365:,.0f} years'
