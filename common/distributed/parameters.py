"""Publication of parameters: the learner publishes whole, versioned snapshots; actors copy the latest."""

import threading
from typing import NamedTuple, Sequence

import tensorflow as tf


class Snapshot(NamedTuple):
  """All parameters after `version` learner updates, as one vector: float32 `[P]`."""

  version: int
  values: tf.Tensor


class ParameterStore:
  """Holds the newest snapshot. Snapshots are immutable, so readers never see two versions mixed."""

  def __init__(self, first: Snapshot):
    self._lock, self._latest = threading.Lock(), first

  def publish(self, snapshot: Snapshot) -> None:
    with self._lock:
      self._latest = snapshot

  def latest(self) -> Snapshot:
    with self._lock:
      return self._latest


def flatten(variables: Sequence[tf.Variable]) -> tf.Tensor:
  """All variables' values one after the other, float32 `[P]`."""
  return tf.concat([tf.reshape(variable, [-1]) for variable in variables], axis=0)


def assign(variables: Sequence[tf.Variable], values: tf.Tensor) -> None:
  """The inverse of `flatten`."""
  parts = tf.split(values, [variable.shape.num_elements() for variable in variables])
  for variable, part in zip(variables, parts, strict=True):
    variable.assign(tf.reshape(part, variable.shape))


class ParameterCopy:
  """An actor's own variables, which follow the published ones whenever it asks."""

  def __init__(self, variables: Sequence[tf.Variable], store: ParameterStore):
    """Copies the latest parameters, which also runs the copying graph once, before any game starts."""
    self._store, self._snapshot = store, None
    self._assign = tf.function(lambda values: assign(variables, values))
    self.refresh()

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version."""
    snapshot = self._store.latest()
    if (
      snapshot is not self._snapshot
    ):  # A learner that came back may be at the same version with other parameters.
      self._assign(snapshot.values)
      self._snapshot = snapshot
    return snapshot.version
