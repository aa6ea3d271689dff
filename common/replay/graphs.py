"""Methods on tensors as graphs of TensorFlow, on the CPU, for any number of elements."""

from typing import Any, Callable

import tensorflow as tf


class Graphs:
  """Traces each method once. Not thread-safe."""

  def __init__(self) -> None:
    """Traces nothing yet."""
    self._graphs: dict[str, Callable[..., Any]] = {}

  def call(self, method: Callable[..., Any], *arguments: Any) -> Any:
    """Runs a method as a graph.

    Args:
      method: Takes and returns nested tensors. Known by its name.
      *arguments: Arrays or tensors, whose first axis may have another length in each call.
    """
    # Without a signature, TensorFlow would retrace for every new number of elements.
    name = method.__name__
    if name not in self._graphs:
      tensors = tf.nest.map_structure(tf.convert_to_tensor, arguments)
      signature = tf.nest.map_structure(_any_length, tensors)
      self._graphs[name] = tf.function(method, input_signature=signature, autograph=False)
    with tf.device('/cpu:0'):
      return self._graphs[name](*arguments)


def _any_length(x: tf.Tensor) -> tf.TensorSpec:
  """The signature of tensors like `x` with any first dimension."""
  shape = [None, *x.shape[1:]] if x.shape.rank else []
  return tf.TensorSpec(shape, x.dtype)
