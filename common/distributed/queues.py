"""The bounded queue between actors and learner: actors wait while it is full."""

from typing import Any, Callable, Sequence

import tensorflow as tf


class QueueClosed(Exception):
  """The queue was closed by the other side: it is time to end."""


class StructureQueue:
  """A FIFO queue of nested structures of tensors.

  Waiting happens in TensorFlow's runtime, without the GIL. All operations run inside
  `tf.function`s: an eager call on a device may return before it is done, which would defeat
  back-pressure.
  """

  def __init__(self, spec: Any, capacity: int):
    """Makes an empty queue.

    Args:
      spec: The nested `tf.TensorSpec`s of one element.
      capacity: The largest number of elements.
    """
    self._spec = spec
    flat = tf.nest.flatten(spec)
    with tf.device('/cpu:0'):
      self._queue = tf.queue.FIFOQueue(capacity, [s.dtype for s in flat], [s.shape for s in flat])

    @tf.function(
      input_signature=[tf.TensorSpec([None, *s.shape], s.dtype) for s in flat], autograph=False
    )
    def enqueue_many(*elements: tf.Tensor) -> None:
      self._queue.enqueue_many(elements)

    @tf.function(input_signature=flat, autograph=False)
    def enqueue(*element: tf.Tensor) -> None:
      self._queue.enqueue(element)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)], autograph=False)
    def dequeue_many(count: tf.Tensor) -> Sequence[tf.Tensor]:
      return _as_sequence(self._queue.dequeue_many(count))

    self._enqueue_many = enqueue_many
    self._enqueue = enqueue
    self._dequeue_many = dequeue_many
    self._dequeue = tf.function(self.dequeue, autograph=False)
    # Calls with zero elements trace and optimise the graphs before any thread waits in them.
    self._enqueue_many(*(tf.zeros([0, *s.shape], s.dtype) for s in flat))
    self._dequeue_many(tf.constant(0))

  def put_many(self, elements: Any) -> None:
    """Adds elements, each `[N, ...]`; waits while the queue is full.

    Raises:
      QueueClosed: If the queue is closed, before or while waiting.
    """
    _unless_closed(self._enqueue_many, *tf.nest.flatten(elements))

  def put(self, element: Any) -> None:
    """Adds one element without copying it; waits while the queue is full.

    Raises:
      QueueClosed: If the queue is closed, before or while waiting.
    """
    _unless_closed(self._enqueue, *tf.nest.flatten(element))

  def enqueue_many(self, flat: Sequence[tf.Tensor]) -> tf.Operation:
    """Adds the flat parts `[N, ...]` of elements, for use inside a `tf.function`.

    Waits while the queue is full.
    """
    return self._queue.enqueue_many(flat)

  def dequeue(self) -> Any:
    """Takes one element, for use inside a `tf.function` or `tf.data` pipeline.

    Waits while the queue is empty.
    """
    return tf.nest.pack_sequence_as(self._spec, _as_sequence(self._queue.dequeue()))

  def take_many(self, count: int) -> Any:
    """Takes `count` elements, `[count, ...]`; waits until that many have arrived.

    Raises:
      QueueClosed: If the queue is closed, before or while waiting.
    """
    flat = _unless_closed(self._dequeue_many, tf.constant(count))
    return tf.nest.pack_sequence_as(self._spec, flat)

  def take(self) -> Any:
    """Takes one element; waits while the queue is empty.

    Raises:
      QueueClosed: If the queue is closed, before or while waiting.
    """
    return _unless_closed(self._dequeue)

  def size(self) -> int:
    """The number of elements in the queue."""
    return int(self._queue.size())

  def is_closed(self) -> bool:
    """Whether `close` was called."""
    return bool(self._queue.is_closed())

  def close(self) -> None:
    """Ends all waiting on both sides; idempotent."""
    self._queue.close(cancel_pending_enqueues=True)


def _as_sequence(flat: Any) -> Sequence[tf.Tensor]:
  """What a queue returned, as a sequence: TensorFlow returns a lone component by itself."""
  return flat if isinstance(flat, (list, tuple)) else [flat]


def _unless_closed(operation: Callable[..., Any], *arguments: Any) -> Any:
  try:
    return operation(*arguments)
  except (tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.OutOfRangeError) as error:
    raise QueueClosed from error
