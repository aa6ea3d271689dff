"""The sampler: draws batches ahead of the learner, so that it does not wait for the replay."""

import threading
from typing import Callable

import tensorflow as tf

from apex import config as configs
from common.distributed import queues
from common.machine import threads
from common.replay import pacing, prioritized, structures


class Sampler:
  """Batches in a queue, and the priorities that come back from the learner.

  New priorities are written with the next draw, in one call of the replay. So they arrive one draw
  later than if the learner wrote them, which is little beside the batches drawn ahead.

  Attributes:
    pulse: What it is doing.
  """

  def __init__(
    self,
    config: configs.Config,
    replay: prioritized.PrioritizedReplay,
    ratio: pacing.ReplayRatio,
  ):
    """Starts nothing.

    Args:
      config: The run's settings.
      replay: Where batches are drawn.
      ratio: Makes the sampler wait for transitions.
    """
    self.pulse = threads.Pulse('sampler')
    self._batch_size = config.batch_size
    self._replay = replay
    self._ratio = ratio
    self._queue = queues.StructureQueue(replay.sample_spec(config.batch_size), config.prefetch)
    self._lock = threading.Lock()  # Guards `_changed`.
    self._changed: list[structures.Priorities] = []

  def run(self, record_late: Callable[[int], None]) -> None:
    """Draws until the queue is closed.

    Args:
      record_late: Gets the number of new priorities whose transitions had left the replay.

    Raises:
      QueueClosed: If the queue was closed.
    """
    while True:
      self.pulse.enter('waiting for transitions, or holding the replay ratio')
      self._ratio.await_sample(self._batch_size)

      self.pulse.enter('drawing')
      changed = self._take_changed()
      if changed:
        late, sample = self._replay.update_and_sample(changed, self._batch_size)
        record_late(late)
      else:
        sample = self._replay.sample(self._batch_size)
      self.pulse.enter('waiting for the learner')
      self._queue.put(sample)

  def take(self) -> structures.Sample:
    """The next batch; waits for it. Raises QueueClosed."""
    return self._queue.take()

  def change(self, priorities: structures.Priorities) -> None:
    """Takes new priorities, for the next draw."""
    with self._lock:
      self._changed.append(priorities)

  def flush(self) -> None:
    """Writes the priorities that no draw has written yet, before the replay is saved."""
    changed = self._take_changed()
    if changed:
      self._replay.update_priorities(*changed)

  def discard(self) -> None:
    """Discards batches that were drawn before a removal: they may hold what was removed."""
    # One more than the queue holds: the sampler may have drawn it and wait for room.
    for _ in range(self._queue.size() + 1):
      self._queue.take()

  def close(self) -> None:
    """Ends all waiting with `QueueClosed`."""
    self._queue.close()

  def _take_changed(self) -> structures.Priorities | None:
    with self._lock:
      changed = self._changed
      self._changed = []
    if len(changed) < 2:
      return changed[0] if changed else None
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *changed)
