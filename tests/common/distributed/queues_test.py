"""The bounded queue: order, back-pressure, and the end of all waiting on close."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from common.distributed import queues
from scripts import processes

SPEC = {'number': tf.TensorSpec([], tf.int64), 'part': (tf.TensorSpec([2], tf.float32),)}
DEADLINE = 10.0  # Seconds for what happens immediately on an idle machine.
# How long a call that must block is watched. On a slow machine it blocks too: only a broken queue
# lets it return.
WATCHED = 0.2


def elements(*numbers):
  return {
    'number': np.array(numbers, np.int64),
    'part': (np.array([[n, -n] for n in numbers], np.float32),),
  }


def taker(queue):
  """A function that takes one element's number."""
  dequeue = tf.function(queue.dequeue)

  def take():
    element = dequeue()
    number = int(element['number'])
    np.testing.assert_array_equal(element['part'][0], [number, -number])
    return number

  return take


class Background:
  """A call in a thread: whether it has returned, and the error it raised."""

  def __init__(self, function, *arguments):
    self.error, self._returned = None, threading.Event()
    self._thread = threading.Thread(target=self._run, args=(function, *arguments), daemon=True)
    self._thread.start()

  def has_returned(self, within):
    return self._returned.wait(within)

  def _run(self, function, *arguments):
    try:
      function(*arguments)
    except Exception as error:
      self.error = error
    self._returned.set()


def test_the_queue_is_first_in_first_out():
  queue = queues.StructureQueue(SPEC, 10)
  take = taker(queue)
  queue.put_many(elements(3, 1))
  queue.put_many(elements(2))
  assert queue.size() == 3
  assert [take(), take(), take()] == [3, 1, 2]
  assert queue.size() == 0


def test_a_structure_of_a_single_tensor():
  queue = queues.StructureQueue(tf.TensorSpec([2], tf.float32), 2)
  queue.put_many(np.array([[1, 2], [3, 4]], np.float32))
  np.testing.assert_array_equal(tf.function(queue.dequeue)(), [1, 2])


def test_it_feeds_a_data_pipeline():
  queue = queues.StructureQueue(SPEC, 10)
  queue.put_many(elements(*range(6)))
  dataset = tf.data.Dataset.range(3).map(lambda _: queue.dequeue())
  assert [int(element['number']) for element in dataset] == [0, 1, 2]
  assert queue.size() == 3


def test_put_waits_while_the_queue_is_full():
  queue = queues.StructureQueue(SPEC, 2)
  take = taker(queue)
  queue.put_many(elements(0, 1))
  put = Background(queue.put_many, elements(2))
  assert not put.has_returned(WATCHED)
  assert queue.size() == 2
  assert take() == 0
  assert put.has_returned(DEADLINE) and put.error is None
  assert [take(), take()] == [1, 2]


def test_putting_more_elements_than_the_capacity_goes_one_by_one():
  queue = queues.StructureQueue(SPEC, 2)
  take = taker(queue)
  put = Background(queue.put_many, elements(*range(7)))
  taken = []
  for _ in range(5):
    assert not put.has_returned(WATCHED / 5)
    taken.append(take())
  assert put.has_returned(DEADLINE) and put.error is None
  assert taken + [take(), take()] == list(range(7))


def test_dequeue_waits_for_an_element():
  queue, taken = queues.StructureQueue(SPEC, 2), []
  take = taker(queue)
  waiting = Background(lambda: taken.append(take()))
  assert not waiting.has_returned(WATCHED)
  queue.put_many(elements(5))
  assert waiting.has_returned(DEADLINE)
  assert taken == [5]


def test_close_ends_waiting_puts():
  queue = queues.StructureQueue(SPEC, 1)
  queue.put_many(elements(0))
  waiting = [Background(queue.put_many, elements(1, 2)) for _ in range(3)]
  assert not waiting[0].has_returned(WATCHED)
  queue.close()
  for put in waiting:
    assert put.has_returned(DEADLINE)
    assert isinstance(put.error, queues.QueueClosed)


def test_close_ends_waiting_takes():
  queue = queues.StructureQueue(SPEC, 1)
  waiting = Background(taker(queue))
  assert not waiting.has_returned(WATCHED)
  queue.close()
  assert waiting.has_returned(DEADLINE)
  assert isinstance(waiting.error, tf.errors.OutOfRangeError)


def test_a_closed_queue_refuses_puts_and_returns_its_elements():
  queue = queues.StructureQueue(SPEC, 3)
  take = taker(queue)
  queue.put_many(elements(0, 1))
  queue.close()
  queue.close()
  with pytest.raises(queues.QueueClosed):
    queue.put_many(elements(2))
  assert [take(), take()] == [0, 1]
  with pytest.raises(tf.errors.OutOfRangeError):
    take()


def test_is_closed():
  queue = queues.StructureQueue(SPEC, 1)
  assert not queue.is_closed()
  queue.close()
  assert queue.is_closed()


def test_several_writers_lose_and_duplicate_nothing():
  queue, writers, each = queues.StructureQueue(SPEC, 3), 4, 60
  take = taker(queue)

  def write(writer):
    for first in range(0, each, 2):
      queue.put_many(elements(1000 * writer + first, 1000 * writer + first + 1))

  running = [Background(write, writer) for writer in range(writers)]
  taken = [take() for _ in range(writers * each)]
  assert all(writer.has_returned(DEADLINE) and writer.error is None for writer in running)
  assert queue.size() == 0
  # All are there once, and each writer's are in order.
  for writer in range(writers):
    assert [n for n in taken if n // 1000 == writer] == [1000 * writer + i for i in range(each)]


def test_elements_of_other_shapes_are_refused():
  queue = queues.StructureQueue(SPEC, 3)
  with pytest.raises((TypeError, ValueError)):
    queue.put_many({'number': np.zeros(2, np.int64), 'part': (np.zeros((2, 3), np.float32),)})
  assert queue.size() == 0


def test_size_is_up_to_date_in_other_threads():
  queue = queues.StructureQueue(SPEC, 3)
  Background(queue.put_many, elements(1, 2))
  assert processes.becomes_true(lambda: queue.size() == 2)
