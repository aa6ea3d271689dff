"""Hours of many synthetic actors at one learner: `scripts/soak.py [--actors=200] [--minutes=10] [--env=atari:pong]`.

Each sends real trajectories for ever, with no time to play between them. Throughput and the learner's memory must stay
as they are: the last line compares the end with the beginning.
"""

import dataclasses
import pathlib
import statistics
import sys
import time
from typing import Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from common import environments
from common.config import command_line
from common.machine import janitor
from impala import config as configs
from scripts import benchmark_wire

_PROCESSES = 4  # In which the actors are threads: a process of its own for each would take 80 GB.


def main(argv: Sequence[str]) -> None:
  """Soaks from a command line."""
  values = flags.FlagValues()
  flags.DEFINE_integer('actors', 200, 'How many.', lower_bound=_PROCESSES, flag_values=values)
  flags.DEFINE_float('minutes', 10.0, 'How long.', lower_bound=0.1, flag_values=values)
  flags.DEFINE_integer('trajectories', 4, 'Of one message.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('env', 'atari:pong', 'Whose trajectories.', flag_values=values)
  command_line.parse_flags(values, argv, __doc__)
  config = dataclasses.replace(
    configs.PRESETS.preset(configs.PRESETS.preset_for(values.env)),
    env=values.env,
    num_actors=1,
    envs_per_actor=values.trajectories,
  )
  with janitor.attend():
    command_line.import_tensorflow()
    soak(config, values.actors, 60 * values.minutes)


def soak(config: configs.Config, actors: int, seconds: float) -> None:
  """Prints MB/s and the memory of the learner's process every tenth of the time."""
  suite = environments.load(config.env, config.environment_options())
  codec, unrolls = benchmark_wire.trajectories(config, suite)
  with (
    benchmark_wire.listening(codec) as (server, crew),
    benchmark_wire.sending(
      server.address, codec.encode(unrolls), _PROCESSES, actors // _PROCESSES
    ) as processes,
  ):
    benchmark_wire.wait_for(server, processes, _PROCESSES * (actors // _PROCESSES), 2 * actors)
    rates, sizes, interval = [], [], seconds / 10
    for i in range(10):
      before, started = server.gauges(), time.monotonic()
      time.sleep(interval)
      after, elapsed = server.gauges(), time.monotonic() - started
      if crew.error:
        raise crew.error
      rates.append((after['received_mb'] - before['received_mb']) / elapsed)
      sizes.append(resident_mb())
      faults = ', '.join(
        f'{after[name]} {name}' for name in ('actors_lost', 'puts_repeated', 'messages_refused')
      )
      puts = (after['puts'] - before['puts']) / elapsed
      print(
        f'{interval * (i + 1):6.0f} s  {after["actors"]} actors  {rates[-1]:6.0f} MB/s  {puts:6.0f} puts/s  '
        f'learner {sizes[-1]:,.0f} MB  {faults}',
        flush=True,
      )
  first, last = statistics.mean(rates[:3]), statistics.mean(rates[-3:])
  print(
    f'throughput at the end / at the beginning: {last / first:.3f}; memory grew by {sizes[-1] - sizes[2]:,.0f} MB '
    'since the first three tenths'
  )


def resident_mb() -> float:
  """Memory of this process."""
  line = next(
    line
    for line in pathlib.Path('/proc/self/status').read_text().splitlines()
    if line.startswith('VmRSS')
  )
  return int(line.split()[1]) / 1e3


if __name__ == '__main__':
  command_line.run(main)
