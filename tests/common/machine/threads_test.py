"""Threads start and end together, and their first error reaches their owner."""

import threading
import time

import pytest

from common.distributed import queues
from common.machine import threads
from scripts import processes

DEADLINE = 10.0


class Closing:
  """Stands in for a queue: threads wait until `close`, which counts its calls."""

  def __init__(self):
    self.calls = 0
    self._event = threading.Event()

  def close(self):
    self.calls += 1
    self._event.set()

  def wait(self):
    assert self._event.wait(DEADLINE), 'nobody closed'
    raise queues.QueueClosed


def fail(error):
  raise error


@pytest.fixture
def closing():
  return Closing()


@pytest.fixture
def crew(closing):
  return threads.Crew(closing.close)


def test_an_error_stops_all_and_is_kept(crew, closing):
  error = ValueError('first')
  waiting = [crew.start(f'waits {i}', closing.wait) for i in range(3)]
  crew.start('fails', lambda: fail(error))
  assert crew.stop.wait(DEADLINE)
  for thread in waiting:
    # Without `end`: the failing thread has called `close`.
    thread.join(DEADLINE / 2)
  assert not any(thread.is_alive() for thread in waiting)
  assert closing.calls == 1
  crew.end()
  assert crew.error is error


def test_the_first_error_is_kept(crew, closing):
  first = ValueError('first')

  def fail_after_the_first():
    assert crew.stop.wait(DEADLINE)
    raise RuntimeError('a consequence')

  second = crew.start('second', fail_after_the_first)
  crew.start('first', lambda: fail(first))
  second.join(DEADLINE)
  crew.end()
  assert crew.error is first


@pytest.mark.parametrize(
  'error', [SystemExit(3), KeyboardInterrupt(), MemoryError(), ValueError()], ids=repr
)
def test_errors_of_every_kind_reach_the_owner(crew, error):
  crew.start('fails', lambda: fail(error)).join(DEADLINE)
  assert crew.error is error
  assert crew.stop.is_set()


def test_a_closed_queue_is_no_error_while_the_crew_ends(crew):
  def work():
    crew.stop.wait(DEADLINE)
    raise queues.QueueClosed

  thread = crew.start('ends', work)
  assert crew.end() == []
  assert not thread.is_alive() and crew.error is None


def test_a_queue_closed_by_others_is_an_error(crew):
  error = queues.QueueClosed()
  crew.start('fails', lambda: fail(error)).join(DEADLINE)
  assert crew.error is error and crew.stop.is_set()


def test_a_thread_that_returns_does_not_stop_the_others(crew, closing):
  crew.start('returns', lambda: None).join(DEADLINE)
  waiting = crew.start('waits', closing.wait)
  assert waiting.is_alive()
  assert not crew.stop.is_set() and crew.error is None
  crew.end()
  assert not waiting.is_alive()


def test_end_stops_closes_and_joins_all(crew, closing):
  ended = []

  def work_until_stopped():
    assert crew.stop.wait(DEADLINE)
    ended.append(threading.current_thread().name)

  started = [crew.start(f'works {i}', work_until_stopped) for i in range(3)]
  started += [crew.start(f'waits {i}', closing.wait) for i in range(3)]
  assert all(thread.is_alive() for thread in started)
  crew.end()
  assert not any(thread.is_alive() for thread in started)
  assert sorted(ended) == ['works 0', 'works 1', 'works 2']
  assert crew.error is None


def test_end_may_be_called_again(crew, closing):
  crew.start('waits', closing.wait)
  crew.end()
  crew.end()
  assert crew.error is None


def test_end_names_threads_that_hang_in_foreign_code(crew, closing):
  release = threading.Event()
  hanging = crew.start('hangs', release.wait)
  crew.start('waits', closing.wait)
  crew.patience = 0.1
  assert crew.end() == ['hangs']
  release.set()
  assert crew.end() == []
  assert not hanging.is_alive()


def test_end_without_threads(crew, closing):
  crew.end()
  assert crew.stop.is_set() and closing.calls == 1


def test_threads_have_their_names(crew, closing):
  thread = crew.start('actor 3', closing.wait)
  assert thread.name == 'actor 3'
  crew.end()


def test_a_pulse_describes_the_activity_and_its_duration():
  pulse = threads.Pulse('actor 3')
  assert pulse.describe() == 'actor 3: starting for 0 s'
  pulse.since -= 61.0
  assert pulse.describe() == 'actor 3: starting for 61 s'
  before = time.monotonic()
  pulse.enter('stepping environments')
  assert before <= pulse.since <= time.monotonic()
  assert pulse.describe() == 'actor 3: stepping environments for 0 s'


def test_no_thread_outlives_its_crew():
  before = set(threading.enumerate())
  closing = Closing()
  crew = threads.Crew(closing.close)
  for i in range(5):
    crew.start(f'waits {i}', closing.wait)
  crew.end()
  assert processes.becomes_true(lambda: set(threading.enumerate()) <= before)


def test_a_pulse_says_more_if_it_can():
  pulse = threads.Pulse('actor 3')
  pulse.enter('stepping environments', lambda: 'step of environment 2 (pong)')
  described = 'actor 3: stepping environments for 0 s (step of environment 2 (pong))'
  assert pulse.describe() == described
  pulse.enter('choosing actions')
  assert pulse.describe() == 'actor 3: choosing actions for 0 s'


def test_waiting_for_others_is_not_work():
  pulse = threads.Pulse('actor 3')
  pulse.enter('stepping environments')
  pulse.since -= 61.0
  assert 61.0 <= pulse.seconds_at_work() < 120.0
  pulse.enter('waiting for the learner')
  pulse.since -= 61.0
  assert pulse.seconds_at_work() == 0.0
