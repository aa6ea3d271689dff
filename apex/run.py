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
from apex import algorithms, desk, recorder, sampler, transitions, writer
from apex import config as configs
from apex import learner as learners
from apex import replay as replays
from common import environments, errors
from common.config import command_line
from common.distributed import cluster, intake, parameters, queues, wire
from common.machine import memory, threads
from common.replay import pacing, saving, structures
from common.runs import dropping, evaluating, games, hosting
from common.runs import recorder as recorders
from common.runs import run as runs
from common.runs import system as systems


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
    self._drops = dropping.Drops(self.supervisor.folder, self.learner)
    self._writer = writer.Writer(
      config, self._suite, self.learner, self.queue, self.replay, self.ratio, self._drops
    )
    self._sampler = sampler.Sampler(config, self.replay, self.ratio)
    self._evaluator = self._make_evaluator(system, who)

    self.host = self._make_host(system, who)
    if who.has_threads:
      self.actors = self._make_actors()
    self._recorder = self._make_recorder()
    self.recorder = self._recorder.base
    self.taker = self._writer.pulse
    self._learning = threads.Pulse('learner')
    self.pulses = (self.taker, self._sampler.pulse, self._learning)
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
    foreseen = replays.foreseen_bytes(self._config, self._suite, self.replay)
    logging.info(
      'This process takes %.2f GB, and about %.2f GB when the replay is full; %.1f GB are free.',
      memory.resident() / 1e9,
      foreseen / 1e9,
      memory.available() / 1e9,
    )

  def start_threads(self, crew: threads.Crew) -> None:
    crew.patience = self._suite.closing_seconds
    crew.start('learner', functools.partial(self._learn, crew.stop))
    crew.start('sampler', functools.partial(self._sampler.run, self._recorder.record_late))
    crew.start('writer', functools.partial(self._writer.run, self._recorder, crew.stop))
    if self._evaluator:
      period = self._config.evaluator_frames
      place = desk.Desk(period, self.frames, self._store, self.supervisor.folder, crew.stop)
      self.pulses = (*self.pulses, place.pulse)
      crew.start('evaluator', functools.partial(self._evaluator.run, place, place.begin))
    if self._saver:
      crew.start('saver', functools.partial(self._save_replay, self._saver, crew.stop))

  def close_queues(self) -> None:
    for part in (self.queue, self._sampler, self.ratio):
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
    self._sampler.flush()
    try:
      self._saver.save(updates)
    except OSError as error:
      raise errors.UserError(
        f'the replay cannot be written: {error}. The checkpoint is saved; to continue from it with '
        'an empty replay, use --resume --nocheckpoint_replay'
      ) from error

  def _learn(self, stop: threading.Event) -> None:
    """The learner's thread (Algorithm 2): updates, sets priorities, removes to fit, saves."""
    learner = self.learner
    while not stop.is_set():
      self._learning.enter('waiting for samples')
      # The time until the replay holds `min_replay` is not waiting.
      is_filled = self.ratio.is_filled()
      with self.recorder.timed('learner_wait_share') if is_filled else contextlib.nullcontext():
        sample = self._sampler.take()

      self._learning.enter('updating')
      learner.merge_gathered()
      update = learner.update(sample)
      if not self._is_applied(sample, update):
        self._learning.enter('waiting for samples')
        self._sampler.discard()
        continue

      self._sampler.change(structures.Priorities(sample.leaf, sample.stamp, update.priorities))
      updates = int(learner.updates)
      self._store.publish(parameters.Snapshot(updates, update.parameters))
      # Periodically, as in Algorithm 2; until then the replay may exceed its soft capacity.
      if updates % self._config.remove_period == 0:
        self.replay.remove_to_fit()

      self._recorder.record_update(sample, update)
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
    origins = self.replay.origins(leaf, stamp)
    names = [replays.name_of(int(number), self._config, self._suite) for number in origins]
    origin = f'transitions of {dropping.listed(names)}, of {self._config.env}'
    if not update.parameters_finite:
      raise self._drops.end_run(sample, origin)
    self._recorder.record_drop()
    self._drops.add(sample, origin)
    # If all of a batch are at fault, the parameters are; but a few transitions of the highest
    # priorities may be drawn again and again, until they are the whole batch.
    are_few = len(np.unique(leaf)) < self._config.batch_size / 2
    if are_few or not culprits.all():
      self.replay.remove(leaf, stamp)
      # Below the minimum, sampling waits until it is filled again.
      self.ratio.add_inserted(0, self.replay.size())
    return False

  def _make_evaluator(
    self, system: systems.System, who: cluster.Cluster
  ) -> evaluating.Evaluator | None:
    """None if no evaluation is asked for, or if roles are processes: evaluators are one."""
    if not self._config.evaluator_frames or who.role != 'all':
      return None
    seed = games.seed_of(self._config.seed, self.frames(), self._config.num_actors)
    return evaluating.Evaluator(system, self._config, self._suite, seed)

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
      policy = make_policy(config, suite, self._store, i, seed, self.frames)
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
