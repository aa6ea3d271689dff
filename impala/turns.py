"""Actors that wait for the learner: synchronous runs, and A3C's workers of one process."""

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from common.distributed import queues


class Turns:
  """Lets each actor put its share; then has it wait until the learner has used all of it.

  Whatever an actor does next, it does with the parameters of the update that its share went into.
  """

  def __init__(self, put: Callable[[Any], None], num_actors: int, share: int):
    """Nobody has put anything yet.

    Args:
      put: Puts elements `[M, ...]` into the queue.
      num_actors: The actors of this process.
      share: The elements of one actor's turn.
    """
    self._put = put
    self._share = share
    self._count = np.zeros(num_actors, np.int64)  # Elements put, each by its own actor's thread.
    self._used = np.zeros(num_actors, np.int64)
    self._is_closed = False
    self._change = threading.Condition()  # Guards `_used` and `_is_closed`.

  def put(self, elements: Any) -> None:
    """Puts one actor's elements; waits for the learner if that completes its share.

    If some were lost in a crash the share is incomplete: the actor goes on with the same
    parameters, and of what it brings next, only what is missing is put.

    Args:
      elements: At most a share of them, `[M, ...]`, with a field `actor`.

    Raises:
      QueueClosed: If the run ends.
    """
    numbers = np.asarray(elements.actor)
    if not len(numbers):
      return
    actor = int(numbers[0])
    missing = self._share - int(self._count[actor]) % self._share
    if len(numbers) > missing:
      elements = tf.nest.map_structure(lambda x: x[:missing], elements)
    self._put(elements)
    self._count[actor] += min(missing, len(numbers))
    if self._count[actor] % self._share:
      return

    with self._change:
      self._change.wait_for(lambda: self._used[actor] >= self._count[actor] or self._is_closed)
      if self._is_closed:
        raise queues.QueueClosed

  def end(self, actors: np.ndarray) -> None:
    """Notes that the learner has used elements, or has dropped them.

    Args:
      actors: int32 `[M]`, the actor of each. Called after the parameters were published.
    """
    with self._change:
      np.add.at(self._used, actors, 1)
      self._change.notify_all()

  def close(self) -> None:
    """Ends all waiting; idempotent."""
    with self._change:
      self._is_closed = True
      self._change.notify_all()
