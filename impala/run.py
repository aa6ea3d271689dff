"""A training run: actors, queue, learner and everything that watches them, put together, and taken apart again."""

import logging
import pathlib
import signal
import threading
import time
from typing import Iterator

import numpy as np
import tensorflow as tf

from common import checkpoints, command_line, environments, errors, files, plots, run_folder
from common.distributed import parameters, queues, threads
from common.replay import uniform
from impala import actor as actors, config as configs, learner as learners, networks, policy, recorder, trajectory


class NonFiniteLoss(errors.UserError):
  """The loss or a gradient was not finite. The parameters are those before the batch, which is saved."""


class Run:
  """One training run in its folder."""

  def __init__(self, config: configs.Config, options: command_line.Options):
    """Builds all parts; starts nothing.

    Raises:
      UserError: if the settings do not fit the environment, the machine or the folder.
    """
    self._config, self._folder = config, options.run_dir
    self._suite = environments.load(config.env)
    config.check_environment(self._suite)
    tf.random.set_seed(config.seed)
    self._learner = learners.Learner(config, self._suite, networks.make_agent(config, self._suite))
    self._checkpoints = checkpoints.Checkpoints(self._folder / 'checkpoints', self._learner)
    if options.resume:
      restored = self._checkpoints.restore()
      run_folder.save_config(self._folder, config)
      logging.info('Resuming %s at %s frames.', restored, f'{self.frames():,}')
    else:
      run_folder.create(self._folder, config)
    self._store = parameters.ParameterStore(self._learner.snapshot())
    self._spec = trajectory.specification(
        self._suite, config.unroll_length, self._learner.agent.initial_state(1))
    self._queue = queues.StructureQueue(self._spec, config.queue_capacity)
    self._actors = self._make_actors()
    self._recorder = recorder.Recorder(config, self._suite, self._folder, self._learner, self._queue, self._actors)
    self._learner_pulse = threads.Pulse('learner')

  def train(self) -> bool:
    """Trains until `total_frames`, or until Ctrl-C or SIGTERM; saves a checkpoint at the end in any case.

    Returns:
      Whether training is finished.

    Raises:
      UserError: if something failed that the user can mend; other errors of threads as they are.
    """
    config = self._config
    logging.info('Training %s for %s frames: %d actors of %d environments, batches of %d x %d steps. Folder: %s',
                 config.env, f'{config.total_frames:,}', config.num_actors, config.envs_per_actor, config.batch_size,
                 config.unroll_length, self._folder)
    interrupted = threading.Event()
    with _signals(interrupted):
      crew = self.start()
      try:
        self._watch(crew, interrupted)
      finally:
        for name in crew.end():
          logging.warning('%s has not ended and is left behind.', name)
        self._recorder.close()
    self._save()
    if crew.error:
      raise crew.error
    plots.learning_curves(self._folder)
    if interrupted.is_set():
      logging.info('Stopped at %s frames; saved. Go on with: scripts/train --run_dir=%s --resume',
                   f'{self.frames():,}', self._folder)
    return not interrupted.is_set()

  def start(self) -> threads.Crew:
    """Starts the learner's and the actors' threads; the caller ends the crew. The learner's end stops it.

    Every graph has been run once before the first environment is made: TensorFlow's graph optimiser, which ends threads
    of its own, was seen to wait for ever for the thread of a Doom game that was started at the same moment.
    """
    config = self._config
    learners.warm_up(self._learner, self._spec)
    batches = learners.batches(self._queue, config.batch_size, self._make_replay(), config.replayed_per_batch)
    crew = threads.Crew(self._queue.close)
    crew.start('learner', lambda: self._learn(batches, crew.stop))
    for i, actor in enumerate(self._actors):
      crew.start(f'actor-{i}', lambda actor=actor: actor.run(self._queue.put_many, crew.stop.is_set))
    return crew

  def frames(self) -> int:
    """Environment frames learned from so far."""
    return int(self._learner.frames)

  def _make_actors(self) -> list[actors.Actor]:
    config, suite = self._config, self._suite
    policies = self._make_policies()
    return [
        actors.Actor(
            i, suite, environments.assign(suite.tasks, i * config.envs_per_actor, config.envs_per_actor), policies[i],
            config.unroll_length, seed=config.seed + 1000 * (i + 1))
        for i in range(config.num_actors)]

  def _make_policies(self) -> list[policy.Policy]:
    config, suite, agent = self._config, self._suite, self._learner.agent
    if not config.dynamic_batching:
      with tf.device('/cpu:0'):  # As in the paper, actors run on the CPU.
        return [policy.LocalPolicy(networks.make_agent(config, suite), suite, self._store, seed=config.seed + i)
                for i in range(config.num_actors)]
    example = policy.example_inputs(suite, config.envs_per_actor), agent.initial_state(config.envs_per_actor)
    shared = policy.DynamicBatchingPolicy(
        agent, suite, lambda: int(self._learner.updates), example, config.dynamic_batch_size,
        config.dynamic_batch_timeout_ms, config.seed)
    return [shared] * config.num_actors

  def _make_replay(self) -> uniform.UniformReplay | None:
    config = self._config
    if not config.replayed_per_batch:
      return None
    needed = uniform.UniformReplay.size_in_bytes(self._spec, config.replay_capacity)
    uniform.check_memory(needed, config.replay_capacity)
    return uniform.UniformReplay(self._spec, config.replay_capacity)

  def _learn(self, batches: Iterator[trajectory.Trajectory], stop: threading.Event) -> None:
    """The learner's thread: updates, publication, records and checkpoints, one after the other."""
    config, learner, pulse = self._config, self._learner, self._learner_pulse
    new_frames = tf.constant(learners.count_frames(config, self._suite), tf.int64)
    last_save = time.monotonic()
    while not stop.is_set() and self.frames() < config.total_frames:
      pulse.enter('waiting for trajectories')
      started = time.monotonic()
      batch = next(batches, None)
      if batch is None:
        break
      waited = time.monotonic() - started
      pulse.enter('updating')
      update = learner.update(batch, new_frames)
      if not update.statistics['finite']:
        raise self._non_finite(batch)
      self._store.publish(parameters.Snapshot(int(learner.updates), update.parameters))
      self._recorder.record(batch, update, waited)
      if time.monotonic() - last_save > config.checkpoint_every_seconds:
        pulse.enter('saving a checkpoint')
        self._save()
        last_save = time.monotonic()
    stop.set()

  def _save(self) -> None:
    self._recorder.update_clock()
    updates, returns = int(self._learner.updates), self._recorder.recent_returns()
    self._checkpoints.save(updates)
    if returns:
      self._checkpoints.save_if_best(updates, returns)

  def _watch(self, crew: threads.Crew, interrupted: threading.Event) -> None:
    """The main thread: waits for the learner, an error or a signal, and says who is silent when nothing arrives."""
    said = 0.0
    while not crew.stop.wait(timeout=0.2) and not interrupted.is_set():
      waiting = self._learner_pulse.activity == 'waiting for trajectories'
      silent = time.monotonic() - self._learner_pulse.since if waiting else 0.0
      if silent > self._config.stall_seconds and time.monotonic() - said > self._config.stall_seconds:
        said = time.monotonic()
        logging.warning('No batch for %.0f s. %s', silent, '; '.join(a.pulse.describe() for a in self._actors))

  def _non_finite(self, batch: trajectory.Trajectory) -> NonFiniteLoss:
    path = self._folder / 'non_finite_batch.npz'
    named = {f'{name}/{i}' if i else name: values.numpy() for name, part in batch._asdict().items()
             for i, values in enumerate(tf.nest.flatten(part))}
    with files.replacing(path, 'wb') as file:
      np.savez_compressed(file, **named)
    return NonFiniteLoss(
        f'the loss is not finite at update {int(self._learner.updates)}. The parameters are those before it, the batch '
        f'is in {path}. A smaller --config.learning_rate, a larger --config.rmsprop_epsilon or a --config.'
        'max_gradient_norm may help; so may --config.reward_clipping=abs_one if rewards are large.')


class _signals:
  """While it lasts, a first SIGINT or SIGTERM sets an event, and another one, a second or more later, interrupts.

  One Ctrl-C may arrive twice, from the terminal and from a wrapper that passes it on: that counts once.
  """

  def __init__(self, event: threading.Event):
    self._event, self._first = event, 0.0

  def __enter__(self):
    self._before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}

  def __exit__(self, *_):
    for number, handler in self._before.items():
      signal.signal(number, handler)

  def _handle(self, number, frame):
    del frame
    if self._event.is_set():
      if time.monotonic() - self._first < 1.0:
        return
      signal.signal(number, signal.SIG_DFL)
      raise KeyboardInterrupt
    self._first = time.monotonic()
    logging.info('Stopping: waiting for the update and the unrolls that are under way. Again to stop at once.')
    self._event.set()
