"""Publication of parameters: the learner publishes versioned snapshots, actors copy the latest."""

import threading
from typing import NamedTuple, Protocol, Sequence

import tensorflow as tf

from common import errors


class Snapshot(NamedTuple):
  """All parameters after `version` learner updates, as one vector: float32 `[P]`."""

  version: int
  values: tf.Tensor


class Source(Protocol):
  """Where an actor gets parameters: the learner's store, or the link to a remote learner."""

  def latest(self) -> Snapshot:
    """The newest snapshot."""


class ParameterStore:
  """Holds the newest snapshot; thread-safe.

  Snapshots are immutable, so readers never see a mixture of two versions.
  """

  def __init__(self, first: Snapshot):
    self._lock = threading.Lock()
    self._latest = first

  def publish(self, snapshot: Snapshot) -> None:
    """Replaces the newest snapshot."""
    with self._lock:
      self._latest = snapshot

  def latest(self) -> Snapshot:
    """The newest snapshot."""
    with self._lock:
      return self._latest


def published(network: tf.Module) -> Sequence[tf.Variable]:
  """All that makes a network act as the learner's does, in the order of snapshots.

  Trained variables, and the statistics by which observations and rewards are normalised.
  """
  return network.variables


def flatten(variables: Sequence[tf.Variable | tf.Tensor]) -> tf.Tensor:
  """Concatenates the values of all variables or tensors, float32 `[P]`."""
  return tf.concat([tf.reshape(tf.cast(x, tf.float32), [-1]) for x in variables], axis=0)


def assign(variables: Sequence[tf.Variable], values: tf.Tensor) -> None:
  """Assigns what `flatten` returned, float32 `[P]`, to variables of the same shapes."""
  for variable, part in zip(variables, unflatten(variables, values), strict=True):
    variable.assign(tf.cast(part, variable.dtype))


def unflatten(variables: Sequence[tf.Variable], values: tf.Tensor) -> list[tf.Tensor]:
  """Cuts what `flatten` returned, float32 `[P]`, into tensors of the variables' shapes."""
  parts = tf.split(values, [variable.shape.num_elements() for variable in variables])
  return [tf.reshape(part, variable.shape) for variable, part in zip(variables, parts, strict=True)]


def check(variables: Sequence[tf.Variable], snapshot: Snapshot) -> None:
  """Refuses a snapshot of other networks, which a remote learner may send.

  Raises:
    UserError: If it does not have as many values as the variables.
  """
  expected = sum(variable.shape.num_elements() for variable in variables)
  found = int(tf.size(snapshot.values))
  if found != expected:
    raise errors.UserError(
      f"the learner's parameters are {found:,} numbers, but the network here has {expected:,}: do "
      'both run the same code and the same environment?'
    )


class ParameterCopy:
  """An actor's own variables, updated from a source on request."""

  def __init__(self, variables: Sequence[tf.Variable], source: Source):
    """Copies the latest parameters, which also traces the graph before any environment starts."""
    self._source = source
    self._variables = variables
    self._snapshot: Snapshot | None = None
    self._assign = tf.function(lambda values: assign(variables, values), autograph=False)
    self.refresh()

  def refresh(self) -> int:
    """Copies the latest parameters if they are new; returns their version.

    Raises:
      UserError: If they are of other networks.
    """
    snapshot = self._source.latest()
    # By identity: a restarted learner may have other parameters at the same version.
    if snapshot is not self._snapshot:
      check(self._variables, snapshot)
      self._assign(snapshot.values)
      self._snapshot = snapshot
    return snapshot.version
