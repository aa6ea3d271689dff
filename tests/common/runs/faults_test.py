"""A run of several processes survives faults, and loses nothing but what is in flight.

One run gets one fault after the other while it trains; scripts/faults.py injects more, for longer.
"""

import os
import re
import signal

import pytest

from scripts import harmed_runs, processes
from scripts.harmed_runs import actors_of, full_disk, harmed_run

pytestmark = pytest.mark.long

FRAMES_PER_UPDATE = 8 * 20
STOPPED = 130


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A learner with an actor process of its own, and a separately started actor, `solo`.

  Their wall clocks jump by hours, back and forth, every half second: nothing may depend on them.
  """
  settings = (
    f'--env={harmed_runs.SLOW}',
    '--total_frames=1000000000',
    '--config.num_actors=2',
    '--config.lstm=false',
    '--config.log_every_seconds=0.3',
    '--config.checkpoint_every_seconds=1.5',
    '--config.stall_seconds=3',
  )
  with harmed_run(
    tmp_path_factory.mktemp('harmed'), 'impala', *settings, jumping_clock=True
  ) as made:
    made.learner = made.start_listening('--actor_processes=1')
    made.solo = made.start_actor('--name=solo')
    made.await_actors(2, 90.0)
    made.await_frames()
    yield made


def places(run):
  """All places that the learner has assigned, by the actor's name."""
  found = {}
  for place, name in re.findall(r'actor (\d+) joins: (\S+)', run.learner.log()):
    found.setdefault(name, []).append(int(place))
  return found


def test_clocks_that_jump_by_hours_do_no_harm(run):
  rows = run.rows()
  assert all(row['actors_lost'] == 0 and row['frames_per_second'] >= 0 for row in rows)
  seconds = [row['seconds'] for row in rows]
  assert seconds == sorted(seconds) and seconds[-1] < 200
  hours = int(re.findall(r'ETA (\d+):\d\d:\d\d', run.learner.log())[-1])
  assert 10 < hours < 100_000  # 10^9 frames at 3 to 30,000 frames/s.


def test_training_continues_under_a_thousand_malformed_messages(run):
  before = run.rows()[-1]
  assert harmed_runs.send_malformed(run, 1000) == 1000
  after = run.await_row(lambda row: row['messages_refused'] >= before['messages_refused'] + 1000)
  assert after['messages_refused'] == before['messages_refused'] + 1000
  assert after['frames'] > before['frames'] and after['actors'] == 2
  assert run.learner.log().count(' is refused: ') < 20  # Not one line each.


def test_training_continues_while_an_actor_is_frozen_and_the_actor_does_afterwards(run):
  run.solo.popen.send_signal(signal.SIGSTOP)
  run.await_frames()
  # The lease, after which it would be dropped, is longer.
  (named,) = set(run.learner.await_log(r'Silent for more than 3 s: (actor \d \(solo\)), heard \d'))
  ticks = run.solo.cpu_ticks()
  run.solo.popen.send_signal(signal.SIGCONT)
  assert processes.becomes_true(lambda: run.solo.cpu_ticks() > ticks + 10, 30.0)
  run.learner.await_log(re.escape(named) + ' goes on, after ')
  row = run.await_frames()
  assert row['actors'] == 2 and row['actors_lost'] == 0 and row['puts_dropped'] == 0


def test_training_continues_while_actors_are_killed_and_they_get_their_places_back(run):
  before = places(run)
  restarts = run.rows()[-1]['actor_restarts']
  (own,) = actors_of(run.learner)
  os.kill(own, signal.SIGKILL)
  run.learner.await_log(r'Actor process 0 was killed by SIGKILL .* It is started again')
  run.await_frames()  # Of the other actor, before it is killed too.
  run.solo.popen.kill()
  run.solo.await_end()
  run.solo = run.start_actor('--name=solo')

  def joins():
    return sum(map(len, places(run).values()))

  assert processes.becomes_true(lambda: joins() == 4, 60.0), run.learner.log()
  assert places(run) == {name: given * 2 for name, given in before.items()}
  row = run.await_frames()
  assert row['actors'] == 2 and row['actor_restarts'] == restarts + 1


def test_a_full_disk_is_a_warning_and_the_next_save_tries_again(run):
  with full_disk(run.learner):
    said = r'NOT SAVED: .* cannot be written: File too large.* is kept: \S+ckpt-(\d+)\.'
    (before,) = set(run.learner.await_log(said))
    run.await_frames()
    run.learner.await_log('NOT SAVED: ', 2)
    assert run.saved()[-1] == int(before)
  assert len(run.await_newer_checkpoint()) == 3


def test_a_killed_learner_resumes_from_the_last_good_checkpoint_and_actors_rejoin(run):
  run.await_newer_checkpoint()
  own = actors_of(run.learner)
  run.learner.popen.kill()
  run.learner.await_end()
  expected = run.saved()[-2]
  cut = harmed_runs.truncate_newest(run)
  run.learner = run.start_listening('--actor_processes=1', '--resume')
  assert len(own) == 1 and processes.becomes_true(lambda: not any(map(processes.is_alive, own)))
  (found,) = run.learner.await_log(r'Resuming \S+ckpt-(\d+) at ([\d,]+) frames')
  assert found == (str(expected), f'{FRAMES_PER_UPDATE * expected:,}')
  assert f'ckpt-{cut} does not fit: it is damaged' in run.learner.log()
  run.learner.await_log(r'actor \d joins: ', 2, 90.0)
  row = run.await_actors(2)
  assert sorted(place for given in places(run).values() for place in given) == [0, 1]
  assert run.solo.log().count('Joined the learner') == 2
  assert row['puts_dropped'] <= 2  # Those in flight.
  run.await_frames()
  rows = run.rows()
  assert all(row['frames'] == FRAMES_PER_UPDATE * row['updates'] for row in rows)
  assert [row['updates'] for row in rows] == sorted(row['updates'] for row in rows)


def test_signals_end_all_processes_in_order_and_a_failed_last_save_is_an_error(run):
  """Ends the module's run: no test may follow that uses it."""
  run.await_newer_checkpoint()
  assert run.solo.seconds_to_end(signal.SIGINT) < 15 and run.solo.popen.returncode == STOPPED
  assert run.solo.log().endswith('Stopped.\n')
  assert run.await_actors(1)['actors_lost'] == 0  # It has left properly.
  with full_disk(run.learner):
    assert run.learner.seconds_to_end(signal.SIGTERM) < 15 and run.learner.popen.returncode == 2
  assert re.search(
    rf'^error: .* cannot be written.* is kept: \S+ckpt-{run.saved()[-1]}$', run.learner.log(), re.M
  )
  assert not any('Traceback' in process.log() for process in run.processes)
  run.await_nothing_left()


def test_a_stopped_supervisor_ends_its_actors(tmp_path):
  with harmed_run(tmp_path) as run:
    fleet = run.start_actor('--actor_processes=2', f'--run_dir={run.folder}')

    def logs():
      return [path.read_text() for path in run.folder.glob('actors/*.log')]

    def both_wait():
      return sum('No learner at' in log for log in logs()) == 2

    assert processes.becomes_true(both_wait, 60.0), fleet.log()
    assert len(actors_of(fleet)) == 2
    assert fleet.seconds_to_end(signal.SIGTERM) < 15 and fleet.popen.returncode == STOPPED
    assert all(log.endswith('Stopped.\n') for log in logs())
    run.await_nothing_left()
