"""Python functions as graphs of byte strings, which is what TensorFlow's RPC server can serve."""

from typing import Any, Callable

import tensorflow as tf

from common.distributed import wire


def of_strings(
  function: Callable[[bytes], Any], outputs: int
) -> tf.types.experimental.PolymorphicFunction:
  """A graph that calls a Python function.

  Args:
    function: A function of a byte string to a tuple of byte strings.
    outputs: The number of its results.
  """

  @tf.function(input_signature=[tf.TensorSpec([], tf.string)], autograph=False)
  def graph(message: tf.Tensor) -> list[tf.Tensor]:
    results = tf.numpy_function(function, [message], [tf.string] * outputs)
    return [tf.ensure_shape(result, []) for result in results]

  return graph


def received(
  receive: Callable[[bytes, bytes], Any], codec: wire.Codec, header: tf.Tensor, payload: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor, list[tf.Tensor]]:
  """Decodes a message inside a graph.

  Args:
    receive: From header and payload to the answer, whether the message is good, and the decoded
      fields: `codec.nothing()` if it is not.
    codec: The payload's codec.
    header: The request, a string `[]`.
    payload: The encoded elements, a string `[]`.

  Returns:
    The answer, string `[]`; whether the message is good, bool `[]`; the fields, `[M, ...]` each.
  """
  dtypes = [spec.dtype for spec in codec.specs]
  answer, is_good, *fields = tf.numpy_function(
    receive, [header, payload], [tf.string, tf.bool, *dtypes]
  )
  # `numpy_function` forgets all shapes.
  fields = [
    tf.ensure_shape(field, [None, *spec.shape])
    for field, spec in zip(fields, codec.specs, strict=True)
  ]
  return tf.ensure_shape(answer, []), tf.ensure_shape(is_good, []), fields
