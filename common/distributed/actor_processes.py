"""Actors as child processes on this machine: started, restarted when they fail, and ended."""

import logging
import os
import pathlib
import subprocess
import sys
import time
from typing import Sequence

from common import errors
from common.distributed import cluster, notes
from common.machine import exits

_MOST_FAILURES = 5  # In a row, of one actor.
_HEALTHY_SECONDS = 60.0  # An actor that ran for longer did not fail at starting.
# Seconds for all actors to end before they are killed. DeepMind Lab's engines may need a minute.
_PATIENCE = 80.0
_LAST_WORDS = 2000  # Bytes at the end of a log that are searched for its last line.
_ROOT = pathlib.Path(__file__).resolve().parents[2]


class ActorProcesses:
  """N processes of one program, each with its output in a file `actor-I.log`.

  Attributes:
    restarts: How many processes were started again.
  """

  def __init__(
    self,
    program: str,
    count: int,
    learner: str,
    who: cluster.Cluster,
    flags: Sequence[str],
    folder: pathlib.Path,
  ):
    """Starts the processes.

    Args:
      program: The system's module, such as `impala.train`.
      count: The number of processes, N.
      learner: HOST:PORT or unix:PATH of their learner.
      who: This process, whose token, name and patience the actors get.
      flags: Further flags: the settings that are not for the learner to decide.
      folder: Where to write their logs.
    """
    self._who = who
    # A Unix socket takes none, and what needs no secret should not have it.
    is_near = isinstance(cluster.parse_learner(learner), cluster.UnixSocket)
    self._token = '' if is_near else who.token
    self._folder = folder
    self._command = [
      sys.executable,
      '-m',
      program,
      '--role=actor',
      f'--learner={learner}',
      f'--patience_seconds={who.patience_seconds}',
      *flags,
    ]
    self.restarts = 0
    self._failures = [0] * count  # In a row.
    self._started = [0.0] * count
    self._processes: list[subprocess.Popen] = []

    folder.mkdir(parents=True, exist_ok=True)
    for i in range(count):
      self._processes.append(self._start(i))

  def look_after(self) -> None:
    """Restarts actors that failed; to be called now and then.

    An actor that fails repeatedly is restarted less often.

    Raises:
      UserError: If an actor fails repeatedly and no other is running.
    """
    for i, process in enumerate(self._processes):
      has_failed = process.poll() not in (None, 0)
      if has_failed and time.monotonic() >= self._started[i] + self._delay(i):
        self._restart(i)

  def are_done(self) -> bool:
    """Whether all actors have exited with status 0."""
    return all(process.poll() == 0 for process in self._processes)

  def close(self) -> None:
    """Terminates all actors, and kills those that do not end."""
    for process in self._processes:
      if process.poll() is None:
        process.terminate()

    deadline = time.monotonic() + _PATIENCE
    for process in self._processes:
      try:
        process.wait(max(0.0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

  def _restart(self, i: int) -> None:
    """Starts a failed actor again. Raises UserError if that is hopeless."""
    if time.monotonic() - self._started[i] > _HEALTHY_SECONDS:
      self._failures[i] = 0
    self._failures[i] += 1

    how = exits.describe(self._processes[i].returncode)
    words = self._last_words(i)
    none_runs = all(process.poll() is not None for process in self._processes)
    if self._failures[i] >= _MOST_FAILURES and none_runs:
      raise errors.UserError(
        f'actor process {i} has failed {self._failures[i]} times in a row. The last time it {how}. '
        f'It wrote last: {words}'
      )
    logging.warning('Actor process %d %s. It is started again. It wrote last: %s', i, how, words)
    self.restarts += 1
    self._processes[i] = self._start(i)

  def _delay(self, i: int) -> float:
    """Seconds between two starts."""
    return _HEALTHY_SECONDS if self._failures[i] >= _MOST_FAILURES else 0.0

  def _start(self, i: int) -> subprocess.Popen:
    self._started[i] = time.monotonic()
    environment = {
      **os.environ,
      # By the environment, since other users can read command lines.
      cluster.TOKEN_VARIABLE: self._token,
      'CUDA_VISIBLE_DEVICES': '',
    }
    # One thread each: there are about as many processes as cores, and idle threads that spin would
    # slow down all of them.
    for name in ('TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'OMP_NUM_THREADS'):
      environment.setdefault(name, '1')

    with open(self._folder / f'actor-{i}.log', 'ab') as log:
      # In a session of its own, an actor does not get the terminal's Ctrl-C. The learner does: it
      # ends its actors after it has saved.
      return subprocess.Popen(
        [*self._command, f'--name={self._who.name}-{i}'],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=environment,
        cwd=_ROOT,
      )

  def _last_words(self, i: int) -> str:
    """The last line of an actor's log, and the log's path."""
    path = self._folder / f'actor-{i}.log'
    with open(path, 'rb') as log:
      log.seek(max(0, os.path.getsize(path) - _LAST_WORDS))
      lines = log.read().decode(errors='replace').strip().splitlines()
    last = notes.printable(lines[-1], 1000) if lines else 'nothing'
    return f'{last} (full log: {path})'
