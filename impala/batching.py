"""From the queue to the learner: batches of trajectories, some of them replayed."""

from typing import Any, Iterator, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

from common.distributed import queues, wire
from common.environments import suite as suites
from common.replay import uniform
from common.runs import dropping
from impala import config as configs
from impala import trajectory

# Fields without a time axis: in a batch their first axis is the batch's.
_TIMELESS = frozenset({'actor', 'parameter_version', 'task', 'core_state'})


class Batch(NamedTuple):
  """What one update learns from.

  Attributes:
    trajectories: `[T+1, B]`.
    serials: int64 `[B]`, the trajectories' serial numbers in the replay; `[0]` without a replay.
  """

  trajectories: trajectory.Trajectory
  serials: tf.Tensor


def from_queue(
  queue: queues.StructureQueue,
  batch_size: int,
  replay: uniform.UniformReplay | None,
  replayed: int,
) -> Iterator[Batch]:
  """Batches until the queue is closed, each assembled while the learner uses the last.

  Args:
    queue: The queue of single trajectories.
    batch_size: B.
    replay: Where new trajectories are kept and replayed ones come from; None for no replay.
    replayed: How many of a batch's trajectories, its last ones, are drawn from the replay.
  """

  @tf.autograph.experimental.do_not_convert
  def next_batch(_: tf.Tensor) -> Batch:
    trajectories = [queue.dequeue() for _ in range(batch_size - replayed)]
    if not replay:
      return Batch(stack(trajectories), tf.zeros([0], tf.int64))
    # New ones first: the replay is then never empty when it is sampled.
    added = replay.add(tf.nest.map_structure(lambda *x: tf.stack(x), *trajectories))
    drawn, serials = replay.sample(replayed)
    trajectories += unstack(drawn, replayed)
    return Batch(stack(trajectories), tf.concat([added, serials], axis=0))

  options = tf.data.Options()
  options.autotune.enabled = False
  dataset = tf.data.Dataset.range(1).repeat().map(next_batch).prefetch(1).with_options(options)
  # Made here, not at the first `next`: TensorFlow must not optimise graphs once environments
  # exist, see `Run.start`.
  iterator = iter(dataset)
  return _until_closed(iterator, queue)


def _until_closed(iterator: Iterator[Batch], queue: queues.StructureQueue) -> Iterator[Batch]:
  """The iterator's elements, ending without an error if the queue is closed."""
  try:
    yield from iterator
  except tf.errors.OpError:
    # The pipeline wraps the queue's own error in others, so its type tells nothing.
    if not queue.is_closed():
      raise


def stack(trajectories: Sequence[trajectory.Trajectory]) -> trajectory.Trajectory:
  """One batch `[T+1, B]` of B single trajectories."""
  return tf.nest.map_structure(
    lambda axis, *x: tf.stack(x, axis=axis), _batch_axes(trajectories[0]), *trajectories
  )


def unstack(trajectories: trajectory.Trajectory, count: int) -> list[trajectory.Trajectory]:
  """The `count` single trajectories of arrays `[count, ...]`, the layout of actors and replay."""
  return [tf.nest.map_structure(lambda x: x[i], trajectories) for i in range(count)]


def of_unroll(trajectories: trajectory.Trajectory) -> trajectory.Trajectory:
  """The batch `[T+1, N]` of one unroll's trajectories `[N, ...]`, for use in a `tf.function`."""

  def moved(axis: int, x: tf.Tensor) -> tf.Tensor:
    return tf.transpose(x, [1, 0, *range(2, x.shape.rank)]) if axis else x

  return tf.nest.map_structure(moved, _batch_axes(trajectories), trajectories)


def split(batch: trajectory.Trajectory, count: int) -> list[trajectory.Trajectory]:
  """A batch `[T+1, B]` as `count` batches `[T+1, B / count]`, in order."""
  axes = tf.nest.flatten(_batch_axes(batch))
  cut = [
    tf.split(x, count, axis=axis) for x, axis in zip(tf.nest.flatten(batch), axes, strict=True)
  ]
  return [tf.nest.pack_sequence_as(batch, parts) for parts in zip(*cut, strict=True)]


def origins(batch: trajectory.Trajectory, tasks: Sequence[str]) -> str:
  """Names the actors and tasks of a batch's trajectories, and those whose numbers are suspicious.

  Args:
    batch: `[T+1, B]`.
    tasks: The names of the suite's tasks.
  """
  names = [
    f'actor {actor} ({tasks[task]})'
    for actor, task in zip(batch.actor.numpy(), batch.task.numpy(), strict=True)
  ]
  words = f'trajectories of {dropping.listed(names)}'
  suspicious = dropping.listed([names[i] for i in np.flatnonzero(_are_suspicious(batch))])
  if not suspicious:
    return words
  return f'{words}; numbers that are not finite, or beyond {wire.LARGEST:g}, are of {suspicious}'


def _are_suspicious(batch: trajectory.Trajectory) -> np.ndarray:
  """Which trajectories hold numbers that no sane actor sends, bool `[B]`."""
  found = np.zeros(len(batch.actor), bool)
  # Nothing is learned from the returns of episodes.
  learned = batch._replace(episode_return=())
  axes = tf.nest.flatten(_batch_axes(learned))
  for values, axis in zip(tf.nest.flatten(learned), axes, strict=True):
    if values.dtype.is_floating:
      rows = np.moveaxis(values.numpy(), axis, 0).reshape(len(found), -1)  # [B, ...]
      # False for NaN, too.
      found |= ~(np.abs(rows) <= wire.LARGEST).all(axis=1)
  return found


def _batch_axes(element: trajectory.Trajectory) -> Any:
  """The batch axis of each tensor of a batch: 1, after time, or 0 for a field without time."""
  axes = {}
  for name, values in element._asdict().items():
    axis = 0 if name in _TIMELESS else 1
    axes[name] = tf.nest.map_structure(lambda _: axis, values)
  return trajectory.Trajectory(**axes)


def new_frames(config: configs.Config, suite: suites.Suite) -> int:
  """Environment frames in one batch of all learners that were not learned from before.

  Replayed trajectories were counted when they were new.
  """
  new_trajectories = config.batch_size - config.replayed_per_batch
  return new_trajectories * config.unroll_length * suite.action_repeat
