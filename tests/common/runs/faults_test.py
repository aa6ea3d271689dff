"""What a run of many processes lives through, and what it leaves: nothing is lost but what was in flight.

One fault after the other is done to one run while it trains; scripts/faults.py does more of them, for longer.
"""

import os
import re
import signal

import pytest

from scripts import harmed_runs, processes
from scripts.harmed_runs import actors_of, full_disk, harmed_run

FRAMES_PER_UPDATE = 8 * 20
STOPPED = 130


@pytest.fixture(scope='module')
def run(tmp_path_factory):
  """A learner with an actor process of its own, and one that was started separately, `solo`.

  The wall clock of all of them jumps by hours, there and back, every half second: nothing here is to depend on it.
  """
  settings = (
    f'--env={harmed_runs.SLOW}',
    '--total_frames=1000000000',
    '--config.num_actors=2',
    '--config.lstm=false',
    '--config.log_every_seconds=0.3',
    '--config.checkpoint_every_seconds=1.5',
  )
  with harmed_run(
    tmp_path_factory.mktemp('harmed'), 'impala', *settings, jumping_clock=True
  ) as made:
    made.learner, made.solo = (
      made.start_listening('--actor_processes=1'),
      made.start_actor('--name=solo'),
    )
    made.await_actors(2, 90.0)
    made.await_frames()
    yield made


def places(run):
  """By the name of an actor, all that its learner has given it."""
  found = {}
  for place, name in re.findall(r'actor (\d+) joins: (\S+)', run.learner.log()):
    found.setdefault(name, []).append(int(place))
  return found


def test_clocks_that_jump_by_hours_change_nothing(run):
  rows = run.rows()
  assert all(row['actors_lost'] == 0 and row['frames_per_second'] >= 0 for row in rows)
  seconds = [row['seconds'] for row in rows]
  assert seconds == sorted(seconds) and seconds[-1] < 200
  hours = int(re.findall(r'ETA (\d+):\d\d:\d\d', run.learner.log())[-1])
  assert 10 < hours < 100_000  # 10^9 frames at 3 to 30,000 frames/s.


def test_a_learner_goes_on_while_a_thousand_malformed_messages_come(run):
  before = run.rows()[-1]
  assert harmed_runs.send_malformed(run.port, 1000) == 1000
  after = run.await_row(lambda row: row['messages_refused'] >= before['messages_refused'] + 1000)
  assert after['messages_refused'] == before['messages_refused'] + 1000
  assert after['frames'] > before['frames'] and after['actors'] == 2
  assert run.learner.log().count(' is refused: ') < 20  # Not a line for each.


def test_the_other_goes_on_while_an_actor_is_frozen_and_it_goes_on_afterwards(run):
  run.solo.popen.send_signal(signal.SIGSTOP)
  run.await_frames()
  ticks = run.solo.cpu_ticks()
  run.solo.popen.send_signal(signal.SIGCONT)
  assert processes.becomes_true(lambda: run.solo.cpu_ticks() > ticks + 10, 30.0)
  row = run.await_frames()
  assert row['actors'] == 2 and row['actors_lost'] == 0 and row['puts_dropped'] == 0


def test_killed_actors_do_not_hold_up_the_others_and_get_their_places_back(run):
  before, restarts = places(run), run.rows()[-1]['actor_restarts']
  (own,) = actors_of(run.learner)
  os.kill(own, signal.SIGKILL)
  run.learner.await_log(r'Actor process 0 has ended with status -9 and is started again')
  run.await_frames()  # By the other, before it is killed too.
  run.solo.popen.kill()
  run.solo.await_end()
  run.solo = run.start_actor('--name=solo')
  joined = lambda: sum(map(len, places(run).values()))
  assert processes.becomes_true(lambda: joined() == 4, 60.0), run.learner.log()
  assert places(run) == {name: given * 2 for name, given in before.items()}
  row = run.await_frames()
  assert row['actors'] == 2 and row['actor_restarts'] == restarts + 1


def test_a_full_disk_is_a_warning_that_names_the_checkpoint_before_and_the_next_save_tries_again(
  run,
):
  with full_disk(run.learner):
    said = r'NOT SAVED: .* cannot be written: File too large.* is kept: \S+ckpt-(\d+)\.'
    (before,) = set(run.learner.await_log(said))
    run.await_frames()
    run.learner.await_log('NOT SAVED: ', 2)
    assert run.saved()[-1] == int(before)
  assert len(run.await_newer_checkpoint()) == 3


def test_a_killed_learner_goes_on_from_the_checkpoint_before_one_that_is_cut_short_and_actors_come_back(
  run,
):
  run.await_newer_checkpoint()
  own = actors_of(run.learner)
  run.learner.popen.kill()
  run.learner.await_end()
  expected, cut = run.saved()[-2], harmed_runs.truncate_newest(run)
  run.learner = run.start_listening('--actor_processes=1', '--resume')
  assert len(own) == 1 and processes.becomes_true(lambda: not any(map(processes.is_alive, own)))
  (found,) = run.learner.await_log(r'Resuming \S+ckpt-(\d+) at ([\d,]+) frames')
  assert found == (str(expected), f'{FRAMES_PER_UPDATE * expected:,}')
  assert f'ckpt-{cut} does not fit: it is damaged' in run.learner.log()
  run.learner.await_log(r'actor \d joins: ', 2, 90.0)
  row = run.await_actors(2)
  assert sorted(place for given in places(run).values() for place in given) == [0, 1]
  assert (
    run.solo.log().count('Joined the learner') == 2 and row['puts_dropped'] <= 2
  )  # Those in flight.
  run.await_frames()
  rows = run.rows()
  assert all(row['frames'] == FRAMES_PER_UPDATE * row['updates'] for row in rows)
  assert [row['updates'] for row in rows] == sorted(row['updates'] for row in rows)


def test_whoever_is_stopped_ends_soon_and_in_order_and_a_last_save_that_fails_is_an_error(run):
  """The last of this run."""
  run.await_newer_checkpoint()
  assert run.solo.seconds_to_end(signal.SIGINT) < 15 and run.solo.popen.returncode == STOPPED
  assert run.solo.log().endswith('Stopped.\n')
  assert run.await_actors(1)['actors_lost'] == 0  # It has said that it ends.
  with full_disk(run.learner):
    assert run.learner.seconds_to_end(signal.SIGTERM) < 15 and run.learner.popen.returncode == 2
  assert re.search(
    rf'^error: .* cannot be written.* is kept: \S+ckpt-{run.saved()[-1]}$', run.learner.log(), re.M
  )
  assert not any('Traceback' in process.log() for process in run.processes)
  run.await_nothing_left()


def test_a_supervisor_of_actors_that_is_stopped_ends_them_soon(tmp_path):
  with harmed_run(tmp_path) as run:
    fleet = run.start_actor('--actor_processes=2', f'--run_dir={run.folder}')
    logs = lambda: [path.read_text() for path in run.folder.glob('actors/*.log')]
    assert processes.becomes_true(
      lambda: sum('No learner at' in log for log in logs()) == 2, 60.0
    ), fleet.log()
    assert len(actors_of(fleet)) == 2
    assert fleet.seconds_to_end(signal.SIGTERM) < 15 and fleet.popen.returncode == STOPPED
    assert all(log.endswith('Stopped.\n') for log in logs())
    run.await_nothing_left()
