"""Objects in child processes are called as if they were here; their deaths are reported."""

import functools
import gc
import logging
import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common import errors
from common.machine import workers
from scripts import processes

ROOT = pathlib.Path(__file__).parents[3]


class Surprise(workers.Expected):
  """An error that the caller expects."""


class Thing:
  """An object to host."""

  def __init__(self, number: int = 0):
    self._number = number

  def add(self, number: int) -> int:
    self._number += number
    return self._number

  def echo(self, value):
    return value

  def slowly(self, seconds: float) -> str:
    time.sleep(seconds)
    return 'done'

  def fail(self, error: BaseException) -> None:
    raise error

  def say_and_end(self, out: str, err: str, status: int, cut: int = 0) -> None:
    """Writes to stdout and stderr, the latter without its last `cut` bytes, and exits."""
    os.write(1, out.encode())
    os.write(2, err.encode()[: len(err.encode()) - cut])
    os._exit(status)  # As engines do, without Python's cleaning up.

  def spawn(self, name: str, path: pathlib.Path) -> int:
    """Starts an engine: a process in a session of its own, with a file of its own to map."""
    program = f"""
import mmap, time
with open({str(path)!r}, 'w+b') as file:
  file.write(bytes(10))
  file.flush()
  memory = mmap.mmap(file.fileno(), 10)
print('mapped', flush=True)
time.sleep(1000)
"""
    engine = subprocess.Popen(
      [sys.executable, '-c', program, name], stdout=subprocess.PIPE, start_new_session=True
    )
    engine.stdout.readline()
    return engine.pid

  def work(self, text: str, seconds: float) -> None:
    workers.note(text)
    time.sleep(seconds)

  def warn(self, text: str) -> str:
    logging.info('nothing of interest')
    logging.warning('%s!', text)
    return 'warned'

  def write(self, text: str) -> None:
    os.write(1, text.encode())

  def where(self) -> dict:
    return {
      'pid': os.getpid(),
      'parent': os.getppid(),
      'session': os.getsid(0),
      'path': sys.path,
      'gpu': os.environ.get('CUDA_VISIBLE_DEVICES'),
      'other': os.environ.get('WORKERS_TEST'),
    }


class Closed(Thing):
  """Creates a file when it is closed."""

  def __init__(self, path: pathlib.Path):
    super().__init__()
    self._path = path

  def close(self):
    self._path.touch()


class Stubborn(Thing):
  """Takes a minute to close."""

  def close(self):
    time.sleep(60.0)


def impossible(error: BaseException):
  raise error


def ending():
  os.write(2, b'no such engine')
  os._exit(4)


def start(make=Thing) -> workers.Worker:
  worker = workers.Worker(make)
  worker.receive()
  return worker


@pytest.fixture(scope='module')
def thing():
  """Shared by the tests that leave it alive."""
  worker = start()
  yield worker
  worker.close()


@pytest.fixture
def mortal():
  """For the tests that kill it."""
  worker = start()
  yield worker
  worker.close()


def test_warnings_in_the_child_are_logged_here_once(thing, caplog):
  with caplog.at_level(logging.INFO):
    assert thing.call('warn', text='a full disk') == 'warned'
    assert thing.call('add', number=0) is not None
  assert caplog.messages == ['a full disk!'] and caplog.records[0].levelname == 'WARNING'


def test_only_the_end_of_a_long_output_is_kept(mortal):
  output = mortal._output.fileno()
  for _ in range(3):
    mortal.call('write', text='x' * 900_000)
    assert os.fstat(output).st_size <= 1_800_000
  mortal.send('say_and_end', out='', err='the last words', status=3)
  with pytest.raises(workers.WorkerDied, match='the last words$'):
    mortal.receive()


def test_a_missing_method_is_an_error_and_the_worker_lives(thing):
  with pytest.raises(RuntimeError, match='has no attribute'):
    thing.call('subtract', number=3)
  assert thing.call('echo', value=1) == 1


def test_methods_are_called_in_the_child_with_their_arguments(thing):
  before = thing.call('add', number=0)
  assert thing.call('add', number=3) == before + 3
  array = np.arange(12, dtype=np.uint8).reshape(3, 4)
  answer = thing.call('echo', value={'array': array, 'none': None})
  np.testing.assert_array_equal(answer['array'], array)
  assert answer['none'] is None and answer['array'].dtype == np.uint8
  where = thing.call('where')
  assert where['pid'] == thing.pid != os.getpid() and where['parent'] == os.getpid()


def test_the_object_is_made_with_bound_arguments():
  worker = start(functools.partial(Thing, 40))
  assert worker.call('add', number=2) == 42
  worker.close()


def test_answers_come_in_the_order_of_the_calls(thing):
  for value in range(5):
    thing.send('echo', value=value)
  assert [thing.receive() for _ in range(5)] == list(range(5))


def test_sending_does_not_wait(thing):
  begin = time.monotonic()
  thing.send('slowly', seconds=0.6)
  assert time.monotonic() - begin < 0.4
  assert thing.receive() == 'done' and time.monotonic() - begin >= 0.6


@pytest.mark.parametrize('error', [errors.UserError('mend it'), Surprise('an engine has died')])
def test_expected_errors_are_raised_as_they_were_there(thing, error):
  with pytest.raises(type(error)) as raised:
    thing.call('fail', error=error)
  assert type(raised.value) is type(error) and str(raised.value) == str(error)
  assert thing.call('echo', value=1) == 1


@pytest.mark.parametrize(
  'error', [ValueError('wrong'), OSError(28, 'disk full'), ZeroDivisionError('by zero')]
)
def test_other_errors_come_with_their_stack_trace(thing, error):
  with pytest.raises(RuntimeError) as raised:
    thing.call('fail', error=error)
  assert not isinstance(raised.value, workers.WorkerDied)
  for word in ('in fail', 'workers_test.py', type(error).__name__, str(error.args[-1])):
    assert word in str(raised.value)
  assert thing.call('echo', value=1) == 1


def test_an_error_among_answers_does_not_mix_them_up(thing):
  thing.send('echo', value='before')
  thing.send('fail', error=Surprise('between'))
  thing.send('echo', value='after')
  assert thing.receive() == 'before'
  with pytest.raises(Surprise, match='between'):
    thing.receive()
  assert thing.receive() == 'after'


@pytest.mark.parametrize(
  'error, kind, words',
  [
    (errors.UserError('no such level'), errors.UserError, '^no such level$'),
    (KeyError('gone'), RuntimeError, "(?s)in impossible.*KeyError: 'gone'"),
  ],
)
def test_an_error_in_making_the_object_is_raised_by_the_first_receive(error, kind, words):
  worker = workers.Worker(functools.partial(impossible, error))
  with pytest.raises(kind, match=words):
    worker.receive()
  worker.close()
  assert not processes.is_alive(worker.pid)


def test_an_object_that_cannot_be_pickled_leaves_no_process():
  before = processes.children()
  with pytest.raises(Exception, match='pickle'):
    workers.Worker(lambda: None)
  gc.collect()

  def is_gone():
    return not any(map(processes.is_alive, processes.children() - before))

  assert processes.becomes_true(is_gone)


def test_a_process_that_ends_while_making_the_object_is_reported():
  worker = workers.Worker(ending)
  with pytest.raises(workers.WorkerDied, match='status 4.*no such engine'):
    worker.receive()
  worker.close()


def test_a_process_that_ends_is_reported_with_its_status_and_last_words(mortal):
  mortal.send(
    'say_and_end', out='x' * 10**5 + 'all is well. ', err='Sys_Error: out of memory', status=3
  )
  with pytest.raises(workers.WorkerDied) as died:
    mortal.receive()
  said = str(died.value)
  assert 'status 3' in said and said.endswith('all is well. Sys_Error: out of memory')
  assert len(said) < 5000  # The last words, not all.
  assert not mortal.is_alive()


def test_last_words_need_not_be_text(mortal):
  mortal.send('say_and_end', out='', err='cut: \N{SNOWMAN}', status=1, cut=1)
  with pytest.raises(workers.WorkerDied, match='cut: '):
    mortal.receive()


def test_a_killed_process_is_reported_by_every_later_call(mortal):
  os.kill(mortal.pid, signal.SIGKILL)
  assert processes.becomes_true(lambda: not mortal.is_alive())
  for _ in range(2):
    with pytest.raises(workers.WorkerDied, match=r'killed by SIGKILL \(9\).*out of memory'):
      mortal.call('echo', value=1)


def test_a_process_killed_at_work_is_reported(mortal):
  mortal.send('slowly', seconds=60.0)
  os.kill(mortal.pid, signal.SIGBUS)
  with pytest.raises(workers.WorkerDied, match=r'killed by SIGBUS \(7\): /dev/shm'):
    mortal.receive()


def test_killing_ends_the_wait_for_an_answer(mortal):
  mortal.send('slowly', seconds=60.0)
  mortal.kill()
  with pytest.raises(workers.WorkerDied, match='the process was ended$'):
    mortal.receive()
  mortal.kill()  # Of a dead process: does nothing.


def test_closing_closes_the_object_and_may_be_done_again(tmp_path):
  worker = start(functools.partial(Closed, tmp_path / 'closed'))
  assert worker.is_alive() and not (tmp_path / 'closed').exists()
  worker.close()
  assert (tmp_path / 'closed').exists() and not worker.is_alive()
  assert worker.pid not in processes.children()  # Waited for, so not even a zombie.
  worker.close()


def test_a_dead_process_can_be_closed(mortal):
  os.kill(mortal.pid, signal.SIGKILL)
  mortal.close()
  assert mortal.pid not in processes.children()


def test_hanging_up_ends_it_without_waiting(tmp_path):
  worker = start(functools.partial(Closed, tmp_path / 'closed'))
  begin = time.monotonic()
  worker.hang_up()
  assert time.monotonic() - begin < 0.5
  assert processes.becomes_true(lambda: not worker.is_alive())
  assert (tmp_path / 'closed').exists()
  worker.close()


def test_a_process_that_does_not_end_is_killed():
  worker = start(Stubborn)
  begin = time.monotonic()
  worker.close(patience=0.3)
  assert time.monotonic() - begin < 10.0
  assert worker.pid not in processes.children()


def test_a_process_ends_although_others_were_started_after_it(thing):
  # A copy of this end of the connection in the second process would keep the first alive.
  first = start()
  second = start()
  first.hang_up()
  assert processes.becomes_true(lambda: not first.is_alive())
  assert second.call('echo', value=1) == 1
  for worker in (first, second):
    worker.close()


def test_the_child_sees_no_gpu_and_otherwise_this_environment_and_path(monkeypatch):
  monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '0')
  monkeypatch.setenv('WORKERS_TEST', 'seen')
  monkeypatch.syspath_prepend('/a/folder/of/this/process')
  worker = start()
  where = worker.call('where')
  worker.close()
  assert where['gpu'] == '' and where['other'] == 'seen'
  assert where['path'] == sys.path
  assert os.environ['CUDA_VISIBLE_DEVICES'] == '0'


def test_the_child_does_not_get_ctrl_c(thing):
  # A terminal's interrupt goes to the session in its foreground.
  assert thing.call('where')['session'] == thing.pid != os.getsid(0)


def test_a_worker_ends_with_a_killed_parent(tmp_path):
  program = f"""
import functools, pathlib
from common.machine import workers
from tests.common.machine import workers_test
paths = [pathlib.Path({str(tmp_path)!r}, name) for name in ('one', 'two')]
made = [workers.Worker(functools.partial(workers_test.Closed, path)) for path in paths]
for worker in made:
  worker.receive()
print(*[worker.pid for worker in made], flush=True)
input()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as parent:
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(processes.is_alive, pids))
    parent.kill()
  assert processes.becomes_true(lambda: not any(map(processes.is_alive, pids)))
  # Both had the time to close their objects.
  assert {path.name for path in tmp_path.iterdir()} == {'one', 'two'}


def test_no_process_and_no_file_is_left(thing):
  def descriptors() -> int:
    gc.collect()  # Earlier tests may have left some in cycles.
    return len(os.listdir('/proc/self/fd'))

  before = processes.children(), descriptors()
  for _ in range(2):
    worker = start()
    worker.close()
  assert (processes.children(), descriptors()) == before


# What a dead process leaves.


@pytest.fixture
def engine(mortal):
  """The engine of `mortal`, in a session of its own, and its shared memory."""
  path = pathlib.Path(f'/dev/shm/engine-{mortal.pid}')
  yield mortal.call('spawn', name='engine', path=path), path
  path.unlink(missing_ok=True)


def assert_left_nothing(engine):
  pid, path = engine
  assert not processes.is_alive(pid) and not path.exists()


def test_the_engines_of_a_killed_process_end_with_it(mortal, engine):
  assert processes.is_alive(engine[0]) and engine[1].exists()
  os.kill(mortal.pid, signal.SIGKILL)
  with pytest.raises(workers.WorkerDied):
    mortal.call('echo', value=1)
  assert_left_nothing(engine)


def test_the_engines_of_a_process_that_does_not_close_end_with_it(mortal, engine):
  mortal.send('slowly', seconds=60.0)
  mortal.close(patience=0.1)
  assert_left_nothing(engine)


def test_the_engines_of_a_process_that_this_one_kills_end_with_it(mortal, engine):
  mortal.send('slowly', seconds=60.0)
  mortal.kill()
  with pytest.raises(workers.WorkerDied):
    mortal.receive()
  assert_left_nothing(engine)


def test_other_processes_are_left_alone(mortal, engine, tmp_path):
  other = start()
  kept = other.call('spawn', name='other', path=tmp_path / 'memory')
  os.kill(mortal.pid, signal.SIGKILL)
  with pytest.raises(workers.WorkerDied):
    mortal.call('echo', value=1)
  assert_left_nothing(engine)
  assert processes.is_alive(kept) and other.call('echo', value=1) == 1
  other.kill()
  other.close()
  assert not processes.is_alive(kept)


class Nested(Thing):
  """Hosts a worker itself, as an evaluation's process does."""

  def __init__(self):
    super().__init__()
    self._inner = start()

  def inner(self) -> int:
    self._inner.send('slowly', seconds=1000.0)
    return self._inner.pid


def test_workers_of_a_worker_that_do_not_answer_end_with_it():
  outer = start(Nested)
  inner = outer.call('inner')
  outer.kill()
  outer.close()
  assert not processes.is_alive(inner)


# Hangs.


def test_a_process_that_does_not_answer_is_ended_with_its_engines_and_says_what_it_did(
  mortal, engine
):
  begin = time.monotonic()
  with pytest.raises(workers.WorkerHung) as hung:
    mortal.call('work', 0.3, text='stepping level 4', seconds=60.0)
  assert 0.3 <= time.monotonic() - begin < 20.0
  assert str(hung.value) == (
    'the process has not answered for 0.3 s and was ended: it was stepping level 4'
  )
  assert not mortal.is_alive()
  assert_left_nothing(engine)


def test_a_frozen_process_is_ended(mortal):
  os.kill(mortal.pid, signal.SIGSTOP)
  with pytest.raises(workers.WorkerHung):
    mortal.call('echo', 0.3, value=1)
  assert mortal.pid not in processes.children()


def test_an_answer_in_time_is_returned(thing):
  assert thing.call('slowly', 60.0, seconds=0.2) == 'done'


def test_answers_are_awaited_from_several_at_once(thing, mortal):
  assert workers.answered([thing, mortal], 0.05) == []
  mortal.send('echo', value=1)
  assert workers.answered([thing, mortal], 60.0) == [mortal] and mortal.receive() == 1
  # A dead one has answered: `receive` raises at once.
  os.kill(mortal.pid, signal.SIGKILL)
  assert workers.answered([thing, mortal], 60.0) == [mortal]


def test_time_in_which_this_process_is_stopped_does_not_count(tmp_path):
  """As a suspended job: what it waits for may have been suspended too."""
  program = """
import time
from common.machine import workers
from tests.common.machine import workers_test
worker = workers_test.start()
worker.send('slowly', seconds=6.0)
print('waits', flush=True)
print(worker.receive(5.0), flush=True)
worker.close()
"""
  with subprocess.Popen(
    [sys.executable, '-c', program], cwd=ROOT, stdout=subprocess.PIPE, text=True
  ) as waiting:
    assert waiting.stdout.readline() == 'waits\n'
    os.kill(waiting.pid, signal.SIGSTOP)
    time.sleep(5.2)
    os.kill(waiting.pid, signal.SIGCONT)
    assert waiting.stdout.read() == 'done\n'


def test_notes_are_kept_until_the_next_one(thing):
  thing.call('work', text='a long note', seconds=0.0)
  thing.call('work', text='a note', seconds=0.0)
  assert thing.note() == 'a note'
  thing.call('work', text='\N{SNOWMAN}' * 100, seconds=0.0)
  assert len(thing.note().encode()) <= 203
