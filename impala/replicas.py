"""Several synchronous learners (IMPALA, section 3): on the devices of one machine, on several machines, or both.

Each learner's process has a replica of the agent on each of its devices, and each replica a share of every batch.
"""

import contextlib
import logging
import re
import signal
from typing import Any, Callable, Iterator, Sequence, TypeVar

import tensorflow as tf

from common import errors
from common.distributed import parameters

_Structure = TypeVar('_Structure')
# What collectives end with when a peer has gone: its connection is refused or reset (measured: 0.1 s after a kill -9),
# or TensorFlow's coordination service has had no heartbeat of it (8 s after a SIGSTOP).
_GONE = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
)


def make_strategy(
  devices: int = 1, addresses: Sequence[str] = (), index: int = 0
) -> tf.distribute.Strategy:
  """How this process's learner works together with others.

  With several machines, nothing of TensorFlow may have run before, and this waits until all learners are there. Called
  in the main thread.

  Args:
    devices: of this machine that learn, a replica on each: the first GPUs, or CPUs where there are none.
    addresses: `host:port` of each learner's process, for the others to reach it; none if this is the only one.
    index: of this process among them. Learner 0, the chief, saves and restores.

  Raises:
    UserError: if the machine has fewer devices.
  """
  kind = 'GPU' if tf.config.list_physical_devices('GPU') else 'CPU'
  if len(addresses) > 1:
    return _multi_worker(kind, devices, addresses, index)
  if devices == 1:
    return tf.distribute.get_strategy()
  return tf.distribute.MirroredStrategy(
    _first([d.name for d in tf.config.list_logical_devices(kind)], devices, kind)
  )


def _multi_worker(
  kind: str, devices: int, addresses: Sequence[str], index: int
) -> tf.distribute.Strategy:
  used = _first(tf.config.list_physical_devices(kind), devices, kind)
  tf.config.set_visible_devices(used, kind)
  resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
    tf.train.ClusterSpec({'worker': list(addresses)}),
    task_type='worker',
    task_id=index,
    rpc_layer='grpc',
    num_accelerators={'GPU': len(used) if kind == 'GPU' else 0},
  )
  options = tf.distribute.experimental.CommunicationOptions(
    implementation=tf.distribute.experimental.CommunicationImplementation.RING
  )
  logging.info('Learner %d of %d: waiting for the others.', index + 1, len(addresses))
  # TensorFlow waits without giving Python a chance to see Ctrl-C: nothing is there to be saved yet, so it ends all.
  # It also takes SIGTERM for itself, for good: that is given back.
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _first(devices: Sequence[Any], count: int, kind: str) -> Sequence[Any]:
  if len(devices) < count:
    raise errors.UserError(
      f'{count} devices are to learn, but TensorFlow sees {len(devices)} of kind {kind}'
    )
  return devices[:count]


def local_replicas(strategy: tf.distribute.Strategy) -> int:
  """Replicas in this process."""
  return len(strategy.extended.worker_devices) if strategy.num_replicas_in_sync > 1 else 1


def workers(strategy: tf.distribute.Strategy) -> int:
  """Learners' processes."""
  return strategy.num_replicas_in_sync // local_replicas(strategy)


def shares(strategy: tf.distribute.Strategy, batch_size: int, replayed: int) -> tuple[int, int]:
  """Of a batch of all learners, and of the replayed trajectories in it: this process's numbers.

  Raises:
    UserError: if they cannot be shared out evenly.
  """
  if batch_size % strategy.num_replicas_in_sync or replayed % workers(strategy):
    raise errors.UserError(
      f'a batch of {batch_size}, {replayed} of them replayed, cannot be shared out evenly among '
      f'{strategy.num_replicas_in_sync} devices of {workers(strategy)} learners. Set --config.batch_size to a '
      'multiple'
    )
  return batch_size // workers(strategy), replayed // workers(strategy)


def distribute(
  strategy: tf.distribute.Strategy, values: Any, split: Callable[[Any, int], Sequence[Any]]
) -> Any:
  """Values of this process, split into a part for each of its replicas; as they are for a single one."""
  count = local_replicas(strategy)
  if count == 1:
    return values
  with tf.device('/cpu:0'):  # So that no device gets more than its part.
    parts = split(values, count)
  return strategy.experimental_distribute_values_from_function(
    lambda context: parts[context.replica_id_in_sync_group % count]
  )


def first(strategy: tf.distribute.Strategy, values: Any) -> Any:
  """What the first replica of this process returned."""
  return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], values)


def sums(values: _Structure) -> _Structure:
  """Sums over all replicas of a structure of float32 tensors, in one round of messages. Called in a replica."""
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return values
  flat = [
    tf.convert_to_tensor(x) for x in tf.nest.flatten(values)
  ]  # Gradients of embeddings are slices.
  total = context.all_reduce(tf.distribute.ReduceOp.SUM, parameters.flatten(flat))
  parts = tf.split(total, [x.shape.num_elements() for x in flat])
  return tf.nest.pack_sequence_as(
    values, [tf.reshape(part, x.shape) for part, x in zip(parts, flat, strict=True)]
  )


def broadcast(strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]) -> None:
  """Assigns the chief's values to the variables of all other learners. Called by all of them.

  Raises:
    UserError: if a learner has gone.
  """

  def of_the_first(values: tf.Tensor) -> tf.Tensor:
    context = tf.distribute.get_replica_context()
    mine = values if context.replica_id_in_sync_group == 0 else tf.zeros_like(values)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

  if workers(strategy) == 1:
    return
  # One vector for all: float64 has room for every float32, and for counts up to 2^53.
  values = tf.concat(
    [tf.reshape(tf.cast(variable, tf.float64), [-1]) for variable in variables], axis=0
  )
  with watched(strategy):
    values = first(strategy, strategy.run(of_the_first, (values,)))
  parts = tf.split(values, [variable.shape.num_elements() for variable in variables])
  for variable, part in zip(variables, parts, strict=True):
    variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))


@contextlib.contextmanager
def watched(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Around what learners do together, the making of variables in the strategy's scope included.

  Raises:
    UserError: if another learner's process or machine has gone.
  """
  try:
    yield
  except _GONE as error:
    if workers(strategy) == 1:
      raise
    # Each learner passes on what it got: the innermost text is of the one that met the silence itself. Where that names
    # nobody, the chief is silent: the others' heartbeats go to it.
    reason = error.message.rpartition('Collective ops is aborted by: ')[2].strip()
    task = re.search(r'/task:(\d+)', reason)
    index = int(task[1]) if task else 0
    address = strategy.cluster_resolver.cluster_spec().task_address('worker', index)
    raise errors.UserError(
      f'learner {index + 1} of {workers(strategy)}, {address}, does not answer any more ({reason.splitlines()[0]}): '
      'the run has ended. All learners go on from the last checkpoint with --resume'
    ) from error
