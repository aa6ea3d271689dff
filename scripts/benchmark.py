"""Compares training speed with what the machine allows.

`scripts/benchmark.py SYSTEM --env=NAME --seconds=S`, where SYSTEM is impala, apex_dqn or apex_dpg.
Progress is told on stderr.

First each part of the system runs alone (environments, policy, replay, learner), which gives its
cost in CPU time per agent step. The sum of these costs and the number of cores give the limit. Then
all parts run together, as in training; the ratio is their speed over the limit. All is measured in
one process, one part after the other, `--rounds` times, and medians are shown.

SYSTEM may also be wire, which measures what it costs to run actors in other processes; table_1,
which compares IMPALA with A2C and A3C as Table 1 does; start, the time from starting Python to the
first update; small, all three systems on small tasks, where what lies between the parts decides; or
all, most tables of docs/speed.md. `--json=FILE` keeps the results, and `--compare=FILE` shows the
ratios to those kept before. Only ratios of one machine on one day mean anything.
"""

import dataclasses
import importlib
import importlib.metadata
import json
import pathlib
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from common import errors
from common.config import command_line
from common.machine import cores, files, janitor
from scripts import measuring

# By system, the module that measures it, and the preset if the command line names neither a preset
# nor an environment. Each module has PRESETS, `measure(config, seconds)` and
# `table(config, result)`.
_SYSTEMS = {
  'impala': ('scripts.benchmark_impala', 'doom'),
  'apex_dqn': ('scripts.benchmark_apex', 'atari'),
  'apex_dpg': ('scripts.benchmark_apex', 'control'),
  'table_1': ('scripts.benchmark_table_1', 'table_1'),
  'wire': ('scripts.benchmark_wire', 'atari_shallow'),
  'start': ('scripts.benchmark_start', 'gym'),
}

# What `small` measures. Further flags apply to each.
_SMALL: tuple[tuple[str, ...], ...] = (
  (
    'impala',
    '--env=envpool:CartPole-v1',
    '--config.core_size=64',
    '--config.envs_per_actor=64',
    '--config.batch_size=64',
    '--config.queue_capacity=64',
    '--config.intra_op_threads=1',
  ),
  ('impala', '--env=envpool:MiniGrid-DoorKey-5x5-v0'),
  ('impala', '--env=gym:CartPole-v1'),
  ('apex_dqn', '--env=gym:CartPole-v1'),
  ('apex_dpg', '--env=gym:Pendulum-v1'),
)
_ALL: tuple[tuple[str, ...], ...] = (
  ('impala', '--env=atari:pong', '--preset=atari_shallow'),
  ('impala', '--env=doom', '--preset=dmlab', '--config.envs_per_actor=30'),
  (
    'apex_dqn',
    '--preset=paper',
    '--config.num_actors=2',
    '--config.envs_per_actor=32',
    '--config.replay_ratio=0.78',
    '--config.min_replay=5000',
    '--config.replay_capacity=100000',
    '--config.prefetch=2',
  ),
  (
    'apex_dpg',
    '--preset=figure_3_humanoid_run',
    '--config.replay_ratio=1.6',
    '--config.min_replay=5000',
    '--config.replay_capacity=100000',
    '--config.prefetch=2',
  ),
  *_SMALL,
  ('start',),
)
# Names that stand for several cases.
_SEVERAL: dict[str, tuple[tuple[str, ...], ...]] = {'small': _SMALL, 'all': _ALL}
# What others may do meanwhile: above this, the machine is not quiet.
_QUIET_CORES = 0.2
# What `--compare` shows of a result, where it has it: speeds and costs.
_COMPARED = ('end_to_end', 'transitions_in', 'ratio', 'policy_cost', 'learner_cost')


def main(argv: Sequence[str]) -> int:
  """Runs the benchmark that the command line's first argument names.

  Raises:
    UserError: If the command line is wrong.
  """
  names = (*_SYSTEMS, *_SEVERAL)
  if len(argv) < 2 or argv[1] not in names:
    raise errors.UserError(
      f'expected what to measure: {argv[0]} {"|".join(names)} --env=NAME --seconds=S'
    )
  program, name, *arguments = argv
  values = _flags()
  # What is left are the trainer's flags.
  _, *arguments = values([program, *arguments], known_only=True)
  before = _read(values.compare) if values.compare else {}
  print(_machine(), flush=True)

  results = {}
  with janitor.attend():
    measured: Iterator[tuple[str, dict[str, Any]]]
    if name in _SEVERAL:
      measured = (_measure_apart([*case, *arguments], values) for case in _SEVERAL[name])
    else:
      measured = iter([_measure(program, [name, *arguments], values)])
    for title, result in measured:
      results[title] = result
      _compare(result, before.get(title, {}))
  if values.json:
    with files.replacing(pathlib.Path(values.json)) as file:
      json.dump(results, file, indent=1)
  return 0


def _machine() -> str:
  """What is measured on, and whether others use it too."""
  versions = ', '.join(
    f'{name} {importlib.metadata.version(name)}' for name in ('tensorflow', 'numpy')
  )
  python = f'Python {platform.python_version()}'
  text = f'{measuring.processor()}, {cores.count()} cores, {python}, {versions}'
  busy = measuring.others_busy()
  if busy > _QUIET_CORES:
    text += f'\nNOT QUIET: {busy:.1f} cores are busy already, so all speeds are too low'
  return text


def _read(path: str) -> dict[str, Any]:
  """The results of an earlier call.

  Raises:
    UserError: If they cannot be read.
  """
  try:
    return json.loads(pathlib.Path(path).read_text())
  except (OSError, ValueError) as error:
    raise errors.UserError(f'--compare={path}: {error}. Write it with --json={path}') from error


def _compare(result: dict[str, Any], before: dict[str, Any]) -> None:
  """Prints the ratios of a result to an earlier one, if there is one."""
  for name in _COMPARED:
    if name in result and name in before:
      ratio = result[name] / before[name]
      print(f'{name}: {result[name]:,.4g}, before {before[name]:,.4g}: {ratio:.3f}', flush=True)


def _measure_apart(
  arguments: Sequence[str], values: flags.FlagValues
) -> tuple[str, dict[str, Any]]:
  """`_measure` in a process of its own: TensorFlow takes its number of threads once."""
  with tempfile.NamedTemporaryFile(suffix='.json') as file:
    own = [f'--rounds={values.rounds}', f'--seconds={values.seconds}', f'--json={file.name}']
    subprocess.run([sys.executable, __file__, *arguments, *own], check=True)
    ((title, result),) = json.loads(pathlib.Path(file.name).read_text()).items()
  return title, result


def _measure(
  program: str, arguments: Sequence[str], values: flags.FlagValues
) -> tuple[str, dict[str, Any]]:
  """Measures one system, whose name is the first argument; prints a table of the medians.

  Returns:
    The arguments, by which results are compared, and the result.
  """
  name, *settings = arguments
  module, default = _SYSTEMS[name]
  system = importlib.import_module(module)
  presets = dataclasses.replace(system.PRESETS, default=default)
  config, _ = command_line.parse([program, *settings], __doc__, presets)

  command_line.import_tensorflow(getattr(config, 'intra_op_threads', 0))
  rounds = []
  for i in range(values.rounds):
    measuring.say(f'{" ".join(arguments)}: round {i + 1} of {values.rounds}')
    rounds.append(system.measure(config, values.seconds))
  result: dict[str, Any] = {key: statistics.median(r[key] for r in rounds) for key in rounds[0]}
  result |= {'env': config.env, 'cores': cores.count(), 'rounds': rounds}
  print(system.table(config, result), flush=True)
  return ' '.join(arguments), result


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_string(
    'compare', None, 'Show the ratios to the results in this file.', flag_values=values
  )
  flags.DEFINE_float(
    'seconds', 4.0, 'Length of each measurement.', lower_bound=1.0, flag_values=values
  )
  flags.DEFINE_integer('rounds', 3, 'How often to measure all.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('json', None, 'Write the results to this file.', flag_values=values)
  return values


if __name__ == '__main__':
  command_line.run(main)
