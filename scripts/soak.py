"""Trains for a long time while strangers knock: `scripts/soak.py --system=apex --minutes=30`.

One learner and several actor processes, which reach it by TCP and with the token, as those of other
machines do. Meanwhile a stranger opens connections, says nothing, sends garbage, has another token.
Memory, files, threads and so on are measured every few seconds. Exits with status 1 if anything was
lost, or grew faster than it may after the warm-up.
"""

import csv
import dataclasses
import logging
import os
import pathlib
import re
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Mapping, NamedTuple, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from apex import config as apex_configs
from common import environments
from common.config import command_line
from common.machine import janitor
from impala import config as impala_configs
from scripts import growth

# TensorFlow is imported inside functions, after `command_line.import_tensorflow` has configured it.
if TYPE_CHECKING:
  from scripts import harmed_runs, strangers

_PRESETS: dict[str, Any] = {'impala': impala_configs.PRESETS, 'apex': apex_configs.PRESETS}
_JOIN_SECONDS = 600.0
_STALL_SECONDS = 60.0
_STOP_SECONDS = 120.0
_LEAST_SAMPLES = 10
_STOPPED = 130

# By the end of a quantity's name, see `_measure`. Python and TensorFlow settle for minutes, hence
# the allowance for noise.
_LIMITS = {
  'MB': growth.Limit(per_minute=0.5, noise=10.0),
  'files': growth.Limit(per_minute=0.2, noise=5.0),
  'threads': growth.Limit(per_minute=0.1, noise=1.0),
  'processes': growth.Limit(per_minute=0.0, noise=0.5),
  'segments': growth.Limit(per_minute=0.0, noise=0.5),
}
# Columns of `metrics.csv` that must stay 0.
_LOSSES = ('puts_dropped', 'messages_refused', 'actors_lost', 'crashes')


class Check(NamedTuple):
  """Something that must hold at the end."""

  name: str
  seen: str
  holds: bool


def main(argv: Sequence[str]) -> int:
  """Runs the soak as the command line says; returns the exit status."""
  values = _parse(argv)
  with janitor.attend() as temporary:
    command_line.import_tensorflow()
    base = pathlib.Path(values.keep or tempfile.mkdtemp(dir=temporary)).resolve()
    path = pathlib.Path(values.csv or f'runs/soak-{values.system}.csv')
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
      samples, checks = _soak(values, base / f'soak-{os.getpid()}', path)
    except AssertionError as error:
      logging.info('FAILED: %s', error)
      return 1

  seconds = [sample['seconds'] for sample in samples]
  warm_up = 60 * values.warm_up if values.warm_up is not None else seconds[-1] / 3
  trends = trends_of(samples, warm_up)
  logging.info('\n%s\n\n%s\n%s', growth.table(trends), _table(checks), path)
  failures = [f'{check.name}: {check.seen}' for check in checks if not check.holds]
  failures += [one.describe() for one in trends if one.has_grown]
  for failure in failures:
    logging.info('FAILED: %s', failure)
  return int(bool(failures))


def _parse(argv: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_enum('system', 'impala', list(_PRESETS), 'What to train.', flag_values=values)
  flags.DEFINE_string('env', 'gym:CartPole-v1', 'Environment.', flag_values=values)
  flags.DEFINE_integer('actors', 4, 'Actor processes.', lower_bound=1, flag_values=values)
  flags.DEFINE_float(
    'minutes', 10.0, 'Duration from when all have joined.', lower_bound=1.0, flag_values=values
  )
  flags.DEFINE_float(
    'warm_up', None, 'Minutes that count for nothing; a third by default.', flag_values=values
  )
  flags.DEFINE_float(
    'every', 5.0, 'Seconds between measurements.', lower_bound=0.1, flag_values=values
  )
  flags.DEFINE_string(
    'csv', None, 'Where to write the measurements; runs/soak-SYSTEM.csv.', flag_values=values
  )
  flags.DEFINE_string(
    'keep', None, 'Folder where the run and logs stay; temporary by default.', flag_values=values
  )
  command_line.parse_flags(values, argv, __doc__)
  return values


def _soak(
  values: flags.FlagValues, folder: pathlib.Path, path: pathlib.Path
) -> tuple[list[dict[str, float]], list[Check]]:
  """Trains, measures and stops; returns the measurements, and what held."""
  from scripts import harmed_runs, strangers

  settings = (
    f'--env={values.env}',
    '--total_frames=1000000000000',
    f'--config.num_actors={values.actors}',
    '--config.log_every_seconds=5',
    '--config.checkpoint_every_seconds=30',
  )
  with harmed_runs.harmed_run(folder, values.system, *settings) as run:
    run.learner = run.start_listening()
    run.fleet = run.start_actor(
      f'--actor_processes={values.actors}', '--name=fleet', f'--run_dir={folder / "fleet"}'
    )
    run.await_actors(values.actors, _JOIN_SECONDS)
    with strangers.knocking(run.port) as stranger:
      samples = _watch(run, stranger, values, path)
    checks = _checks(run, values, samples) + _stop(run)
    checks.append(
      Check('strangers', f'{stranger.let_in} of {stranger.knocks:,} let in', not stranger.let_in)
    )
    return samples, checks


def _watch(
  run: 'harmed_runs.HarmedRun',
  stranger: 'strangers.Knocking',
  values: flags.FlagValues,
  path: pathlib.Path,
) -> list[dict[str, float]]:
  """Measures until the time is over; writes each measurement, and logs ten times."""
  samples: list[dict[str, float]] = []
  started = time.monotonic()
  shown = 0
  with open(path, 'w', newline='') as file:
    while (elapsed := time.monotonic() - started) < 60 * values.minutes:
      assert run.learner.popen.poll() is None, (
        f'the learner has ended:\n{run.learner.log()[-3000:]}'
      )
      row = run.rows()[-1]
      sample = {'seconds': elapsed, 'frames': row['frames'], **_measure(run)}
      writer = csv.DictWriter(file, list(sample))
      if not samples:
        writer.writeheader()
      writer.writerow({name: f'{value:.7g}' for name, value in sample.items()})
      file.flush()
      samples.append(sample)
      if elapsed >= shown * 6 * values.minutes:
        shown += 1
        words = '  '.join(f'{name} {sample[name]:.0f}' for name in sample if name.endswith('MB'))
        logging.info(
          '%5.1f min  %s frames  %s  %d strangers',
          elapsed / 60,
          f'{row["frames"]:,.0f}',
          words,
          stranger.knocks,
        )
      time.sleep(values.every)
  return samples


def _measure(run: 'harmed_runs.HarmedRun') -> dict[str, float]:
  """Memory (PSS without files), open files and threads by kind of process; and other counts."""
  found = {
    f'{kind} {what}': 0.0
    for kind in ('learner', 'gate', 'actors')
    for what in ('MB', 'files', 'threads')
  }
  pids = run.living()
  for pid in pids:
    process = pathlib.Path(f'/proc/{pid}')
    try:
      is_gate = b'relay.py' in (process / 'cmdline').read_bytes()
      kind = 'learner' if pid == run.learner.pid else 'gate' if is_gate else 'actors'
      rollup = (process / 'smaps_rollup').read_text()
      found[f'{kind} MB'] += pss_mb(rollup)
      found[f'{kind} files'] += len(list((process / 'fd').iterdir()))
      found[f'{kind} threads'] += len(list((process / 'task').iterdir()))
    except OSError:  # It has ended meanwhile.
      continue
  return {
    **found,
    'processes': len(pids),
    'shared memory segments': run.note_shared_memory(),
    'temporary files': sum(1 for _ in run.temporary.rglob('*')),
  }


def pss_mb(rollup: str) -> float:
  """The proportional memory of a process, in MB, from its `smaps_rollup`.

  Without files: the process's share in TensorFlow's library grows when other programs end.
  """
  found = re.findall(r'^Pss_(?:Anon|Shmem):\s+(\d+) kB$', rollup, re.M)
  return sum(map(int, found)) / 1e3


def trends_of(samples: Sequence[Mapping[str, float]], warm_up: float) -> list[growth.Trend]:
  """The trends of all quantities after `warm_up` seconds."""
  late = [sample for sample in samples if sample['seconds'] >= warm_up]
  assert len(late) >= _LEAST_SAMPLES, f'{len(late)} measurements after the warm-up are too few'
  minutes = [sample['seconds'] / 60 for sample in late]
  return [
    growth.trend(name, minutes, [sample[name] for sample in late], _LIMITS[name.split()[-1]])
    for name in late[0]
    if name not in ('seconds', 'frames')
  ]


def _checks(
  run: 'harmed_runs.HarmedRun',
  values: flags.FlagValues,
  samples: Sequence[Mapping[str, float]],
) -> list[Check]:
  """What the run's metrics and logs must show."""
  rows = run.rows()
  checks = [Check(name, f'{rows[-1][name]:.0f}', not rows[-1][name]) for name in _LOSSES]

  restarts = sum(process.log().count('is started again') for process in run.processes)
  checks.append(Check('restarts of actors or gate', str(restarts), not restarts))
  checks.append(counted(rows, _frames_per_update(values)))
  checks.append(in_flight(rows, _shipping(values)))
  longest = longest_stall(samples)
  checks.append(Check('longest stall', f'{longest:.0f} s', longest < _STALL_SECONDS))
  return checks


def counted(rows: Sequence[Mapping[str, float]], per_update: int) -> Check:
  """Whether frames never went back and, unless `per_update` is 0, belong to whole updates."""
  wrong = 0
  for before, row in zip(rows[:-1], rows[1:], strict=True):
    # The frames of a row are read first, so one or two more updates may be in it.
    late = per_update * row['updates'] - row['frames']
    wrong += row['frames'] < before['frames']
    wrong += bool(per_update) and late not in (0, per_update, 2 * per_update)
  last = rows[-1]
  seen = f'{last["frames"]:,.0f} after {last["updates"]:,.0f} updates, {wrong} rows wrong'
  return Check('frames learned', seen, not wrong)


class Shipping(NamedTuple):
  """What actors send.

  Attributes:
    element_bytes: The size of a trajectory or block.
    frames: Environment frames in it.
    room: How many of them fit between network and learner.
    void: The largest share that counts for nothing: an Ape-X transition after a time limit.
  """

  element_bytes: int
  frames: int
  room: int
  void: float


def in_flight(rows: Sequence[Mapping[str, float]], shipping: Shipping) -> Check:
  """Whether what was received was counted, but for what waits in the queue or in a batch.

  A put that is lost on its way is one that its actor counts in `puts_dropped`.
  """
  received = [1e6 * row['received_mb'] / shipping.element_bytes for row in rows]
  waiting = [
    count - row['frames'] / shipping.frames for count, row in zip(received, rows, strict=True)
  ]
  room = shipping.room + shipping.void * received[-1]
  seen = f'{min(waiting):.1f} to {max(waiting):.1f} elements, room for {room:.0f}'
  # Rows have seven digits, hence not 0.
  return Check('received and not counted yet', seen, min(waiting) > -0.5 and max(waiting) <= room)


def longest_stall(samples: Sequence[Mapping[str, float]]) -> float:
  """The longest time in seconds without new frames."""
  longest = 0.0
  last = samples[0]
  for sample in samples:
    if sample['frames'] > last['frames']:
      last = sample
    longest = max(longest, sample['seconds'] - last['seconds'])
  return longest


def _config(values: flags.FlagValues) -> Any:
  presets = _PRESETS[values.system]
  preset = presets.preset(presets.preset_for(values.env))
  return dataclasses.replace(preset, env=values.env, num_actors=values.actors)


def _frames_per_update(values: flags.FlagValues) -> int:
  """Environment frames of an IMPALA batch; Ape-X counts what it inserts into the replay: 0."""
  if values.system == 'apex':
    return 0
  config = _config(values)
  suite = environments.load(config.env, config.environment_options())
  return config.batch_size * config.unroll_length * suite.action_repeat


def _shipping(values: flags.FlagValues) -> Shipping:
  config = _config(values)
  suite = environments.load(config.env, config.environment_options())
  sent = config.num_actors * config.envs_per_actor  # The puts that wait for room.
  if values.system == 'apex':
    from apex import transitions
    from common.distributed import wire

    spec = transitions.specification(suite, config.block_length, config.n_step)
    return Shipping(
      element_bytes=wire.Codec(spec, {}).element_bytes,
      frames=config.block_length * suite.action_repeat,
      room=2 * config.queue_capacity + 2 * sent,
      void=0.01,
    )

  from scripts import benchmark_wire

  config.fit(suite)
  return Shipping(
    element_bytes=benchmark_wire.codec(config, suite).element_bytes,
    frames=config.unroll_length * suite.action_repeat,
    room=config.queue_capacity + 4 * config.batch_size + 2 * sent,
    void=0.0,
  )


def _stop(run: 'harmed_runs.HarmedRun') -> list[Check]:
  """Stops all processes, actors first; what must be left then."""
  try:
    for process in (run.fleet, run.learner):
      process.seconds_to_end(signal.SIGTERM, _STOP_SECONDS)
  except AssertionError as error:
    return [Check('end', str(error)[:300], False)]

  statuses = [process.popen.returncode for process in run.processes]
  traces = sum(process.log().count('Traceback') for process in run.processes)
  try:
    run.await_nothing_left(_STOP_SECONDS)
    left = 'nothing'
  except AssertionError as error:
    left = str(error)
  return [
    Check('exit statuses', str(statuses), statuses == [_STOPPED] * len(statuses)),
    Check('stack traces', str(traces), not traces),
    Check('left behind', left, left == 'nothing'),
  ]


def _table(checks: Sequence[Check]) -> str:
  lines = [
    f'{check.name:<32}{"held" if check.holds else "FAILED":<8}{check.seen}' for check in checks
  ]
  return '\n'.join(lines)


if __name__ == '__main__':
  command_line.run(main)
