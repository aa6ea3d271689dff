"""A run's progress: updates, frames, seconds."""

from typing import ClassVar

import tensorflow as tf


class Counters(tf.Module):
  """Counts a run's progress. Every learner derives from it, so checkpoints hold the counts.

  Attributes:
    updates: int64 `[]`, optimizer steps.
    frames: int64 `[]`, environment frames: agent steps x action repeat.
    seconds: float64 `[]`, seconds of training, including those before the run was resumed.
  """

  # Attributes that checkpoints of earlier versions lack. They keep what they have when such a
  # checkpoint is restored.
  ADDED: ClassVar[tuple[str, ...]] = ()

  def __init__(self, name: str):
    super().__init__(name=name)
    # On the CPU, since Python reads them after every update.
    with tf.device('/cpu:0'):
      self.updates = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.frames = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)
