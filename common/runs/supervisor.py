"""A run from outside: its folder, its checkpoints, and the main thread that watches over its crew."""

import contextlib
import logging
import threading
import time
from typing import Any, Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from common import errors
from common.config import command_line, run_folder, settings
from common.machine import files, signals, threads
from common.reporting import plots
from common.runs import checkpoints, counters
from common.runs import recorder as recorders


class NonFiniteLoss(errors.UserError):
  """The loss or a gradient was not finite. The parameters are those before the batch, which is saved."""


class Supervisor:
  """Opens or resumes a run's folder, saves into it, and keeps watch while the run's threads work."""

  def __init__(
    self,
    config: settings.Settings,
    options: command_line.Options,
    learner: counters.Counters,
    index: int = 0,
  ):
    """Makes the folder, or restores the learner from it.

    Args:
      config: of the run.
      options: its folder, and whether to go on with the run in it.
      learner: all that a checkpoint holds; its `updates`, `frames` and `seconds` are variables that count.
      index: of this learner among several. The first one saves and restores; others have only a folder in its folder.

    Raises:
      UserError: if the folder cannot be used or the checkpoint does not fit.
    """
    self.folder = options.run_dir / f'learner-{index}' if index else options.run_dir
    self._run_dir, self._config, self._learner, self._saves = (
      options.run_dir,
      config,
      learner,
      index == 0,
    )
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
    self._saving, self._last_save, self._ending = threading.Lock(), time.monotonic(), False

  def save(self, recorder: recorders.Recorder) -> int:
    """Saves a checkpoint, and the best one if it is; returns the number of updates.

    One thread after the other: the end of a run waits for a save that is under way. A full disk does not end a run of
    days: while it goes on, that is a warning, and the next save is another attempt.

    Raises:
      NotSaved: at the end of a run, if the checkpoint cannot be written.
    """
    with self._saving:
      recorder.update_clock()
      updates, returns = int(self._learner.updates), recorder.settled_returns()
      if not self._saves:
        return updates
      try:
        self._checkpoints.save(updates)
        if returns:
          self._checkpoints.save_if_best(updates, returns)
      except checkpoints.NotSaved as error:
        if self._ending:
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

  def watch(
    self,
    start: Callable[[], threads.Crew],
    recorder: recorders.Recorder,
    save: Callable[[], None],
    taker: threads.Pulse,
    others: Callable[[], Sequence[str]],
    look_after: Callable[[], None],
    program: str,
  ) -> bool:
    """Runs a crew until it stops by itself, or until Ctrl-C or SIGTERM; saves at the end in any case.

    Args:
      start: starts the crew's threads.
      recorder: reports while they work.
      save: saves everything.
      taker: of who takes what actors give; while its activity is `waiting for ...`, nothing arrives.
      others: says what all who give to it are doing, if it waits for long.
      look_after: called now and then.
      program: what the command line begins with, to say how to go on.

    Returns:
      Whether training is finished.

    Raises:
      UserError: if something failed that the user can mend; other errors of threads as they are.
    """
    interrupted = threading.Event()
    with signals.setting(interrupted):
      crew = start()
      try:
        with (
          contextlib.ExitStack() as at_the_end
        ):  # Each is done, whatever the one before it raises.
          at_the_end.callback(self._close, recorder)
          at_the_end.callback(self._save_at_the_end, save)
          at_the_end.callback(self._end, crew)
          self._watch(crew, interrupted, recorder, taker, others, look_after)
      except Exception as error:
        raise (
          crew.error or error
        )  # What ended the threads comes first: the other may be its consequence.
    if crew.error:
      raise crew.error
    with _unless_disk_is_full('The picture of learning curves'):
      plots.learning_curves(self.folder)
    if interrupted.is_set():
      logging.info(
        'Stopped at %s frames; saved. Go on with: %s --run_dir=%s --resume',
        f'{int(self._learner.frames):,}',
        program,
        self._run_dir,
      )
    return not interrupted.is_set()

  def non_finite(self, batch: Any) -> NonFiniteLoss:
    """Saves the batch, a named tuple of tensors, that made the loss or a gradient not finite; returns the error."""
    path = self.folder / 'non_finite_batch.npz'
    named = {
      f'{name}/{i}' if i else name: values.numpy()
      for name, part in batch._asdict().items()
      for i, values in enumerate(tf.nest.flatten(part))
    }
    with files.replacing(path, 'wb') as file:
      np.savez_compressed(file, **named)
    return NonFiniteLoss(
      f'the loss is not finite at update {int(self._learner.updates)}. The parameters are those before it, the batch '
      f'is in {path}. A smaller --config.learning_rate, a larger --config.rmsprop_epsilon or a --config.'
      'max_gradient_norm may help; so may clipping rewards if they are large.'
    )

  def _save_at_the_end(self, save: Callable[[], None]) -> None:
    self._ending = True
    save()

  def _close(self, recorder: recorders.Recorder) -> None:
    with _unless_disk_is_full('The last rows of metrics'):
      recorder.close()

  def _end(self, crew: threads.Crew) -> None:
    for name in crew.end():
      logging.warning('%s has not ended and is left behind.', name)

  def _watch(self, crew, interrupted, recorder, taker, others, look_after) -> None:
    said = 0.0
    while not crew.stop.wait(timeout=0.2) and not interrupted.is_set():
      with _unless_disk_is_full('Metrics'):
        recorder.report_if_due()
      look_after()
      silent = time.monotonic() - taker.since if taker.activity.startswith('waiting for') else 0.0
      if (
        silent > self._config.stall_seconds and time.monotonic() - said > self._config.stall_seconds
      ):
        said = time.monotonic()
        logging.warning('Nothing to learn from for %.0f s. %s', silent, '; '.join(others()))


@contextlib.contextmanager
def _unless_disk_is_full(what: str) -> Iterator[None]:
  """What a run can do without is a warning if it cannot be written."""
  try:
    yield
  except (OSError, tf.errors.OpError) as error:
    logging.warning('%s cannot be written: %s.', what, checkpoints.reason_of(error))
