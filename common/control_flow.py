"""Conditions inside graphs.

No graph of ours is converted by AutoGraph, which reads and rewrites the source of every function
that is traced, TensorFlow's and Sonnet's included: for a small LSTM agent that was more than half
of the time to the first update, see docs/speed.md. So conditions on tensors are written out.
"""

from collections.abc import Callable

import tensorflow as tf


def do_if(condition: tf.Tensor, action: Callable[[], None]) -> None:
  """Does something to variables if `condition`, bool `[]`, holds when the graph runs."""

  def do() -> tf.Tensor:
    action()
    # Both branches of a condition must return something.
    return tf.constant(0)

  tf.cond(condition, do, lambda: tf.constant(0))
