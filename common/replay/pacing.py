"""The replay ratio: samples drawn per transition inserted, held at a target by letting either side wait.

How much a replay agent has learned after so many frames depends on how often it learned from each of them. Left to the
speeds of actors and learner, that drifts with the machine.
"""

import threading

from common.distributed import queues


class ReplayRatio:
  """Counts both sides, and lets whoever is ahead wait. Before the minimum is held, only inserting goes on."""

  def __init__(self, target: float, minimum: int, batch_size: int):
    """Counts nothing yet.

    Args:
      target: samples per inserted transition; 0 lets both sides run freely.
      minimum: transitions that must be held before any is drawn.
      batch_size: samples drawn at once. Sampling is ahead by so many at most; inserting waits once it is.
    """
    self._target, self._minimum, self._slack = target, minimum, batch_size
    self._condition, self._closed = threading.Condition(), False
    self._held = 0
    # Since sampling began: what was inserted before is the minimum's, and not learned from at the target's rate.
    self.inserted, self.sampled = 0, 0

  def await_insert(self) -> None:
    """Waits while inserting is ahead.

    Raises:
      QueueClosed: if this is closed.
    """
    with self._condition:
      self._condition.wait_for(
        lambda: (
          self._closed
          or not self._target
          or self._held < self._minimum
          or self.inserted * self._target <= self.sampled + self._slack
        )
      )
      self._check()

  def add_inserted(self, count: int, held: int) -> None:
    """Counts transitions that were inserted, of which, with all before, `held` are held now."""
    with self._condition:
      if self._held >= self._minimum:
        self.inserted += count
      self._held = held
      self._condition.notify_all()

  def await_sample(self, count: int) -> None:
    """Waits until `count` may be drawn, and counts them.

    Raises:
      QueueClosed: if this is closed.
    """
    with self._condition:
      self._condition.wait_for(
        lambda: (
          self._closed
          or self._held >= self._minimum
          and (
            not self._target or self.sampled + count <= self.inserted * self._target + self._slack
          )
        )
      )
      self._check()
      self.sampled += count
      self._condition.notify_all()

  def is_filled(self) -> bool:
    """Whether the minimum is held."""
    with self._condition:
      return self._held >= self._minimum

  def close(self) -> None:
    """Ends all waiting. May be called again."""
    with self._condition:
      self._closed = True
      self._condition.notify_all()

  def _check(self) -> None:
    if self._closed:
      raise queues.QueueClosed
