"""The replay of a run, in the form that its eviction needs."""

import numpy as np
import tensorflow as tf

from apex import config as configs
from apex import transitions
from common import environments, errors
from common.machine import memory
from common.replay import eviction, prioritized, storage, structures


def make(config: configs.Config, suite: environments.Suite) -> prioritized.PrioritizedReplay:
  """Makes an empty replay.

  Raises:
    UserError: If the machine's memory cannot hold the replay when it is full, or if the replay
      cannot hold `min_replay` transitions of the suite's episodes.
  """
  _check_minimum(config, suite)
  # Eviction by priority removes single transitions. Eviction of the oldest removes whole blocks,
  # which store every observation only once.
  if config.evicts_by_priority:
    spec = transitions.single_specification(suite)
    alpha_evict = config.alpha_evict
  else:
    spec = transitions.specification(suite, config.block_length, config.n_step).block
    alpha_evict = None

  in_flight = _bytes_in_flight(config, suite)

  def size(capacity: int) -> int:
    held = prioritized.PrioritizedReplay.size_in_bytes(spec, capacity, alpha_evict)
    return held + in_flight

  memory.check(size, config.replay_capacity, 'transitions')
  return prioritized.PrioritizedReplay(
    spec,
    config.replay_capacity,
    suite.frame_stack,
    config.alpha,
    config.beta,
    config.stratified,
    alpha_evict,
  )


def foreseen_bytes(
  config: configs.Config, suite: environments.Suite, replay: prioritized.PrioritizedReplay
) -> int:
  """Bytes that this process will have once the replay is full.

  Call it when all graphs have run and no transition has come: what TensorFlow and the networks take
  is there, what the replay and the queues will take is not.
  """
  share_left = 1.0 - min(1.0, replay.size() / config.replay_capacity)
  return memory.resident() + int(replay.bytes * share_left) + _bytes_in_flight(config, suite)


def insert(
  config: configs.Config,
  replay: prioritized.PrioritizedReplay,
  shipments: transitions.Shipment,
) -> int:
  """Adds actors' blocks, split into single transitions if the eviction needs that.

  Args:
    config: The run's settings.
    replay: Where to add them. It keeps the numbers of their environments as their origins.
    shipments: `[M, ...]`, stacked.

  Returns:
    The number of transitions added.
  """
  blocks = shipments.block
  origins = np.asarray(shipments.environment)
  if config.evicts_by_priority:
    blocks, block = transitions.separate(blocks)
    origins = origins[block]
  return replay.add(blocks, origins)


def name_of(environment: int, config: configs.Config, suite: environments.Suite) -> str:
  """Names an environment by its number among those of all actors, for messages."""
  if environment == storage.UNKNOWN:
    return 'an environment that is no longer known'
  actor = environment // config.envs_per_actor
  return f'environment {environment} ({suite.tasks[0]}), of actor {actor}'


class Filling:
  """Notices a replay that is full below `min_replay`: learning would never begin.

  Eviction of the oldest holds a number of blocks. The last observation of an episode that a time
  limit cuts takes the place of a transition in its block, so that of short episodes they hold less
  than the capacity. Where the suite does not state its time limit, only playing tells.
  """

  def __init__(self, config: configs.Config, replay: prioritized.PrioritizedReplay):
    """Starts with nothing added."""
    self._config = config
    self._replay = replay
    self._blocks = 0  # Since the minimum was last held.
    self._largest = 0

  def record(self, count: int) -> None:
    """Counts blocks that were added.

    Args:
      count: Blocks, copies included.

    Raises:
      UserError: If every block has been replaced since the replay was full, and it never held the
        minimum.
    """
    size = self._replay.size()
    if size >= self._config.min_replay:
      self._blocks = 0
      self._largest = 0
      return
    self._blocks += count
    self._largest = max(self._largest, size)
    if self._blocks > 2 * self._replay.slots:
      raise _never_filled(self._config, self._largest)


def _bytes_in_flight(config: configs.Config, suite: environments.Suite) -> int:
  """Bytes of the blocks and batches on their way between actors, replay and learner."""
  block = transitions.specification(suite, config.block_length, config.n_step).block
  entries = tf.nest.flatten(block.observation)
  entry_bytes = sum(spec.shape[1:].num_elements() * spec.dtype.size for spec in entries)
  # Two stacks each. One batch more than waits is drawn, and one is learned from.
  sample_bytes = config.batch_size * 2 * suite.frame_stack * entry_bytes
  # Each environment fills a block. Those that wait are taken at once, as a copy.
  blocks = config.num_environments + 2 * config.queue_capacity
  return (config.prefetch + 2) * sample_bytes + blocks * structures.block_bytes(block)


def _check_minimum(config: configs.Config, suite: environments.Suite) -> None:
  """Refuses a minimum that the replay does not hold if time limits cut all episodes."""
  if config.evicts_by_priority or not suite.max_episode_steps:
    return
  places = config.block_length * eviction.OldestFirst.num_slots(
    config.replay_capacity, config.block_length
  )
  # See `actor.Actor`: a time limit's last observation takes the place of a transition.
  held = places * suite.max_episode_steps // (suite.max_episode_steps + 1)
  if held < config.min_replay:
    raise _never_filled(config, held)


def _never_filled(config: configs.Config, held: int) -> errors.UserError:
  return errors.UserError(
    f'a replay of {config.replay_capacity:,} transitions is full when it holds {held:,}, as the '
    f'episodes of {config.env} are cut after few steps, but learning starts at '
    f'{config.min_replay:,}. Lower --config.min_replay to {held * 9 // 10} or less, or set '
    '--config.replay_capacity higher'
  )
