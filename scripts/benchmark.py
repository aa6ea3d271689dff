"""Measures speed as a ratio to what the machine can give: `scripts/benchmark.py SYSTEM --env=NAME --seconds=S`.

SYSTEM is impala, apex_dqn or apex_dpg. Every part of the system runs alone first (environments, policy, replay,
learner), which gives its cost in CPU time per agent step; the sum of these costs and the number of cores give the
limit. Then all parts run together, as in training. Each is measured in the same process, one after the other,
`--rounds` times, and medians are shown. Or SYSTEM is wire, for what it costs that actors are other processes.
"""

import dataclasses
import importlib
import json
import pathlib
import statistics
import sys
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from common import errors
from common.config import command_line
from common.machine import files, janitor
from scripts import measuring

# Where each is measured, and the preset where neither it nor the environment is given.
_SYSTEMS = {
  'impala': ('scripts.benchmark_impala', 'doom'),
  'apex_dqn': ('scripts.benchmark_apex', 'atari'),
  'apex_dpg': ('scripts.benchmark_apex', 'control'),
  'wire': ('scripts.benchmark_wire', 'atari_shallow'),
}


def main(argv: Sequence[str]) -> int:
  """Runs the benchmark named first on the command line."""
  if len(argv) < 2 or argv[1] not in _SYSTEMS:
    raise errors.UserError(
      f'expected what to measure: {argv[0]} {"|".join(_SYSTEMS)} --env=NAME --seconds=S'
    )
  module, default = _SYSTEMS[argv[1]]
  system, rest = importlib.import_module(module), argv[:1] + argv[2:]
  values = flags.FlagValues()
  flags.DEFINE_float(
    'seconds', 20.0, 'Length of each measurement.', lower_bound=1.0, flag_values=values
  )
  flags.DEFINE_integer('rounds', 3, 'How often to measure all.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('json', None, 'Write the results to this file.', flag_values=values)
  rest = [rest[0], *values(list(rest), known_only=True)[1:]]
  config, _ = command_line.parse(
    rest, __doc__, dataclasses.replace(system.PRESETS, default=default)
  )
  with janitor.attend():
    command_line.import_tensorflow(getattr(config, 'intra_op_threads', 0))
    rounds = [system.measure(config, values.seconds) for _ in range(values.rounds)]
  result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
  result |= {'env': config.env, 'cores': measuring.cores(), 'rounds': rounds}
  print(system.table(config, result))
  if values.json:
    with files.replacing(pathlib.Path(values.json)) as file:
      json.dump(result, file, indent=1)
  return 0


if __name__ == '__main__':
  command_line.run(main)
