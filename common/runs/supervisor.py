"""A run's folder, its checkpoints, and the main thread, which watches all other threads."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Protocol

import tensorflow as tf

from common.config import command_line, invocation, run_folder, settings
from common.machine import signals, threads
from common.reporting import plots
from common.runs import checkpoints, counters, dropping, silence
from common.runs import recorder as recorders

_POLL_SECONDS = 0.2


class Watched(Protocol):
  """What the supervisor needs of a `common.runs.run.Run`, which owns the supervisor."""

  recorder: recorders.Recorder
  taker: threads.Pulse

  def start(self) -> threads.Crew:
    """Starts all threads."""

  def save(self) -> None:
    """Saves everything that resuming needs."""

  def describe(self) -> list[str]:
    """What each source of experience is doing, for the warning about a stalled run."""

  def silences(self) -> list[silence.Silence]:
    """How long each thread and each remote actor has done nothing new."""

  def look_after(self) -> None:
    """Maintains the actors; called several times a second."""


class Supervisor:
  """Creates or resumes a run's folder, saves checkpoints to it, and watches the run's threads.

  Attributes:
    run_dir: The run's folder, locked by the first learner until `watch` returns.
    folder: The same; for the second and later learners, a subfolder of it.
  """

  def __init__(
    self,
    config: settings.Settings,
    options: command_line.Options,
    learner: counters.Counters,
    index: int = 0,
  ):
    """Creates the folder, or restores the learner from it.

    Args:
      config: The run's settings.
      options: The run's folder, and whether to resume the run in it.
      learner: The root of the run's checkpoints.
      index: This learner's position among several. Only the first one saves and restores.

    Raises:
      UserError: If the folder cannot be used or the checkpoint does not fit.
    """
    self._config = config
    self._learner = learner
    self._saves = index == 0
    self._lock: run_folder.Lock | None = None
    self.run_dir = options.run_dir
    if not self._saves:
      self.folder = options.run_dir / f'learner-{index}'
      self.folder.mkdir(parents=True, exist_ok=True)
    elif options.resume:
      self.folder = options.run_dir
      self._lock = run_folder.Lock(self.folder)
    else:
      self.folder, self._lock = run_folder.create(options.run_dir, config, options.is_named)
      self.run_dir = self.folder
    self._checkpoints = checkpoints.Checkpoints(self.folder / 'checkpoints', learner, learner.ADDED)
    if self._saves:
      self._restore_or_begin(options.resume)
    # The learner's thread saves during training, the main thread at the end.
    self._saving = threading.Lock()
    self._last_save = time.monotonic()
    self._is_ending = False
    self._has_saved_at_the_end = False

  def _has_begun(self) -> bool:
    """Whether the folder has more than a config: a checkpoint, or measurements.

    One without was prepared, as a population's members are, or its run was killed right away.
    """
    saved = next(self.folder.glob('checkpoints/*/ckpt-*.index'), None)
    return saved is not None or (self.folder / 'metrics.csv').exists()

  def _restore_or_begin(self, resume: bool) -> None:
    restored = self._checkpoints.restore() if resume and self._has_begun() else ''
    if resume:
      # Flags may have changed settings of the resumed run.
      run_folder.save_config(self.folder, self._config)
    if restored:
      logging.info('Resuming %s at %s frames.', restored, f'{int(self._learner.frames):,}')
    else:
      # So that a run that is killed early can be resumed too.
      self._checkpoints.save(0)

  def save(self, recorder: recorders.Recorder) -> int:
    """Saves a checkpoint, also as the best one if its returns are.

    One thread saves at a time: the end of a run waits for a save in progress. During training, a
    checkpoint that cannot be written is a warning, since a full disk must not end a run of days.

    Returns:
      The number of updates that the checkpoint holds.

    Raises:
      NotSaved: If the checkpoint cannot be written at the end of the run.
    """
    with self._saving:
      recorder.update_clock()
      updates = int(self._learner.updates)
      if not self._saves:
        return updates
      if not dropping.are_finite(self._learner.trainable_variables):
        # They would replace the last checkpoints, the only ones that training can go on from.
        logging.warning('NOT SAVED: the parameters are not finite.')
        return updates
      returns = recorder.settled_returns()
      try:
        self._checkpoints.save(updates)
        self._has_saved_at_the_end = self._is_ending
        if returns:
          self._checkpoints.save_if_best(updates, returns)
      except checkpoints.NotSaved as error:
        if self._is_ending:
          raise
        logging.warning(
          'NOT SAVED: %s. Training continues; the next attempt is in %g s.',
          error,
          self._config.checkpoint_every_seconds,
        )
      # After a failure too: the next attempt comes in its time.
      self._last_save = time.monotonic()
    return updates

  def is_save_due(self) -> bool:
    return time.monotonic() - self._last_save > self._config.checkpoint_every_seconds

  def watch(self, run: Watched) -> bool:
    """Runs a run's threads until they stop, or until a signal asks to end; then saves.

    Returns:
      Whether the threads stopped by themselves.

    Raises:
      UserError: If something failed that the user can fix. Other errors of threads are raised
        unchanged.
    """
    interrupted = threading.Event()
    with signals.setting(interrupted):
      crew = run.start()
      try:
        # In reverse order, each even if the one before it raises: end the threads, save, report.
        with contextlib.ExitStack() as at_the_end:
          at_the_end.callback(_close, run.recorder)
          at_the_end.callback(self._save_at_the_end, run)
          at_the_end.callback(_end, crew)
          self._watch(run, crew, interrupted)
      except Exception as error:
        # An error of a thread comes first: `error`, its context, may be a consequence.
        raise self._with_advice(crew.error or error)  # noqa: B904
    if crew.error:
      raise self._with_advice(crew.error)

    with _unless_disk_is_full('The plot of learning curves'):
      plots.learning_curves(self.folder)
    if self._lock:
      self._lock.release()
    if interrupted.is_set():
      logging.info(
        'Stopped at %s frames; saved. Resume with: %s',
        f'{int(self._learner.frames):,}',
        invocation.resuming(self.run_dir),
      )
    return not interrupted.is_set()

  def _save_at_the_end(self, run: Watched) -> None:
    self._is_ending = True
    run.save()

  def _with_advice(self, error: BaseException) -> BaseException:
    """The error, with a note that says how to go on from the checkpoint saved because of it."""
    if self._has_saved_at_the_end:
      error.add_note(
        f'A checkpoint is saved, of {int(self._learner.frames):,} frames. '
        f'Go on from there with: {invocation.resuming(self.run_dir)}'
      )
    return error

  def _watch(self, run: Watched, crew: threads.Crew, interrupted: threading.Event) -> None:
    stall_seconds = self._config.stall_seconds
    register = silence.Register(stall_seconds)
    warned = 0.0  # When the last warning was, by `time.monotonic()`.
    while not crew.stop.wait(_POLL_SECONDS) and not interrupted.is_set():
      with _unless_disk_is_full('Metrics'):
        run.recorder.report_if_due()
      run.look_after()
      register.look(run.silences())
      now = time.monotonic()
      # Updating may take long too, but then there is something to learn from.
      is_waiting = run.taker.activity.startswith('waiting for')
      silent = now - run.taker.since if is_waiting else 0.0
      if silent > stall_seconds and now - warned > stall_seconds:
        warned = now
        described = '; '.join(run.describe())
        logging.warning('Nothing to learn from for %.0f s. %s', silent, described)


def _close(recorder: recorders.Recorder) -> None:
  with _unless_disk_is_full('The last rows of metrics'):
    recorder.close()


def _end(crew: threads.Crew) -> None:
  for name in crew.end():
    logging.warning('%s has not ended and is left behind.', name)


@contextlib.contextmanager
def _unless_disk_is_full(what: str) -> Iterator[None]:
  """Turns write errors in the block into warnings, for files that training does not need."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    logging.warning('%s cannot be written: %s.', what, checkpoints.reason_of(error))
