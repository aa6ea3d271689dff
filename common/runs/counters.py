"""How far a run has come."""

import tensorflow as tf


class Counters(tf.Module):
  """Counts what a run has done; every learner is one, so that checkpoints hold the counts.

  Attributes:
    updates: int64 `[]`, steps of the optimizer.
    frames: int64 `[]`, environment frames: agent steps x action repeat.
    seconds: float64 `[]`, of training, over all resumed parts.
  """

  def __init__(self, name: str):
    super().__init__(name=name)
    with tf.device('/cpu:0'):
      self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.frames = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
