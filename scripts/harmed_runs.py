"""Fault injection into runs of several processes; used by faults_test.py and scripts/faults.py."""

import contextlib
import os
import pathlib
import re
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
import time
import types
import uuid
from typing import Any, Callable, Iterator, Mapping, Sequence

from common.distributed import answers, cluster, gate, rpc
from common.reporting import metrics_file
from scripts import processes

ROOT = pathlib.Path(__file__).resolve().parents[1]
_MARK = 'DISTRIBUTED_RL_HARMED'
# The content of sitecustomize.py: every half second, the wall clock jumps by hours, back and forth.
_JUMPING_CLOCK = """
import time
_time, _time_ns, _monotonic = time.time, time.time_ns, time.monotonic
_hours = lambda: (0, 7, -5, 30)[int(2 * _monotonic()) % 4]
time.time = lambda: _time() + 3600 * _hours()
time.time_ns = lambda: _time_ns() + 3600 * 10**9 * _hours()
"""

# The content of slow.py: CartPole that sleeps, which leaves the cores to processes that are
# starting, and has large observations, which makes checkpoints large.
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

def make(**options):
  return Padded(gymnasium.make('CartPole-v1', **options))

gymnasium.register('SlowCartPole-v0', make)
"""

# Restores SIGINT, which shells let their background processes ignore.
_START = """
import runpy, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
"""


def _becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
  """As `processes.becomes_true`, but rarer: conditions here read files, which takes CPU time."""

  def holds_later() -> bool:
    time.sleep(0.1)
    return condition()

  return condition() or processes.becomes_true(holds_later, seconds)


class Process:
  """A child process, whose output goes to a log."""

  def __init__(self, popen: subprocess.Popen, log: pathlib.Path):
    self.popen = popen
    self.pid = popen.pid
    self._log = log

  def log(self) -> str:
    """Everything the process has written."""
    return self._log.read_text()

  def await_log(self, pattern: str, count: int = 1, seconds: float = 60.0) -> list[Any]:
    """Waits until its log holds `count` matches of a pattern; returns what `re.findall` does."""

    def found() -> list[Any]:
      return re.findall(pattern, self.log())

    def is_over() -> bool:
      return len(found()) >= count or self.popen.poll() is not None

    _becomes_true(is_over, seconds)
    assert len(found()) >= count, f'{pattern!r} is not {count} times in the log:\n{self.log()}'
    return found()

  def await_end(self, seconds: float = 15.0) -> int:
    """Waits until the process ends; returns its exit status."""
    try:
      return self.popen.wait(seconds)
    except subprocess.TimeoutExpired:
      raise AssertionError(f'it has not ended after {seconds:.0f} s:\n{self.log()}') from None

  def seconds_to_end(self, number: signal.Signals, most: float = 15.0) -> float:
    """Sends a signal and measures how long the process takes to end, up to `most`."""
    started = time.monotonic()
    self.popen.send_signal(number)
    self.await_end(most)
    return time.monotonic() - started

  def cpu_ticks(self) -> int:
    """User and system time so far, in clock ticks."""
    columns = pathlib.Path(f'/proc/{self.pid}/stat').read_text().rpartition(')')[2].split()
    return int(columns[11]) + int(columns[12])


class HarmedRun:
  """A learner and its actors, in processes that share a temporary folder and a mark.

  Attributes:
    folder: The run's folder.
    port: The port the learner listens on.
    token: The run's token, which all processes get by their environment.
    processes: All processes started so far.
    temporary: The folder for the processes' temporary files.
    learner: The present learner. This and the next three are set by the code that starts them.
    num_actors: How many actors there should be; likewise.
    solo: A single actor.
    fleet: A supervisor of several actors.
  """

  learner: Process
  num_actors: int
  solo: Process
  fleet: Process

  def __init__(
    self,
    folder: pathlib.Path,
    system: str = 'impala',
    *settings: str,
    jumping_clock: bool = False,
    variables: Mapping[str, str] = types.MappingProxyType({}),
  ):
    """Starts nothing.

    Args:
      folder: Where to put the run's folder, logs and temporary files.
      system: `impala` or `apex`.
      *settings: Flags of the learner.
      jumping_clock: Whether the wall clock of all processes jumps by hours.
      variables: Further environment variables of all processes.
    """
    self.folder = folder / 'run'
    self.port = gate.free_port('127.0.0.1', 0)
    self.token = secrets.token_hex(16)
    self.processes: list[Process] = []
    self._system = system
    self._settings = settings
    self._variables = variables
    self._base = folder
    self._mark = uuid.uuid4().hex  # In the environment of all processes, to find them.
    self._segments: set[pathlib.Path] = set()
    # Not in `folder`, whose path may be too long for the sockets in it.
    self.temporary = pathlib.Path(tempfile.mkdtemp())
    self._path = folder / 'path'
    self._path.mkdir(parents=True)
    (self._path / 'slow.py').write_text(_SLOW_ENVIRONMENT)
    if jumping_clock:
      (self._path / 'sitecustomize.py').write_text(_JUMPING_CLOCK)

  def start_learner(self, *flags: str) -> Process:
    """Starts a learner with the run's settings."""
    return self._start('learner', *self._settings, f'--run_dir={self.folder}', *flags)

  def start_listening(self, *flags: str) -> Process:
    """Starts a learner whose actors are started separately."""
    return self.start_learner('--role=learner', f'--listen=127.0.0.1:{self.port}', *flags)

  def start_actor(self, *flags: str) -> Process:
    """Starts an actor, or a supervisor of several."""
    # An actor plays only an environment of the user's own if its own command line names it.
    environment = [setting for setting in self._settings if setting.startswith('--env=')]
    address = f'--learner=127.0.0.1:{self.port}'
    return self._start('actor', '--role=actor', address, *environment, *flags)

  def rows(self) -> list[dict[str, float]]:
    """The rows of `metrics.csv`."""
    path = self.folder / 'metrics.csv'
    return metrics_file.read(path) if path.exists() else []

  def await_row(
    self, condition: Callable[[dict[str, float]], bool], seconds: float = 60.0
  ) -> dict[str, float]:
    """Waits until a condition holds for the newest row of metrics; returns the newest row."""

    def newest() -> dict[str, float]:
      return (self.rows() or [{}])[-1]

    def holds() -> bool:
      row = newest()
      return bool(row) and condition(row)

    if not _becomes_true(holds, seconds):
      logs = [process.log()[-3000:] for process in self.processes]
      raise AssertionError('\n'.join([str(newest()), *logs]))
    return newest()

  def await_frames(self, more: int = 500, seconds: float = 60.0) -> dict[str, float]:
    """Waits until training has advanced by `more` environment frames; returns the row."""
    before = (self.rows() or [{'frames': 0}])[-1]['frames']
    return self.await_row(lambda row: row['frames'] >= before + more, seconds)

  def await_actors(self, count: int, seconds: float = 60.0) -> dict[str, float]:
    """Waits until `count` actors have joined; returns the row."""
    return self.await_row(lambda row: row['actors'] == count, seconds)

  def await_well(self, seconds: float, more: int = 2000) -> dict[str, float]:
    """Waits until all actors are connected and training advances; returns the newest row."""
    self.await_actors(self.num_actors, seconds)
    row = self.await_frames(more, seconds)
    assert row['actors'] == self.num_actors, row
    return row

  def saved(self) -> list[int]:
    """The numbers of all complete checkpoints, in the order of saving."""
    names = (self.folder / 'checkpoints' / 'latest' / 'checkpoint').read_text()
    return [
      int(number)
      for number in re.findall(r'^all_model_checkpoint_paths: "ckpt-(\d+)"', names, re.M)
    ]

  def await_newer_checkpoint(self, seconds: float = 60.0) -> list[int]:
    """Waits for a checkpoint newer than the newest; returns the numbers of all."""
    newest = self.saved()[-1]
    assert _becomes_true(lambda: self.saved()[-1] != newest, seconds), self.saved()
    return self.saved()

  def living(self) -> set[int]:
    """All processes of this run, orphans too."""
    mark = f'{_MARK}={self._mark}'.encode()
    found = set()
    for entry in pathlib.Path('/proc').glob('[0-9]*'):
      pid = int(entry.name)
      with contextlib.suppress(OSError):  # It has ended meanwhile, or is another user's.
        variables = (entry / 'environ').read_bytes().split(b'\0')
        if mark in variables and processes.is_alive(pid):
          found.add(pid)
    return found

  def note_shared_memory(self) -> int:
    """Remembers the shared memory in use now, for `leftovers`.

    Returns:
      The number of segments seen so far that still exist.
    """
    for pid in self.living():
      with contextlib.suppress(OSError):
        self._segments |= processes.shared_memory(pid)
    return sum(segment.exists() for segment in self._segments)

  def leftovers(self) -> list[str]:
    """What remains of the run; should be empty once all processes have ended."""
    commands = [f'process {pid}' for pid in self.living()]
    address = ('127.0.0.1', self.port)
    listening = [f'port {self.port}'] if processes.listens(address) else []
    files = [str(path) for path in [*self.temporary.iterdir(), *self._segments] if path.exists()]
    return commands + listening + files

  def await_nothing_left(self, seconds: float = 15.0) -> None:
    """Waits until nothing remains of the run."""
    assert _becomes_true(lambda: not self.leftovers(), seconds), self.leftovers()

  def kill(self) -> None:
    """Kills all processes of this run."""
    # Repeatedly, as supervisors may start others meanwhile.
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
      **self._variables,
      'PYTHONPATH': f'{self._path}:{ROOT}:{ROOT}/tests',
      'TMPDIR': str(self.temporary),
      'CUDA_VISIBLE_DEVICES': '',
      cluster.TOKEN_VARIABLE: self.token,
      _MARK: self._mark,
    }
    with open(log, 'wb') as file:
      # In a session of its own: the test's Ctrl-C is not for the run.
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


@contextlib.contextmanager
def harmed_run(
  folder: pathlib.Path, system: str = 'impala', *settings: str, **options: Any
) -> Iterator[HarmedRun]:
  """A run whose processes are killed at the end in any case. Arguments as for `HarmedRun`."""
  run = HarmedRun(folder, system, *settings, **options)
  try:
    yield run
  finally:
    run.kill()


@contextlib.contextmanager
def full_disk(process: Process, largest: int = 200_000) -> Iterator[None]:
  """Makes a process fail in writing files beyond `largest` bytes, as on a full disk."""
  _, hard = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
  resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (largest, hard))
  yield
  if process.popen.poll() is None:
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def actors_of(supervisor: Process) -> set[int]:
  """The actors that a process has started, excluding its janitor."""
  found = set()
  for pid in processes.children(supervisor.pid):
    with contextlib.suppress(OSError):  # It has ended meanwhile.
      if b'--role=actor' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes():
        found.add(pid)
  return found


def truncate_newest(run: HarmedRun) -> int:
  """Cuts the data file of the newest checkpoint in half; returns the checkpoint's number."""
  data = newest_data(run)
  os.truncate(data, data.stat().st_size // 2)
  return run.saved()[-1]


def newest_data(run: HarmedRun) -> pathlib.Path:
  """The data file of the newest checkpoint."""
  (data,) = (run.folder / 'checkpoints' / 'latest').glob(f'ckpt-{run.saved()[-1]}.data-*')
  return data


_ODD_ROLE = b'{"kind": "join", "role": "king", "name": "x", "version": "", "config": {}}'


def malformed(count: int) -> Sequence[tuple[str, tuple[bytes, ...]]]:
  """`count` messages that a learner must refuse: function and arguments."""
  forms = [
    ('tell', (b'',)),
    ('tell', (b'\xff\x00' * 50,)),
    ('tell', (b'[' * 100_000,)),
    ('tell', (b'{"kind": "nothing"}',)),
    ('tell', (_ODD_ROLE,)),
    ('tell', (b'{"kind": "beat"}',)),
    ('put', (b'null', b'')),
    ('put', (b'{"session": 1}', b'x' * 1000)),
    ('put', (b'{"session": "a", "sequence": -1, "part": 0, "parts": 1}', b'x' * 100_000)),
    ('parameters', (b'{"session": "a", "version": 1e9, "part": 0}',)),
  ]
  return [forms[i % len(forms)] for i in range(count)]


def send_malformed(run: HarmedRun, count: int) -> int:
  """Sends `count` malformed messages, with the token; returns how many were refused."""
  tunnel = gate.Tunnel(cluster.Endpoint('127.0.0.1', run.port), run.token)
  try:
    client = rpc.Client(tunnel.path, 30.0)
    refused = 0
    for function, arguments in malformed(count):
      outputs = answers.OUTPUTS[function]
      answer, *_ = client.call(function, *arguments, outputs=outputs, seconds=30.0)
      refused += b'"refused"' in answer
    return refused
  finally:
    tunnel.close()
