"""Runs, draws and judges the papers' figures and tables.

    scripts/reproduce.py list                           # what there is, and what it costs here
    scripts/reproduce.py impala.table_2 --scale=small   # runs what is missing, draws, judges
    scripts/reproduce.py apex.figure_4 --scale=paper --slurm --dry_run
    scripts/reproduce.py impala.table_4 --from_published
    scripts/reproduce.py report                         # all results so far, as two pages

Scales: paper (the paper's environments, frames and combinations), medium (one machine with a GPU,
about a day each), small (2 cores, at most three hours each) and smoke (does it run at all). The
same command goes on where it stood, whatever ended it. See docs/reproduce.md.
"""

import importlib
import importlib.util
import logging
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

import apex.config
import apex.figures
import impala.config
import impala.figures
from common import errors
from common.config import command_line, presets
from common.experiments import definitions, plan
from common.machine import cores, files, janitor, version

_ROOT = pathlib.Path(__file__).resolve().parent.parent
PRESETS: dict[str, presets.Presets[Any]] = {
  'impala': impala.config.PRESETS,
  'apex': apex.config.PRESETS,
}
EXPERIMENTS = {each.id: each for each in (*impala.figures.EXPERIMENTS, *apex.figures.EXPERIMENTS)}


def main(argv: Sequence[str]) -> int:
  """Does what the command line asks for.

  Returns:
    The exit status: 1 if runs failed, 130 if it was stopped.

  Raises:
    UserError: If the command line is wrong, or the machine cannot hold the scale.
  """
  values = _flags()
  arguments = command_line.parse_flags(values, argv, __doc__)
  if len(arguments) != 1:
    raise errors.UserError(
      f'expected a figure or table, list or report: {argv[0]} list. See --help.'
    )
  folder = pathlib.Path(values.folder)
  if arguments[0] == 'list':
    return _list(_experiments(values.experiments), folder, _jobs(values))
  if arguments[0] == 'report':
    return _report(folder, pathlib.Path(values.output))
  experiment = definitions.find(_experiments(values.experiments), arguments[0])
  if values.from_published:
    return _from_published(experiment, folder)
  if experiment.command:
    return _run_command(experiment, folder, values.dry_run)
  planned = plan.make(experiment, values.scale, PRESETS, folder / 'runs')
  if values.slurm:
    return _slurm(planned, folder, values)
  if values.dry_run:
    return _show(planned, _jobs(values))
  _expect_machine(planned, _jobs(values))
  with janitor.attend():
    return _run(planned, folder, values)


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_enum('scale', 'small', definitions.SCALES, 'How large.', flag_values=values)
  flags.DEFINE_integer(
    'jobs', 0, 'Runs at once; 0: one for each core, if a run needs one.', 0, flag_values=values
  )
  flags.DEFINE_boolean('dry_run', False, 'Show what would be done.', flag_values=values)
  flags.DEFINE_boolean('slurm', False, 'Write an array job for Slurm.', flag_values=values)
  flags.DEFINE_integer(
    'run', None, 'Train only this run of the plan, draw nothing.', 0, flag_values=values
  )
  flags.DEFINE_boolean(
    'from_published', False, "Draw the paper's own scores instead.", flag_values=values
  )
  flags.DEFINE_string(
    'experiments', '', 'A module of your own with EXPERIMENTS, such as my_figures.',
    flag_values=values,
  )  # fmt: skip
  flags.DEFINE_string(
    'folder', 'runs/reproduction', 'Where runs and results are kept.', flag_values=values
  )
  flags.DEFINE_string('output', 'docs', 'Where `report` writes its pages.', flag_values=values)
  return values


def _experiments(module: str) -> Mapping[str, definitions.Experiment]:
  """The papers' experiments, and those of the user's module."""
  if not module:
    return EXPERIMENTS
  sys.path.insert(0, '')
  if not importlib.util.find_spec(module):
    raise errors.UserError(
      f'--experiments={module}: there is no such module here. Write it as Python imports it, '
      'without .py'
    )
  own = importlib.import_module(module).EXPERIMENTS
  return {**EXPERIMENTS, **{each.id: each for each in own}}


def _jobs(values: flags.FlagValues) -> int:
  return values.jobs or cores.count()


def _list(
  experiments: Mapping[str, definitions.Experiment], folder: pathlib.Path, jobs: int
) -> int:
  """Shows every experiment: id, claims, and what each scale costs on this machine."""
  for experiment in experiments.values():
    also = f' (also {", ".join(experiment.also)})' if experiment.also else ''
    print(f'{experiment.id}{also}: {experiment.title}')
    for claim in experiment.claims:
      print(f'    "{claim.text}" ({claim.section})')
    if experiment.command:
      print(f'    tests     about {experiment.minutes:g} min: {shlex.join(experiment.command)}')
    for name in experiment.scales:
      planned = plan.make(experiment, name, PRESETS, folder / 'runs')
      print(f'    {name:<9} {_cost(planned, jobs)}')
      for line in _lacking(planned, jobs):
        print(f'              {line}')
    if experiment.published:
      print("    --from_published draws the paper's own scores")
    print()
  return 0


def _cost(planned: plan.Plan, jobs: int) -> str:
  """What a scale costs here, in a line."""
  at_once = _at_once(planned, jobs)
  seconds = plan.total_seconds(planned, planned.runs, at_once)
  parts = [f'{len(planned.runs)} runs, {planned.finished()} finished']
  if planned.runs:
    parts.append(f'about {plan.duration(seconds)}, {at_once} at once')
  return '; '.join(parts)


def _lacking(planned: plan.Plan, jobs: int) -> list[str]:
  """What this machine and this version lack for a scale, a line each."""
  lines = []
  if lacks := plan.lacking_machine(planned.scale.needs, _at_once(planned, jobs)):
    lines.append(f'this machine lacks {"; ".join(lacks)}')
  by_reason: dict[str, list[str]] = {}
  for variant, why in planned.unavailable.items():
    by_reason.setdefault(why, []).append(variant)
  for why, variants in by_reason.items():
    named = '; '.join(variants) if len(variants) <= 4 else f'{len(variants)} variants'
    lines.append(f'{why}, for {named}')
  return lines


def _at_once(planned: plan.Plan, jobs: int) -> int:
  """How many runs at once: each gets the cores that it needs."""
  return max(1, min(jobs, cores.count() // planned.scale.needs.cores))


def _expect_machine(planned: plan.Plan, jobs: int) -> None:
  """Refuses a scale that this machine cannot hold."""
  at_once = _at_once(planned, jobs)
  lacks = plan.lacking_machine(planned.scale.needs, at_once)
  if not lacks:
    return
  seconds = plan.total_seconds(planned, planned.runs, 1)
  raise errors.UserError(
    f'this machine cannot hold {planned.experiment.id} at scale {planned.name}. It takes '
    f'{"; ".join(lacks)}; and {len(planned.runs)} runs of together {plan.duration(seconds)} on '
    'such a machine. Take a smaller --scale, or write the jobs for a cluster: --slurm --dry_run'
  )


def _show(planned: plan.Plan, jobs: int) -> int:
  """Prints the plan: a command for each run that is missing."""
  missing = {run.number for run in planned.missing()}
  print(f'# {planned.experiment.id}, scale {planned.name}: {planned.scale.changes}')
  print(f'# {_cost(planned, jobs)}; {plan.disk_bytes(planned.runs) / 1e6:,.0f} MB of disk')
  for line in _lacking(planned, jobs):
    print(f'# {line}')
  for run in planned.runs:
    state = 'missing' if run.number in missing else 'finished, or the same as another'
    print(f'# {run.number}: {run.describe()}: {state}')
    if run.number in missing:
      print(run.command(planned.folder))
  return 0


def _run(planned: plan.Plan, folder: pathlib.Path, values: flags.FlagValues) -> int:
  """Runs what is missing, then judges and draws."""
  from common.experiments import conclusion, execution

  at_once = _at_once(planned, _jobs(values))
  runs = planned.missing()
  if values.run is not None:
    runs = [run for run in runs if run.number == values.run]
  logging.info(
    '%s, scale %s: %d of %d runs to do, about %s with %d at once, %.0f MB of disk.',
    planned.experiment.id,
    planned.name,
    len(runs),
    len(planned.runs),
    plan.duration(plan.total_seconds(planned, runs, at_once)),
    at_once,
    plan.disk_bytes(runs) / 1e6,
  )
  report = execution.execute(planned, runs, min(at_once, max(1, len(runs))))
  if report.is_stopped:
    logging.info('Stopped. The same command goes on from here: %s', shlex.join(sys.argv))
    return 130
  if values.run is None:
    result = conclusion.conclude(
      planned, _results(folder, planned.experiment.id, planned.name), report, version.of_code()
    )
    _print(result, folder)
  for run, why in report.failed.items():
    logging.warning('FAILED twice: %s: %s', run, why)
  return 1 if report.failed else 0


def _results(folder: pathlib.Path, experiment: str, scale: str) -> pathlib.Path:
  return folder / 'results' / experiment / scale


def _print(result: Mapping[str, Any], folder: pathlib.Path) -> None:
  from common.experiments import conclusion

  print(conclusion.text(result))
  print(f'\nWritten: {_results(folder, result["id"], result["scale"])}')


def _slurm(planned: plan.Plan, folder: pathlib.Path, values: flags.FlagValues) -> int:
  """Writes, or with --dry_run prints, an array job: a task for each missing run."""
  needs = planned.scale.needs
  numbers = ','.join(str(run.number) for run in planned.missing())
  name = f'{planned.experiment.id}-{planned.name}'
  options = [
    f'--job-name={name}',
    f'--array={numbers}',
    f'--cpus-per-task={needs.cores}',
    f'--mem={needs.gigabytes:g}G',
    # Before its time limit, Slurm signals the step, which saves; its task is then queued again.
    '--signal=TERM@180',
    '--requeue',
  ]
  options += [f'--gres=gpu:{needs.gpus}'] if needs.gpus else []
  command = [sys.executable, str(pathlib.Path(__file__).resolve()), planned.experiment.id]
  command += [f'--scale={planned.name}', f'--folder={folder.resolve()}', '--jobs=1']
  command += [f'--experiments={values.experiments}'] if values.experiments else []
  lines = ['#!/bin/bash', *(f'#SBATCH {option}' for option in options)]
  lines += [
    f'srun {shlex.join(command)} --run=$SLURM_ARRAY_TASK_ID',
    'status=$?',
    'if [ $status -eq 130 ]; then',
    '  scontrol requeue ${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}',
    'fi',
    'exit $status',
  ]
  text = '\n'.join(lines) + '\n'
  if values.dry_run:
    print(text, end='')
    return 0
  path = folder / f'{name}.sbatch'
  path.parent.mkdir(parents=True, exist_ok=True)
  with files.replacing(path) as file:
    file.write(text)
  print(f'Written: {path}. Submit it: sbatch {path}. Then draw: the same command without --slurm')
  return 0


def _from_published(experiment: definitions.Experiment, folder: pathlib.Path) -> int:
  from common.experiments import published

  _print(published.conclude(experiment, _results(folder, experiment.id, 'published')), folder)
  return 0


def _run_command(experiment: definitions.Experiment, folder: pathlib.Path, dry_run: bool) -> int:
  """Runs an experiment that is a command of this checkout."""
  command = [sys.executable, *experiment.command]
  print(shlex.join(command))
  if dry_run:
    return 0
  from common.experiments import conclusion

  done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
  print(done.stdout, end='')
  said = done.stdout.strip().splitlines()[-1:] or ['']
  result = conclusion.of_command(experiment, done.returncode == 0, said[0])
  conclusion.write(_results(folder, experiment.id, result['scale']), result)
  _print(result, folder)
  return 0 if done.returncode == 0 else 1


def _report(folder: pathlib.Path, output: pathlib.Path) -> int:
  from common.experiments import report

  pages = report.write(folder / 'results', output)
  print(f'Written: {", ".join(map(str, pages))}')
  return 0


if __name__ == '__main__':
  command_line.run(main)
