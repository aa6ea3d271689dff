"""The episodes that a member of a population is measured by: a part of its checkpoints."""

import tensorflow as tf


class Tally(tf.Module):
  """Sums of returns since a member last evolved, and how often it has.

  Attributes:
    generation: int64 `[]`, how often the member has evolved.
    returns: float64 `[tasks]`, sums of the returns of all learners' training episodes.
    episodes: int64 `[tasks]`, how many they are.
  """

  def __init__(self, tasks: int):
    super().__init__(name='tally')
    with tf.device('/cpu:0'):
      self.generation = tf.Variable(0, dtype=tf.int64, trainable=False)
      self.returns = tf.Variable(tf.zeros([tasks], tf.float64), trainable=False)
      self.episodes = tf.Variable(tf.zeros([tasks], tf.int64), trainable=False)

  def clear(self) -> None:
    """Forgets all episodes."""
    self.returns.assign(tf.zeros_like(self.returns))
    self.episodes.assign(tf.zeros_like(self.episodes))
