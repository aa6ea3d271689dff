"""What the learner learns from: batches of trajectories. For A3C's gradients see `impala.a3c`."""

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
import tensorflow as tf

from common.distributed import queues, wire
from common.environments import suite as suites
from common.machine import memory
from common.replay import uniform
from impala import batching, trajectory
from impala import config as configs
from impala import learner as learners


class Material(Protocol):
  """What a run's learner needs to know of what actors put.

  Attributes:
    spec: The `tf.TensorSpec`s of one element of the queue.
    bounds: Those of its fields, for `wire.Codec`.
    fresh: How many new trajectories an update learns from.
  """

  spec: Any
  bounds: wire.Bounds
  fresh: int

  def begin(self, queue: queues.StructureQueue) -> Iterator[Any]:
    """Runs every graph once; returns what there is to learn from, until the queue is closed."""

  def update(self, arrived: Any) -> learners.Update:
    """Learns from one of `begin`'s."""

  def drop(self, arrived: Any) -> None:
    """Forgets what nothing can be learned from."""

  def ask_to_stop(self) -> None:
    """Has all learners stop."""

  def told(self, arrived: Any) -> Any:
    """What metrics and the description of a drop are made of: a named tuple of tensors.

    It has `parameter_version`, `[B]` or `[]`; `task`, `[B]`; `episode_return` and `episode_length`,
    `[T+1, B]`. The first `fresh` of B trajectories are new.
    """

  def actors(self, arrived: Any) -> np.ndarray:
    """The actors that put it, one for each element."""

  def describe(self, arrived: Any) -> str:
    """Where it comes from, for messages."""


class Trajectories:
  """Batches of trajectories, some of them replayed; a `Material`."""

  def __init__(self, config: configs.Config, suite: suites.Suite, learner: learners.Learner):
    """Makes the replay, if there is one.

    Raises:
      UserError: If memory is too small for it.
    """
    self._suite = suite
    self._learner = learner
    self.spec = trajectory.specification(
      suite, config.unroll_length, learner.agent.initial_state(1)
    )
    self.bounds = trajectory.bounds(self.spec, suite, config.num_actors, learner.version)
    self.fresh = learner.batch_size - learner.replayed
    self._replay = _make_replay(config, self.spec)
    self._new_frames = tf.constant(batching.new_frames(config, suite), tf.int64)

  def begin(self, queue: queues.StructureQueue) -> Iterator[batching.Batch]:
    learners.warm_up(self._learner, self.spec)
    if self._replay:
      self._replay.remove(tf.zeros([0], tf.int64))
    # The input pipeline is a graph too. It starts here, and waits for trajectories.
    return batching.from_queue(
      queue, self._learner.batch_size, self._replay, self._learner.replayed
    )

  def update(self, arrived: batching.Batch) -> learners.Update:
    return self._learner.update(arrived.trajectories, self._new_frames)

  def drop(self, arrived: batching.Batch) -> None:
    if self._replay:
      self._replay.remove(arrived.serials)

  def ask_to_stop(self) -> None:
    learners.ask_to_stop(self._learner, self.spec)

  def told(self, arrived: batching.Batch) -> trajectory.Trajectory:
    return arrived.trajectories

  def actors(self, arrived: batching.Batch) -> np.ndarray:
    return arrived.trajectories.actor[: self.fresh].numpy()

  def describe(self, arrived: batching.Batch) -> str:
    return batching.origins(arrived.trajectories, self._suite.tasks)


def _make_replay(
  config: configs.Config, spec: trajectory.Trajectory
) -> uniform.UniformReplay | None:
  if not config.replayed_per_batch:
    return None

  def size(capacity: int) -> int:
    return uniform.UniformReplay.size_in_bytes(spec, capacity)

  memory.check(size, config.replay_capacity, 'trajectories')
  return uniform.UniformReplay(spec, config.replay_capacity)
