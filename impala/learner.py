"""The learner: batches of trajectories in, parameters out (IMPALA, sections 3 and 4)."""

from typing import NamedTuple, Sequence

import tensorflow as tf

from common import optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.runs import counters
from impala import actions as acting
from impala import batching, losses, networks, popart, replicas, rewards, trajectory, vtrace
from impala import config as configs

# Statistics that are means over all steps; losses are sums.
_MEANS = ('entropy', 'value', 'importance_weight')
# exp(20) is 5e8: larger importance weights are infinite or hide all others in a mean.
_LARGEST_LOG_RHO = 20.0


class Update(NamedTuple):
  """The result of one update.

  Attributes:
    statistics: By name, float32 `[]`; `finite` is bool `[]`.
    parameters: The parameters after the update as one vector, float32 `[P]`.
    parameters_finite: bool `[]`, whether all of them are finite.
    stop: bool `[]`, whether any learner asked to stop; the update has then changed nothing.
  """

  statistics: dict[str, tf.Tensor]
  parameters: tf.Tensor
  parameters_finite: tf.Tensor
  stop: tf.Tensor


class Learner(counters.Counters):
  """The agent, its optimizer and the counters, which together are a checkpoint.

  With several synchronous learners (section 3) each holds all of them. They sum their gradients, so
  they take the steps that one learner would take with all their trajectories in one batch.

  Attributes:
    agent: The network being trained.
    batch_size: This process's share of a batch, in trajectories.
    replayed: How many of that share are replayed.
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
      config: The run's settings. Its batch size is that of all learners together.
      suite: The environments.
      agent: The network to train, its variables made in the strategy's scope.
      strategy: Made by `replicas.make_strategy`; None for one learner on one device.

    Raises:
      UserError: A batch cannot be divided evenly, or a learner has gone.
    """
    super().__init__('learner')
    self._config = config
    self._suite = suite
    self._sizes = acting.sizes_of(suite.action_space)
    self.agent = agent
    self._strategy = strategy or tf.distribute.get_strategy()
    self.batch_size, self.replayed = replicas.shares(
      self._strategy, config.batch_size, config.replayed_per_batch
    )
    self._optimizer = optimizers.RMSProp(
      config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )
    with replicas.watched(self._strategy), self._strategy.scope():
      self._optimizer.create_slots(agent.trainable_variables)
      self._popart = (
        popart.PopArt(len(suite.tasks), config.popart_step_size) if config.popart else None
      )

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(
      version=int(self.updates), values=parameters.flatten(self.agent.trainable_variables)
    )

  def synchronise(self) -> None:
    """Broadcasts the first learner's restored variables to every learner. Called by all of them.

    Raises:
      UserError: A learner has gone.
    """
    replicas.broadcast(self._strategy, self.variables)

  def update(
    self, batch: trajectory.Trajectory, new_frames: tf.Tensor, stop: bool = False
  ) -> Update:
    """Takes one step on a batch, in lockstep with all other learners.

    Nothing changes at any learner if the loss or the gradients are not finite (the statistic
    `finite` is then false), or if any learner asks to stop. Statistics are those of all learners'
    batches together.

    Args:
      batch: `[T+1, B]`, where B is `self.batch_size`.
      new_frames: int64 `[]`, environment frames in all learners' batches that were not replayed.
      stop: Whether this learner asks all of them to stop. Any batch will do then.

    Raises:
      UserError: A learner has gone.
    """
    with replicas.watched(self._strategy):
      return self._update(batch, new_frames, tf.constant(stop))

  @tf.function
  def _update(self, batch: trajectory.Trajectory, new_frames: tf.Tensor, stop: tf.Tensor) -> Update:
    parts = replicas.distribute(self._strategy, batch, batching.split)
    results = self._strategy.run(self._step, (parts, stop))
    statistics, stop = replicas.first(self._strategy, results)
    if statistics['finite'] & ~stop:
      self.updates.assign_add(1)
      self.frames.assign_add(new_frames)
    values = parameters.flatten(self.agent.trainable_variables)
    return Update(
      statistics=statistics,
      parameters=values,
      # The loss need not show it: TensorFlow's fused ReLU turns NaN into 0 on CPUs.
      parameters_finite=tf.reduce_all(tf.math.is_finite(values)),
      stop=stop,
    )

  def _step(
    self, batch: trajectory.Trajectory, stop: tf.Tensor
  ) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """One replica's part of an update.

    Returns:
      Statistics of all replicas' batches together, and whether any learner asked to stop.
    """
    variables = self.agent.trainable_variables
    with tf.GradientTape() as tape:
      loss, statistics, moments = self._loss(batch)
    gradients, loss, statistics, moments, stops = replicas.sums(
      (tape.gradient(loss, variables), loss, statistics, moments, tf.cast(stop, tf.float32))
    )
    # All replicas have shares of equal size, so the mean of their means is the overall mean.
    num_replicas = self._strategy.num_replicas_in_sync
    statistics |= {name: statistics[name] / num_replicas for name in _MEANS}

    # The sum is clipped, not each replica's part: as for one learner with the whole batch.
    gradients, norm = optimizers.clip_by_global_norm(gradients, self._config.max_gradient_norm)
    learning_rate = optimizers.linear_decay(
      self._config.learning_rate, self.frames, self._config.total_frames
    )
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)
    any_stop = stops > 0
    if finite & ~any_stop:
      self._optimizer.apply(gradients, variables, learning_rate)
      if self._popart and moments:
        self._popart.update(moments, self.agent.value_head)
    statistics |= {
      'loss/total': loss,
      'gradient_norm': norm,
      'learning_rate': learning_rate,
      'finite': finite,
    }
    return statistics | self._popart_statistics(), any_stop

  def loss(self, batch: trajectory.Trajectory) -> tuple[tf.Tensor, dict[str, tf.Tensor]]:
    """The loss of section 4.2, summed over time and batch, and statistics by name.

    policy gradient loss + baseline_cost x baseline loss + entropy_cost x entropy loss.

    Args:
      batch: `[T+1, B]`.
    """
    total, statistics, _ = self._loss(batch)
    return total, statistics

  def _loss(
    self, batch: trajectory.Trajectory
  ) -> tuple[tf.Tensor, dict[str, tf.Tensor], popart.Moments | tuple[()]]:
    """`loss`, and the moments of the value targets for PopArt; without PopArt, ()."""
    config = self._config
    output = self._unroll(batch)  # [T+1, B]
    steps = trajectory.aligned(batch)  # [T, B]
    # In units of the task's scale with PopArt, in those of rewards without.
    learned_values = self._of_own_task(output.values, batch.task)  # [T+1, B]
    all_values = self._in_rewards(learned_values, batch.task)
    # x_T is there for its value alone: what was done at it comes with the next unroll.
    logits = output.policy_logits[:-1]  # [T, B, A]
    values = all_values[:-1]  # [T, B]
    bootstrap_value = all_values[-1]  # [B]

    log_rhos = vtrace.log_importance_weights(
      batch.behaviour_logits, logits, steps.actions, self._sizes
    )
    returns = self._returns(log_rhos, steps, values, bootstrap_value)
    moments = self._popart.moments(returns.vs, batch.task) if self._popart else ()
    returns = self._in_scales(returns, batch.task)

    epsilon = config.log_epsilon if config.correction == 'epsilon' else 0.0
    policy_gradient = losses.policy_gradient_loss(
      logits, steps.actions, returns.pg_advantages, epsilon, self._sizes
    )
    baseline = losses.baseline_loss(learned_values[:-1], returns.vs)
    entropy = losses.entropy_loss(logits, self._sizes)
    total = policy_gradient + config.baseline_cost * baseline + config.entropy_cost * entropy

    num_steps = tf.cast(tf.size(values), tf.float32)  # T x B
    rhos = tf.exp(tf.minimum(log_rhos, _LARGEST_LOG_RHO))
    statistics = {
      'loss/policy_gradient': policy_gradient,
      'loss/baseline': baseline,
      'loss/entropy': entropy,
      'entropy': -entropy / num_steps,
      'value': tf.reduce_sum(values) / num_steps,
      'importance_weight': tf.reduce_sum(rhos) / num_steps,
    }
    return total, statistics, moments

  def _of_own_task(self, values: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    return self._popart.select(values, task) if self._popart else values

  def _in_rewards(self, values: tf.Tensor, task: tf.Tensor) -> tf.Tensor:
    return self._popart.unnormalised(values, task) if self._popart else values

  def _in_scales(self, returns: vtrace.VTraceReturns, task: tf.Tensor) -> vtrace.VTraceReturns:
    """Targets and advantages in units of each task's scale."""
    if not self._popart:
      return returns
    return vtrace.VTraceReturns(
      vs=self._popart.normalised(returns.vs, task),
      pg_advantages=self._popart.scaled(returns.pg_advantages, task),
    )

  def _popart_statistics(self) -> dict[str, tf.Tensor]:
    """The mean and the scale of each task's value targets."""
    if not self._popart:
      return {}
    columns = popart_columns(self._suite.tasks)
    means = tf.unstack(tf.convert_to_tensor(self._popart.mean))
    return dict(zip(columns, [*means, *tf.unstack(self._popart.scale())], strict=True))

  def _unroll(self, batch: trajectory.Trajectory) -> networks.AgentOutput:
    """The agent's outputs at all entries, `[T+1, B]`, from the core state that the actor sent."""
    inputs = networks.AgentInput(
      observation=trajectory.restacked_observation(self._suite, batch),
      last_action=batch.last_action,
      reward=batch.reward,
      done=batch.done,
    )
    output, _ = self.agent.unroll(inputs, batch.core_state)
    return output

  def _returns(
    self,
    log_rhos: tf.Tensor,
    steps: trajectory.AlignedSteps,
    values: tf.Tensor,
    bootstrap_value: tf.Tensor,
  ) -> vtrace.VTraceReturns:
    """Value targets and advantages `[T, B]`, from clipped rewards, by the config's correction."""
    config = self._config
    # Nothing is bootstrapped across the end of an episode. Time limits count as ends, as in the
    # authors' released code.
    discounts = config.discount * tf.cast(tf.logical_not(steps.done), tf.float32)
    return vtrace.corrected_returns(
      config.correction,
      log_rhos,
      discounts,
      rewards.clip(steps.rewards, config.reward_clipping),
      values,
      bootstrap_value,
      clip_rho_threshold=config.clip_rho_threshold,
      clip_c_threshold=config.clip_c_threshold,
      clip_pg_rho_threshold=config.clip_pg_rho_threshold,
      lambda_=config.lambda_,
      pg_bootstrap=config.pg_bootstrap,
    )


def popart_columns(tasks: Sequence[str]) -> list[str]:
  """The names of PopArt's statistics: the mean of each task, then the scale of each."""
  return [f'popart/{kind}/{task}' for kind in ('mean', 'scale') for task in tasks]


def warm_up(learner: Learner, spec: trajectory.Trajectory) -> None:
  """Traces and optimises the graph of `update`, changing nothing. Called by every learner."""
  ask_to_stop(learner, spec)


def ask_to_stop(learner: Learner, spec: trajectory.Trajectory) -> None:
  """Takes part in an update without a batch, which changes nothing; every learner stops at it."""
  zeros = tf.nest.map_structure(lambda s: tf.zeros(s.shape, s.dtype), spec)
  batch = batching.stack([zeros] * learner.batch_size)
  learner.update(batch, tf.constant(0, tf.int64), stop=True)
