"""The learner: batches of trajectories in, parameters out (IMPALA, sections 3 and 4)."""

from typing import Mapping, NamedTuple, Sequence

import tensorflow as tf

from common import control_flow, normalization, optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.runs import counters
from impala import actions as acting
from impala import (
  adapted,
  batching,
  losses,
  networks,
  popart,
  replicas,
  rewards,
  tally,
  trajectory,
  vtrace,
)
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
    hyperparameters: Those that a population adapts.
    tally: The episodes that a member of a population is measured by; None for other runs.
  """

  # Checkpoints of version 0.2 lack them; a run that resumes from one takes its config's values.
  ADDED = ('hyperparameters',)

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
    self.hyperparameters = adapted.Hyperparameters(config)
    self.tally = tally.Tally(len(suite.tasks)) if config.population else None
    self._optimizer = optimizers.RMSProp(
      config.rmsprop_decay, config.rmsprop_epsilon, config.rmsprop_momentum
    )
    with replicas.watched(self._strategy), self._strategy.scope():
      self._optimizer.create_slots(agent.trainable_variables)
      self._popart = (
        popart.PopArt(len(suite.tasks), config.popart_step_size) if config.popart else None
      )

  def version(self) -> int:
    """The number of updates so far."""
    return int(self.updates)

  def num_parameters(self) -> int:
    """P, the number of trained parameters."""
    return sum(variable.shape.num_elements() for variable in self.agent.trainable_variables)

  def snapshot(self) -> parameters.Snapshot:
    """The current parameters, for publication before the first update."""
    return parameters.Snapshot(
      version=self.version(), values=parameters.flatten(parameters.published(self.agent))
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

  @tf.function(autograph=False)
  def _update(self, batch: trajectory.Trajectory, new_frames: tf.Tensor, stop: tf.Tensor) -> Update:
    parts = replicas.distribute(self._strategy, batch, batching.split)
    results = self._strategy.run(self._step, (parts, stop))
    statistics, stop = replicas.first(self._strategy, results)
    return self.conclude(statistics, new_frames, stop, self._sums(batch))

  def conclude(
    self,
    statistics: dict[str, tf.Tensor],
    new_frames: tf.Tensor,
    stop: tf.Tensor,
    sums: Mapping[str, normalization.Sums],
  ) -> Update:
    """Counts an update, if its statistic `finite` is true and nobody stops; returns its result.

    Args:
      statistics: Of the step, by name.
      new_frames: int64 `[]`.
      stop: bool `[]`, whether any learner asked to stop.
      sums: Of all learners' new experience, for the running statistics; empty without.
    """

    def count() -> None:
      self.updates.assign_add(1)
      self.frames.assign_add(new_frames)
      # After the step: it saw what the parameters' own version saw when it acted.
      if self.agent.normalizer and sums:
        self.agent.normalizer.merge(sums)

    control_flow.do_if(statistics['finite'] & ~stop, count)
    values = parameters.flatten(parameters.published(self.agent))
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
    gradients, loss, statistics, moments = self.gradients(batch)
    gradients, loss, statistics, moments, stops = replicas.sums(
      (gradients, loss, statistics, moments, tf.cast(stop, tf.float32))
    )
    # All replicas have shares of equal size, so the mean of their means is the overall mean.
    num_replicas = self._strategy.num_replicas_in_sync
    statistics |= {name: statistics[name] / num_replicas for name in _MEANS}

    any_stop = stops > 0
    # The sum is clipped, not each replica's part: as for one learner with the whole batch.
    statistics |= self.take_step(gradients, loss, moments, ~any_stop)
    return statistics | self._popart_statistics(), any_stop

  def gradients(
    self, batch: trajectory.Trajectory
  ) -> tuple[list[tf.Tensor], tf.Tensor, dict[str, tf.Tensor], popart.Moments | tuple[()]]:
    """The gradients of the loss of a batch `[T+1, B]`, and what `_loss` returns."""
    with tf.GradientTape() as tape:
      loss, statistics, moments = self._loss(batch)
    return tape.gradient(loss, self.agent.trainable_variables), loss, statistics, moments

  def take_step(
    self,
    gradients: Sequence[tf.Tensor],
    loss: tf.Tensor,
    moments: popart.Moments | tuple[()],
    wanted: tf.Tensor,
  ) -> dict[str, tf.Tensor]:
    """Takes one step, if it is wanted and loss and gradients are finite.

    Args:
      gradients: One for each variable, not clipped.
      loss: float32 `[]`.
      moments: For PopArt; without PopArt, ().
      wanted: bool `[]`.

    Returns:
      Statistics of the step by name.
    """
    hyperparameters = self.hyperparameters
    variables = self.agent.trainable_variables
    gradients, norm = optimizers.clip_by_global_norm(gradients, hyperparameters.max_gradient_norm)
    learning_rate = hyperparameters.learning_rate_at(self.frames)
    finite = tf.math.is_finite(loss) & tf.math.is_finite(norm)

    def step() -> None:
      self._optimizer.apply(gradients, variables, learning_rate, hyperparameters.rmsprop_epsilon)
      if self._popart and moments:
        self._popart.update(moments, self.agent.value_head)

    control_flow.do_if(finite & wanted, step)
    return {
      'loss/total': loss,
      'gradient_norm': norm,
      'learning_rate': learning_rate,
      'finite': finite,
    }

  def _sums(self, batch: trajectory.Trajectory) -> dict[str, normalization.Sums]:
    """Of all learners' new experience `[T+1, B]`, for the running statistics, if there are any."""
    normalizer = self.agent.normalizer
    if not normalizer:
      return {}
    values = {**batch.observation, normalization.RETURN: batch.discounted_return}
    # Replayed trajectories, the last ones, were counted when they were new; so was entry 0, with
    # the unroll before.
    new = self.batch_size - self.replayed
    sums = normalizer.sums({name: values[name][1:, :new] for name in normalizer.parts})
    first, *others = replicas.of_all_learners(self._strategy, sums)
    for learners_sums in others:
      first = {name: normalization.combined(first[name], learners_sums[name]) for name in first}
    return first

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
    entropy_cost = self.hyperparameters.entropy_cost
    total = policy_gradient + config.baseline_cost * baseline + entropy_cost * entropy

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
    """Value targets and advantages `[T, B]`, by the config's correction.

    Rewards are normalised, then clipped, if the config says so.
    """
    config = self._config
    # Nothing is bootstrapped across the end of an episode. Time limits count as ends, as in the
    # authors' released code.
    discounts = config.discount * tf.cast(tf.logical_not(steps.done), tf.float32)
    return vtrace.corrected_returns(
      config.correction,
      log_rhos,
      discounts,
      rewards.clip(self.agent.rewards(steps.rewards), config.reward_clipping),
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
