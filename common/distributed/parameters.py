"""Publication of parameters: the learner publishes whole, versioned snapshots; actors copy the latest."""

import threading
from typing import NamedTuple, Protocol, Sequence

import tensorflow as tf


class Snapshot(NamedTuple):
  """All parameters after `version` learner updates, as one vector: float32 `[P]`."""

  version: int
  values: tf.Tensor


class Source(Protocol):
  """Where an actor takes parameters from: the learner's store, or the link to a learner elsewhere."""

  def latest(self) -> Snapshot:
    """The newest snapshot."""


class ParameterStore:
  """Holds the newest snapshot. Snapshots are immutable, so readers never see two versions mixed."""

  def __init__(self, first: Snapshot):
    self._lock = threading.Lock()
    self._latest = first

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

  def __init__(self, variables: Sequence[tf.Variable], source: Source):
    """Copies the latest parameters, which also runs the copying graph once, before any game starts."""
    self._source = source
    self._snapshot: Snapshot | None = None
    self._assign = tf.function(lambda values: assign(variables, values))
    self.refresh()

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version."""
    snapshot = self._source.latest()
    # By identity: a learner that came back may have other parameters at the same version.
    if snapshot is not self._snapshot:
      self._assign(snapshot.values)
      self._snapshot = snapshot
    return snapshot.version
