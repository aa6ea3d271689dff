"""Injects faults into a run of several processes: `scripts/faults.py --rounds=3`.

A learner with two actors of its own, a supervisor of two actors, and a single actor train at full
speed while their wall clock jumps by hours. One fault follows the other: strangers and members send
tensors of all kinds, actors are killed and frozen, the learner is killed, checkpoints are cut
short, the disk is full, all processes are stopped. A round takes about eight minutes on 2 cores.
All processes are ended, even on Ctrl-C. Exits with status 1 if what must hold did not.
"""

import logging
import os
import pathlib
import random
import signal
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Callable, NamedTuple, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

# Refuses a Python that cannot work, before other modules are imported.
import common  # noqa: F401

# isort: split
from absl import flags

from common.config import command_line
from common.machine import janitor

# TensorFlow is imported inside functions, after `command_line.import_tensorflow` has configured it.
if TYPE_CHECKING:
  from scripts import harmed_runs

_MESSAGES = 1000
_ACTORS = 5
_SECONDS = 600.0  # The most that anything may take, on a machine with other work.
_PROXIES = ('http_proxy', 'https_proxy', 'grpc_proxy', 'all_proxy')
_LIVES = 'the learner lives'
# Members can do this by design: between them and TensorFlow's decoder stands nobody.
_TRUSTED = 'a member is trusted'


class _Result(NamedTuple):
  """The outcome of one fault."""

  seconds: float | None  # Until the run was well again; None if it never was.
  words: str

  @property
  def verdict(self) -> str:
    if self.seconds is None:
      return 'FAILED'
    return 'trusted' if self.words.startswith(_TRUSTED) else 'held'


class _Fault(NamedTuple):
  """What is done to a run, what must hold, and how that is done: returns what was seen."""

  name: str
  must: str
  inject: 'Callable[[harmed_runs.HarmedRun], str]'


def main(argv: Sequence[str]) -> int:
  """Runs rounds of faults; returns the exit status."""
  values = _parse(argv)
  started = time.monotonic()
  seen: dict[str, list[_Result]] = {}
  with janitor.attend() as temporary:
    command_line.import_tensorflow()
    base = pathlib.Path(values.keep or tempfile.mkdtemp(dir=temporary)).resolve()
    rounds = 0
    while (
      time.monotonic() - started < 60 * values.minutes if values.minutes else rounds < values.rounds
    ):
      rounds += 1
      logging.info('Round %d.', rounds)
      _run_round(base / f'{os.getpid()}-{rounds}', values.system, values.env, seen)

  logging.info('\n%s', _table(seen))
  return int(any(result.seconds is None for results in seen.values() for result in results))


def _parse(argv: Sequence[str]) -> flags.FlagValues:
  values = flags.FlagValues()
  flags.DEFINE_integer(
    'rounds', 3, 'Number of rounds; each injects every fault once.', 1, flag_values=values
  )
  flags.DEFINE_float(
    'minutes',
    None,
    'Instead of --rounds: begin rounds until this many minutes have passed.',
    lower_bound=0.0,
    flag_values=values,
  )
  flags.DEFINE_enum('system', 'impala', ['impala', 'apex'], 'What to train.', flag_values=values)
  flags.DEFINE_string(
    'env',
    'gym:CartPole-v1',
    'Environment; those of doom:basic, for example, have engines in processes of their own.',
    flag_values=values,
  )
  flags.DEFINE_string(
    'keep', None, 'Folder where runs and logs stay; temporary by default.', flag_values=values
  )
  command_line.parse_flags(values, argv, __doc__)
  return values


def _table(seen: dict[str, list[_Result]]) -> str:
  """One line for each time that a fault was injected."""
  lines = [f'{"fault":<36}{"verdict":<9}{"seconds":>8}  {"must hold":<46}seen']
  for fault in _faults():
    for result in seen.get(fault.name, []):
      seconds = '' if result.seconds is None else f'{result.seconds:.1f}'
      words = result.words.replace('\n', ' ')[:300]
      lines.append(f'{fault.name:<36}{result.verdict:<9}{seconds:>8}  {fault.must:<46}{words}')
  return '\n'.join(lines)


def _run_round(folder: pathlib.Path, system: str, env: str, seen: dict[str, list[_Result]]) -> None:
  """Injects all faults into one run, adding to `seen`; stops at the first that it does not survive.

  After that, what follows would say nothing about the other faults.
  """
  from scripts import harmed_runs, intrusions

  settings = (
    f'--env={env}',
    '--total_frames=1000000000',
    f'--config.num_actors={_ACTORS}',
    '--config.envs_per_actor=2',
    '--config.log_every_seconds=1',
    '--config.checkpoint_every_seconds=3',
  )
  with (
    intrusions.trap() as (proxy, count),
    harmed_runs.harmed_run(
      folder, system, *settings, jumping_clock=True, variables=dict.fromkeys(_PROXIES, proxy)
    ) as run,
  ):
    run.num_actors = _ACTORS
    run.learner = run.start_listening('--actor_processes=2')
    run.fleet = run.start_actor(
      '--actor_processes=2', '--name=fleet', f'--run_dir={folder / "fleet"}'
    )
    run.solo = run.start_actor('--name=solo')
    for fault in _faults():
      result = _inject(fault, run)
      if result.seconds is not None and count():
        result = _Result(None, f'the proxy of the environment was asked {count()} times')
      seen.setdefault(fault.name, []).append(result)
      logging.info('  %-36s %s: %s', fault.name, result.verdict, result.words)
      if result.seconds is None:
        return


def _inject(fault: _Fault, run: 'harmed_runs.HarmedRun') -> _Result:
  began = time.monotonic()
  try:
    words = fault.inject(run)
  except (AssertionError, OSError) as error:
    return _Result(None, str(error))
  return _Result(time.monotonic() - began, words)


def _start(run: 'harmed_runs.HarmedRun') -> str:
  row = run.await_well(_SECONDS)
  run.note_shared_memory()
  return f'{_ACTORS} actors, {row["frames_per_second"]:.0f} frames/s'


def _malformed(run: 'harmed_runs.HarmedRun') -> str:
  from scripts import harmed_runs

  before = run.rows()[-1]
  began = time.monotonic()
  refused = harmed_runs.send_malformed(run, _MESSAGES)
  seconds = time.monotonic() - began
  row = run.await_row(lambda row: row['messages_refused'] >= before['messages_refused'] + _MESSAGES)
  assert refused == _MESSAGES and row['frames'] > before['frames'], row
  run.await_well(_SECONDS)
  frames = row['frames'] - before['frames']
  return f'{refused} refused in {seconds:.1f} s, {frames:.0f} frames learned from meanwhile'


def _kill_one(run: 'harmed_runs.HarmedRun') -> str:
  return _kill(run, 1)


def _kill_half(run: 'harmed_runs.HarmedRun') -> str:
  return _kill(run, _ACTORS // 2 + 1)


def _kill(run: 'harmed_runs.HarmedRun', count: int) -> str:
  from scripts import harmed_runs

  own = harmed_runs.actors_of(run.learner)
  others = harmed_runs.actors_of(run.fleet)
  victims = random.sample(sorted([*own, *others, run.solo.pid]), count)
  before = run.rows()[-1]
  joined = run.learner.log().count(' joins: ')
  for pid in victims:
    os.kill(pid, signal.SIGKILL)
  if run.solo.pid in victims:  # Nobody else restarts it.
    run.solo.await_end()
    run.solo = run.start_actor('--name=solo')
  during = run.await_frames(1, _SECONDS)
  run.learner.await_log(' joins: ', joined + count, _SECONDS)
  row = run.await_well(_SECONDS)
  assert row['actor_restarts'] - before['actor_restarts'] == len(own & set(victims)), row
  run.note_shared_memory()
  return (
    f'{count} of {_ACTORS} killed; went on at {during["frames_per_second"]:.0f} frames/s, '
    f'actors_lost {row["actors_lost"]:.0f}, actor_restarts {row["actor_restarts"]:.0f}'
  )


def _freeze(run: 'harmed_runs.HarmedRun') -> str:
  before = run.rows()[-1]
  joined = run.learner.log().count(' joins: ')
  silent = run.learner.log().count('(solo) is gone: silent for')  # It may have been killed.
  began = time.monotonic()
  run.solo.popen.send_signal(signal.SIGSTOP)
  run.learner.await_log(r'\(solo\) is gone: silent for', silent + 1, _SECONDS)
  gone = time.monotonic() - began
  row = run.await_row(lambda row: row['actors_lost'] == before['actors_lost'] + 1)
  assert row['actors'] == _ACTORS - 1 and row['frames'] > before['frames'], row
  run.solo.popen.send_signal(signal.SIGCONT)
  run.learner.await_log(' joins: ', joined + 1, _SECONDS)
  row = run.await_well(_SECONDS)
  return f'dropped after {gone:.0f} s, rejoined; puts_dropped {row["puts_dropped"]:.0f}'


def _fill_disk(run: 'harmed_runs.HarmedRun') -> str:
  from scripts import harmed_runs

  before = run.saved()[-1]
  # Logs and metrics grow, and must not be what fails.
  size = harmed_runs.newest_data(run).stat().st_size
  with harmed_runs.full_disk(run.learner, int(0.9 * size)):
    warnings = run.learner.log().count('NOT SAVED: ')
    warnings = len(run.learner.await_log('NOT SAVED: ', warnings + 2, _SECONDS))
    # Unless a newer one was finished just before the disk was full.
    assert before in run.saved() or run.saved()[0] > before, run.saved()
    kept = run.saved()[-1]
  saved = run.await_newer_checkpoint(_SECONDS)
  run.await_well(_SECONDS)
  return f'warned {warnings} times, kept ckpt-{kept}, later saved ckpt-{saved[-1]}'


def _kill_learner(run: 'harmed_runs.HarmedRun') -> str:
  return _resume(run, _kill_it)


def _cut_checkpoint(run: 'harmed_runs.HarmedRun') -> str:
  return _resume(run, _kill_it, cut=True)


def _variant_without_tensor(run: 'harmed_runs.HarmedRun') -> str:
  return _send_deadly(run, 'no tensor')


def _variant_without_data_set(run: 'harmed_runs.HarmedRun') -> str:
  return _send_deadly(run, 'no data set')


def _send_deadly(run: 'harmed_runs.HarmedRun', name: str) -> str:
  from scripts import intrusions

  words = _resume(run, lambda run: intrusions.ends_by(run, name))
  return words if words == _LIVES else f'{_TRUSTED}: SIGSEGV in its decoder; {words}'


def _kill_it(run: 'harmed_runs.HarmedRun') -> bool:
  run.learner.popen.kill()
  return True


def _resume(
  run: 'harmed_runs.HarmedRun', end: 'Callable[[harmed_runs.HarmedRun], bool]', cut: bool = False
) -> str:
  """Starts a learner again after it was ended in some way; `end` says whether it was."""
  from scripts import harmed_runs, processes

  run.await_newer_checkpoint(_SECONDS)
  own = harmed_runs.actors_of(run.learner)
  if not end(run):
    run.await_well(_SECONDS)
    return _LIVES
  run.learner.await_end()
  began = time.monotonic()
  are_gone = processes.becomes_true(lambda: not any(map(processes.is_alive, own)), 15.0)
  assert are_gone, f'orphans: {own}'
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
  row = run.await_well(_SECONDS)
  have_waited = all(process.popen.poll() is None for process in (run.solo, run.fleet))
  assert have_waited, 'an actor has not waited for the learner'
  run.note_shared_memory()
  return (
    f'own actors gone after {orphaned:.1f} s; went on from ckpt-{number} at {frames} frames; '
    f'puts_dropped {row["puts_dropped"]:.0f}'
  )


def _stop(run: 'harmed_runs.HarmedRun') -> str:
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


def _faults() -> list[_Fault]:
  from scripts import intrusions as others

  unharmed = f'lives, learns, saves, +{others.STRANGERS_MB} MB, 1 line'
  patient = f'lives, learns, saves, +{others.MEMBERS_MB} MB, again no more'
  resumes = 'resumes, nobody is lost or orphaned'
  return [
    _Fault('start; clocks jump; http_proxy', 'all join, no proxy is asked', _start),
    _Fault('stranger: tensors, plain gRPC', unharmed, others.stranger_tensors),
    _Fault('stranger: tensors, another token', unharmed, others.stranger_tensors_with_other_key),
    _Fault('stranger: garbage, half handshakes', unharmed, others.garbage_and_half_handshakes),
    _Fault('stranger: 120 silent, 64 files', unharmed, others.silence_with_few_files),
    _Fault('member: tensors of wrong kinds', patient, others.member_odd),
    _Fault('member: huge tensors of numbers', patient, others.member_huge),
    _Fault('member: 2^25 strings', patient, others.member_strings),
    _Fault('member: variant without its tensor', f'lives, or {resumes}', _variant_without_tensor),
    _Fault('member: variant without its data', f'lives, or {resumes}', _variant_without_data_set),
    _Fault('member: 1,000 malformed messages', 'refused, learns', _malformed),
    _Fault('kill -9 of an actor', 'learns, it comes back', _kill_one),
    _Fault('kill -9 of half of the actors', 'learns, they come back', _kill_half),
    _Fault('an actor frozen', 'learns, it comes back', _freeze),
    _Fault('full disk at a checkpoint', 'warns, keeps the last, saves later', _fill_disk),
    _Fault('kill -9 of the learner', resumes, _kill_learner),
    _Fault('checkpoint cut short', f'{resumes}, from the one before', _cut_checkpoint),
    _Fault('Ctrl-C and SIGTERM', 'all end, nothing is left', _stop),
  ]


if __name__ == '__main__':
  command_line.run(main)
