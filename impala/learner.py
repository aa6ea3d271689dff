"""The learner: batches of trajectories to parameters (IMPALA, sections 3 and 4)."""

from typing import Iterator, NamedTuple

import tensorflow as tf

from common import optimizers
from common.distributed import parameters, queues
from common.environments import suite as suites
from common.replay import uniform
from common.runs import counters
from impala import config as configs
from impala import losses, networks, replicas, rewards, trajectory, vtrace

_MEANS = (
  'entropy',
  'value',
  'importance_weight',
)  # Of the statistics: over all steps. The losses are sums.
_TIMELESS = frozenset({'actor', 'parameter_version', 'task', 'core_state'})


class Update(NamedTuple):
  """What one update tells: scalars by name, the parameters after it as one vector, whether a learner asked to stop."""

  statistics: dict[str, tf.Tensor]
  parameters: tf.Tensor
  stop: tf.Tensor  # bool []: then the update has changed nothing.


class Learner(counters.Counters):
  """The agent, its optimizer and the counters; all of it is in a checkpoint.

  Of several synchronous learners (section 3), each has all of that: they add up their gradients, and so take the same
  steps as one learner would with all of their trajectories in one batch.
  """

  def __init__(
    self,
    config: configs.Config,
    suite: suites.Suite,
    agent: networks.Agent,
    strategy: tf.distribute.Strategy | None = None,
  ):
    """Makes the optimizer and the counters.

    Args:
      config: its `batch_size` and `replayed_per_batch` are those of all learners together.
      suite: the environments.
      agent: what learns; its variables are made in the scope of the strategy.
      strategy: of `replicas.make_strategy`; none: one learner on one device.

    Raises:
      UserError: if a batch cannot be shared out evenly, or a learner has gone.
    """
    super().__init__('learner')
    self._config, self._suite, self.agent = config, suite, agent
    self._strategy = strategy or tf.distribute.get_strategy()
    # This process's part of a batch, and how many of it are replayed.
    self.batch_size, self.replayed = replicas.shares(
      self._strategy, config.batch_size, config.replayed_per_batch
    )
    self._optimizer = optimizers.RMSProp(
      config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )
    with replicas.watched(self._strategy), self._strategy.scope():
      self._optimizer.create_slots(agent.trainable_variables)

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(
      int(self.updates), parameters.flatten(self.agent.trainable_variables)
    )

  def synchronise(self) -> None:
    """Gives all learners what the first one has restored: the others need no checkpoint. Called by all of them.

    Raises:
      UserError: if a learner has gone.
    """
    replicas.broadcast(self._strategy, self.variables)

  def update(
    self, batch: trajectory.Trajectory, new_frames: tf.Tensor, stop: bool = False
  ) -> Update:
    """Takes one step on a batch, together with all other learners, which wait for each other.

    A batch whose loss or gradients are not finite changes nothing at any learner: `finite` in the statistics is then
    false. Nor does one with which any learner asks to stop. Statistics are those of all learners' batches together.

    Args:
      batch: `[T+1, B]`, where B is `self.batch_size`.
      new_frames: int64 `[]`, environment frames in the batches of all learners that were not replayed.
      stop: whether this learner asks all to stop. It then has to bring a batch too, but any will do.

    Raises:
      UserError: if a learner has gone.
    """
    with replicas.watched(self._strategy):
      return self._update(batch, new_frames, tf.constant(stop))

  @tf.function
  def _update(self, batch, new_frames, stop) -> Update:
    statistics, stop = replicas.first(
      self._strategy,
      self._strategy.run(self._step, (replicas.distribute(self._strategy, batch, split), stop)),
    )
    if statistics['finite'] & ~stop:
      self.updates.assign_add(1)
      self.frames.assign_add(new_frames)
    return Update(statistics, parameters.flatten(self.agent.trainable_variables), stop)

  def _step(
    self, batch: trajectory.Trajectory, stop: tf.Tensor
  ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """One replica's part of an update."""
    variables, replicas_in_sync = (
      self.agent.trainable_variables,
      self._strategy.num_replicas_in_sync,
    )
    with tf.GradientTape() as tape:
      loss, statistics = self.loss(batch)
    gradients, loss, statistics, stops = replicas.sums(
      (tape.gradient(loss, variables), loss, statistics, tf.cast(stop, tf.float32))
    )
    statistics |= {
      name: statistics[name] / replicas_in_sync for name in _MEANS
    }  # Of shares of equal size.
    gradients, norm = optimizers.clip_by_global_norm(gradients, self._config.max_gradient_norm)
    learning_rate = optimizers.linear_decay(
      self._config.learning_rate, self.frames, self._config.total_frames
    )
    finite, stop = tf.math.is_finite(loss) & tf.math.is_finite(norm), stops > 0
    if finite & ~stop:
      self._optimizer.apply(gradients, variables, learning_rate)
    statistics |= {
      'loss/total': loss,
      'gradient_norm': norm,
      'learning_rate': learning_rate,
      'finite': finite,
    }
    return statistics, stop

  def loss(self, batch: trajectory.Trajectory) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """Policy gradient + baseline cost x baseline + entropy cost x entropy, summed over `[T, B]` (section 4.2)."""
    config = self._config
    inputs = networks.AgentInput(
      trajectory.restacked_observation(self._suite, batch),
      batch.last_action,
      batch.reward,
      batch.done,
    )
    output, _ = self.agent.unroll(inputs, batch.core_state)
    # The environment answers one step later: the reward and the end for the action at t stand at entry t + 1.
    actions, step_rewards, done = batch.last_action[1:], batch.reward[1:], batch.done[1:]
    logits, values, bootstrap_value = (
      output.policy_logits[:-1],
      output.values[:-1],
      output.values[-1],
    )
    discounts = config.discount * tf.cast(tf.logical_not(done), tf.float32)
    clipped_rewards = rewards.clip(step_rewards, config.reward_clipping)
    log_rhos = vtrace.log_importance_weights(batch.behaviour_logits, logits, actions)
    returns = corrected_returns(
      config, log_rhos, discounts, clipped_rewards, values, bootstrap_value
    )
    epsilon = config.log_epsilon if config.correction == 'epsilon' else 0.0
    policy_gradient = losses.policy_gradient_loss(logits, actions, returns.pg_advantages, epsilon)
    baseline = losses.baseline_loss(values, returns.vs)
    entropy = losses.entropy_loss(logits)
    total = policy_gradient + config.baseline_cost * baseline + config.entropy_cost * entropy
    steps = tf.cast(tf.size(values), tf.float32)
    return total, {
      'loss/policy_gradient': policy_gradient,
      'loss/baseline': baseline,
      'loss/entropy': entropy,
      'entropy': -entropy / steps,
      'value': tf.reduce_sum(values) / steps,
      'importance_weight': tf.reduce_sum(tf.exp(tf.minimum(log_rhos, 20.0))) / steps,
    }


def corrected_returns(
  config: configs.Config, log_rhos, discounts, step_rewards, values, bootstrap_value
) -> vtrace.VTraceReturns:
  """The value targets and advantages by the correction of the config (section 5.2.2)."""
  log_rhos = tf.stop_gradient(log_rhos)
  steps = (discounts, step_rewards, values, bootstrap_value)
  if config.correction == 'vtrace':
    return vtrace.from_importance_weights(
      log_rhos,
      *steps,
      config.clip_rho_threshold,
      config.clip_c_threshold,
      config.clip_pg_rho_threshold,
      config.lambda_,
      config.pg_bootstrap,
    )
  if config.correction == 'one_step':
    return vtrace.one_step_importance_sampling(log_rhos, *steps, config.clip_pg_rho_threshold)
  return vtrace.no_correction(*steps)  # 'none' and 'epsilon', which differ in the loss only.


def warm_up(learner: Learner, spec: trajectory.Trajectory) -> None:
  """Traces and optimises `update` on a batch that changes nothing. Called by all learners."""
  ask_to_stop(learner, spec)


def ask_to_stop(learner: Learner, spec: trajectory.Trajectory) -> None:
  """Takes part in an update for which there is no batch, and which changes nothing: all learners stop at it."""
  zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
  learner.update(
    stack_trajectories([zeros] * learner.batch_size), tf.constant(0, tf.int64), stop=True
  )


def batches(
  queue: queues.StructureQueue, batch_size: int, replay: uniform.UniformReplay | None, replayed: int
) -> Iterator[trajectory.Trajectory]:
  """Batches `[T+1, B]`, the next one put together while the learner works on the last; ends when the queue is closed.

  Args:
    queue: of single trajectories.
    batch_size: B.
    replay: where new trajectories go to and `replayed` of a batch come from; None for no replay.
    replayed: the number of a batch's trajectories, its last ones, that are drawn from the replay.
  """

  def next_batch(_):
    fresh = [queue.dequeue() for _ in range(batch_size - replayed)]
    if replay:
      replay.add(tf.nest.map_structure(lambda *x: tf.stack(x), *fresh))
      drawn = replay.sample(replayed)
      fresh += [tf.nest.map_structure(lambda x, i=i: x[i], drawn) for i in range(replayed)]
    return stack_trajectories(fresh)

  options = tf.data.Options()
  options.autotune.enabled = False
  dataset = tf.data.Dataset.range(1).repeat().map(next_batch).prefetch(1).with_options(options)
  iterator = iter(dataset)  # Now, not at the first `next`: see `Run.start`.

  def until_closed():
    try:
      yield from iterator
    except tf.errors.OpError:
      if not queue.is_closed():  # The pipeline wraps the queue's own error in others.
        raise

  return until_closed()


def stack_trajectories(trajectories: list[trajectory.Trajectory]) -> trajectory.Trajectory:
  """One batch of single trajectories: the batch axis goes after the time's, in front of what has no time."""

  def stacked(axis):
    return lambda *x: tf.stack(x, axis=axis)

  return trajectory.Trajectory(
    **{
      name: tf.nest.map_structure(
        stacked(0 if name in _TIMELESS else 1), *[getattr(t, name) for t in trajectories]
      )
      for name in trajectory.Trajectory._fields
    }
  )


def split(batch: trajectory.Trajectory, count: int) -> list[trajectory.Trajectory]:
  """A batch `[T+1, B]` as so many batches `[T+1, B / count]`, in their order."""

  def parts(name: str) -> list:
    values = getattr(batch, name)
    cut = [tf.split(x, count, axis=0 if name in _TIMELESS else 1) for x in tf.nest.flatten(values)]
    return [tf.nest.pack_sequence_as(values, part) for part in zip(*cut)] or [
      values
    ] * count  # Maybe no core state.

  return [
    trajectory.Trajectory(*part)
    for part in zip(*map(parts, trajectory.Trajectory._fields), strict=True)
  ]


def count_frames(config: configs.Config, suite: suites.Suite) -> int:
  """New environment frames in one batch: replayed trajectories do not count again."""
  return (
    (config.batch_size - config.replayed_per_batch) * config.unroll_length * suite.action_repeat
  )
