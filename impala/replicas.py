"""Several synchronous learners (IMPALA, section 3).

They run on the devices of one machine, on several machines, or both. Each learner process has a
replica of the agent on each of its devices, and each replica gets a share of every batch.
"""

import contextlib
import logging
import re
import signal
from typing import Any, Callable, Iterator, Sequence, TypeVar

import tensorflow as tf

from common import errors
from common.distributed import parameters, proxies

_Structure = TypeVar('_Structure')
# How collectives fail when a peer has gone: its connection is refused or reset (measured: 0.1 s
# after a kill -9), or TensorFlow's coordination service misses its heartbeats (measured: 8 s after
# a SIGSTOP).
_GONE = (
  tf.errors.UnavailableError,
  tf.errors.DeadlineExceededError,
  tf.errors.AbortedError,
  tf.errors.CancelledError,
)

_OPEN_DOOR = """\
several learners reach each other by TensorFlow's servers, here at {address}. These listen on every
interface of the machine, ask for no token, and run any graph for whoever connects: everybody who
reaches the port can read, write and execute what you can, as your user. This code cannot shut that
door, so put a fence before it: a firewall rule that lets only the learners' machines reach that
port, a private network that holds nothing but this run, or, for learners on one machine, a network
namespace that has only loopback. docs/distributed.md has the commands. Then start all learners with
--trusted_network, which says that you trust everybody who can still reach them"""


def make_strategy(
  devices: int = 1,
  addresses: Sequence[str] = (),
  index: int = 0,
  trusted_network: bool = False,
) -> tf.distribute.Strategy:
  """The strategy that connects this learner with the others.

  With several learner processes, TensorFlow must not have run any operation yet, and the call
  blocks until all of them have started. Called in the main thread.

  Args:
    devices: Devices of this machine that learn, a replica on each: the first GPUs, or CPUs if there
      are none.
    addresses: `host:port` of every learner process, as the others reach it; empty if there is one.
    index: This process's index into `addresses`. Learner 0, the chief, saves and restores.
    trusted_network: Whether the user trusts everybody who can reach the port of this address.

  Raises:
    UserError: The machine has fewer devices, or there are several processes and the user has not
      said that the network can be trusted.
  """
  # Before anything listens.
  if len(addresses) > 1 and not trusted_network:
    raise errors.UserError(_OPEN_DOOR.format(address=addresses[index]).replace('\n', ' '))
  kind = 'GPU' if tf.config.list_physical_devices('GPU') else 'CPU'
  if len(addresses) > 1:
    return _multi_worker(kind, devices, addresses, index)
  if devices == 1:
    return tf.distribute.get_strategy()
  names = [device.name for device in tf.config.list_logical_devices(kind)]
  return tf.distribute.MirroredStrategy(_first_devices(names, devices, kind))


def _multi_worker(
  kind: str, devices: int, addresses: Sequence[str], index: int
) -> tf.distribute.Strategy:
  used = _first_devices(tf.config.list_physical_devices(kind), devices, kind)
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
  proxies.bypass(addresses)
  logging.info('Learner %d of %d: waiting for the others.', index + 1, len(addresses))
  with _default_signals():
    return tf.distribute.MultiWorkerMirroredStrategy(resolver, options)


@contextlib.contextmanager
def _default_signals() -> Iterator[None]:
  """Lets Ctrl-C end the process at once, and restores the signal handlers afterwards.

  TensorFlow waits for other learners in C++, where Python's handler for Ctrl-C never runs; there is
  nothing to save yet. It also installs a handler of its own for SIGTERM and leaves it there.
  """
  handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
  signal.signal(signal.SIGINT, signal.SIG_DFL)
  try:
    yield
  finally:
    for number, handler in handlers.items():
      signal.signal(number, handler)


def _first_devices(devices: Sequence[Any], count: int, kind: str) -> Sequence[Any]:
  if len(devices) < count:
    raise errors.UserError(
      f'{count} devices are to learn, but TensorFlow sees {len(devices)} of kind {kind}. Set '
      '--config.learner_devices to at most that'
    )
  return devices[:count]


def local_replicas(strategy: tf.distribute.Strategy) -> int:
  """The number of replicas in this process."""
  return len(strategy.extended.worker_devices) if strategy.num_replicas_in_sync > 1 else 1


def workers(strategy: tf.distribute.Strategy) -> int:
  """The number of learner processes."""
  return strategy.num_replicas_in_sync // local_replicas(strategy)


def shares(strategy: tf.distribute.Strategy, batch_size: int, replayed: int) -> tuple[int, int]:
  """This process's share of a batch, and of the replayed trajectories in it.

  Args:
    strategy: Made by `make_strategy`.
    batch_size: Trajectories in a batch of all learners together.
    replayed: How many of them are replayed.

  Raises:
    UserError: They cannot be divided evenly.
  """
  if batch_size % strategy.num_replicas_in_sync or replayed % workers(strategy):
    raise errors.UserError(
      f'a batch of {batch_size}, {replayed} of them replayed, cannot be divided evenly among the '
      f'{strategy.num_replicas_in_sync} devices of {workers(strategy)} learners. Set '
      '--config.batch_size to a multiple'
    )
  return batch_size // workers(strategy), replayed // workers(strategy)


def distribute(
  strategy: tf.distribute.Strategy, values: Any, split: Callable[[Any, int], Sequence[Any]]
) -> Any:
  """This process's values with a part for each of its replicas; unchanged if there is only one.

  Args:
    strategy: Made by `make_strategy`.
    values: Nested tensors.
    split: Splits values into a given number of parts.
  """
  count = local_replicas(strategy)
  if count == 1:
    return values
  # On the CPU, or every device would receive all of the values.
  with tf.device('/cpu:0'):
    parts = split(values, count)
  return strategy.experimental_distribute_values_from_function(
    lambda context: parts[context.replica_id_in_sync_group % count]
  )


def first(strategy: tf.distribute.Strategy, values: Any) -> Any:
  """The results of this process's first replica."""
  return tf.nest.map_structure(lambda x: strategy.experimental_local_results(x)[0], values)


def sums(values: _Structure) -> _Structure:
  """Sums over all replicas of nested float32 tensors, in one all-reduce. Called in a replica."""
  context = tf.distribute.get_replica_context()
  if context.num_replicas_in_sync == 1:
    return values
  # Gradients of embeddings are `tf.IndexedSlices`: they are made dense.
  flat = [tf.convert_to_tensor(x) for x in tf.nest.flatten(values)]
  total = context.all_reduce(tf.distribute.ReduceOp.SUM, parameters.flatten(flat))
  parts = tf.split(total, [x.shape.num_elements() for x in flat])
  shaped = [tf.reshape(part, x.shape) for part, x in zip(parts, flat, strict=True)]
  return tf.nest.pack_sequence_as(values, shaped)


def of_all_learners(strategy: tf.distribute.Strategy, values: _Structure) -> Sequence[_Structure]:
  """Every learner process's nested float64 tensors. Called outside replicas by all of them."""
  count = workers(strategy)
  if count == 1:
    return [values]
  local = local_replicas(strategy)

  def in_own_row(vector: tf.Tensor) -> tf.Tensor:
    # The sum over all replicas of matrices that are zero but for their own learner's row, which its
    # first replica fills.
    context = tf.distribute.get_replica_context()
    number = context.replica_id_in_sync_group
    row = tf.where(number % local == 0, number // local, -1)
    matrix = tf.one_hot(row, count, dtype=vector.dtype)[:, tf.newaxis] * vector
    return context.all_reduce(tf.distribute.ReduceOp.SUM, matrix)

  flat = tf.nest.flatten(values)
  vector = tf.concat([tf.reshape(x, [-1]) for x in flat], axis=0)
  rows = first(strategy, strategy.run(in_own_row, (vector,)))  # [learners, P]
  found = []
  for row in tf.unstack(rows, count):
    parts = tf.split(row, [x.shape.num_elements() for x in flat])
    shaped = [tf.reshape(part, x.shape) for part, x in zip(parts, flat, strict=True)]
    found.append(tf.nest.pack_sequence_as(values, shaped))
  return found


def total(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
  """The sum over all learner processes of a vector of float32. Called by all of them.

  Raises:
    UserError: A learner has gone.
  """

  def of_this_process(mine: tf.Tensor) -> tf.Tensor:
    # Its first replica stands for all of them.
    context = tf.distribute.get_replica_context()
    is_first = context.replica_id_in_sync_group % local_replicas(strategy) == 0
    part = mine if is_first else tf.zeros_like(mine)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, part)

  if workers(strategy) == 1:
    return values
  with watched(strategy):
    return first(strategy, strategy.run(of_this_process, (values,)))


def broadcast(strategy: tf.distribute.Strategy, variables: Sequence[tf.Variable]) -> None:
  """Assigns the chief's values to the variables of every learner. Called by all of them.

  Raises:
    UserError: A learner has gone.
  """

  def of_the_chief(values: tf.Tensor) -> tf.Tensor:
    # An all-reduce in which only the chief's first replica adds anything.
    context = tf.distribute.get_replica_context()
    mine = values if context.replica_id_in_sync_group == 0 else tf.zeros_like(values)
    return context.all_reduce(tf.distribute.ReduceOp.SUM, mine)

  if workers(strategy) == 1:
    return
  # One vector for all: float64 represents every float32 exactly, and counts up to 2^53.
  values = tf.concat(
    [tf.reshape(tf.cast(variable, tf.float64), [-1]) for variable in variables], axis=0
  )
  with watched(strategy):
    values = first(strategy, strategy.run(of_the_chief, (values,)))
  parts = tf.split(values, [variable.shape.num_elements() for variable in variables])
  for variable, part in zip(variables, parts, strict=True):
    variable.assign(tf.reshape(tf.cast(part, variable.dtype), variable.shape))


@contextlib.contextmanager
def watched(strategy: tf.distribute.Strategy) -> Iterator[None]:
  """Names the learner that has gone if a collective operation fails.

  To be put around everything that learners do together, the creation of variables in the
  strategy's scope included.

  Raises:
    UserError: Another learner's process or machine has gone.
  """
  try:
    yield
  except _GONE as error:
    if workers(strategy) == 1:
      raise
    raise errors.UserError(_describe_gone(strategy, error.message)) from error


def _describe_gone(strategy: tf.distribute.Strategy, message: str) -> str:
  """Which learner has gone, by the message of the collective's error."""
  # Each learner passes on the error it received: the innermost text is that of the learner which
  # noticed the silence itself.
  reason = message.rpartition('Collective ops is aborted by: ')[2].strip()
  # An error that names no task means that the chief is silent, as heartbeats go to the chief.
  task = re.search(r'/task:(\d+)', reason)
  index = int(task[1]) if task else 0
  address = strategy.cluster_resolver.cluster_spec().task_address('worker', index)
  return (
    f'learner {index + 1} of {workers(strategy)}, {address}, no longer answers '
    f'({reason.splitlines()[0]}). This run has ended: start all learners again with --resume to '
    'continue from the last checkpoint'
  )
