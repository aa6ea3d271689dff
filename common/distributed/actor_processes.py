"""Actors that are processes of this machine: started, looked after, started again when they end, and ended."""

import logging
import os
import pathlib
import subprocess
import sys
import time

from common import errors
from common.distributed import cluster

_MOST_FAILURES = 5  # In a row, of one actor.
_HEALTHY_SECONDS = 60.0  # Who has worked for so long has not failed at starting.
_PATIENCE = 10.0
_LAST_WORDS = 2000  # Bytes of what an actor has written that are shown when it has failed.


class ActorProcesses:
  """N processes of one program. What they write goes to `actor-I.log` in a folder."""

  def __init__(
    self, program: str, count: int, learner: str, who: cluster.Cluster, folder: pathlib.Path
  ):
    """Starts them.

    Args:
      program: the system's module, `impala.train`.
      count: N.
      learner: HOST:PORT.
      who: this process, whose token and name they share.
      folder: for their logs.
    """
    self._who, self._folder = who, folder
    self._command = [
      sys.executable,
      '-m',
      program,
      '--role=actor',
      f'--learner={learner}',
      f'--patience_seconds={who.patience_seconds}',
    ]
    folder.mkdir(parents=True, exist_ok=True)
    self.restarts = 0
    self._failures, self._started, self._processes = [0] * count, [0.0] * count, []
    for i in range(count):
      self._processes.append(self._start(i))

  def look_after(self) -> None:
    """Starts those again that have failed; to be called now and then. Who fails again and again is given more time.

    Raises:
      UserError: if that is so, and no other works.
    """
    for i, process in enumerate(self._processes):
      if process.poll() in (None, 0) or time.monotonic() < self._started[i] + self._delay(i):
        continue
      if time.monotonic() - self._started[i] > _HEALTHY_SECONDS:
        self._failures[i] = 0
      self._failures[i] += 1
      status, words = process.returncode, self._last_words(i)
      if self._failures[i] >= _MOST_FAILURES and all(
        other.poll() is not None for other in self._processes
      ):
        raise errors.UserError(
          f'actor process {i} has ended {self._failures[i]} times in a row, the last time with '
          f'status {status}: {words}'
        )
      logging.warning(
        'Actor process %d has ended with status %d and is started again. %s', i, status, words
      )
      self.restarts += 1
      self._processes[i] = self._start(i)

  def are_done(self) -> bool:
    """Whether all have ended in order."""
    return all(process.poll() == 0 for process in self._processes)

  def close(self) -> None:
    """Asks all to end; kills who does not."""
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

  def _delay(self, i: int) -> float:
    """Seconds between two starts."""
    return _HEALTHY_SECONDS if self._failures[i] >= _MOST_FAILURES else 0.0

  def _start(self, i: int) -> subprocess.Popen:
    self._started[i] = time.monotonic()
    environment = {
      **os.environ,
      cluster.TOKEN_VARIABLE: self._who.token,
      'CUDA_VISIBLE_DEVICES': '',
    }
    # One thread each: there are about as many processes as cores, and threads that wait by spinning cost all others.
    for name in ('TF_NUM_INTRAOP_THREADS', 'TF_NUM_INTEROP_THREADS', 'OMP_NUM_THREADS'):
      environment.setdefault(name, '1')
    with open(self._folder / f'actor-{i}.log', 'ab') as log:
      # A session of its own: Ctrl-C is for the learner, which ends its actors once it has saved.
      return subprocess.Popen(
        [*self._command, f'--name={self._who.name}-{i}'],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=environment,
        cwd=pathlib.Path(__file__).resolve().parents[2],
      )

  def _last_words(self, i: int) -> str:
    path = self._folder / f'actor-{i}.log'
    with open(path, 'rb') as log:
      log.seek(max(0, os.path.getsize(path) - _LAST_WORDS))
      words = log.read().decode(errors='replace').strip().splitlines()
    return (words[-1] if words else 'It has said nothing.') + f' (all of it: {path})'
