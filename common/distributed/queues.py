"""The queue between actors and learner: bounded, so that actors wait for the learner, and closed at the end."""

from typing import Any, Sequence

import tensorflow as tf


class QueueClosed(Exception):
  """The other side has closed the queue: time to end."""


class StructureQueue:
  """A FIFO queue of nested structures of tensors.

  Waiting happens in TensorFlow's runtime, without the GIL. All operations run inside `tf.function`s: an eager call on a
  device may return before it is done, and there would be no back-pressure.
  """

  def __init__(self, spec: Any, capacity: int):
    """Makes an empty queue of at most `capacity` elements of the nested `tf.TensorSpec`s `spec`."""
    self._spec = spec
    flat = tf.nest.flatten(spec)
    with tf.device('/cpu:0'):
      self._queue = tf.queue.FIFOQueue(capacity, [s.dtype for s in flat], [s.shape for s in flat])

    @tf.function(input_signature=[tf.TensorSpec([None, *s.shape], s.dtype) for s in flat])
    def put_all(*elements):
      self._queue.enqueue_many(elements)

    @tf.function(input_signature=[tf.TensorSpec([], tf.int32)])
    def dequeue_many(count):
      elements = self._queue.dequeue_many(count)
      return elements if isinstance(elements, (list, tuple)) else [elements]

    @tf.function(input_signature=flat)
    def enqueue(*element):
      self._queue.enqueue(element)

    self._enqueue, self._dequeue = enqueue, tf.function(self.dequeue)
    self._put_all, self._dequeue_many = put_all, dequeue_many
    self._put_all(*(tf.zeros([0, *s.shape], s.dtype) for s in flat))  # Traces and optimises it.
    self._dequeue_many(tf.constant(0))

  def put_many(self, elements: Any) -> None:
    """Adds elements, `[N, ...]` each; waits while there is no room.

    Raises:
      QueueClosed: if the queue is closed, also while waiting.
    """
    _unless_closed(self._put_all, *tf.nest.flatten(elements))

  def put(self, element: Any) -> None:
    """Adds one element, without copying it; waits while there is no room.

    Raises:
      QueueClosed: if the queue is closed, also while waiting.
    """
    _unless_closed(self._enqueue, *tf.nest.flatten(element))

  def enqueue_many(self, flat: Sequence[tf.Tensor]) -> tf.Operation:
    """Adds the flat parts `[N, ...]` of elements; to be called inside a `tf.function`. Waits while there is no room."""
    return self._queue.enqueue_many(flat)

  def dequeue(self) -> Any:
    """One element; to be called inside a `tf.function` or `tf.data` pipeline. Waits while there is none."""
    flat = self._queue.dequeue()
    return tf.nest.pack_sequence_as(self._spec, flat if isinstance(flat, (list, tuple)) else [flat])

  def take_many(self, count: int) -> Any:
    """Takes `count` elements, `[count, ...]`; waits until there are so many.

    Raises:
      QueueClosed: if the queue is closed, also while waiting.
    """
    return tf.nest.pack_sequence_as(
      self._spec, _unless_closed(self._dequeue_many, tf.constant(count))
    )

  def take(self) -> Any:
    """Takes one element; waits while there is none.

    Raises:
      QueueClosed: if the queue is closed, also while waiting.
    """
    return _unless_closed(self._dequeue)

  def size(self) -> int:
    return int(self._queue.size())

  def is_closed(self) -> bool:
    return bool(self._queue.is_closed())

  def close(self) -> None:
    """Ends all waiting on both sides. May be called again."""
    self._queue.close(cancel_pending_enqueues=True)


def _unless_closed(operation, *arguments):
  try:
    return operation(*arguments)
  except (tf.errors.CancelledError, tf.errors.AbortedError, tf.errors.OutOfRangeError) as error:
    raise QueueClosed from error
