"""A training run of Ape-X.

actors -> queue -> writer -> replay -> sampler -> queue -> learner -> priorities, parameters
"""

from __future__ import annotations

import contextlib
import functools
import logging
import threading

import numpy as np
import tensorflow as tf

from apex import actor as actors
from apex import algorithms, recorder, transitions
from apex import config as configs
from apex import learner as learners
from apex import replay as replays
from common import environments, errors
from common.config import command_line
from common.distributed import cluster, intake, parameters, queues, wire
from common.machine import threads
from common.replay import pacing, saving, storage, structures
from common.runs import dropping, games, hosting
from common.runs import recorder as recorders
from common.runs import run as runs
from common.runs import system as systems

_BLOCKS_AT_ONCE = 16  # The most blocks added to the replay in one call.
_MAX_REFUSED = 200  # Blocks in a row, before the run gives up.


class Run(runs.Run):
  """The learner's process: writer, sampler, learner and saver threads, and perhaps the actors.

  Attributes:
    learner: Updates the networks, and holds the counters.
    replay: The transitions.
    ratio: Makes writer and sampler wait for each other.
  """

  def __init__(
    self,
    system: systems.System,
    config: configs.Config,
    options: command_line.Options,
    who: cluster.Cluster = cluster.Cluster(),
  ):
    """Builds all parts; starts nothing.

    Args:
      system: Ape-X.
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
    config.check_environment(self._suite)
    tf.random.set_seed(config.seed)
    # Before the folder is created: memory may be too small for the replay.
    self.replay = replays.make(config, self._suite)
    self.learner = learners.Learner(config, self._suite)
    super().__init__(config, options, self.learner)
    self._warn_if_nothing_is_learned()

    self.ratio = pacing.ReplayRatio(config.replay_ratio, config.min_replay, config.batch_size)
    self._saver = self._make_saver()
    if options.resume and self._saver:
      self._restore_replay()

    self._store = parameters.ParameterStore(self.learner.snapshot())
    spec = transitions.specification(self._suite, config.block_length, config.n_step)
    self.queue = queues.StructureQueue(spec, config.queue_capacity)
    # Batches sampled ahead, so that the learner does not wait for the replay.
    self._samples = queues.StructureQueue(
      self.replay.sample_spec(config.batch_size), config.prefetch
    )

    self.host = self._make_host(system, who)
    if who.has_threads:
      self.actors = self._make_actors()
    self._recorder = self._make_recorder()
    self.recorder = self._recorder.base
    self.taker = threads.Pulse('writer')
    self._sampler = threads.Pulse('sampler')
    self._learning = threads.Pulse('learner')
    self.pulses = (self.taker, self._sampler, self._learning)
    self._refused_in_a_row = 0
    self._filling = replays.Filling(config, self.replay)
    self._drops = dropping.Drops(self.supervisor.folder, self.learner)
    # The learner's thread sets it after each checkpoint; the saver's thread waits for it.
    self._is_replay_save_due = threading.Event()
    self._saved_updates = int(self.learner.updates)

  def summary(self) -> str:
    config = self._config
    return (
      f'Training {config.env} for {config.total_frames:,} frames: {config.num_actors} actors of '
      f'{config.envs_per_actor} environments, a replay of {config.replay_capacity:,} transitions, '
      f'batches of {config.batch_size}, torso {config.torso_for(self._suite)}. Learning starts at '
      f'{config.min_replay:,} transitions.'
    )

  def warm_up(self) -> None:
    self.replay.warm_up()
    learners.warm_up(self.learner, self.replay.sample_spec(self._config.batch_size))

  def start_threads(self, crew: threads.Crew) -> None:
    crew.start('learner', functools.partial(self._learn, crew.stop))
    crew.start('sampler', self._draw)
    crew.start('writer', functools.partial(self._write, crew.stop))
    if self._saver:
      crew.start('saver', functools.partial(self._save_replay, self._saver, crew.stop))

  def close_queues(self) -> None:
    for part in (self.queue, self._samples, self.ratio):
      part.close()
    # Wakes the saver, which then sees that the crew stops.
    self._is_replay_save_due.set()

  def save(self) -> None:
    """Saves a checkpoint, then the replay if `checkpoint_replay`.

    Raises:
      UserError: If either cannot be written at the end of the run.
    """
    # Only called at the end of the run. During training the two are saved by different threads.
    self.learner.merge_gathered()
    updates = self.supervisor.save(self.recorder)
    if not self._saver:
      return
    try:
      self._saver.save(updates)
    except OSError as error:
      raise errors.UserError(
        f'the replay cannot be written: {error}. The checkpoint is saved; to continue from it with '
        'an empty replay, use --resume --nocheckpoint_replay'
      ) from error

  def _write(self, stop: threading.Event) -> None:
    """The writer's thread: moves transitions from the queue to the replay."""
    config = self._config
    while self.frames() < config.total_frames:
      self.taker.enter('waiting to hold the replay ratio')
      self.ratio.await_insert()
      self.taker.enter('waiting for transitions')
      # All that have arrived, at least one: adding many blocks at once is cheaper.
      arrived = self.queue.take_many(min(max(1, self.queue.size()), _BLOCKS_AT_ONCE))

      self.taker.enter('adding transitions')
      arrived = self._without_refused(arrived)
      self.learner.gather(arrived)
      inserted = 0
      for _ in range(config.replicas):
        inserted += replays.insert(config, self.replay, arrived)
      self.ratio.add_inserted(inserted, self.replay.size())
      self._filling.record(config.replicas * len(arrived.block.priority))
      # Copies are not new experience (Figure 6).
      new_transitions = inserted // config.replicas
      self.learner.frames.assign_add(new_transitions * self._suite.action_repeat)
      self._recorder.record_arrival(arrived, inserted)
    stop.set()

  def _without_refused(self, arrived: transitions.Shipment) -> transitions.Shipment:
    """Drops blocks with values that are not finite; logs their environments.

    Raises:
      UserError: If only such blocks have arrived for long.
    """
    bad = structures.refused(arrived.block)  # bool [M]
    if bad.all():
      self._refused_in_a_row += len(bad)
    else:
      self._refused_in_a_row = 0
    for i in np.flatnonzero(bad):
      name = self._name(int(arrived.environment[i]))
      fields = structures.not_finite(tf.nest.map_structure(lambda x, i=i: x[i], arrived.block))
      logging.warning(
        'A block of %s, is refused: not all of its numbers are finite (%s).',
        name,
        ', '.join(fields),
      )
      self._recorder.record_refusal()
      if self._refused_in_a_row > _MAX_REFUSED:
        raise errors.UserError(
          f'the last {self._refused_in_a_row} blocks were all refused, the latest of {name}: not '
          f'all of their numbers are finite. Do rewards or observations of {self._config.env} '
          'hold NaN?'
        )
    if not bad.any():
      return arrived
    return tf.nest.map_structure(lambda x: x[~bad], arrived)  # [M', ...]

  def _name(self, environment: int) -> str:
    """Names an environment by its number among those of all actors."""
    if environment == storage.UNKNOWN:
      return 'an environment that is no longer known'
    actor = environment // self._config.envs_per_actor
    return f'environment {environment} ({self._suite.tasks[0]}), of actor {actor}'

  def _draw(self) -> None:
    """The sampler's thread: samples batches ahead of the learner."""
    batch_size = self._config.batch_size
    # Ends with QueueClosed when the queues are closed.
    while True:
      self._sampler.enter('waiting for transitions, or holding the replay ratio')
      self.ratio.await_sample(batch_size)

      self._sampler.enter('drawing')
      sample = self.replay.sample(batch_size)
      self._sampler.enter('waiting for the learner')
      self._samples.put(sample)

  def _learn(self, stop: threading.Event) -> None:
    """The learner's thread (Algorithm 2): updates, sets priorities, removes to fit, saves."""
    learner = self.learner
    while not stop.is_set():
      self._learning.enter('waiting for samples')
      # The time until the replay holds `min_replay` is not waiting.
      is_filled = self.ratio.is_filled()
      with self.recorder.timed('learner_wait_share') if is_filled else contextlib.nullcontext():
        sample = self._samples.take()

      self._learning.enter('updating')
      learner.merge_gathered()
      update = learner.update(sample)
      if not self._is_applied(sample, update):
        self._discard()
        continue

      # Late: transitions that left the replay after they were sampled.
      late = self.replay.update_priorities(sample.leaf, sample.stamp, update.priorities)
      updates = int(learner.updates)
      self._store.publish(parameters.Snapshot(updates, update.parameters))
      # Periodically, as in Algorithm 2; until then the replay may exceed its soft capacity.
      if updates % self._config.remove_period == 0:
        self.replay.remove_to_fit()

      self._recorder.record_update(sample, update, late)
      if self.supervisor.is_save_due():
        self._learning.enter('saving a checkpoint')
        # The replay takes long to write, so another thread does that.
        self._saved_updates = self.supervisor.save(self.recorder)
        self._is_replay_save_due.set()

  def _is_applied(self, sample: structures.Sample, update: learners.Update) -> bool:
    """Whether an update was applied. If not, its culprits leave the replay, unless all are.

    Raises:
      NonFiniteLoss: If too many samples were dropped in a row.
      NonFiniteParameters: If the parameters are not finite.
    """
    if update.statistics['finite'] and update.parameters_finite:
      self._drops.end_row()
      return True
    culprits = learners.culprits(update)
    leaf = sample.leaf[culprits]
    stamp = sample.stamp[culprits]
    names = [self._name(int(number)) for number in self.replay.origins(leaf, stamp)]
    origin = f'transitions of {dropping.listed(names)}, of {self._config.env}'
    if not update.parameters_finite:
      raise self._drops.end_run(sample, origin)
    self._recorder.record_drop()
    self._drops.add(sample, origin)
    # If all of them are at fault, the parameters are, and not the transitions.
    if not culprits.all():
      self.replay.remove(leaf, stamp)
      # Below the minimum, sampling waits until it is filled again.
      self.ratio.add_inserted(0, self.replay.size())
    return False

  def _discard(self) -> None:
    """Discards samples that were drawn before a removal: they may hold what was removed."""
    self._learning.enter('waiting for samples')
    # One more than the queue holds: the sampler may have drawn it and wait for room.
    for _ in range(self._samples.size() + 1):
      self._samples.take()

  def _save_replay(self, saver: saving.Saver, stop: threading.Event) -> None:
    """The saver's thread: saves the replay after each checkpoint while training continues."""
    while True:
      self._is_replay_save_due.wait()
      self._is_replay_save_due.clear()
      if stop.is_set():
        return
      try:
        # Given up when the run ends, since `save` then saves a later state.
        saver.save(self._saved_updates, given_up=stop.is_set)
      except OSError as error:
        logging.warning(
          'NOT SAVED: the replay cannot be written: %s. Training continues; the next attempt is at '
          'the next checkpoint.',
          error,
        )

  def _make_host(self, system: systems.System, who: cluster.Cluster) -> hosting.Host:
    config = self._config
    description = hosting.RunDescription(
      program=f'{system.name}.train',
      config=config,
      num_actors=config.num_actors,
      tasks=self._suite.tasks,
      folder=self.supervisor.folder,
    )
    spec = transitions.specification(self._suite, config.block_length, config.n_step)
    codec = wire.Codec(
      spec, transitions.bounds(config, self._suite, lambda: int(self.learner.updates))
    )
    arrivals = intake.Intake(queue=self.queue, codec=codec, store=self._store)
    return hosting.Host(who, description, arrivals, self.frames)

  def _make_recorder(self) -> recorder.Recorder:
    supply = recorders.Supply(queue=self.queue, actors=self.actors, host=self.host)
    return recorder.Recorder(
      config=self._config,
      suite=self._suite,
      folder=self.supervisor.folder,
      learner=self.learner,
      replay=self.replay,
      ratio=self.ratio,
      supply=supply,
    )

  def _make_saver(self) -> saving.Saver | None:
    if not self._config.checkpoint_replay:
      return None
    return saving.Saver(self.replay, self.supervisor.folder / 'replay')

  def _restore_replay(self) -> None:
    """Fills the replay from the run's folder; warns if it does not match the checkpoint."""
    updates = saving.restore(self.replay, self.supervisor.folder / 'replay')
    restored = int(self.learner.updates)
    if updates is None:
      logging.warning('No replay was saved with this run: it is filled anew.')
    # Happens if the process was killed between the two saves.
    elif updates != restored:
      logging.warning(
        'The replay was saved at update %d, the checkpoint at update %d.', updates, restored
      )
    # Nothing is inserted, but the minimum may be held already.
    self.ratio.add_inserted(0, self.replay.size())

  def _make_actors(self) -> list[actors.Actor]:
    config = self._config
    suite = self._suite
    # Ape-X learns a single task.
    tasks = [suite.tasks[0]] * config.envs_per_actor
    make_policy = algorithms.module(config).make_policy
    made = []
    for i in range(config.num_actors):
      # Depends on the frames, so that a resumed run does not repeat episodes.
      seed = games.seed_of(config.seed, i, self.frames())
      policy = make_policy(config, suite, self._store, i, seed)
      made.append(actors.Actor(i, suite, tasks, policy, config, seed))
    return made

  def _warn_if_nothing_is_learned(self) -> None:
    """Warns of a run that ends before learning starts."""
    config = self._config
    if config.total_frames < config.min_replay * self._suite.action_repeat:
      logging.warning(
        'Nothing will be learned: the run ends at %s frames, before the replay holds the %s '
        'transitions at which learning starts.',
        f'{config.total_frames:,}',
        f'{config.min_replay:,}',
      )
