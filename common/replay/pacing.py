"""Holds the replay ratio: samples drawn per transition inserted.

How much an agent has learned after a number of frames depends on how often it has replayed each
transition. Left to the speeds of actors and learner, that would change with the machine.
"""

import threading

from common.distributed import queues


class ReplayRatio:
  """Counts insertions and samples, and blocks the side that is ahead. Thread-safe.

  Until the replay holds its minimum, sampling waits and inserting never does.
  """

  def __init__(self, target: float, minimum: int, batch_size: int):
    """Starts with an empty replay.

    Args:
      target: Samples per inserted transition; 0 lets both sides run freely.
      minimum: The number of transitions that the replay must hold before any is drawn.
      batch_size: Samples drawn at once. Either side may be ahead by this many samples.
    """
    self._target = target
    self._minimum = minimum
    self._slack = batch_size
    self._condition = threading.Condition()
    self._closed = False
    self._held = 0
    # Both count from when the minimum is held. Transitions that fill the replay up to it are not
    # replayed at the target's rate: they would demand a burst of samples.
    self.inserted = 0
    self.sampled = 0

  def await_insert(self) -> None:
    """Waits while insertions are ahead.

    Raises:
      QueueClosed: If `close` has been called.
    """
    with self._condition:
      self._condition.wait_for(lambda: self._closed or self._may_insert())
      self._check_open()

  def add_inserted(self, count: int, held: int) -> None:
    """Counts insertions.

    Args:
      count: Transitions inserted.
      held: Transitions that the replay holds now.
    """
    with self._condition:
      if self._held >= self._minimum:
        self.inserted += count
      self._held = held
      self._condition.notify_all()

  def await_sample(self, count: int) -> None:
    """Waits until `count` samples may be drawn, and counts them.

    Raises:
      QueueClosed: If `close` has been called.
    """
    with self._condition:
      self._condition.wait_for(lambda: self._closed or self._may_sample(count))
      self._check_open()
      self.sampled += count
      self._condition.notify_all()

  def is_filled(self) -> bool:
    """Whether the replay holds its minimum."""
    with self._condition:
      return self._held >= self._minimum

  def close(self) -> None:
    """Ends all waiting with `QueueClosed`. May be called more than once."""
    with self._condition:
      self._closed = True
      self._condition.notify_all()

  def _may_insert(self) -> bool:
    # Below the minimum nothing is sampled, so an insertion that waited would wait forever.
    if not self._target or self._held < self._minimum:
      return True
    return self.inserted * self._target <= self.sampled + self._slack

  def _may_sample(self, count: int) -> bool:
    if self._held < self._minimum:
      return False
    return not self._target or self.sampled + count <= self.inserted * self._target + self._slack

  def _check_open(self) -> None:
    if self._closed:
      raise queues.QueueClosed
