"""Graphs of small networks, called with as little overhead as possible: `LeanGraph`."""

from collections.abc import Callable
from typing import Any

import tensorflow as tf


class LeanGraph:
  """A function of nested tensors `[N, ...]`, for any N, as one graph of flat ones.

  A small network computes for less time than `tf.function` takes in Python to match arguments to
  a graph. So the graph is called by the operation that `tf.function` ends in, with flat tensors.

  Attributes:
    graph: The graph, of the arguments' flat tensors.
  """

  def __init__(self, function: Callable[..., Any], *example: Any):
    """Traces the graph and runs it once: it must be optimised before environments start.

    Args:
      function: Takes and returns nested tensors `[N, ...]`.
      *example: Its arguments, for any N.
    """

    def of_flat(*flat: tf.Tensor) -> list[tf.Tensor]:
      result = function(*tf.nest.pack_sequence_as(example, flat))
      self._result = tf.nest.map_structure(lambda _: None, result)
      return tf.nest.flatten(result)

    signature = of_any_count(tf.nest.flatten(example))
    self.graph = tf.function(
      of_flat, input_signature=signature, autograph=False
    ).get_concrete_function()
    self._captured = list(self.graph.captured_inputs)
    self._types = [output.dtype for output in self.graph.outputs]
    self(*example)

  def __call__(self, *arguments: Any) -> Any:
    """The function's result for arguments like the example, of tensors or arrays.

    TensorFlow checks their types, and shapes only as far as operations do.
    """
    results = tf.raw_ops.StatefulPartitionedCall(
      args=[*tf.nest.flatten(arguments), *self._captured], Tout=self._types, f=self.graph
    )
    return tf.nest.pack_sequence_as(self._result, results)


def of_any_count(structure: Any) -> Any:
  """The signature of tensors like these, `[N, ...]`, with N unknown."""
  return tf.nest.map_structure(lambda x: tf.TensorSpec([None, *x.shape[1:]], x.dtype), structure)
