"""Graphs of nested tensors, called flat."""

from typing import NamedTuple

import numpy as np
import pytest
import tensorflow as tf

from common import lean_graph


class Result(NamedTuple):
  total: tf.Tensor
  state: tuple[tf.Tensor, ...]


def test_it_is_the_function_for_any_number_of_rows_and_for_arrays():
  scale = tf.Variable(1.0)

  def function(inputs, state):
    return Result(scale * inputs['a'] + tf.cast(inputs['b'], tf.float32), (2.0 * state[0],))

  example = ({'a': tf.zeros([1]), 'b': tf.zeros([1], tf.int32)}, (tf.zeros([1, 3]),))
  graph = lean_graph.LeanGraph(function, *example)
  for count in (1, 4):
    scale.assign(count)
    inputs = {'b': np.arange(count, dtype=np.int32), 'a': np.ones(count, np.float32)}
    result = graph(inputs, (tf.ones([count, 3]),))
    assert isinstance(result, Result)
    np.testing.assert_array_equal(result.total, count + np.arange(count))
    np.testing.assert_array_equal(result.state[0], np.full((count, 3), 2.0))


def test_a_function_without_state_returns_none():
  graph = lean_graph.LeanGraph(lambda x, state: (x + 1, state), tf.zeros([1]), ())
  result, state = graph(np.zeros(2, np.float32), ())
  np.testing.assert_array_equal(result, [1.0, 1.0])
  assert state == ()


def test_arguments_of_another_type_are_refused():
  graph = lean_graph.LeanGraph(lambda x: x + 1.0, tf.zeros([1]))
  with pytest.raises((TypeError, tf.errors.InvalidArgumentError)):
    graph(np.zeros(2, np.int32))
