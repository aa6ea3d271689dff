"""Compares training speed with what the machine allows.

`scripts/benchmark.py SYSTEM --env=NAME --seconds=S`, where SYSTEM is impala, apex_dqn or apex_dpg.

First each part of the system runs alone (environments, policy, replay, learner), which gives its
cost in CPU time per agent step. The sum of these costs and the number of cores give the limit. Then
all parts run together, as in training; the ratio is their speed over the limit. All is measured in
one process, one part after the other, `--rounds` times, and medians are shown.

SYSTEM may also be wire, which measures what it costs to run actors in other processes.
"""

import dataclasses
import importlib
import json
import pathlib
import statistics
import sys
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from common import errors
from common.config import command_line
from common.machine import cores, files, janitor

# By system, the module that measures it, and the preset if the command line names neither a preset
# nor an environment. Each module has PRESETS, `measure(config, seconds)` and
# `table(config, result)`.
_SYSTEMS = {
  'impala': ('scripts.benchmark_impala', 'doom'),
  'apex_dqn': ('scripts.benchmark_apex', 'atari'),
  'apex_dpg': ('scripts.benchmark_apex', 'control'),
  'wire': ('scripts.benchmark_wire', 'atari_shallow'),
}


def main(argv: Sequence[str]) -> int:
  """Runs the benchmark that the command line's first argument names.

  Raises:
    UserError: If the command line is wrong.
  """
  if len(argv) < 2 or argv[1] not in _SYSTEMS:
    raise errors.UserError(
      f'expected what to measure: {argv[0]} {"|".join(_SYSTEMS)} --env=NAME --seconds=S'
    )
  program, name, *arguments = argv
  module, default = _SYSTEMS[name]
  system = importlib.import_module(module)

  values = _flags()
  # What is left are the trainer's flags.
  _, *arguments = values([program, *arguments], known_only=True)
  presets = dataclasses.replace(system.PRESETS, default=default)
  config, _ = command_line.parse([program, *arguments], __doc__, presets)

  with janitor.attend():
    command_line.import_tensorflow(getattr(config, 'intra_op_threads', 0))
    rounds = [system.measure(config, values.seconds) for _ in range(values.rounds)]

  result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
  result |= {'env': config.env, 'cores': cores.count(), 'rounds': rounds}
  print(system.table(config, result))
  if values.json:
    with files.replacing(pathlib.Path(values.json)) as file:
      json.dump(result, file, indent=1)
  return 0


def _flags() -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_float(
    'seconds', 20.0, 'Length of each measurement.', lower_bound=1.0, flag_values=values
  )
  flags.DEFINE_integer('rounds', 3, 'How often to measure all.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('json', None, 'Write the results to this file.', flag_values=values)
  return values


if __name__ == '__main__':
  command_line.run(main)
