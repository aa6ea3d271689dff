"""The members of a population as processes of this machine: so many at once, in turns."""

import logging
import os
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import BinaryIO

from common.machine import exits
from impala import population_folder as folders

# In a row, of one member; the population goes on without it.
_MOST_FAILURES = 5
_PATIENCE = 120.0  # Seconds for members to save and end before they are killed.
_LAST_WORDS = 2000  # Bytes at the end of a log that are searched for its last line.
_STOPPED = 130
_ROOT = pathlib.Path(__file__).resolve().parents[1]


class Places:
  """Runs members, each an ordinary `python -m impala.train` with its output in `member.log`.

  If there are more members than places, a member gives its place up after `turn_frames` to the one
  with the fewest frames. Members that die are started again, and go on from their checkpoints.

  Attributes:
    done: The members that have finished training.
    given_up: The members that fail whenever they are started.
    restarts: How often a member that had died was started again.
  """

  def __init__(
    self,
    folder: pathlib.Path,
    members: Sequence[int],
    at_once: int,
    turn_frames: int,
    total_frames: int,
    flags: Sequence[str],
  ):
    """Starts nothing yet.

    Args:
      folder: The population's, in which all members' folders are prepared.
      members: The numbers of those that run here.
      at_once: The number of places.
      turn_frames: Environment frames after which a member makes room for one that waits.
      total_frames: Environment frames of a member in all.
      flags: Further flags of all members.
    """
    self._folder = folder
    self._at_once = at_once
    self._turn_frames = turn_frames
    self._flags = flags
    self._running: dict[int, _Process] = {}
    # In a row, without getting further than ever before.
    self._failures = dict.fromkeys(members, 0)
    self._furthest = dict.fromkeys(members, 0)
    self.restarts = 0
    self.given_up: set[int] = set()
    self.done = {n for n in members if frames_of(self._run_dir(n)) >= total_frames}
    self._waiting = [number for number in members if number not in self.done]

  def look_after(self) -> None:
    """Takes note of members that have ended, fills free places, ends turns; call it often."""
    for number, process in list(self._running.items()):
      status = process.popen.poll()
      if status is not None:
        del self._running[number]
        self._note_end(number, process, status)
    while self._waiting and len(self._running) < self._at_once:
      self._start(min(self._waiting, key=lambda n: (frames_of(self._run_dir(n)), n)))
    # Only now: one that has died waits for its own place, and nobody has to make room for it.
    if self._waiting:
      for number, process in self._running.items():
        self._end_turn_if_over(number, process)

  def is_busy(self) -> bool:
    """Whether any member runs or waits."""
    return bool(self._running or self._waiting)

  def describe(self) -> str:
    """Who is running, in a few words."""
    running = ', '.join(str(number) for number in sorted(self._running)) or 'none'
    gone = f', {len(self.given_up)} given up' if self.given_up else ''
    return f'{running} running, {len(self._waiting)} waiting, {len(self.done)} done{gone}'

  def close(self) -> None:
    """Asks all members to save and end; kills those that have not after two minutes."""
    for process in self._running.values():
      if process.popen.poll() is None:
        process.popen.terminate()
    deadline = time.monotonic() + _PATIENCE
    for process in self._running.values():
      try:
        process.popen.wait(max(0.0, deadline - time.monotonic()))
      except subprocess.TimeoutExpired:
        process.popen.kill()
        process.popen.wait()

  def _run_dir(self, number: int) -> pathlib.Path:
    return folders.member_folder(self._folder, number)

  def _log(self, number: int) -> pathlib.Path:
    return self._run_dir(number) / 'member.log'

  def _start(self, number: int) -> None:
    run_dir = self._run_dir(number)
    # Resuming a folder that is only prepared begins the run.
    command = [sys.executable, '-m', 'impala.train', f'--run_dir={run_dir}', '--resume']
    # Members share GPUs.
    environment = {'TF_FORCE_GPU_ALLOW_GROWTH': 'true', **os.environ}
    self._waiting.remove(number)
    with open(self._log(number), 'ab') as log:
      # In a session of its own, a member does not get the terminal's Ctrl-C: `close` ends it.
      popen = subprocess.Popen(
        [*command, *self._flags],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        env=environment,
        cwd=_ROOT,
      )
    self._running[number] = _Process(popen, frames_of(run_dir))

  def _end_turn_if_over(self, number: int, process: '_Process') -> None:
    if process.turn_is_over:
      return
    if frames_of(self._run_dir(number)) - process.first_frames >= self._turn_frames:
      process.turn_is_over = True
      # It saves first.
      process.popen.terminate()

  def _note_end(self, number: int, process: '_Process', status: int) -> None:
    frames = frames_of(self._run_dir(number))
    if frames > self._furthest[number]:
      self._furthest[number] = frames
      self._failures[number] = 0
    if status == 0:
      self.done.add(number)
    elif status == _STOPPED or process.turn_is_over:
      self._waiting.append(number)
    else:
      self._note_failure(number, status)

  def _note_failure(self, number: int, status: int) -> None:
    self._failures[number] += 1
    described = f'Member {number} {exits.describe(status)}'
    words = f'It wrote last: {_last_line(self._log(number))} (full log: {self._log(number)})'
    if self._failures[number] >= _MOST_FAILURES:
      self.given_up.add(number)
      logging.warning(
        '%s, %d times in a row without getting further. The population goes on without it. %s',
        described,
        _MOST_FAILURES,
        words,
      )
      return
    logging.warning('%s. It is started again. %s', described, words)
    self.restarts += 1
    self._waiting.append(number)


class _Process:
  """A member's process.

  Attributes:
    popen: The process.
    first_frames: The member's frames when it was started.
    turn_is_over: Whether it was asked to make room.
  """

  def __init__(self, popen: subprocess.Popen, first_frames: int):
    self.popen = popen
    self.first_frames = first_frames
    self.turn_is_over = False


def frames_of(run_dir: pathlib.Path) -> int:
  """Environment frames of a run by the last row of its `metrics.csv`; 0 without any."""
  try:
    with open(run_dir / 'metrics.csv', 'rb') as file:
      names = file.readline().decode(errors='replace').strip().split(',')
      last = _last_complete_line(file).split(',')
    return int(last[names.index('frames')])
  except (OSError, ValueError, IndexError):
    return 0


def _last_complete_line(file: BinaryIO) -> str:
  """The last line of an open file that has its line end; '' if there is none."""
  size = file.seek(0, os.SEEK_END)
  # A row may be long: two columns for each of many tasks.
  file.seek(max(0, size - 50_000))
  lines = file.read().decode(errors='replace').split('\n')
  return lines[-2].strip() if len(lines) > 1 else ''


def _last_line(path: pathlib.Path) -> str:
  with open(path, 'rb') as file:
    file.seek(max(0, os.path.getsize(path) - _LAST_WORDS))
    lines = file.read().decode(errors='replace').strip().splitlines()
  return lines[-1] if lines else 'nothing'


def watch(
  places: Places, wait: Callable[[float], bool], report: Callable[[], None], every: float
) -> bool:
  """Looks after the members until all are done.

  Args:
    places: The members.
    wait: Waits for some seconds; returns whether to stop.
    report: Called now and then.
    every: Seconds between two reports.

  Returns:
    Whether all members are done or given up; if not, `wait` said to stop.
  """
  reported = time.monotonic()
  try:
    places.look_after()
    while places.is_busy():
      if wait(0.5):
        return False
      places.look_after()
      if time.monotonic() - reported > every:
        reported = time.monotonic()
        report()
    return True
  finally:
    places.close()
