"""A training run: actors, queue, learner and everything that watches them, put together, and taken apart again."""

import dataclasses
import logging
import threading
import time
from typing import Iterator

import tensorflow as tf

from common import environments
from common.config import command_line
from common.distributed import cluster, parameters, queues, server, wire
from common.machine import memory, threads
from common.replay import uniform
from common.runs import games, hosting, supervisor
from impala import actor as actors
from impala import config as configs
from impala import learner as learners
from impala import networks, policy, recorder, replicas, trajectory


class Run:
  """One training run in its folder."""

  def __init__(
    self,
    config: configs.Config,
    options: command_line.Options,
    who: cluster.Cluster = cluster.Cluster(),
  ):
    """Builds all parts; starts nothing.

    Args:
      config: of the run.
      options: its folder, and whether to go on with the run in it.
      who: this process, a learner; with role `all` and no `actor_processes`, its actors are threads of it.

    Raises:
      UserError: if the settings do not fit the environment, the machine or the folder.
    """
    hosting.check(who)
    self._config = config
    self._suite = environments.load(config.env, config.environment_options())
    asked = dataclasses.replace(
      config
    )  # As actors are started with it: before numbers are resolved.
    config.fit(self._suite)
    strategy = replicas.make_strategy(config.learner_devices, who.peers, who.index)
    tf.random.set_seed(config.seed)
    with replicas.watched(strategy), strategy.scope():
      agent = networks.make_agent(config, self._suite)
    self._learner = learners.Learner(config, self._suite, agent, strategy)
    self._is_alone = replicas.workers(strategy) == 1
    self._supervisor = supervisor.Supervisor(config, options, self._learner, who.index)
    self._learner.synchronise()
    self._store = parameters.ParameterStore(self._learner.snapshot())
    self._spec = trajectory.specification(
      self._suite, config.unroll_length, self._learner.agent.initial_state(1)
    )
    self._queue = queues.StructureQueue(self._spec, config.queue_capacity)
    self._shared_policy = self._make_shared_policy() if config.dynamic_batching else None
    self.host = hosting.Host(
      who,
      'impala.train',
      asked,
      config.num_actors,
      self._suite,
      self._supervisor.folder,
      self._queue,
      wire.Codec(self._spec, trajectory.bounds(self._suite, config.num_actors)),
      self._store,
      self.frames,
      self._inference(),
    )
    self._actors = self._make_actors() if who.has_threads else []
    self._recorder = recorder.Recorder(
      config,
      self._suite,
      self._supervisor.folder,
      self._learner,
      self._queue,
      self._actors,
      self.host,
    )
    self._learner_pulse = threads.Pulse('learner')

  def train(self) -> bool:
    """Trains until `total_frames`, or until Ctrl-C or SIGTERM; saves a checkpoint at the end in any case.

    Returns:
      Whether training is finished.

    Raises:
      UserError: if something failed that the user can mend; other errors of threads as they are.
    """
    config = self._config
    logging.info(
      'Training %s for %s frames: %d actors of %d environments, batches of %d x %d steps. Folder: %s',
      config.env,
      f'{config.total_frames:,}',
      config.num_actors,
      config.envs_per_actor,
      config.batch_size,
      config.unroll_length,
      self._supervisor.folder,
    )
    finished = False
    try:
      finished = (
        self._supervisor.watch(
          self.start,
          self._recorder.base,
          self._save,
          self._learner_pulse,
          lambda: [
            *(actor.games.pulse.describe() for actor in self._actors),
            *self.host.describe(),
          ],
          self.host.look_after,
          'scripts/train',
        )
        and self.frames() >= config.total_frames
      )
    finally:
      self.host.close(finished)
    return finished

  def start(self) -> threads.Crew:
    """Starts the learner's and the actors' threads; the caller ends the crew. The learner's end stops it.

    Every graph has been run once before the first environment is made: TensorFlow's graph optimiser, which ends threads
    of its own, was seen to wait for ever for the thread of a Doom game that was started at the same moment.
    """
    config = self._config
    learner = self._learner
    learners.warm_up(learner, self._spec)
    batches = learners.batches(
      self._queue, learner.batch_size, self._make_replay(), learner.replayed
    )
    self.host.start()
    crew = threads.Crew(self._queue.close)
    crew.start('learner', lambda: self._learn(batches, crew.stop))
    for i, actor in enumerate(self._actors):
      crew.start(
        f'actor-{i}', lambda actor=actor: actor.run(self._queue.put_many, crew.stop.is_set)
      )
    return crew

  def frames(self) -> int:
    """Environment frames learned from so far."""
    return int(self._learner.frames)

  def _make_actors(self) -> list[actors.Actor]:
    config, suite = self._config, self._suite
    policies = self._make_policies()
    return [
      actors.Actor(
        i,
        suite,
        environments.assign(suite.tasks, i, config.num_actors, config.envs_per_actor),
        policies[i],
        config.unroll_length,
        games.seed_of(config.seed, i, self.frames()),
      )
      for i in range(config.num_actors)
    ]

  def _make_policies(self) -> list[policy.Policy]:
    config, suite = self._config, self._suite
    if self._shared_policy:
      return [self._shared_policy] * config.num_actors
    with tf.device('/cpu:0'):  # As in the paper, actors run on the CPU.
      return [
        policy.LocalPolicy(
          networks.make_agent(config, suite), suite, self._store, seed=config.seed + i
        )
        for i in range(config.num_actors)
      ]

  def _make_shared_policy(self) -> policy.DynamicBatchingPolicy:
    config, suite, agent = self._config, self._suite, self._learner.agent
    example = (
      policy.example_inputs(suite, config.envs_per_actor),
      agent.initial_state(config.envs_per_actor),
    )
    return policy.DynamicBatchingPolicy(
      agent,
      suite,
      lambda: int(self._learner.updates),
      example,
      config.dynamic_batch_size,
      config.dynamic_batch_timeout_ms,
      config.seed,
    )

  def _inference(self) -> server.Inference | None:
    if not self._shared_policy:
      return None
    inputs, outputs = policy.central_codecs(self._suite, self._learner.agent.initial_state(1))
    decide = lambda fields: tf.nest.flatten(self._shared_policy.decide_flat(fields))
    return server.Inference(inputs, outputs, decide, lambda: int(self._learner.updates))

  def _make_replay(self) -> uniform.UniformReplay | None:
    config = self._config
    if not config.replayed_per_batch:
      return None
    memory.check(
      lambda capacity: uniform.UniformReplay.size_in_bytes(self._spec, capacity),
      config.replay_capacity,
      'trajectories',
    )
    return uniform.UniformReplay(self._spec, config.replay_capacity)

  def _learn(self, batches: Iterator[trajectory.Trajectory], stop: threading.Event) -> None:
    """The learner's thread: updates, publication, records and checkpoints, one after the other."""
    config, learner, pulse = self._config, self._learner, self._learner_pulse
    new_frames = tf.constant(learners.count_frames(config, self._suite), tf.int64)
    while self.frames() < config.total_frames:  # Which are the same at all learners.
      pulse.enter('waiting for trajectories')
      started = time.monotonic()
      batch = None if stop.is_set() else next(batches, None)
      if batch is None:
        if not self._is_alone:
          learners.ask_to_stop(learner, self._spec)
        break
      waited = time.monotonic() - started
      pulse.enter('updating')
      update = learner.update(batch, new_frames)
      if update.stop:
        logging.info('Another learner has stopped.')
        break
      if not update.statistics['finite']:
        raise self._supervisor.non_finite(batch)
      self._store.publish(parameters.Snapshot(int(learner.updates), update.parameters))
      self._recorder.record(batch, update, waited)
      if self._supervisor.is_save_due():
        pulse.enter('saving a checkpoint')
        self._save()
    stop.set()

  def _save(self) -> None:
    self._supervisor.save(self._recorder.base)
