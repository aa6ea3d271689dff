"""An actor's side of the wire: puts arrive once, and restarts of the learner are survived."""

import contextlib
import logging
import os
import random
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from common import errors
from common.distributed import delivery as deliveries
from common.distributed import gate, queues, wire
from common.distributed import link as links
from common.distributed import server as servers
from common.distributed import session as sessions
from scripts import processes
from tests.common.distributed import learners
from tests.common.distributed.learners import payload

DEADLINE = 20.0
WATCHED = 0.2  # How long a call that must block is watched: only a broken link lets it return.


@pytest.fixture
def start():
  """A function that starts learners, which are closed at the end."""
  with contextlib.ExitStack() as stack:
    yield lambda **how: stack.enter_context(learners.closing(learners.Learner(**how)))


@pytest.fixture
def linked(start):
  """A function that makes links, closed before the learners are. They join by default."""
  with contextlib.ExitStack() as stack:

    def make(port, name='one', joins=True, **others):
      link = stack.enter_context(learners.closing(learners.link(port, name, **others)))
      if joins:
        link.join()
      return link

    yield make


@pytest.fixture
def hasty(monkeypatch):
  """Shortens the timeouts that would make tests take minutes."""
  for name, seconds in (('BEAT', 0.1), ('RETRY', 0.1), ('CALL', 2.0)):
    monkeypatch.setattr(sessions, f'{name}_SECONDS', seconds)
  monkeypatch.setattr(deliveries, '_POLL_SECONDS', 0.05)


def test_joining_returns_a_place_and_the_runs_settings(learner, linked):
  first, second = linked(learner.port, 'a'), linked(learner.port, 'b')
  assert (first.welcome.place, first.welcome.assignment, second.welcome.place) == (0, 0, 1)
  assert first.welcome.config == learners.CONFIG and first.welcome.seed != second.welcome.seed
  assert [member.name for member in learner.roster.members()] == ['a', 'b']


def test_puts_arrive_in_order_and_once(learner, linked):
  link = linked(learner.port)
  for number in range(10):
    link.put(payload(2 * number, 2 * number + 1))
  assert learner.take() == list(range(20))
  assert learner.count('puts') == 10 and link.dropped == 0


def test_elements_larger_than_a_message_arrive_whole(start, linked):
  codec, rng = wire.Codec(learners.LARGE_SPEC, {}), np.random.default_rng(0)
  pixels = rng.integers(0, 256, (3, 2 * wire.MESSAGE_BYTES + 9), np.uint8)
  learner = start(spec=learners.LARGE_SPEC)
  link = linked(learner.port)
  for group in codec.group({'number': np.arange(3), 'pixels': pixels}):
    link.put(codec.encode(group))
  taken = learner.queue.take_many(learner.queue.size())
  np.testing.assert_array_equal(taken['number'], [0, 1, 2])
  np.testing.assert_array_equal(taken['pixels'], pixels)


def test_parameters_are_fetched_only_when_new(learner, linked):
  link = linked(learner.port)
  first = link.latest()
  assert first.version == 0 and link.latest() is first and link.frames == 1234
  learner.store.publish(learner.snapshot(3))
  second = link.latest()
  assert second.version == 3 and second.values.dtype == 'float32'
  np.testing.assert_array_equal(second.values, learner.snapshot(3).values)
  assert link.latest() is second


def test_large_parameters_belong_to_one_version_while_others_are_published(start, linked):
  size = 2 * wire.MESSAGE_BYTES // 4 + 3
  learner = start(size=size)
  ended = threading.Event()

  def publish():
    version = 0
    while not ended.is_set():
      version += 1
      learner.store.publish(learner.snapshot(version, size))

  link, publishing, versions = linked(learner.port), learners.Background(publish), []
  for _ in range(12):
    snapshot = link.latest()
    assert snapshot.values.shape == [size] and set(np.unique(snapshot.values)) == {
      float(snapshot.version)
    }
    versions.append(snapshot.version)
  ended.set()
  assert publishing.has_returned(DEADLINE) and publishing.error is None
  assert versions == sorted(versions) and len(set(versions)) > 3
  assert link.latest().version == learner.store.latest().version


def test_put_waits_while_the_queue_is_full(small, linked):
  link = linked(small.port)
  link.put(payload(0, 1))
  putting = learners.Background(link.put, payload(2))
  assert not putting.has_returned(WATCHED)
  assert small.take(1) == [0]
  assert putting.has_returned(DEADLINE) and putting.error is None
  assert small.take() == [1, 2] and link.dropped == 0


def test_a_put_that_waits_longer_than_a_call_may_take_arrives_once(
  small, hasty, linked, monkeypatch
):
  monkeypatch.setattr(sessions, 'CALL_SECONDS', 0.5)
  link = linked(small.port)
  link.put(payload(0, 1))
  asked = threading.Event()
  tell = link._session.tell

  def noticed(kind, *arguments, **values):
    if kind == 'asked':
      asked.set()
    return tell(kind, *arguments, **values)

  link._session.tell = noticed
  putting = learners.Background(link.put, payload(2))
  assert asked.wait(DEADLINE) and not putting.has_returned(WATCHED)
  assert small.take(3) == [0, 1, 2]
  assert putting.has_returned(DEADLINE) and putting.error is None and link.dropped == 0
  link.put(payload(3))
  assert small.take() == [3] and small.count('puts') == 3


@pytest.mark.parametrize(
  'changes, words',
  [
    ({'version': 'x'}, 'version x'),
    ({'config': {'batch_size': 5}}, 'batch_size'),
  ],
)
@pytest.mark.parametrize('role', ['actor', 'evaluator'])
def test_being_turned_away_is_a_user_error_at_once(learner, linked, role, changes, words):
  started = time.monotonic()
  with pytest.raises(
    errors.UserError, match=f'127.0.0.1:{learner.port} turns this {role} away: .*{words}'
  ):
    linked(learner.port, role=role, **changes)
  assert time.monotonic() - started < sessions.RETRY_SECONDS


def test_a_host_that_does_not_exist_is_a_user_error_at_once(linked):
  with pytest.raises(errors.UserError, match='no.such.host.invalid.*--learner'):
    linked(1, host='no.such.host.invalid', patience=600.0)


def test_waiting_for_a_learner_is_logged_and_ends(hasty, linked, caplog):
  port = gate.free_port('127.0.0.1', 0)
  with (
    caplog.at_level(logging.INFO),
    pytest.raises(
      errors.UserError,
      match=(
        f'no learner has answered at 127.0.0.1:{port} for 2 s .*--learner.*--listen=0.0.0.0:PORT'
      ),
    ),
  ):
    linked(port, patience=2.0)
  told = [message for message in caplog.messages if f'No learner at 127.0.0.1:{port}' in message]
  left = [int(message.rpartition(', ')[2].split()[0]) for message in told]
  assert left[0] == 2 and left[-1] == 0 and left == sorted(left, reverse=True)
  assert '(' in told[0] and '(' not in told[1]  # The reason is logged once.


def test_a_listener_that_is_no_learner_is_not_joined(hasty, linked, monkeypatch):
  monkeypatch.setattr(sessions, 'CALL_SECONDS', 0.3)
  with socket.create_server(('127.0.0.1', 0)) as listener:
    with pytest.raises(errors.UserError, match='no learner has answered'):
      linked(listener.getsockname()[1], patience=0.2)


def test_a_learner_that_starts_later_is_joined(start, hasty, linked):
  port = gate.free_port('127.0.0.1', 0)
  link = linked(port, joins=False)
  joining = learners.Background(link.join)
  assert not joining.has_returned(WATCHED)
  learner = start(port=port)
  assert joining.has_returned(DEADLINE) and joining.error is None
  link.put(payload(5))
  assert learner.take() == [5]


def test_waiting_for_a_learner_can_be_stopped(hasty, linked):
  link = linked(gate.free_port('127.0.0.1', 0), joins=False, patience=600.0)
  joining = learners.Background(link.join)
  assert not joining.has_returned(WATCHED) and not link.is_ended()
  link.stop()
  assert joining.has_returned(5.0) and isinstance(joining.error, queues.QueueClosed)
  assert link.is_ended() and not link.is_finished()


def test_waiting_for_room_can_be_stopped(small, hasty, linked, monkeypatch):
  monkeypatch.setattr(sessions, 'CALL_SECONDS', 0.5)
  link = linked(small.port)
  link.put(payload(0, 1))
  putting = learners.Background(link.put, payload(2))
  assert not putting.has_returned(WATCHED)
  link.stop()
  assert putting.has_returned(5.0)


def test_a_restarted_learner_is_joined_and_data_for_its_predecessor_are_dropped(
  start, hasty, linked, caplog
):
  first = start()
  link = linked(first.port)
  assert link.latest().version == 0
  link.put(payload(1))
  first.close()
  second = start(port=first.port, version=40)
  link.put(payload(2))  # Collected with the parameters of the first.
  link.put(payload(3))
  assert second.queue.size() == 0 and link.dropped == 2
  assert link.latest().version == 40
  link.put(payload(4))
  link.put(payload(5))
  assert second.take() == [4, 5] and link.dropped == 2
  assert processes.becomes_true(lambda: second.count('puts_dropped') == 2, DEADLINE)
  assert first.take() == [1]


def test_parameters_of_a_restarted_learner_are_fetched_anew(start, hasty, linked):
  """Even if they have the same version."""
  first = start(version=7)
  link = linked(first.port)
  before = link.latest()
  first.close()
  start(port=first.port, version=7, size=20)
  after = link.latest()
  assert after is not before and after.version == 7 and after.values.shape == [20]


def test_any_call_waits_for_a_learner_that_is_gone(start, hasty, linked):
  first = start()
  link = linked(first.port)
  link.latest()
  first.close()
  calls = [learners.Background(link.latest)]
  assert not calls[0].has_returned(1.0)
  start(port=first.port, version=9)
  assert calls[0].has_returned(DEADLINE) and calls[0].error is None
  assert calls[0].result.version == 9


def test_a_learner_that_does_not_come_back_is_a_user_error(start, hasty, linked, monkeypatch):
  monkeypatch.setattr(sessions, 'CALL_SECONDS', 0.3)
  learner = start()
  both = [linked(learner.port, str(i), patience=0.5) for i in range(2)]
  learner.close()
  for call in (both[0].latest, lambda: [both[1].put(payload(1)) for _ in range(2)]):
    with pytest.raises(errors.UserError, match='no learner has answered'):
      call()


def test_a_put_waiting_when_the_learner_ends_is_dropped_and_counted(start, hasty, linked):
  first = start(capacity=1)
  link = linked(first.port)
  link.put(payload(0))
  putting = learners.Background(link.put, payload(1))
  assert processes.becomes_true(lambda: first.roster.members()[0].admitted == 2, DEADLINE)
  first.close()
  assert putting.has_returned(DEADLINE) and putting.error is None and link.dropped == 1
  second = start(port=first.port, version=1)
  link.latest()
  link.put(payload(2))
  assert second.take() == [2]


def test_a_dropped_member_rejoins_at_its_old_place(start, linked, monkeypatch):
  """For instance, its computer slept for longer than the lease."""
  monkeypatch.setattr(servers, 'LEASE_SECONDS', 0.5)
  learner = start(places=3)
  link = linked(learner.port, 'sleeper')  # Its heartbeats are three seconds apart.
  link.latest()

  def forgotten():
    learner.server.expire()
    return not learner.roster.members()

  assert processes.becomes_true(forgotten, DEADLINE)
  link.put(payload(1))
  rejoining = learners.Background(link.latest)
  assert rejoining.has_returned(DEADLINE) and rejoining.result.version == 0 and link.dropped == 1
  link.put(payload(2))
  assert learner.take() == [2] and link.welcome.place == 0
  assert [member.name for member in learner.roster.members()] == ['sleeper']
  assert learner.count('actors_lost') == 1


def test_heartbeats_keep_working_and_waiting_members(start, hasty, linked, monkeypatch):
  monkeypatch.setattr(servers, 'LEASE_SECONDS', 1.0)
  learner = start(capacity=1)
  link, _ = linked(learner.port, 'waits'), linked(learner.port, 'works')
  link.put(payload(1))
  putting, deadline = learners.Background(link.put, payload(2)), time.monotonic() + 2.5
  while time.monotonic() < deadline:
    learner.server.expire()
    assert len(learner.roster.members()) == 2
    time.sleep(0.05)
  assert learner.take(2) == [1, 2]
  assert putting.has_returned(DEADLINE) and link.dropped == 0


def test_totals_are_counted_once_across_a_rejoin(start, hasty, linked):
  learner = start()
  link = linked(learner.port)
  link.be_described_by(lambda: 'busy', lambda: 3)
  assert processes.becomes_true(lambda: learner.roster.totals()['crashes'] == 3, DEADLINE)
  learner.roster.leave(link.welcome.session)
  link.latest()
  (member,) = learner.roster.members()
  assert processes.becomes_true(lambda: member.activity == 'busy', DEADLINE)
  assert learner.roster.totals()['crashes'] == 3


def test_crashes_of_a_recreated_actor_add_to_earlier_ones(learner, hasty, linked):
  link = linked(learner.port)
  link.be_described_by(lambda: 'first', lambda: 3)
  assert processes.becomes_true(lambda: learner.roster.totals()['crashes'] == 3, DEADLINE)
  learner.roster.leave(link.welcome.session)
  link.latest()
  link.be_described_by(lambda: 'second', lambda: 1)
  (member,) = learner.roster.members()
  assert processes.becomes_true(lambda: member.activity == 'second', DEADLINE)
  assert learner.roster.totals()['crashes'] == 4 and not learner.count('messages_refused')


def test_heartbeats_report_activity_and_crashes(learner, hasty, linked):
  link = linked(learner.port)
  link.be_described_by(lambda: 'stepping for 2 s', lambda: 5)
  assert processes.becomes_true(
    lambda: 'stepping for 2 s' in learner.roster.describe()[0], DEADLINE
  )
  assert learner.roster.totals()['crashes'] == 5


def test_a_changed_place_is_raised(start, hasty, linked):
  first = start(places=2)
  joined = [linked(first.port, name) for name in 'ab']
  first.close()
  second = start(port=first.port, places=2)
  for name in 'cd':
    linked(second.port, name)
  with pytest.raises(links.PlaceChanged):
    joined[1].latest()
  assert (joined[1].welcome.place, joined[1].welcome.assignment) == (2, 0)
  assert joined[1].latest().version == 0  # It goes on at its new place.
  with pytest.raises(links.PlaceChanged):
    joined[0].latest()
  assert [member.name for member in second.roster.members()] == ['c', 'd', 'b', 'a']


def test_places_survive_a_restart_of_the_learner_in_any_order(start, hasty, linked):
  first = start(places=3)
  joined = [linked(first.port, name) for name in 'abc']
  first.close()
  second = start(port=first.port, places=3)
  for link in (joined[2], joined[0], joined[1]):
    link.latest()
  assert [member.name for member in second.roster.members()] == ['a', 'b', 'c']


def test_a_refused_put_is_dropped_and_twenty_in_a_row_are_an_error(learner, linked, caplog):
  link = linked(learner.port)
  for _ in range(19):
    link.put(b'wrong')
  link.put(payload(1))
  for _ in range(19):
    link.put(b'wrong')
  assert link.dropped == 38 and learner.take() == [1]
  assert any('refuses what was collected: 5 bytes' in message for message in caplog.messages)
  with pytest.raises(errors.UserError, match='refused the last 20 times .*5 bytes'):
    link.put(b'wrong')
  assert learner.take() == []


def test_the_end_of_training_ends_all_waiting(start, hasty):
  learner = start(capacity=1)
  joined = [learners.link(learner.port, name) for name in 'abc']
  for link in joined:
    link.join()
  joined[0].put(payload(0))
  calls = [learners.Background(link.put, payload(1)) for link in joined[:2]]
  assert not calls[0].has_returned(WATCHED)

  def follow():
    while True:
      joined[2].latest()

  calls.append(learners.Background(follow))
  ending = learners.Background(learner.close, finished=True)
  for call, link in zip(calls, joined, strict=True):
    assert call.has_returned(DEADLINE) and isinstance(call.error, queues.QueueClosed)
    assert link.is_finished() and link.is_ended()
    link.close()
  assert ending.has_returned(5.0) and learner.roster.members() == []
  for link in joined:
    with pytest.raises(queues.QueueClosed):
      link.put(payload(5))
    with pytest.raises(queues.QueueClosed):
      link.latest()
  assert gate.free_port('127.0.0.1', learner.port) == learner.port


def test_actors_wait_for_the_successor_of_a_stopped_learner(start, hasty, linked):
  learner = start()
  link = linked(learner.port)
  learner.enter('stopped')
  assert processes.becomes_true(link._session.is_lost, DEADLINE)
  waiting = learners.Background(link.latest)
  assert not waiting.has_returned(WATCHED) and not link.is_ended()
  learner.close(finished=False)
  start(port=learner.port, version=2)
  assert waiting.has_returned(DEADLINE) and waiting.result.version == 2


def test_close_leaves_the_learner(learner, linked):
  joined = [linked(learner.port, name) for name in 'ab']
  joined[0].close()
  assert [member.name for member in learner.roster.members()] == ['b']
  assert learner.count('actors_lost') == 0
  assert linked(learner.port, 'a').welcome.place == 0


def test_reports_reach_a_restarted_learner(start, hasty, linked):
  first = start()
  link = linked(first.port, 'e', role='evaluator')
  link.report(task='t', mean=1.5)
  assert [(report['task'], report['mean']) for report in first.reports] == [('t', 1.5)]
  first.close()
  second = start(port=first.port)
  link.report(task='t', mean=2.5)
  assert [report['mean'] for report in second.reports] == [2.5]


def test_actors_that_crash_and_rejoin_lose_and_duplicate_nothing(start, hasty, linked):
  """Each puts numbers one by one in several sessions; some leave, others just go silent."""
  learner = start(capacity=5, places=2)

  def live(actor):
    rng, link = random.Random(actor), None
    for number in range(30):
      if link is None or rng.random() < 0.15:
        if link is not None and rng.random() < 0.5:
          link.close()
        elif link is not None:
          link.stop()  # Goes silent, as a process that dies.
        link = learners.link(learner.port, f'actor {actor}')
        link.join()
      link.put(payload(1000 * actor + number))
      assert link.dropped == 0
    link.close()

  living, taken = [learners.Background(live, actor) for actor in range(6)], []
  assert processes.becomes_true(
    lambda: taken.extend(learner.take()) or all(one.has_returned(0) for one in living), 2 * DEADLINE
  )
  assert [one.error for one in living] == [None] * 6
  taken += learner.take()
  for actor in range(6):
    assert [n for n in taken if n // 1000 == actor] == [1000 * actor + i for i in range(30)]
  assert len(taken) == 180 and learner.count('puts') == 180


CRASHING = """
import sys
sys.path.insert(0, {root!r})
from tests.common.distributed import learners
link = learners.link({port}, 'mortal')
print(link.join().place, flush=True)
number = 0
while True:
  link.put(learners.payload(number))
  number += 1
"""


def test_a_killed_process_does_no_harm_and_gets_its_place_back(start, linked):
  root = os.path.abspath(os.path.join(__file__, *[os.pardir] * 4))
  learner = start(places=3)
  linked(learner.port, 'first')
  killed = subprocess.Popen(
    [sys.executable, '-c', CRASHING.format(root=root, port=learner.port)],
    stdout=subprocess.PIPE,
    env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
  )
  try:
    assert killed.stdout.readline() == b'1\n'
    assert processes.becomes_true(lambda: learner.queue.size() == 50, DEADLINE)
    linked(learner.port, 'third')
  finally:
    killed.kill()
    killed.wait()
  assert learner.take(50) == list(range(50))
  link = linked(learner.port, 'mortal')
  assert link.welcome.place == 1
  late = learner.take()  # A put that was waiting for room when its sender died.
  assert late in ([], [50])
  link.put(payload(7))
  assert 7 in late + learner.take()
