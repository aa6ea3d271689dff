"""Runs what is missing of a plan: several at once, each on cores of its own, and goes on later.

A run's folder is named after all that decides its outcome. What was killed resumes from its last
checkpoint; what is finished is never run again.
"""

import contextlib
import dataclasses
import functools
import json
import logging
import os
import pathlib
import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from common import errors
from common.experiments import plan, worker
from common.machine import cores, files, signals, version, workers
from common.reporting import metrics_file

_POLL_SECONDS = 0.5
_REPORT_SECONDS = 10.0
# For a run that was asked to stop to save its checkpoint.
_STOP_SECONDS = 120.0
_ATTEMPTS = 2
# Of a run's folder and of a population's, what it takes to go on.
_RESUMABLE = ('checkpoints/latest', 'population.json')
# A process that trains run after run keeps some memory of each. It is replaced beyond this.
_MAX_BYTES = 3 * 10**9


@dataclasses.dataclass
class Report:
  """What became of the runs.

  Attributes:
    finished: How many were trained to their end.
    failed: Those that failed twice, with the reason.
    is_stopped: Whether a signal ended the work before its end.
  """

  finished: int = 0
  failed: dict[str, str] = dataclasses.field(default_factory=dict)
  is_stopped: bool = False


class _Place:
  """One of the jobs: its cores, the process that trains on them, and its run."""

  def __init__(self, own_cores: Sequence[int], devices: int):
    self._make = functools.partial(worker.Trainer, list(own_cores), devices)
    self._process: workers.Worker | None = None
    self._is_ready = False
    self.run: plan.Run | None = None
    self.started = 0.0

  @property
  def process(self) -> workers.Worker:
    """The process, which is started if there is none."""
    if not self._process:
      self._process = workers.Worker(self._make, has_gpus=True)
      self._is_ready = False
    return self._process

  def begin(self, run: plan.Run, folder: pathlib.Path, resume: bool) -> None:
    """Starts a run; `answer` returns how it ended."""
    process = self.process
    if not self._is_ready:
      process.receive()
      self._is_ready = True
    self.run = run
    self.started = time.monotonic()
    # A copy, since a run completes its settings.
    process.send(
      'train',
      module=run.module,
      arguments=run.arguments(folder.parent),
      config=dataclasses.replace(run.config),
      folder=folder,
      resume=resume,
    )

  def answer(self) -> str:
    """How the run ended, once it has.

    Raises:
      UserError, WorkerDied, RuntimeError: If it failed. The next run gets a new process.
    """
    try:
      how, used = self.process.receive()
    except Exception:
      self.close()
      raise
    finally:
      self.run = None
    if used > _MAX_BYTES:
      self.close()
    return how

  def stop(self) -> None:
    """Asks the run to save and end."""
    if self.run and self._process:
      with contextlib.suppress(ProcessLookupError):
        os.kill(self._process.pid, signal.SIGTERM)

  def close(self) -> None:
    if self._process:
      self._process.close()
    self._process = None


def execute(planned: plan.Plan, runs: Sequence[plan.Run], jobs: int) -> Report:
  """Trains runs, `jobs` at once. Ctrl-C saves those in progress and ends.

  Args:
    planned: What the runs belong to.
    runs: Those to train.
    jobs: How many at once. The cores are shared between them.

  Returns:
    What became of them.
  """
  devices = max((getattr(run.config, 'learner_devices', 1) for run in runs), default=1)
  interrupted = threading.Event()
  with contextlib.ExitStack() as at_the_end:
    places = [_Place(own, devices) for own in _shares(jobs)]
    for place in places:
      at_the_end.callback(place.close)
    at_the_end.enter_context(signals.setting(interrupted))
    return _Execution(planned, runs, places, interrupted).work()


def _shares(jobs: int) -> list[list[int]]:
  """The cores of each job."""
  usable = sorted(os.sched_getaffinity(0))
  # Of more jobs than cores, several share one.
  return [usable[i::jobs] or [usable[i % len(usable)]] for i in range(jobs)]


class _Execution:
  """The queue of runs, and the places that work on it."""

  def __init__(
    self,
    planned: plan.Plan,
    runs: Sequence[plan.Run],
    places: Sequence[_Place],
    interrupted: threading.Event,
  ):
    self._plan = planned
    self._waiting = list(runs)
    self._total = len(runs)
    self._places = places
    self._interrupted = interrupted
    self._attempts: dict[str, int] = {}
    self._report = Report()
    self._last_report = time.monotonic()

  def work(self) -> Report:
    for place in self._places[: self._total]:
      # All import TensorFlow at the same time.
      logging.debug('Process %d trains.', place.process.pid)
    while True:
      if self._interrupted.is_set():
        self._stop()
        return self._report
      for place in self._places:
        if not place.run and self._waiting:
          self._begin(place, self._waiting.pop(0))
      busy = [place for place in self._places if place.run]
      if not busy and not self._waiting:
        return self._report
      self._collect(busy, _POLL_SECONDS)
      self._show_progress(busy)

  def _begin(self, place: _Place, run: plan.Run) -> None:
    folder = self._plan.folder / run.name
    self._attempts[run.name] = self._attempts.get(run.name, 0) + 1
    resume = any((folder / name).exists() for name in _RESUMABLE)
    if not resume and folder.exists():
      # Killed before its first checkpoint: there is nothing to go on from.
      shutil.rmtree(folder)
    try:
      place.begin(run, folder, resume)
    except Exception as error:
      place.run = None
      place.close()
      self._fail(run, error)

  def _collect(self, busy: Sequence[_Place], patience: float) -> None:
    """Takes the answers of places whose runs have ended."""
    answered = workers.answered([place.process for place in busy], patience)
    for place in busy:
      if place.process not in answered:
        continue
      run = place.run
      assert run is not None
      try:
        how = place.answer()
      except Exception as error:
        self._fail(run, error)
        continue
      if how == worker.FINISHED:
        self._finish(run, time.monotonic() - place.started)
      else:
        # A signal of somebody else, such as a batch system, reached it.
        self._waiting.insert(0, run)
        self._interrupted.set()

  def _finish(self, run: plan.Run, seconds: float) -> None:
    note = {
      'system': run.system,
      'run': run.describe(),
      'seconds': seconds,
      'attempts': self._attempts[run.name],
      'code': version.of_training(run.system),
      'machine': machine(),
      'jobs': len(self._places),
    }
    folder = self._plan.folder / run.name
    with files.replacing(folder / 'finished.json') as file:
      json.dump(note, file, indent=1)
    (folder / 'failed.txt').unlink(missing_ok=True)
    self._report.finished += 1

  def _fail(self, run: plan.Run, error: Exception) -> None:
    """Puts a failed run at the end of the queue, or gives it up."""
    if self._interrupted.is_set():
      # It was asked to stop at a moment when it could not save; its last checkpoint is there.
      self._waiting.append(run)
      return
    reason = str(error).strip() or repr(error)
    # A mistake in the settings stays one.
    again = self._attempts[run.name] < _ATTEMPTS and not isinstance(error, errors.UserError)
    last = reason.splitlines()[-1]
    logging.warning('FAILED: %s: %s%s', run.describe(), last, '. Again later.' if again else '')
    if again:
      self._waiting.append(run)
      return
    folder = self._plan.folder / run.name
    folder.mkdir(parents=True, exist_ok=True)
    with files.replacing(folder / 'failed.txt') as file:
      file.write(reason + '\n')
    self._report.failed[run.describe()] = f'{last} (see {folder})'

  def _stop(self) -> None:
    """Lets the runs in progress save and end."""
    self._report.is_stopped = True
    deadline = time.monotonic() + _STOP_SECONDS
    for place in self._places:
      place.stop()
    while busy := [place for place in self._places if place.run]:
      if time.monotonic() > deadline:
        break
      self._collect(busy, _POLL_SECONDS)

  def _show_progress(self, busy: Sequence[_Place]) -> None:
    now = time.monotonic()
    if now - self._last_report < _REPORT_SECONDS:
      return
    self._last_report = now
    running = [(place.run, now - place.started) for place in busy if place.run]
    seconds = plan.seconds_per_run(self._plan)
    left = sum(seconds[run.name] for run in self._waiting)
    left += sum(self._left(run, spent, seconds[run.name]) for run, spent in running)
    done = self._total - len(self._waiting) - len(running)
    logging.info(
      '%d of %d runs, about %s left. Now: %s',
      done,
      self._total,
      plan.duration(left / len(self._places)),
      '; '.join(f'{run.describe()} ({spent:.0f} s)' for run, spent in running),
    )

  def _left(self, run: plan.Run, spent: float, expected: float) -> float:
    """Seconds that a run in progress still takes: by its frames so far, once there are any."""
    path = self._plan.folder / run.name / 'metrics.csv'
    rows = metrics_file.read(path) if path.exists() else []
    done = rows[-1]['frames'] / run.config.total_frames if rows else 0.0
    # One that was resumed has frames of an earlier process, so this may be too little.
    return spent * (1 - done) / done if done else max(0.0, expected - spent)


@functools.cache
def machine() -> str:
  """This machine in a few words, for results."""
  info = pathlib.Path('/proc/cpuinfo').read_text() if os.path.exists('/proc/cpuinfo') else ''
  models = [line.partition(':')[2].strip() for line in _lines(info, 'model name')]
  gpus = len(list(pathlib.Path('/dev').glob('nvidia[0-9]*')))
  model = models[0] if models else platform.machine()
  return f'{model}, {cores.count()} cores, {gpus} GPUs'


def _lines(text: str, start: str) -> Iterator[str]:
  return (line for line in text.splitlines() if line.startswith(start))
