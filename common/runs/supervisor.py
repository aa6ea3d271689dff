"""A run from outside: its folder, its checkpoints, and the main thread, which watches others."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from common import errors
from common.config import command_line, run_folder, settings
from common.machine import files, signals, threads
from common.reporting import plots
from common.runs import checkpoints, counters
from common.runs import recorder as recorders

_POLL_SECONDS = 0.2


class NonFiniteLoss(errors.UserError):
  """The loss or a gradient was not finite: the parameters are those before, the batch is saved."""


class Watched(Protocol):
  """A run, as the supervisor sees it; see `common.runs.run.Run`."""

  command: str
  recorder: recorders.Recorder
  taker: threads.Pulse

  def start(self) -> threads.Crew:
    """Starts all threads."""

  def save(self) -> None:
    """Saves everything."""

  def describe(self) -> list[str]:
    """What everybody who sends something to learn from is doing."""

  def look_after(self) -> None:
    """Is called now and then."""


class Supervisor:
  """Opens or resumes a run's folder, saves into it, and keeps watch while the run's threads work.

  Attributes:
    folder: The run's; of several learners, every one but the first has a folder in it.
  """

  def __init__(
    self,
    config: settings.Settings,
    options: command_line.Options,
    learner: counters.Counters,
    index: int = 0,
  ):
    """Makes the folder, or restores the learner from it.

    Args:
      config: The run's settings.
      options: The run's folder, and whether to go on with the run in it.
      learner: Everything that a checkpoint holds.
      index: This learner's among several. Only the first one saves and restores.

    Raises:
      UserError: If the folder cannot be used or the checkpoint does not fit.
    """
    self._run_dir = options.run_dir
    self._config = config
    self._learner = learner
    self._saves = index == 0
    self.folder = options.run_dir if self._saves else options.run_dir / f'learner-{index}'
    self._checkpoints = checkpoints.Checkpoints(self.folder / 'checkpoints', learner)
    if not self._saves:
      self.folder.mkdir(parents=True, exist_ok=True)
    elif options.resume:
      restored = self._checkpoints.restore()
      run_folder.save_config(self.folder, config)
      logging.info('Resuming %s at %s frames.', restored, f'{int(learner.frames):,}')
    else:
      run_folder.create(self.folder, config)
      self._checkpoints.save(0)  # So that a run that is killed early can be resumed too.
    self._saving = threading.Lock()
    self._last_save = time.monotonic()
    self._is_ending = False

  def save(self, recorder: recorders.Recorder) -> int:
    """Saves a checkpoint, and the best one if it is; returns the number of updates.

    One thread saves at a time: the end of a run waits for a save that is under way. While training
    goes on, a full disk is a warning, and the next save is another attempt: it must not end a run
    of days.

    Raises:
      NotSaved: At the end of a run, if the checkpoint cannot be written.
    """
    with self._saving:
      recorder.update_clock()
      updates = int(self._learner.updates)
      if not self._saves:
        return updates
      returns = recorder.settled_returns()
      try:
        self._checkpoints.save(updates)
        if returns:
          self._checkpoints.save_if_best(updates, returns)
      except checkpoints.NotSaved as error:
        if self._is_ending:
          raise
        logging.warning(
          'NOT SAVED: %s. Training goes on, and tries again in %g s.',
          error,
          self._config.checkpoint_every_seconds,
        )
      self._last_save = time.monotonic()
    return updates

  def is_save_due(self) -> bool:
    return time.monotonic() - self._last_save > self._config.checkpoint_every_seconds

  def watch(self, run: Watched) -> bool:
    """Runs the threads of a run until they stop, or until Ctrl-C or SIGTERM; saves at the end.

    Returns:
      Whether they stopped by themselves.

    Raises:
      UserError: For what failed that the user can mend. Other errors of threads as they are.
    """
    interrupted = threading.Event()
    with signals.setting(interrupted):
      crew = run.start()
      try:
        # Each is done, whatever the one before it raises.
        with contextlib.ExitStack() as at_the_end:
          at_the_end.callback(_close, run.recorder)
          at_the_end.callback(self._save_at_the_end, run)
          at_the_end.callback(_end, crew)
          self._watch(run, crew, interrupted)
      except Exception as error:
        # What ended the threads comes first: the other, its context, may be its consequence.
        raise crew.error or error  # noqa: B904
    if crew.error:
      raise crew.error

    with _unless_disk_is_full('The picture of learning curves'):
      plots.learning_curves(self.folder)
    if interrupted.is_set():
      logging.info(
        'Stopped at %s frames; saved. Go on with: %s --run_dir=%s --resume',
        f'{int(self._learner.frames):,}',
        run.command,
        self._run_dir,
      )
    return not interrupted.is_set()

  def non_finite(self, batch: Any) -> NonFiniteLoss:
    """Saves a batch that made the loss or a gradient not finite; returns the error to raise.

    Args:
      batch: A named tuple of tensors, or of structures of them.
    """
    path = self.folder / 'non_finite_batch.npz'
    named = {}
    for name, part in batch._asdict().items():
      for i, values in enumerate(tf.nest.flatten(part)):
        named[f'{name}/{i}' if i else name] = values.numpy()
    with files.replacing(path, 'wb') as file:
      np.savez_compressed(file, **named)
    return NonFiniteLoss(
      f'the loss is not finite at update {int(self._learner.updates)}. The parameters are those '
      f'before it, the batch is in {path}. A smaller --config.learning_rate, a larger '
      '--config.rmsprop_epsilon or a --config.max_gradient_norm may help; so may clipping rewards '
      'if they are large.'
    )

  def _save_at_the_end(self, run: Watched) -> None:
    self._is_ending = True
    run.save()

  def _watch(self, run: Watched, crew: threads.Crew, interrupted: threading.Event) -> None:
    stall_seconds = self._config.stall_seconds
    warned = 0.0
    while not crew.stop.wait(_POLL_SECONDS) and not interrupted.is_set():
      with _unless_disk_is_full('Metrics'):
        run.recorder.report_if_due()
      run.look_after()
      now = time.monotonic()
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
  """Turns an error in writing into a warning, for what a run can do without."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    logging.warning('%s cannot be written: %s.', what, checkpoints.reason_of(error))
