"""Runs of many processes that are done harm, for tests/common/runs/faults_test.py and scripts/faults.py."""

import contextlib
import os
import pathlib
import re
import resource
import signal
import subprocess
import sys
import time
import uuid
from typing import Callable, Iterator, Sequence

from common.distributed import rpc
from common.reporting import metrics
from scripts import processes

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MARK = 'DISTRIBUTED_RL_HARMED'
# Goes to sitecustomize.py: within a process the wall clock jumps by hours, there and back, every half second.
_JUMPING_CLOCK = """
import time
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
_hours = lambda: (0, 7, -5, 30)[int(2 * _monotonic()) % 4]
time.time = lambda: _time() + 3600 * _hours()
time.time_ns = lambda: _time_ns() + 3600 * 10**9 * _hours()
"""


# Goes to slow.py: CartPole that leaves the cores to who starts meanwhile, and shows much: checkpoints are large.
SLOW = 'gym:slow:SlowCartPole-v0'
_SLOW_ENVIRONMENT = """
import time
import gymnasium
import numpy as np

class Padded(gymnasium.ObservationWrapper):
  observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1000,), np.float32)

  def observation(self, observation):
    time.sleep(0.003)
    return np.pad(observation, (0, 996)).astype(np.float32)

gymnasium.register('SlowCartPole-v0', lambda **options: Padded(gymnasium.make('CartPole-v1', **options)))
"""


def _becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
  """As of `processes`, which asks so often that reading files each time would keep a core busy."""

  def asked_later() -> bool:
    time.sleep(0.1)
    return condition()

  return condition() or processes.becomes_true(asked_later, seconds)


class Process:
  """One that was started; all it says is in its log."""

  def __init__(self, popen: subprocess.Popen, log: pathlib.Path):
    self.popen, self._log, self.pid = popen, log, popen.pid

  def log(self) -> str:
    return self._log.read_text()

  def await_log(self, pattern: str, count: int = 1, seconds: float = 60.0) -> list[str]:
    """Waits until it has said so many things of this form; returns them."""
    found = lambda: re.findall(pattern, self.log())
    ended = lambda: self.popen.poll() is not None
    _becomes_true(lambda: len(found()) >= count or ended(), seconds)
    assert len(found()) >= count, f'{pattern!r} is not in what it says:\n{self.log()}'
    return found()

  def await_end(self, seconds: float = 15.0) -> int:
    """Its exit status."""
    try:
      return self.popen.wait(seconds)
    except subprocess.TimeoutExpired:
      raise AssertionError(f'it has not ended after {seconds:.0f} s:\n{self.log()}') from None

  def seconds_to_end(self, number: signal.Signals) -> float:
    started = time.monotonic()
    self.popen.send_signal(number)
    self.await_end()
    return time.monotonic() - started

  def cpu_ticks(self) -> int:
    columns = pathlib.Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()
    return int(columns[11]) + int(columns[12])


class HarmedRun:
  """A learner, and actors wherever they were started; a temporary folder and a mark that all of them have."""

  def __init__(
    self, folder: pathlib.Path, system: str = 'impala', *settings: str, jumping_clock: bool = False
  ):
    """`settings`: flags of the learner. `folder`: for the run's folder, logs, and temporary files."""
    self.folder, self._system, self._settings = folder / 'run', system, settings
    self._base, self._mark, self._segments = folder, uuid.uuid4().hex, set()
    self.port, self.processes = rpc.free_port('127.0.0.1', 0), []
    self._temporary, self._path = folder / 'tmp', folder / 'path'
    for path in (self._temporary, self._path):
      path.mkdir(parents=True)
    (self._path / 'slow.py').write_text(_SLOW_ENVIRONMENT)
    if jumping_clock:
      (self._path / 'sitecustomize.py').write_text(_JUMPING_CLOCK)

  def start_learner(self, *flags: str) -> Process:
    return self._start('learner', *self._settings, f'--run_dir={self.folder}', *flags)

  def start_listening(self, *flags: str) -> Process:
    """A learner whose actors are started separately."""
    return self.start_learner('--role=learner', f'--listen=127.0.0.1:{self.port}', *flags)

  def start_actor(self, *flags: str) -> Process:
    return self._start('actor', '--role=actor', f'--learner=127.0.0.1:{self.port}', *flags)

  def rows(self) -> list[dict[str, float]]:
    path = self.folder / 'metrics.csv'
    return metrics.read(path) if path.exists() else []

  def await_row(
    self, condition: Callable[[dict[str, float]], bool], seconds: float = 60.0
  ) -> dict[str, float]:
    """Waits for a newest row of metrics of which the condition holds; returns it."""
    newest = lambda: (self.rows() or [{}])[-1]
    holds = lambda: bool(newest()) and condition(newest())
    assert _becomes_true(holds, seconds), f'{newest()}\n' + '\n'.join(
      p.log()[-3000:] for p in self.processes
    )
    return newest()

  def await_frames(self, more: int = 500, seconds: float = 60.0) -> dict[str, float]:
    """Waits until training has gone on for so many frames, from the newest row on; returns the row."""
    before = (self.rows() or [{'frames': 0}])[-1]['frames']
    return self.await_row(lambda row: row['frames'] >= before + more, seconds)

  def await_actors(self, count: int, seconds: float = 60.0) -> dict[str, float]:
    return self.await_row(lambda row: row['actors'] == count, seconds)

  def saved(self) -> list[int]:
    """Numbers of the checkpoints that are whole, in the order in which they were saved."""
    names = (self.folder / 'checkpoints' / 'latest' / 'checkpoint').read_text()
    return [
      int(number)
      for number in re.findall(r'^all_model_checkpoint_paths: "ckpt-(\d+)"', names, re.M)
    ]

  def await_newer_checkpoint(self, seconds: float = 60.0) -> list[int]:
    newest = self.saved()[-1]
    assert _becomes_true(lambda: self.saved()[-1] != newest, seconds), self.saved()
    return self.saved()

  def living(self) -> set[int]:
    """All processes of this run, whoever is their parent now."""
    wanted, found = f'{_MARK}={self._mark}'.encode(), set()
    for entry in pathlib.Path('/proc').glob('[0-9]*'):
      with contextlib.suppress(OSError):  # It has ended meanwhile, or is another user's.
        if wanted in (entry / 'environ').read_bytes().split(b'\0') and processes.is_alive(
          int(entry.name)
        ):
          found.add(int(entry.name))
    return found

  def note_shared_memory(self) -> int:
    """Remembers the segments that processes of this run use now, to see later that they are gone; their number."""
    for pid in self.living():
      with contextlib.suppress(OSError):
        self._segments |= processes.shared_memory(pid)
    return len(self._segments)

  def leftovers(self) -> list[str]:
    """What is still there and should not be, when all has ended."""
    commands = [f'process {pid}' for pid in self.living()]
    listening = [f'port {self.port}'] if rpc.reaches('127.0.0.1', self.port) else []
    files = [str(path) for path in [*self._temporary.iterdir(), *self._segments] if path.exists()]
    return commands + listening + files

  def await_nothing_left(self, seconds: float = 15.0) -> None:
    assert _becomes_true(lambda: not self.leftovers(), seconds), self.leftovers()

  def kill(self) -> None:
    """Ends all of it, whatever state it is in."""
    while living := self.living():
      for pid in living:
        with contextlib.suppress(ProcessLookupError):
          os.kill(pid, signal.SIGKILL)
      for process in self.processes:
        process.popen.poll()
      time.sleep(0.05)

  def _start(self, name: str, *flags: str) -> Process:
    log = self._base / f'{name}-{len(self.processes)}.log'
    environment = {
      **os.environ,
      'PYTHONPATH': f'{self._path}:{ROOT}:{ROOT}/tests',
      'TMPDIR': str(self._temporary),
      'CUDA_VISIBLE_DEVICES': '',
      _MARK: self._mark,
    }
    with open(log, 'wb') as file:
      # A session of its own, with which SIGINT is not ignored, as it is in the background of a shell.
      popen = subprocess.Popen(
        [sys.executable, '-u', '-c', _START, f'{self._system}.train', *flags],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=file,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        env=environment,
      )
    self.processes.append(Process(popen, log))
    return self.processes[-1]


_START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


@contextlib.contextmanager
def harmed_run(folder: pathlib.Path, *arguments, **named) -> Iterator[HarmedRun]:
  """A run of which nothing is left afterwards, also if the block fails."""
  run = HarmedRun(folder, *arguments, **named)
  try:
    yield run
  finally:
    run.kill()


@contextlib.contextmanager
def full_disk(process: Process, largest: int = 200_000) -> Iterator[None]:
  """As long as it lasts, writing fails in the midst of every file of this process that is larger than that."""
  _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, hard))
  yield
  if process.popen.poll() is None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def actors_of(supervisor: Process) -> set[int]:
  """The actors that a process has started, without its janitor."""
  found = set()
  for pid in processes.children(supervisor.pid):
    with contextlib.suppress(OSError):  # It has ended meanwhile.
      if b'--role=actor' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes():
        found.add(pid)
  return found


def truncate_newest(run: HarmedRun) -> int:
  """Cuts the data of the newest checkpoint in half; returns its number."""
  newest = run.saved()[-1]
  (data,) = (run.folder / 'checkpoints' / 'latest').glob(f'ckpt-{newest}.data-*')
  os.truncate(data, data.stat().st_size // 2)
  return newest


def malformed(count: int) -> Sequence[tuple[str, tuple[bytes, ...]]]:
  """So many messages, function and arguments, that a learner must refuse."""
  forms = [
    ('tell', (b'',)),
    ('tell', (b'\xff\x00' * 50,)),
    ('tell', (b'[' * 100_000,)),
    ('tell', (b'{"kind": "nothing"}',)),
    (
      'tell',
      (b'{"kind": "join", "role": "king", "name": "x", "token": "", "version": "", "config": {}}',),
    ),
    ('tell', (b'{"kind": "beat"}',)),
    ('put', (b'null', b'')),
    ('put', (b'{"session": 1}', b'x' * 1000)),
    ('put', (b'{"session": "a", "sequence": -1, "part": 0, "parts": 1}', b'x' * 100_000)),
    ('parameters', (b'{"session": "a", "version": 1e9, "part": 0}',)),
  ]
  return [forms[i % len(forms)] for i in range(count)]


def send_malformed(port: int, count: int) -> int:
  """Sends them; returns how many were answered by a refusal."""
  client = rpc.Client('127.0.0.1', port, 30.0)
  return sum(
    b'"refused"' in client.call(function, *arguments, seconds=30.0)[0]
    for function, arguments in malformed(count)
  )
