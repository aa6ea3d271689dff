"""Faults that others inflict on a run: strangers at its port, and members who send what they like.

Each function does its harm to a run, checks that the run is well, and says what it has seen.
"""

import contextlib
import functools
import pathlib
import re
import resource
import signal
import socket
import ssl
import time
from typing import Callable, Iterator, Mapping

from common.distributed import credentials, relay
from scripts import harmed_runs, processes, strangers, tensors

SECONDS = 600.0  # The most that anything may take, on a machine with other work.
STRANGERS_MB = 200  # What strangers may cost the learner or the gate at the peak.
MEMBERS_MB = 1300  # What members may: 2^25 strings are 1,048 MB.
_FILES = 64
_SILENT = 120
_HALF = 40  # Half handshakes of each kind.
_CALL_SECONDS = 60.0
_CRASH_SECONDS = 20.0


def stranger_tensors(run: harmed_runs.HarmedRun) -> str:
  """Calls of TensorFlow's RPC with every kind of tensor, in plain words."""
  return _send_as_stranger(run, strangers.knock)


def stranger_tensors_with_other_key(run: harmed_runs.HarmedRun) -> str:
  """The same by TLS, with another token's key."""
  return _send_as_stranger(run, strangers.knock_with_other_key)


def _send_as_stranger(run: harmed_runs.HarmedRun, knock: Callable[[int, bytes], bool]) -> str:
  kinds = {**tensors.deadly(), **tensors.strings(), **tensors.huge(), **tensors.odd()}
  with _unharmed(run, STRANGERS_MB) as seen:
    for name, tensor in kinds.items():
      for method in (b'tell', b'put'):
        assert knock(run.port, tensors.request(method, tensor)), f'{name} was let in'
  return f'{2 * len(kinds)} calls refused; {", ".join(seen)}'


def garbage_and_half_handshakes(run: harmed_runs.HarmedRun) -> str:
  """What is not TLS, and TLS that stops in the middle."""
  with _unharmed(run, STRANGERS_MB) as seen:
    for name, words in strangers.WORDS.items():
      assert strangers.knock(run.port, words), f'{name} was let in'
    held = [strangers.half_handshake(run.port, share) for share in (0.5, 1.0) * _HALF]
    assert all(map(strangers.is_closed, held)), 'a half handshake stays'
  return f'all of {len(strangers.WORDS)} and {len(held)} closed; {", ".join(seen)}'


def silence_with_few_files(run: harmed_runs.HarmedRun) -> str:
  """Many connections that say nothing, while learner and gate may open few files."""
  with _unharmed(run, STRANGERS_MB) as seen, _few_files(run):
    held = [strangers.silent(run.port) for _ in range(_SILENT)]
    saved = run.await_newer_checkpoint(SECONDS)
    assert all(map(strangers.is_closed, held)), 'a silent connection stays'
  return f'saved ckpt-{saved[-1]} meanwhile; {", ".join(seen)}'


def member_odd(run: harmed_runs.HarmedRun) -> str:
  """Tensors of wrong types, ranks and shapes."""
  with _unharmed(run, MEMBERS_MB) as seen:
    calls = _send_all(run, tensors.odd())
  return f'{calls} calls answered; {", ".join(seen)}'


def member_huge(run: harmed_runs.HarmedRun) -> str:
  """Large shapes of numbers, without content."""
  return _send_twice(run, tensors.huge())


def member_strings(run: harmed_runs.HarmedRun) -> str:
  """Large shapes of strings, without content."""
  return _send_twice(run, tensors.strings())


def _send_twice(run: harmed_runs.HarmedRun, kinds: Mapping[str, bytes]) -> str:
  """Sends large tensors twice: what the first time has cost, the second must use again.

  TensorFlow's allocator for oneDNN gives no memory back to the system, so the learner keeps that
  of the largest tensor.
  """
  with _unharmed(run, MEMBERS_MB) as seen:
    calls = _send_all(run, kinds)
    after_first = _resident_mb(run.learner.pid)
    calls += _send_all(run, kinds)
    growth = _resident_mb(run.learner.pid) - after_first
    assert growth < STRANGERS_MB, f'the same tensors again cost {growth:.0f} MB more'
  return f'{calls} calls answered; {", ".join(seen)}, {growth:+.0f} MB by repeating'


def _send_all(run: harmed_runs.HarmedRun, kinds: Mapping[str, bytes]) -> int:
  """Calls two methods with each tensor, and waits until the run is well; returns the calls."""
  methods = (b'tell', b'put')
  for name, tensor in kinds.items():
    for method in methods:
      assert call(run, method, tensor), f'{name} ended the connection'
  run.await_well(SECONDS)
  return len(methods) * len(kinds)


def ends_by(run: harmed_runs.HarmedRun, name: str) -> bool:
  """Sends one of the tensors that TensorFlow's decoder does not survive.

  Returns:
    Whether the learner died: nobody stands between a member and that decoder.
  """
  call(run, b'tell', tensors.deadly()[name])
  is_dead = processes.becomes_true(lambda: run.learner.popen.poll() is not None, _CRASH_SECONDS)
  status = run.learner.popen.returncode
  assert not is_dead or status == -signal.SIGSEGV, f'the learner has ended with status {status}'
  return is_dead


def call(run: harmed_runs.HarmedRun, method: bytes, tensor: bytes) -> bool:
  """Calls the learner's server with the run's token; returns whether it answers."""
  with socket.create_connection(('127.0.0.1', run.port), _CALL_SECONDS) as plain:
    with _tls(run.token).wrap_socket(plain) as connection:
      connection.sendall(tensors.request(method, tensor))
      return tensors.await_answer(connection)


@contextlib.contextmanager
def trap() -> Iterator[tuple[str, Callable[[], int]]]:
  """An HTTP proxy's address that should not be used, and how often it was."""
  with socket.create_server(('127.0.0.1', 0)) as listener:
    listener.setblocking(False)
    caught: list[socket.socket] = []

    def count() -> int:
      with contextlib.suppress(BlockingIOError):
        while True:
          caught.append(listener.accept()[0])
      return len(caught)

    try:
      yield 'http://127.0.0.1:{}'.format(listener.getsockname()[1]), count
    finally:
      for connection in caught:
        connection.close()


@contextlib.contextmanager
def _unharmed(run: harmed_runs.HarmedRun, most_mb: float) -> Iterator[list[str]]:
  """Checks that what happens in the block does a run no harm; says what it saw after the block.

  The learner must live, learn, save, need no more than `most_mb` at the peak, and so must the gate;
  the log has one line about strangers, or one a minute.
  """
  pids = {'learner': run.learner.pid, 'gate': _gate_of(run)}
  before = {name: _reset_peak(pid) for name, pid in pids.items()}
  frames = run.rows()[-1]['frames']
  lines = _lines_about_strangers(run)
  started = time.monotonic()
  seen: list[str] = []
  yield seen
  status = run.learner.popen.poll()
  assert status is None, f'the learner has ended with status {status}'
  run.await_well(SECONDS)
  run.await_newer_checkpoint(SECONDS)
  for name, pid in pids.items():
    assert processes.is_alive(pid), f'the {name} is dead'
    rise = _peak_mb(pid) - before[name]
    assert rise <= most_mb, f'the {name} needed {rise:.0f} MB more, expected at most {most_mb}'
    seen.append(f'{name} +{rise:.0f} MB')
  lines = _lines_about_strangers(run) - lines
  most_lines = 1 + (time.monotonic() - started) // 60
  assert lines <= most_lines, f'{lines} lines about strangers, expected at most {most_lines}'
  seen.append(f'{lines} lines')
  seen.append(f'{run.rows()[-1]["frames"] - frames:,.0f} frames learned')


@contextlib.contextmanager
def _few_files(run: harmed_runs.HarmedRun) -> Iterator[None]:
  """Lets learner and gate open few files."""
  limits = {pid: resource.prlimit(pid, resource.RLIMIT_NOFILE) for pid in _both(run)}
  for pid, (_, hard) in limits.items():
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (_FILES, hard))
  try:
    yield
  finally:
    for pid, both in limits.items():
      if processes.is_alive(pid):
        resource.prlimit(pid, resource.RLIMIT_NOFILE, both)


def _both(run: harmed_runs.HarmedRun) -> tuple[int, int]:
  return run.learner.pid, _gate_of(run)


def _gate_of(run: harmed_runs.HarmedRun) -> int:
  """The gate's process."""
  (gate,) = [
    pid
    for pid in processes.children(run.learner.pid)
    if b'relay.py' in pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
  ]
  return gate


def _lines_about_strangers(run: harmed_runs.HarmedRun) -> int:
  return run.learner.log().count('Connections without the token')


def _resident_mb(pid: int) -> float:
  return _status_mb(pid, 'VmRSS')


def _peak_mb(pid: int) -> float:
  return _status_mb(pid, 'VmHWM')


def _reset_peak(pid: int) -> float:
  """Forgets the largest resident memory so far; returns the present one in MB."""
  pathlib.Path(f'/proc/{pid}/clear_refs').write_text('5')
  return _resident_mb(pid)


def _status_mb(pid: int, name: str) -> float:
  found = re.search(rf'^{name}:\s+(\d+) kB', pathlib.Path(f'/proc/{pid}/status').read_text(), re.M)
  return int(found[1]) / 1e3 if found else 0.0


@functools.cache
def _tls(token: str) -> ssl.SSLContext:
  return relay.context(credentials.pem(token), is_server=False)
