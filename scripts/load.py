"""Load test: `scripts/load.py [--actors=200] [--minutes=10] [--env=atari:pong]`.

Many synthetic actors send real trajectories through the gate to one learner, with no time to play
between them.
Throughput and the learner's memory must stay constant: the last line compares end and beginning.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Mapping, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from common import environments
from common.config import command_line
from common.machine import janitor
from impala import config as configs
from scripts import benchmark_wire

_INTERVALS = 10
# The actors are threads of these: a process for each of 200 actors would take 80 GB.
_PROCESSES = 4


def main(argv: Sequence[str]) -> None:
  """Runs the test as the command line says."""
  values = flags.FlagValues()
  flags.DEFINE_integer(
    'actors', 200, 'Number of actors.', lower_bound=_PROCESSES, flag_values=values
  )
  flags.DEFINE_float('minutes', 10.0, 'Duration.', lower_bound=0.1, flag_values=values)
  flags.DEFINE_integer(
    'trajectories', 4, 'Trajectories per message.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_string('env', 'atari:pong', 'Origin of the trajectories.', flag_values=values)
  command_line.parse_flags(values, argv, __doc__)

  preset = configs.PRESETS.preset(configs.PRESETS.preset_for(values.env))
  config = dataclasses.replace(
    preset, env=values.env, num_actors=1, envs_per_actor=values.trajectories
  )
  with janitor.attend():
    command_line.import_tensorflow()
    soak(config, values.actors, 60 * values.minutes)


def soak(config: configs.Config, actors: int, seconds: float) -> None:
  """Prints throughput and the learner's memory ten times, then compares end and beginning."""
  suite = environments.load(config.env, config.environment_options())
  codec, unrolls = benchmark_wire.trajectories(config, suite)
  payload = codec.encode(unrolls)
  per_process = actors // _PROCESSES
  interval = seconds / _INTERVALS
  rates: list[float] = []
  sizes: list[float] = []
  with (
    benchmark_wire.listening(codec) as (server, crew),
    benchmark_wire.sending(
      server.endpoint or server.address, payload, _PROCESSES, per_process
    ) as processes,
  ):
    benchmark_wire.wait_for(server, processes, _PROCESSES * per_process, 2 * actors)
    for i in range(_INTERVALS):
      before = server.gauges()
      started = time.monotonic()
      time.sleep(interval)
      after = server.gauges()
      elapsed = time.monotonic() - started
      if crew.error:
        raise crew.error

      rates.append((after['received_mb'] - before['received_mb']) / elapsed)
      sizes.append(resident_mb())
      puts = (after['puts'] - before['puts']) / elapsed
      print(
        f'{interval * (i + 1):6.0f} s  {after["actors"]} actors  {rates[-1]:6.0f} MB/s  '
        f'{puts:6.0f} puts/s  learner {sizes[-1]:,.0f} MB  {_faults(after)}',
        flush=True,
      )

  ratio = statistics.mean(rates[-3:]) / statistics.mean(rates[:3])
  # Memory settles only when all actors have begun to send.
  print(
    f'throughput at the end / at the beginning: {ratio:.3f}; memory grew by '
    f'{sizes[-1] - sizes[2]:,.0f} MB since the first three tenths'
  )


def _faults(gauges: Mapping[str, float]) -> str:
  names = ('actors_lost', 'puts_repeated', 'messages_refused')
  return ', '.join(f'{gauges[name]} {name}' for name in names)


def resident_mb() -> float:
  """The resident memory of this process, in MB."""
  for line in pathlib.Path('/proc/self/status').read_text().splitlines():
    if line.startswith('VmRSS'):
      return int(line.split()[1]) / 1e3
  raise RuntimeError('/proc/self/status has no line VmRSS')


if __name__ == '__main__':
  command_line.run(main)
