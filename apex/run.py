"""A training run: actors, replay, learner and everything that watches them, put together, and taken apart again."""

import logging
import threading
import time

import tensorflow as tf

from apex import actor as actors
from apex import algorithms, recorder, remote, transitions
from apex import config as configs
from apex import learner as learners
from common import environments, errors
from common.config import command_line
from common.distributed import cluster, parameters, queues
from common.machine import memory, threads
from common.replay import pacing, prioritized, saving
from common.runs import games, hosting, supervisor

_BLOCKS_AT_ONCE = 16  # At most so many are added to the replay together.
_MAX_REFUSED = 200  # In a row.


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
      who: this process, the learner; with role `all` and no `actor_processes`, its actors are threads of it.

    Raises:
      UserError: if the settings do not fit the environment, the machine or the folder.
    """
    hosting.check(who)
    self._config = config
    self._suite = environments.load(config.env, config.environment_options())
    config.check_environment(self._suite)
    tf.random.set_seed(config.seed)
    self.replay = make_replay(config, self._suite)
    self.learner = learners.Learner(config, self._suite)
    self._supervisor = supervisor.Supervisor(config, options, self.learner)
    if config.total_frames < config.min_replay * self._suite.action_repeat:
      logging.warning(
        'Nothing will be learned: the run ends at %s frames, before the replay holds the %s transitions '
        'at which learning starts.',
        f'{config.total_frames:,}',
        f'{config.min_replay:,}',
      )
    self.ratio = pacing.ReplayRatio(config.replay_ratio, config.min_replay, config.batch_size)
    self._saver = (
      saving.Saver(self.replay, self._supervisor.folder / 'replay')
      if config.checkpoint_replay
      else None
    )
    if options.resume and config.checkpoint_replay:
      self._restore_replay()
    self._store = parameters.ParameterStore(self.learner.snapshot())
    self._arrivals = queues.StructureQueue(
      transitions.specification(self._suite, config.block_length, config.n_step),
      config.queue_capacity,
    )
    self._samples = queues.StructureQueue(
      self.replay.sample_spec(config.batch_size), config.prefetch
    )
    self.host = hosting.Host(
      who,
      'apex.train',
      config,
      config.num_actors,
      self._suite,
      self._supervisor.folder,
      self._arrivals,
      remote.codec(config, self._suite),
      self._store,
      self.frames,
    )
    self._actors = self._make_actors() if who.has_threads else []
    self._recorder = recorder.Recorder(
      config,
      self._suite,
      self._supervisor.folder,
      self.learner,
      self.replay,
      self.ratio,
      self._arrivals,
      self._actors,
      self.host,
    )
    self._refused_in_a_row = 0
    self._save_replay_now, self._saved_updates = threading.Event(), int(self.learner.updates)
    self._pulses = {name: threads.Pulse(name) for name in ('writer', 'sampler', 'learner')}

  def train(self) -> bool:
    """Trains until `total_frames`, or until Ctrl-C or SIGTERM; saves a checkpoint at the end in any case.

    Returns:
      Whether training is finished.

    Raises:
      UserError: if something failed that the user can mend; other errors of threads as they are.
    """
    config = self._config
    logging.info(
      'Training %s for %s frames: %d actors of %d environments, a replay of %s transitions, batches of %d. '
      'Learning starts at %s transitions. Folder: %s',
      config.env,
      f'{config.total_frames:,}',
      config.num_actors,
      config.envs_per_actor,
      f'{config.replay_capacity:,}',
      config.batch_size,
      f'{config.min_replay:,}',
      self._supervisor.folder,
    )
    finished = False
    try:
      finished = self._supervisor.watch(
        self.start,
        self._recorder.base,
        self._save,
        self._pulses['writer'],
        self._describe,
        self.host.look_after,
        'python -m apex.train',
      )
    finally:
      self.host.close(finished)
    return finished

  def start(self) -> threads.Crew:
    """Starts all threads; the caller ends the crew. The end of training stops it.

    Every graph has been run once before the first environment is made: TensorFlow's graph optimiser, which ends threads
    of its own, was seen to wait for ever for the thread of a game that was started at the same moment.
    """
    self.replay.warm_up()
    learners.warm_up(self.learner, self.replay.sample_spec(self._config.batch_size))
    self.host.start()
    crew = threads.Crew(self._close)
    crew.start('learner', lambda: self._learn(crew))
    crew.start('sampler', self._draw)
    crew.start('writer', lambda: self._write(crew))
    if self._saver:
      crew.start('saver', lambda: self._save_replay(crew))
    for i, actor in enumerate(self._actors):
      crew.start(
        f'actor-{i}', lambda actor=actor: actor.run(self._arrivals.put_many, crew.stop.is_set)
      )
    return crew

  def frames(self) -> int:
    """Environment frames that actors have sent so far."""
    return int(self.learner.frames)

  def _describe(self) -> list[str]:
    pulses = [*(actor.games.pulse for actor in self._actors), *self._pulses.values()]
    return [*(pulse.describe() for pulse in pulses), *self.host.describe()]

  def _write(self, crew: threads.Crew) -> None:
    """The writer's thread: from the queue into the replay."""
    config, pulse = self._config, self._pulses['writer']
    while self.frames() < config.total_frames:
      pulse.enter('holding the replay ratio')
      self.ratio.await_insert()
      pulse.enter('waiting for transitions')
      arrived = self._arrivals.take_many(min(max(1, self._arrivals.size()), _BLOCKS_AT_ONCE))
      pulse.enter('adding transitions')
      arrived = self._without_refused(arrived)
      inserted = sum(insert(config, self.replay, arrived.block) for _ in range(config.replicas))
      self.ratio.add_inserted(inserted, self.replay.size())
      self.learner.frames.assign_add(inserted // config.replicas * self._suite.action_repeat)
      self._recorder.record_arrival(arrived, inserted)
    crew.stop.set()

  def _without_refused(self, arrived: transitions.Shipment) -> transitions.Shipment:
    """Leaves out blocks with numbers that are not finite, and names their environments.

    Raises:
      UserError: if nothing else has come for long.
    """
    bad = prioritized.refused(arrived.block)
    self._refused_in_a_row = 0 if not bad.all() else self._refused_in_a_row + len(bad)
    for number in arrived.environment.numpy()[bad]:
      name = f'environment {number}, of actor {number // self._config.envs_per_actor}'
      logging.warning('A block of %s, is refused: not all of its numbers are finite.', name)
      self._recorder.record_refusal()
      if self._refused_in_a_row > _MAX_REFUSED:
        raise errors.UserError(
          f'the last {self._refused_in_a_row} blocks were all refused, at last one of {name}: not all of their '
          f'numbers are finite. Do rewards or observations of {self._config.env} hold NaN?'
        )
    return tf.nest.map_structure(lambda x: x[~bad], arrived) if bad.any() else arrived

  def _draw(self) -> None:
    """The sampler's thread: draws batches ahead of the learner."""
    config, pulse = self._config, self._pulses['sampler']
    while True:
      pulse.enter('waiting for transitions, or holding the replay ratio')
      self.ratio.await_sample(config.batch_size)
      pulse.enter('drawing')
      sample = self.replay.sample(config.batch_size)
      pulse.enter('waiting for the learner')
      self._samples.put(sample)

  def _learn(self, crew: threads.Crew) -> None:
    """The learner's thread: updates, priorities, publication, removals, records, checkpoints, one after the other."""
    config, learner, pulse = self._config, self.learner, self._pulses['learner']
    while not crew.stop.is_set():
      pulse.enter('waiting for samples')
      started, filled = time.monotonic(), self.ratio.is_filled()
      sample = self._samples.take()
      waited = time.monotonic() - started if filled else 0.0
      pulse.enter('updating')
      update = learner.update(sample)
      if not update.statistics['finite']:
        raise self._supervisor.non_finite(sample)
      late = self.replay.update_priorities(sample.leaf, sample.stamp, update.priorities)
      updates = int(learner.updates)
      self._store.publish(parameters.Snapshot(updates, update.parameters))
      if updates % config.remove_period == 0:
        self.replay.remove_to_fit()
      self._recorder.record_update(sample, update, waited, late)
      if self._supervisor.is_save_due():
        pulse.enter('saving a checkpoint')
        self._saved_updates = self._supervisor.save(self._recorder.base)
        self._save_replay_now.set()

  def _save_replay(self, crew: threads.Crew) -> None:
    """The saver's thread: the replay, after each checkpoint, while the learner goes on."""
    while True:
      self._save_replay_now.wait()
      self._save_replay_now.clear()
      if crew.stop.is_set():
        return
      try:
        self._saver.save(self._saved_updates, given_up=crew.stop.is_set)
      except OSError as error:
        logging.warning(
          'NOT SAVED: the replay cannot be written: %s. Training goes on, and tries again at the next '
          'checkpoint.',
          error,
        )

  def _save(self) -> None:
    updates = self._supervisor.save(self._recorder.base)
    if not self._saver:
      return
    try:
      self._saver.save(updates)
    except OSError as error:
      raise errors.UserError(
        f'the replay cannot be written: {error}. The checkpoint is saved: --resume with '
        '--nocheckpoint_replay goes on from it, and fills the replay anew'
      ) from error

  def _restore_replay(self) -> None:
    updates = saving.restore(self.replay, self._supervisor.folder / 'replay')
    if updates is None:
      logging.warning('No replay was saved with this run: it is filled anew.')
    elif updates != int(self.learner.updates):
      logging.warning(
        'The replay was saved at update %d, the checkpoint at update %d.',
        updates,
        self.learner.updates,
      )
    self.ratio.add_inserted(0, self.replay.size())

  def _close(self) -> None:
    for part in (self._arrivals, self._samples, self.ratio):
      part.close()
    self._save_replay_now.set()

  def _make_actors(self) -> list[actors.Actor]:
    config, suite, tasks = (
      self._config,
      self._suite,
      [self._suite.tasks[0]] * self._config.envs_per_actor,
    )
    seeds = [games.seed_of(config.seed, i, self.frames()) for i in range(config.num_actors)]
    make_policy = algorithms.module(config).make_policy
    return [
      actors.Actor(i, suite, tasks, make_policy(config, suite, self._store, i, seed), config, seed)
      for i, seed in enumerate(seeds)
    ]


def make_replay(config: configs.Config, suite: environments.Suite) -> prioritized.PrioritizedReplay:
  """An empty replay.

  Raises:
    UserError: if the machine's memory cannot hold it when it is full.
  """
  spec, alpha_evict = (
    transitions.specification(suite, config.block_length, config.n_step).block,
    None,
  )
  if config.evicts_by_priority:
    spec, alpha_evict = transitions.single_specification(suite), config.alpha_evict
  memory.check(
    lambda capacity: prioritized.PrioritizedReplay.size_in_bytes(spec, capacity, alpha_evict),
    config.replay_capacity,
    'transitions',
  )
  return prioritized.PrioritizedReplay(
    spec,
    config.replay_capacity,
    suite.frame_stack,
    config.alpha,
    config.beta,
    config.stratified,
    alpha_evict,
  )


def insert(
  config: configs.Config, replay: prioritized.PrioritizedReplay, blocks: prioritized.TransitionBlock
) -> int:
  """Adds an actor's blocks `[M, ...]`, as the replay keeps them; returns the number of transitions."""
  return replay.add(transitions.separate(blocks) if config.evicts_by_priority else blocks)
