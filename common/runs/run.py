"""A training run: what the runs of all systems have in common."""

from __future__ import annotations

import abc
import functools
import logging
import pathlib
from collections.abc import Sequence
from typing import Any

from common.config import command_line, settings
from common.distributed import queues
from common.machine import kernels, threads
from common.runs import counters, hosting, silence, supervisor
from common.runs import recorder as recorders
from common.runs import system as systems


class Run(abc.ABC):
  """One training run in its folder: a learner, its actors, and a supervisor.

  A system's run builds its parts in its constructor and implements the abstract methods.

  Attributes:
    supervisor: Saves checkpoints and watches the threads.
    queue: Where actors put their experience.
    host: Serves actors and evaluators in other processes.
    actors: The actors that are threads of this process.
    recorder: Reports progress and writes metrics.
    taker: The pulse of the thread that takes from the queue. The run stalls when it waits for long.
    pulses: The pulses of other threads to describe when the run stalls.
  """

  # Assigned by subclasses after `super().__init__`: the parts need the restored learner.
  queue: queues.StructureQueue
  host: hosting.Host
  actors: Sequence[systems.Actor] = ()
  recorder: recorders.Recorder
  taker: threads.Pulse
  pulses: Sequence[threads.Pulse] = ()

  def __init__(
    self,
    config: settings.Settings,
    options: command_line.Options,
    learner: counters.Counters,
    index: int = 0,
  ):
    """Opens the run's folder, and restores the learner if the run is resumed.

    Args:
      config: The run's settings.
      options: The run's folder, and whether to resume the run in it.
      learner: The root of the run's checkpoints.
      index: This learner's position among several.

    Raises:
      UserError: If the folder cannot be used, or its checkpoint does not fit.
    """
    self._total_frames = config.total_frames
    self._learner_counters = learner
    self.supervisor = supervisor.Supervisor(config, options, learner, index)

  @property
  def run_dir(self) -> pathlib.Path:
    """The run's folder, the same for all of its learners."""
    return self.supervisor.run_dir

  def train(self) -> bool:
    """Trains until `total_frames`, or until a signal asks to end; saves a checkpoint at the end.

    Returns:
      Whether training is finished.

    Raises:
      UserError: If something failed that the user can fix. Other errors of threads are raised
        unchanged.
    """
    logging.info('%s Folder: %s', self.summary(), self.supervisor.folder)
    logging.info('%s', kernels.describe())
    finished = False
    try:
      stopped_by_itself = self.supervisor.watch(self)
      # Threads also stop by themselves, before the end of training, when another learner stops.
      finished = stopped_by_itself and self.frames() >= self._total_frames
    finally:
      # After the last save. Remote actors end if training is finished; otherwise they wait for a
      # learner that resumes it.
      self.host.close(finished)
    return finished

  def start(self) -> threads.Crew:
    """Starts all threads; the caller ends the crew."""
    # Before the first environment is made: TensorFlow's graph optimiser, which joins threads of its
    # own, was seen to wait forever for the thread of a Doom game started at the same moment.
    self.warm_up()
    # Before the crew: if listening fails, there are no threads to end.
    self.host.start()
    # Closing the queues wakes threads that wait for them.
    crew = threads.Crew(self.close_queues)
    self.start_threads(crew)
    for i, actor in enumerate(self.actors):
      act = functools.partial(actor.run, self.put, crew.stop.is_set)
      crew.start(f'actor-{i}', act)
    return crew

  def put(self, elements: Any) -> None:
    """Takes what an actor of this process has collected, `[M, ...]`; waits while the queue is full.

    Raises:
      QueueClosed: If the run ends.
    """
    self.queue.put_many(elements)

  def frames(self) -> int:
    """Environment frames so far, including those before the run was resumed."""
    return int(self._learner_counters.frames)

  def save(self) -> None:
    """Saves a checkpoint.

    Raises:
      NotSaved: If it cannot be written at the end of the run. Before that, this is a warning.
    """
    self.supervisor.save(self.recorder)

  def describe(self) -> list[str]:
    """What the actors, here and elsewhere, and the threads of `pulses` are doing, a line each."""
    own = [*(actor.games.pulse for actor in self.actors), *self.pulses]
    return [*(pulse.describe() for pulse in own), *self.host.describe()]

  def silences(self) -> list[silence.Silence]:
    """How long each thread and each remote actor has done nothing new."""
    pulses = [*(actor.games.pulse for actor in self.actors), self.taker, *self.pulses]
    own = [silence.Silence(each.name, each.seconds_at_work(), each.describe) for each in pulses]
    return [*own, *self.host.silences()]

  def look_after(self) -> None:
    """Restarts actor processes that died, and drops actors that went silent.

    Raises:
      UserError: If an actor process dies repeatedly.
    """
    self.host.look_after()

  @abc.abstractmethod
  def summary(self) -> str:
    """Describes the training in a sentence or two, for the log."""

  @abc.abstractmethod
  def warm_up(self) -> None:
    """Runs every graph once, without learning anything."""

  @abc.abstractmethod
  def start_threads(self, crew: threads.Crew) -> None:
    """Starts all threads but the actors."""

  @abc.abstractmethod
  def close_queues(self) -> None:
    """Unblocks every waiting thread, so that it can end. May be called several times."""
