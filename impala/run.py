"""A training run of IMPALA.

actors -> queue -> batches (with replay) -> learner -> parameters
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import threading
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from common import environments
from common.config import command_line
from common.distributed import cluster, inference, intake, parameters, queues, wire
from common.machine import memory, threads
from common.replay import uniform
from common.runs import dropping, games, hosting
from common.runs import recorder as recorders
from common.runs import run as runs
from common.runs import system as systems
from impala import actor as actors
from impala import batching, members, networks, policy, recorder, replicas, trajectory
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
    self._config = config
    self._suite = environments.load(config.env, config.environment_options())
    # What remote actors get, and what their own command lines must agree with. A copy, because
    # `fit` resolves numbers that depend on the tasks.
    asked = dataclasses.replace(config)
    config.fit(self._suite)
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
    self._spec = trajectory.specification(
      self._suite, config.unroll_length, self._learner.agent.initial_state(1)
    )
    # Before the folder is made: memory may be too small for the replay.
    self._replay = self._make_replay()
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
    # A full queue blocks the actors, which bounds the policy lag.
    self.queue = queues.StructureQueue(self._spec, config.queue_capacity)
    # Made before the host, which lets remote actors use it too.
    self._shared_policy = self._make_shared_policy() if config.dynamic_batching else None
    self.host = self._make_host(system, asked, who)
    if who.has_threads:
      self.actors = self._make_actors()
    supply = recorders.Supply(queue=self.queue, actors=self.actors, host=self.host)
    self._recorder = recorder.Recorder(
      config, self._suite, self.supervisor.folder, self._learner, supply
    )
    self.recorder = self._recorder.base
    self._drops = dropping.Drops(self.supervisor.folder, self._learner)
    self.taker = threads.Pulse('learner')

  def summary(self) -> str:
    config = self._config
    return (
      f'Training {config.env} for {config.total_frames:,} frames: {config.num_actors} actors of '
      f'{config.envs_per_actor} environments, batches of {config.batch_size} x '
      f'{config.unroll_length} steps, torso {config.torso_for(self._suite)}.'
    )

  def warm_up(self) -> None:
    learners.warm_up(self._learner, self._spec)
    if self._replay:
      self._replay.remove(tf.zeros([0], tf.int64))
    # The input pipeline is a graph too. It starts here, and waits for trajectories.
    self._batches = batching.from_queue(
      self.queue, self._learner.batch_size, self._replay, self._learner.replayed
    )

  def start_threads(self, crew: threads.Crew) -> None:
    # Handed over: the pipeline and its prefetched batch end with the thread.
    batches = self._batches
    del self._batches
    crew.start('learner', functools.partial(self.learn, batches, crew.stop))

  def close_queues(self) -> None:
    self.queue.close()

  def _make_host(
    self, system: systems.System, asked: configs.Config, who: cluster.Cluster
  ) -> hosting.Host:
    num_actors = self._config.num_actors
    description = hosting.RunDescription(
      program=f'{system.name}.train',
      config=asked,
      num_actors=num_actors,
      tasks=self._suite.tasks,
      folder=self.supervisor.folder,
    )
    bounds = trajectory.bounds(self._spec, self._suite, num_actors, self._learner_version)
    codec = wire.Codec(self._spec, bounds)
    arrivals = intake.Intake(queue=self.queue, codec=codec, store=self._store)
    return hosting.Host(who, description, arrivals, self.frames, self._inference())

  def _make_actors(self) -> list[actors.Actor]:
    config = self._config
    suite = self._suite
    made = []
    for i, acting in enumerate(self._make_policies()):
      tasks = environments.assign(suite.tasks, i, config.num_actors, config.envs_per_actor)
      # Depends on the frames, so that a resumed run does not repeat episodes.
      seed = games.seed_of(config.seed, i, self.frames())
      made.append(actors.Actor(i, suite, tasks, acting, config.unroll_length, seed))
    return made

  def _make_policies(self) -> list[policy.Policy]:
    """A policy for each actor of this process; with dynamic batching, all share one."""
    config = self._config
    if self._shared_policy:
      return [self._shared_policy] * config.num_actors
    with tf.device('/cpu:0'):  # As in the paper, actors run on the CPU.
      return [
        policy.LocalPolicy(
          networks.make_agent(config, self._suite), self._suite, self._store, seed=config.seed + i
        )
        for i in range(config.num_actors)
      ]

  def _make_shared_policy(self) -> policy.DynamicBatchingPolicy:
    config = self._config
    return policy.DynamicBatchingPolicy(
      self._learner.agent,
      self._suite,
      self._learner_version,
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

    return inference.Inference(inputs, outputs, decide, self._learner_version)

  def _learner_version(self) -> int:
    return int(self._learner.updates)

  def _make_replay(self) -> uniform.UniformReplay | None:
    config = self._config
    if not config.replayed_per_batch:
      return None

    def size(capacity: int) -> int:
      return uniform.UniformReplay.size_in_bytes(self._spec, capacity)

    memory.check(size, config.replay_capacity, 'trajectories')
    return uniform.UniformReplay(self._spec, config.replay_capacity)

  def learn(self, batches: Iterator[batching.Batch], stop: threading.Event) -> None:
    """The learner's thread: updates, publishes parameters, records and saves, in turn."""
    config = self._config
    learner = self._learner
    new_frames = tf.constant(batching.new_frames(config, self._suite), tf.int64)
    # All learners count the same frames, so they end after the same update.
    while self.frames() < config.total_frames:
      self.taker.enter('waiting for trajectories')
      with self.recorder.timed('learner_wait_share'):
        batch = None if stop.is_set() else next(batches, None)
      if batch is None:
        # The others would wait for this learner's gradients forever.
        if not self._is_only_learner:
          learners.ask_to_stop(learner, self._spec)
        break

      self.taker.enter('updating')
      update = learner.update(batch.trajectories, new_frames)
      # Nothing was learned from the batch.
      if update.stop:
        logging.info('Another learner has stopped.')
        break
      if not self._is_applied(batch, update):
        continue

      self._store.publish(parameters.Snapshot(self._learner_version(), update.parameters))
      self._recorder.record(batch.trajectories, update)
      if self._member:
        self._member.count(batch.trajectories)
        self._member.evolve_if_due()
      if self.supervisor.is_save_due():
        self.taker.enter('saving a checkpoint')
        self.save()
    stop.set()

  def _is_applied(self, batch: batching.Batch, update: learners.Update) -> bool:
    """Whether an update was applied. If not, its batch is dropped, and is not replayed again.

    All learners have the same results of the update, so they decide alike.

    Raises:
      NonFiniteLoss: If too many were dropped in a row.
      NonFiniteParameters: If the parameters are not finite.
    """
    if update.statistics['finite'] and update.parameters_finite:
      self._drops.end_row()
      return True
    named = batching.origins(batch.trajectories, self._suite.tasks)
    origin = f'{named}, of {self._config.env}'
    if not update.parameters_finite:
      raise self._drops.end_run(batch.trajectories, origin)
    self._recorder.record_drop()
    self._drops.add(batch.trajectories, origin)
    if self._replay:
      self._replay.remove(batch.serials)
    return False
