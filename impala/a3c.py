"""A3C: workers compute gradients, which the learner applies one by one, as they come.

A worker unrolls with a copy of the parameters, and computes the gradient of the on-policy loss with
that same copy. Meanwhile the learner may have applied others' gradients: the number of those
updates is the gradient's staleness. RMSProp's statistics are shared by all workers.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from common.distributed import parameters, queues, wire
from common.environments import suite as suites
from impala import actor as actors
from impala import batching, networks, policy, trajectory
from impala import config as configs
from impala import learner as learners

_STATISTICS = (
  'loss/policy_gradient',
  'loss/baseline',
  'loss/entropy',
  'entropy',
  'value',
  'importance_weight',
)
# Losses are sums of squared returns, each of at most `wire.LARGEST_SUM`.
_LARGEST_LOSS = 1e30


class Gradients(NamedTuple):
  """What a worker sends: the gradient of the loss, summed over one unroll of its N environments."""

  # int32 []. The worker's index.
  actor: Any
  # int64 []. Learner updates in the parameters that acted and were differentiated.
  parameter_version: Any
  # int32 []. Trajectories in the sum: N, or fewer if engines died.
  trajectories: Any
  # bool []. Whether all numbers are finite and within bounds; if not, they are zeros.
  sound: Any
  # float32 [P], as `parameters.flatten` orders them; not clipped.
  values: Any
  # float32 [] by name.
  statistics: Any
  # As in the N trajectories, for statistics: int32 [N], float32 [T+1, N] and int32 [T+1, N].
  task: Any
  episode_return: Any
  episode_length: Any


def specification(config: configs.Config, num_parameters: int) -> Gradients:
  """The `tf.TensorSpec`s of one message. The config is fitted to its environment."""
  steps = config.unroll_length + 1
  count = config.envs_per_actor
  scalar = tf.TensorSpec([], tf.float32)
  return Gradients(
    actor=tf.TensorSpec([], tf.int32),
    parameter_version=tf.TensorSpec([], tf.int64),
    trajectories=tf.TensorSpec([], tf.int32),
    sound=tf.TensorSpec([], tf.bool),
    values=tf.TensorSpec([num_parameters], tf.float32),
    statistics={name: scalar for name in (*_STATISTICS, 'loss/total')},
    task=tf.TensorSpec([count], tf.int32),
    episode_return=tf.TensorSpec([steps, count], tf.float32),
    episode_length=tf.TensorSpec([steps, count], tf.int32),
  )


def bounds(
  spec: Gradients, config: configs.Config, tasks: int, version: Callable[[], int]
) -> wire.Bounds:
  """The lowest and highest value of each field, for `wire.Codec`.

  Args:
    spec: As `specification` returns it.
    config: The run's settings.
    tasks: The number of tasks.
    version: The learner's updates so far. No gradient can be of newer parameters.
  """
  limits: wire.Bounds = {
    f'statistics.{name}': (-_LARGEST_LOSS, _LARGEST_LOSS) for name in spec.statistics
  }
  return limits | {
    'actor': (0, config.num_actors - 1),
    'parameter_version': (0, version),
    'trajectories': (1, config.envs_per_actor),
    # The squares of a billion of them still have a finite sum.
    'values': (-wire.LARGEST_SUM, wire.LARGEST_SUM),
    'task': (0, tasks - 1),
    'episode_return': (-wire.LARGEST_SUM, wire.LARGEST_SUM),
    'episode_length': (0, np.iinfo(np.int32).max),
  }


class Differentiator:
  """The gradients of one worker's unrolls, by its own copy of the parameters.

  Attributes:
    message: The `tf.TensorSpec`s of what it returns, without the leading axis.
  """

  def __init__(self, config: configs.Config, suite: suites.Suite, agent: networks.Agent):
    """Traces the graph, before environments start: see `Run.start`.

    Args:
      config: The run's settings, fitted to the environment.
      suite: The environments.
      agent: The network that acts.
    """
    # For its loss alone: its optimizer takes no step.
    self._learner = learners.Learner(config, suite, agent)
    self.message = specification(config, self._learner.num_parameters())
    self._count = config.envs_per_actor
    self._spec = trajectory.specification(suite, config.unroll_length, agent.initial_state(1))
    flat = tf.nest.flatten(self._spec)
    # M is unknown when traced: engines that die leave fewer trajectories.
    signature = [tf.TensorSpec([None, *s.shape], s.dtype) for s in flat]
    self._differentiate = tf.function(
      self._differentiate_flat, input_signature=signature, autograph=False
    )
    self(tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape], s.dtype), self._spec))

  def __call__(self, trajectories: trajectory.Trajectory) -> Gradients:
    """The gradients `[1, ...]` of an unroll's M trajectories, `[M, ...]` with M of 1 to N."""
    with tf.device('/cpu:0'):  # Like the policy.
      return self._differentiate(*tf.nest.flatten(trajectories))

  def _differentiate_flat(self, *flat: tf.Tensor) -> Gradients:
    trajectories = tf.nest.pack_sequence_as(self._spec, flat)
    batch = batching.of_unroll(trajectories)  # [T+1, M]
    gradients, loss, statistics, _ = self._learner.gradients(batch)
    # Gradients of embeddings are `tf.IndexedSlices`: they are made dense.
    values = parameters.flatten([tf.convert_to_tensor(gradient) for gradient in gradients])
    told = {name: statistics[name] for name in _STATISTICS} | {'loss/total': loss}
    # NaN is not within bounds either.
    sound = tf.reduce_all(tf.abs(values) <= wire.LARGEST_SUM)
    sound &= tf.reduce_all(tf.abs(tf.stack(list(told.values()))) <= _LARGEST_LOSS)

    def if_sound(x: tf.Tensor) -> tf.Tensor:
      return tf.where(sound, x, tf.zeros_like(x))

    message = Gradients(
      actor=batch.actor[0],
      parameter_version=batch.parameter_version[0],
      trajectories=tf.size(batch.actor),
      sound=sound,
      values=if_sound(values),
      statistics={name: if_sound(value) for name, value in told.items()},
      task=self._padded(batch.task),
      episode_return=self._padded(batch.episode_return),
      episode_length=self._padded(batch.episode_length),
    )
    return tf.nest.map_structure(lambda x: x[tf.newaxis], message)

  def _padded(self, x: tf.Tensor) -> tf.Tensor:
    """Zeros in place of trajectories that engines which died have not left: `[..., N]`."""
    missing = self._count - tf.shape(x)[-1]
    padded = tf.pad(x, [[0, 0]] * (x.shape.rank - 1) + [[0, missing]])
    return tf.ensure_shape(padded, [*x.shape[:-1], self._count])


class Worker:
  """An actor that sends gradients in place of trajectories.

  Attributes:
    games: The actor's environments, with its pulse.
    spec: The `tf.TensorSpec`s of what it sends.
  """

  def __init__(self, actor: actors.Actor, differentiate: Differentiator):
    """`differentiate`: by the parameters that the actor acts with."""
    self.games = actor.games
    self.spec = differentiate.message
    self._actor = actor
    self._differentiate = differentiate

  def run(self, put: Callable[[Gradients], None], stopped: Callable[[], bool]) -> None:
    """Works until `stopped()` or until the learner closes the queue; see `actor.Actor.run`.

    Args:
      put: Hands over the gradients of one unroll, `[1, ...]`; may wait for room.
      stopped: Whether to end.
    """

    def put_gradients(trajectories: trajectory.Trajectory) -> None:
      if not len(trajectories.actor):
        return
      self.games.pulse.enter('computing gradients')
      gradients = self._differentiate(trajectories)
      self.games.record_collected()
      put(gradients)

    self._actor.run(put_gradients, stopped)


def make_worker(
  config: configs.Config,
  suite: suites.Suite,
  index: int,
  tasks: Sequence[str],
  source: parameters.Source,
  policy_seed: int,
  seed: int,
) -> Worker:
  """Makes a worker with a network of its own.

  Args:
    config: The run's settings, fitted to the environment.
    suite: The environments.
    index: The worker's number in the run.
    tasks: The task of each of its environments.
    source: Where it gets parameters.
    policy_seed: The seed of its actions.
    seed: The seed of its environments.
  """
  with tf.device('/cpu:0'):  # As in the paper, workers run on the CPU.
    agent = networks.make_agent(config, suite)
    acting = policy.LocalPolicy(agent, suite, source, seed=policy_seed)
    differentiate = Differentiator(config, suite, agent)
  actor = actors.Actor(index, suite, tasks, acting, config.unroll_length, seed)
  return Worker(actor, differentiate)


class Arrivals:
  """Workers' gradients, each of which is an update; an `impala.material.Material`."""

  def __init__(self, config: configs.Config, suite: suites.Suite, learner: learners.Learner):
    """Makes nothing that takes memory."""
    self._config = config
    self._suite = suite
    self._learner = learner
    self.spec = specification(config, learner.num_parameters())
    self.bounds = bounds(self.spec, config, len(suite.tasks), learner.version)
    self.fresh = config.envs_per_actor
    self._frames = config.unroll_length * suite.action_repeat

  def begin(self, queue: queues.StructureQueue) -> Iterator[Gradients]:
    self.ask_to_stop()
    # Both calls for the first time now: their graphs must be optimised before environments start.
    queue.put(self._nothing())
    queue.take()
    return _taken(queue)

  @tf.function(autograph=False)
  def update(self, arrived: Gradients) -> learners.Update:
    variables = self._learner.agent.trainable_variables
    gradients = parameters.unflatten(variables, arrived.values)
    loss = arrived.statistics['loss/total']
    taken = self._learner.take_step(gradients, loss, moments=(), wanted=arrived.sound)
    taken['finite'] &= arrived.sound
    new_frames = tf.cast(arrived.trajectories * self._frames, tf.int64)
    statistics = arrived.statistics | taken
    return self._learner.conclude(statistics, new_frames, tf.constant(False), sums={})

  def drop(self, arrived: Gradients) -> None:
    """There is no replay that holds them."""

  def ask_to_stop(self) -> None:
    """Applies nothing: there is one learner."""
    self.update(self._nothing())

  def _nothing(self) -> Gradients:
    """A message that is not applied: it is not sound."""
    return tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), self.spec)

  def told(self, arrived: Gradients) -> Gradients:
    return arrived

  def actors(self, arrived: Gradients) -> np.ndarray:
    return np.atleast_1d(arrived.actor.numpy())

  def describe(self, arrived: Gradients) -> str:
    tasks = {self._suite.tasks[task] for task in arrived.task.numpy()}
    return f'gradients of actor {int(arrived.actor)} ({", ".join(sorted(tasks))})'


def put_one(queue: queues.StructureQueue, gradients: Gradients) -> None:
  """Puts the gradients `[1, ...]` of a worker of this process, without copying them."""
  with tf.device('/cpu:0'):  # Where they are.
    queue.put(tf.nest.map_structure(lambda x: x[0], gradients))


def _taken(queue: queues.StructureQueue) -> Iterator[Gradients]:
  """What is taken from a queue until it is closed."""
  while True:
    try:
      yield queue.take()
    except queues.QueueClosed:
      return
