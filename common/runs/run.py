"""A training run: what IMPALA's and Ape-X's have in common."""

from __future__ import annotations

import abc
import functools
import logging
from collections.abc import Sequence

from common.config import command_line, settings
from common.distributed import queues
from common.machine import threads
from common.runs import counters, hosting, supervisor
from common.runs import recorder as recorders
from common.runs import system as systems


class Run(abc.ABC):
  """One training run in its folder: a learner, its actors, and what watches over them.

  A system's run builds its parts in its constructor, and says what its threads do.

  Attributes:
    queue: Where actors put what they collect.
    host: The door for actors of other processes.
    actors: Those that are threads of this process.
    recorder: Reports while the run goes on.
    taker: The pulse of the thread that takes from the queue.
    pulses: Those of the threads that the run names when nothing arrives.
  """

  queue: queues.StructureQueue
  host: hosting.Host
  actors: Sequence[systems.Actor] = ()
  recorder: recorders.Recorder
  taker: threads.Pulse
  pulses: Sequence[threads.Pulse] = ()

  def __init__(
    self,
    system: systems.System,
    config: settings.Settings,
    options: command_line.Options,
    learner: counters.Counters,
    index: int = 0,
  ):
    """Opens the run's folder, and restores the learner if the run is resumed.

    Args:
      system: What is trained.
      config: The run's settings.
      options: The run's folder, and whether to go on with the run in it.
      learner: Everything that a checkpoint holds.
      index: This learner's among several.

    Raises:
      UserError: If the folder cannot be used, or its checkpoint does not fit.
    """
    self.command = system.command
    self._total_frames = config.total_frames
    self._learner_counters = learner
    self.supervisor = supervisor.Supervisor(config, options, learner, index)

  def train(self) -> bool:
    """Trains until `total_frames`, or until Ctrl-C or SIGTERM; saves a checkpoint at the end.

    Returns:
      Whether training is finished.

    Raises:
      UserError: For what failed that the user can mend. Other errors of threads as they are.
    """
    logging.info('%s Folder: %s', self.summary(), self.supervisor.folder)
    finished = False
    try:
      stopped_by_itself = self.supervisor.watch(self)
      finished = stopped_by_itself and self.frames() >= self._total_frames
    finally:
      self.host.close(finished)
    return finished

  def start(self) -> threads.Crew:
    """Starts all threads; the caller ends the crew, unless the end of training has.

    Every graph runs once before the first environment is made: TensorFlow's graph optimiser, which
    ends threads of its own, was seen to wait forever for the thread of a Doom game that had been
    started at the same moment.
    """
    self.warm_up()
    self.host.start()
    crew = threads.Crew(self.close_queues)
    self.start_threads(crew)
    for i, actor in enumerate(self.actors):
      act = functools.partial(actor.run, self.queue.put_many, crew.stop.is_set)
      crew.start(f'actor-{i}', act)
    return crew

  def frames(self) -> int:
    """Environment frames so far, over all resumed parts of the run."""
    return int(self._learner_counters.frames)

  def save(self) -> None:
    """Saves a checkpoint. Raises NotSaved at the end of a run, if it cannot be written."""
    self.supervisor.save(self.recorder)

  def describe(self) -> list[str]:
    """What every thread and every actor elsewhere is doing, and for how long."""
    own = [*(actor.games.pulse for actor in self.actors), *self.pulses]
    return [*(pulse.describe() for pulse in own), *self.host.describe()]

  def look_after(self) -> None:
    """Restarts actor processes that died, and drops actors that went silent.

    Raises:
      UserError: If an actor's process dies again and again.
    """
    self.host.look_after()

  @abc.abstractmethod
  def summary(self) -> str:
    """What is trained, in a sentence or two."""

  @abc.abstractmethod
  def warm_up(self) -> None:
    """Runs every graph once; changes nothing."""

  @abc.abstractmethod
  def start_threads(self, crew: threads.Crew) -> None:
    """Starts the threads beside the actors' own."""

  @abc.abstractmethod
  def close_queues(self) -> None:
    """Ends all waiting, so that every thread can end."""
