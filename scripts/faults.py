"""Does harm to a run of many processes, again and again, and says what was seen: `scripts/faults.py --rounds=3`.

A learner with two actors of its own, two that are started separately under a supervisor, and one by itself train at
full speed; the wall clock of all of them jumps by hours. One fault after the other: actors are killed and frozen, the
learner is killed, checkpoints are cut short, the disk is full, messages are malformed, everybody is stopped. A round
takes about four minutes on 2 cores. All that was started is ended, also by Ctrl-C. Status 1, if something did not hold.
"""

import logging
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import Callable, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags

from common.config import command_line
from common.machine import janitor

_MESSAGES = 1000
_ACTORS = 5
_SECONDS = 180.0  # For anything that is waited for.


def main(argv: Sequence[str]) -> int:
  """Does rounds of faults; returns the exit status."""
  values = flags.FlagValues()
  flags.DEFINE_integer(
    'rounds', 3, 'Each does every fault once.', lower_bound=1, flag_values=values
  )
  flags.DEFINE_float(
    'minutes',
    None,
    'Instead of a number of rounds: no round begins after so many minutes.',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_enum('system', 'impala', ['impala', 'apex'], 'What is trained.', flag_values=values)
  flags.DEFINE_string(
    'env',
    'gym:CartPole-v1',
    'doom:basic, for example, has engines that are processes.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'keep', None, 'Folder for runs and logs, which stay there.', flag_values=values
  )
  command_line.parse_flags(values, argv, __doc__)
  started, seen = time.monotonic(), {}
  with janitor.attend() as temporary:
    command_line.import_tensorflow()
    base = pathlib.Path(values.keep or tempfile.mkdtemp(dir=temporary)).resolve()
    round_ = 0
    while (
      (time.monotonic() - started < 60 * values.minutes)
      if values.minutes
      else round_ < values.rounds
    ):
      round_ += 1
      logging.info('Round %d.', round_)
      _do_round(base / f'{os.getpid()}-{round_}', values.system, values.env, seen)
  logging.info('\n%-34s %8s %8s  %s', 'fault', 'held', 'seconds', 'seen')
  for name, results in seen.items():
    held = [seconds for seconds, _ in results if seconds is not None]
    for i, (seconds, words) in enumerate(results):
      count = f'{len(held)}/{len(results)}' if not i else ''
      logging.info(
        '%-34s %8s %8s  %s',
        name if not i else '',
        count,
        'FAILED' if seconds is None else f'{seconds:.1f}',
        words.replace('\n', ' ')[:300],
      )
  return int(any(seconds is None for results in seen.values() for seconds, _ in results))


def _do_round(
  folder: pathlib.Path, system: str, env: str, seen: dict[str, list[tuple[float | None, str]]]
) -> None:
  """Adds to `seen`, by fault, the seconds until all was well again, None for never, and what was seen."""
  from scripts import harmed_runs

  settings = (
    f'--env={env}',
    '--total_frames=1000000000',
    f'--config.num_actors={_ACTORS}',
    '--config.envs_per_actor=2',
    '--config.log_every_seconds=1',
    '--config.checkpoint_every_seconds=3',
  )
  with harmed_runs.harmed_run(folder, system, *settings, jumping_clock=True) as run:
    run.learner = run.start_listening('--actor_processes=2')
    run.fleet = run.start_actor(
      '--actor_processes=2', '--name=fleet', f'--run_dir={folder / "fleet"}'
    )
    run.solo = run.start_actor('--name=solo')
    for name, fault in _FAULTS.items():
      began = time.monotonic()
      try:
        words = fault(run)
        result = time.monotonic() - began, words
      except AssertionError as error:
        result = None, str(error)
      seen.setdefault(name, []).append(result)
      logging.info(
        '  %-34s %s', name, result[1] if result[0] is not None else f'FAILED: {result[1]}'
      )
      if result[0] is None:
        return  # What comes next would be of a run that is not as it should be.


def _is_well(run, more: int = 2000) -> dict[str, float]:
  """Waits until all actors are there and training has gone on."""
  run.await_actors(_ACTORS, _SECONDS)
  row = run.await_frames(more, _SECONDS)
  assert row['actors'] == _ACTORS, row
  return row


def _start(run) -> str:
  row = _is_well(run)
  run.note_shared_memory()
  return f'{_ACTORS} actors, {row["frames_per_second"]:.0f} frames/s'


def _malformed(run) -> str:
  from scripts import harmed_runs

  before, began = run.rows()[-1], time.monotonic()
  refused = harmed_runs.send_malformed(run.port, _MESSAGES)
  seconds = time.monotonic() - began
  row = run.await_row(lambda row: row['messages_refused'] >= before['messages_refused'] + _MESSAGES)
  assert refused == _MESSAGES and row['frames'] > before['frames'], row
  _is_well(run)
  return f'{refused} refused in {seconds:.1f} s, {row["frames"] - before["frames"]:.0f} frames learned from meanwhile'


def _kill_one(run) -> str:
  return _kill(run, 1)


def _kill_half(run) -> str:
  return _kill(run, _ACTORS // 2 + 1)


def _kill(run, count: int) -> str:
  from scripts import harmed_runs

  own, others = harmed_runs.actors_of(run.learner), harmed_runs.actors_of(run.fleet)
  victims = random.sample(sorted([*own, *others, run.solo.pid]), count)
  before, joined = run.rows()[-1], run.learner.log().count(' joins: ')
  for pid in victims:
    os.kill(pid, signal.SIGKILL)
  if run.solo.pid in victims:
    run.solo.await_end()
    run.solo = run.start_actor('--name=solo')
  during = run.await_frames(1, _SECONDS)
  run.learner.await_log(' joins: ', joined + count, _SECONDS)
  row = _is_well(run)
  assert row['actor_restarts'] - before['actor_restarts'] == len(own & set(victims)), row
  run.note_shared_memory()
  return (
    f'{count} of {_ACTORS} killed; went on at {during["frames_per_second"]:.0f} frames/s, actors_lost '
    f'{row["actors_lost"]:.0f}, actor_restarts {row["actor_restarts"]:.0f}'
  )


def _freeze(run) -> str:
  before, joined, began = run.rows()[-1], run.learner.log().count(' joins: '), time.monotonic()
  run.solo.popen.send_signal(signal.SIGSTOP)
  run.learner.await_log(r'\(solo\) has gone: nothing was heard of it', seconds=_SECONDS)
  gone = time.monotonic() - began
  row = run.await_row(lambda row: row['actors_lost'] == before['actors_lost'] + 1)
  assert row['actors'] == _ACTORS - 1 and row['frames'] > before['frames'], row
  run.solo.popen.send_signal(signal.SIGCONT)
  run.learner.await_log(' joins: ', joined + 1, _SECONDS)
  row = _is_well(run)
  return f'told gone after {gone:.0f} s, joined again; puts_dropped {row["puts_dropped"]:.0f}'


def _fill_disk(run) -> str:
  from scripts import harmed_runs

  before = run.saved()[-1]
  with harmed_runs.full_disk(run.learner, 50_000):
    told = len(
      run.learner.await_log('NOT SAVED: ', run.learner.log().count('NOT SAVED: ') + 2, _SECONDS)
    )
    assert before in run.saved() or run.saved()[0] > before, run.saved()
    kept = run.saved()[-1]
  saved = run.await_newer_checkpoint(_SECONDS)
  _is_well(run)
  return f'told {told} times, kept ckpt-{kept}, later saved ckpt-{saved[-1]}'


def _kill_learner(run) -> str:
  return _resume(run, cut=False)


def _cut_checkpoint(run) -> str:
  return _resume(run, cut=True)


def _resume(run, cut: bool) -> str:
  from scripts import harmed_runs, processes

  run.await_newer_checkpoint(_SECONDS)
  own = harmed_runs.actors_of(run.learner)
  run.learner.popen.kill()
  run.learner.await_end()
  began = time.monotonic()
  assert processes.becomes_true(lambda: not any(map(processes.is_alive, own)), 15.0), (
    f'orphans: {own}'
  )
  orphaned = time.monotonic() - began
  expected = run.saved()[-2 if cut else -1]
  if cut:
    harmed_runs.truncate_newest(run)
  run.learner = run.start_listening('--actor_processes=2', '--resume')
  ((number, frames),) = run.learner.await_log(
    r'Resuming \S+ckpt-(\d+) at ([\d,]+) frames', seconds=_SECONDS
  )
  assert int(number) == expected, f'{number}, expected {expected}'
  assert cut == ('it is damaged' in run.learner.log()), run.learner.log()
  run.learner.await_log(' joins: ', _ACTORS, _SECONDS)
  row = _is_well(run)
  assert all(process.popen.poll() is None for process in (run.solo, run.fleet)), (
    'an actor has not waited'
  )
  run.note_shared_memory()
  return (
    f'own actors gone after {orphaned:.1f} s; went on from ckpt-{number} at {frames} frames; puts_dropped '
    f'{row["puts_dropped"]:.0f}'
  )


def _stop(run) -> str:
  solo = run.solo.seconds_to_end(signal.SIGINT)
  fleet = run.fleet.seconds_to_end(signal.SIGTERM)
  row = run.await_actors(2, _SECONDS)
  learner = run.learner.seconds_to_end(random.choice([signal.SIGINT, signal.SIGTERM]))
  statuses = [process.popen.returncode for process in (run.solo, run.fleet, run.learner)]
  assert statuses == [130] * 3, statuses
  run.await_nothing_left()
  traces = [process.log() for process in run.processes if 'Traceback' in process.log()]
  assert not traces, traces[0][-2000:]
  return (
    f'actor {solo:.1f} s, supervisor {fleet:.1f} s, learner {learner:.1f} s; actors_lost '
    f'{row["actors_lost"]:.0f}; no process, port, file or shared memory left'
  )


_FAULTS: dict[str, Callable[..., str]] = {
  'start; clocks jump by hours': _start,
  '1,000 malformed messages': _malformed,
  'kill -9 of an actor': _kill_one,
  'kill -9 of half of the actors': _kill_half,
  'an actor frozen': _freeze,
  'full disk at a checkpoint': _fill_disk,
  'kill -9 of the learner': _kill_learner,
  'checkpoint cut short': _cut_checkpoint,
  'Ctrl-C and SIGTERM': _stop,
}


if __name__ == '__main__':
  command_line.run(main)
