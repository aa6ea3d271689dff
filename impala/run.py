"""A training run of IMPALA.

actors -> queue -> batches (with replay) or A3C's gradients -> learner -> parameters
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import tensorflow as tf

from common import environments
from common.config import command_line
from common.distributed import cluster, inference, intake, parameters, queues, wire
from common.environments import in_step
from common.machine import threads
from common.runs import dropping, games, hosting
from common.runs import recorder as recorders
from common.runs import run as runs
from common.runs import system as systems
from impala import (
  a3c,
  architectures,
  lag,
  material,
  members,
  networks,
  policy,
  recorder,
  replicas,
  turns,
)
from impala import actor as actors
from impala import config as configs
from impala import learner as learners


class Run(runs.Run):
  """One learner's part of a run: the learner's thread, and actors as threads or processes."""

  def __init__(
    self,
    system: systems.System,
    config: configs.Config,
    options: command_line.Options,
    who: cluster.Cluster = cluster.Cluster(),
  ):
    """Builds all parts; starts nothing.

    Args:
      system: IMPALA.
      config: The run's settings.
      options: The run's folder, and whether to resume the run in it.
      who: This process's role and its peers' addresses. With role `all` and no actor processes, the
        actors are threads.

    Raises:
      UserError: If the settings do not fit the environment, the machine or the folder.
    """
    hosting.check(who)
    architectures.check_place(config, who)
    self._config = config
    self._suite = environments.load(config.env, config.environment_options())
    # What remote actors get, and what their own command lines must agree with. A copy, because
    # `fit` resolves numbers that depend on the tasks.
    asked = dataclasses.replace(config)
    config.fit(self._suite, actors=0 if who.role == 'learner' else None)
    # Before the folder is made, like every refusal: several learners must share the actors evenly.
    cluster.assignments(who, config.num_actors)
    strategy = replicas.make_strategy(
      config.learner_devices, who.peers, who.index, who.trusted_network
    )
    # Before the agent, whose initial parameters depend on it.
    tf.random.set_seed(config.seed)
    with replicas.watched(strategy), strategy.scope():
      agent = networks.make_agent(config, self._suite)
    self._learner = learners.Learner(config, self._suite, agent, strategy)
    self._is_only_learner = replicas.workers(strategy) == 1
    # Before the folder is made: memory may be too small for the replay, or for a policy lag.
    self._material = self._make_material()
    lag.check_memory(max(0, config.policy_lag), self._learner.num_parameters())
    self._member: members.Member | None = None
    if config.population:
      # Before the folder is made: outside of a population it is refused.
      self._member = members.Member(
        self._suite, self._learner, strategy, options.run_dir, who.index, self.save
      )
    # Restores the first learner if the run is resumed; the others then get its variables.
    super().__init__(config, options, self._learner, who.index)
    if not config.population:
      # Flags may have changed them, and without a population nothing else does.
      self._learner.hyperparameters.follow(config)
    self._learner.synchronise()

    self._store = parameters.ParameterStore(self._learner.snapshot())
    self._lagged_store = self._make_lagged_store()
    # A full queue blocks the actors, which bounds the policy lag.
    self.queue = queues.StructureQueue(self._material.spec, config.queue_capacity)
    self._turns = self._make_turns()
    # Made before the host, which lets remote actors use it too.
    self._shared_policy = self._make_shared_policy() if config.dynamic_batching else None
    self.host = self._make_host(system, asked, who)
    if who.has_threads:
      self.actors = self._make_actors()
    supply = recorders.Supply(queue=self.queue, actors=self.actors, host=self.host)
    self._recorder = recorder.Recorder(
      config, self._suite, self.supervisor.folder, self._learner, supply, self._material.fresh
    )
    self.recorder = self._recorder.base
    self._drops = dropping.Drops(self.supervisor.folder, self._learner)
    self.taker = threads.Pulse('learner')

  def summary(self) -> str:
    config = self._config
    return (
      f'Training {config.env} by {config.architecture} for {config.total_frames:,} frames: '
      f'{config.num_actors} actors of {config.envs_per_actor} environments, batches of '
      f'{config.batch_size} x {config.unroll_length} steps, torso {config.torso_for(self._suite)}.'
    )

  def warm_up(self) -> None:
    self._batches = self._material.begin(self.queue)

  def start_threads(self, crew: threads.Crew) -> None:
    crew.patience = self._suite.closing_seconds
    # Handed over: the pipeline and its prefetched batch end with the thread.
    batches = self._batches
    del self._batches
    crew.start('learner', functools.partial(self.learn, batches, crew.stop))

  def put(self, elements: Any) -> None:
    if self._turns:
      self._turns.put(elements)
    else:
      super().put(elements)

  def close_queues(self) -> None:
    self.queue.close()
    if self._turns:
      self._turns.close()

  def _make_material(self) -> material.Material:
    if self._config.architecture == 'a3c':
      return a3c.Arrivals(self._config, self._suite, self._learner)
    return material.Trajectories(self._config, self._suite, self._learner)

  def _make_lagged_store(self) -> lag.LaggedStore | None:
    if self._config.policy_lag <= 0:
      return None
    return lag.LaggedStore(self._learner.snapshot(), self._config.policy_lag)

  def _make_turns(self) -> turns.Turns | None:
    """Has this process's actors wait for the learner, if the architecture says so."""
    config = self._config
    if config.architecture == 'a3c':
      put = functools.partial(a3c.put_one, self.queue)
      return turns.Turns(put, config.num_actors, share=1)
    if architectures.is_synchronous(config):
      # All environments are one actor's if they are in step.
      together = config.num_actors if config.architecture == 'a2c_sync_step' else 1
      share = config.envs_per_actor * together
      return turns.Turns(self.queue.put_many, config.num_actors // together, share)
    return None

  def _make_host(
    self, system: systems.System, asked: configs.Config, who: cluster.Cluster
  ) -> hosting.Host:
    # Those of a synchronous run are threads, so that there is no place for others.
    num_actors = 0 if architectures.is_synchronous(self._config) else self._config.num_actors
    description = hosting.RunDescription(
      program=f'{system.name}.train',
      config=asked,
      num_actors=num_actors,
      tasks=self._suite.tasks,
      folder=self.supervisor.folder,
    )
    codec = wire.Codec(self._material.spec, self._material.bounds)
    arrivals = intake.Intake(queue=self.queue, codec=codec, store=self._store)
    return hosting.Host(who, description, arrivals, self.frames, self._inference())

  def _make_actors(self) -> list[systems.Actor]:
    config = self._config
    suite = self._suite
    tasks = [
      environments.assign(suite.tasks, i, config.num_actors, config.envs_per_actor)
      for i in range(config.num_actors)
    ]
    if config.architecture == 'a2c_sync_step':
      # One actor steps the environments of all, those of each in a thread.
      suite = dataclasses.replace(suite, make=in_step.making(suite.make, config.num_actors))
      tasks = [list(itertools.chain(*tasks))]
    # Depends on the frames, so that a resumed run does not repeat episodes.
    seeds = [games.seed_of(config.seed, i, self.frames()) for i in range(len(tasks))]
    return [
      self._make_actor(i, suite, own, seed)
      for i, (own, seed) in enumerate(zip(tasks, seeds, strict=True))
    ]

  def _make_actor(
    self, index: int, suite: environments.Suite, tasks: Sequence[str], seed: int
  ) -> systems.Actor:
    config = self._config
    policy_seed = config.seed + index
    if config.architecture == 'a3c':
      return a3c.make_worker(config, suite, index, tasks, self._store, policy_seed, seed)
    acting = self._shared_policy or self._make_policy(policy_seed)
    return actors.Actor(index, suite, tasks, acting, config.unroll_length, seed)

  def _make_policy(self, seed: int) -> policy.Policy:
    """The policy of one actor, where actors do not share one."""
    source = self._lagged_store or self._store
    with tf.device('/cpu:0'):  # As in the paper, actors run on the CPU.
      agent = networks.make_agent(self._config, self._suite)
      return policy.LocalPolicy(agent, self._suite, source, seed)

  def _make_shared_policy(self) -> policy.DynamicBatchingPolicy:
    config = self._config
    return policy.DynamicBatchingPolicy(
      self._learner.agent,
      self._suite,
      self._learner.version,
      config.dynamic_batch_size,
      config.dynamic_batch_timeout_ms,
      config.seed,
    )

  def _inference(self) -> inference.Inference | None:
    """With dynamic batching, computes actions for remote actors; they hold no parameters."""
    shared = self._shared_policy
    if not shared:
      return None
    inputs, outputs = policy.central_codecs(self._suite, self._learner.agent.initial_state(1))

    def decide(fields: Any) -> list[tf.Tensor]:
      return tf.nest.flatten(shared.decide_flat(fields))

    return inference.Inference(inputs, outputs, decide, self._learner.version)

  def learn(self, batches: Iterator[Any], stop: threading.Event) -> None:
    """The learner's thread: updates, publishes parameters, records and saves, in turn."""
    # All learners count the same frames, so they end after the same update.
    while self.frames() < self._config.total_frames:
      self.taker.enter('waiting for trajectories')
      with self.recorder.timed('learner_wait_share'):
        batch = None if stop.is_set() else next(batches, None)
      if batch is None:
        # The others would wait for this learner's gradients forever.
        if not self._is_only_learner:
          self._material.ask_to_stop()
        break

      self.taker.enter('updating')
      update = self._material.update(batch)
      # Nothing was learned from the batch.
      if update.stop:
        logging.info('Another learner has stopped.')
        break
      if self._is_applied(batch, update):
        told = self._material.told(batch)
        self._publish(update.parameters)
        self._recorder.record(told, update)
        if self._member:
          self._member.count(told)
          self._member.evolve_if_due()
      if self._turns:
        self._turns.end(self._material.actors(batch))
      if self.supervisor.is_save_due():
        self.taker.enter('saving a checkpoint')
        self.save()
    stop.set()

  def _publish(self, values: tf.Tensor) -> None:
    snapshot = parameters.Snapshot(self._learner.version(), values)
    self._store.publish(snapshot)
    if self._lagged_store:
      self._lagged_store.publish(snapshot)

  def _is_applied(self, batch: Any, update: learners.Update) -> bool:
    """Whether an update was applied. If not, its batch is dropped, and is not replayed again.

    All learners have the same results of the update, so they decide alike.

    Raises:
      NonFiniteLoss: If too many were dropped in a row.
      NonFiniteParameters: If the parameters are not finite.
    """
    if update.statistics['finite'] and update.parameters_finite:
      self._drops.end_row()
      return True
    told = self._material.told(batch)
    origin = f'{self._material.describe(batch)}, of {self._config.env}'
    if not update.parameters_finite:
      raise self._drops.end_run(told, origin)
    self._recorder.record_drop()
    self._drops.add(told, origin)
    self._material.drop(batch)
    return False
