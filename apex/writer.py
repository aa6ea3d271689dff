"""The writer: moves actors' transitions from the queue to the replay, and refuses spoilt ones."""

import logging
import threading

import tensorflow as tf

from apex import config as configs
from apex import learner as learners
from apex import recorder as recorders
from apex import replay as replays
from apex import transitions
from common import environments, errors
from common.distributed import queues
from common.machine import threads
from common.replay import pacing, prioritized, structures
from common.runs import dropping

_MOST_AT_ONCE = 64  # Blocks added to the replay in one call.
_MAX_REFUSED = 200  # Blocks in a row, before the run gives up.
# What actors compute with the parameters; they are given all else.
_COMPUTED = frozenset(('action', 'priority'))


class Writer:
  """Adds all blocks that wait in one call: a call costs more than a block.

  Attributes:
    pulse: What it is doing.
  """

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    learner: learners.Learner,
    queue: queues.StructureQueue,
    replay: prioritized.PrioritizedReplay,
    ratio: pacing.ReplayRatio,
    drops: dropping.Drops,
  ):
    """Starts nothing.

    Args:
      config: The run's settings.
      suite: The environments.
      learner: Holds the count of frames.
      queue: Where actors put their shipments.
      replay: Where they go.
      ratio: Makes the writer wait for the learner.
      drops: Describes parameters that spoil what actors send.
    """
    self.pulse = threads.Pulse('writer')
    self._config = config
    self._suite = suite
    self._learner = learner
    self._queue = queue
    self._replay = replay
    self._ratio = ratio
    self._drops = drops
    self._filling = replays.Filling(config, replay)
    self._most = most_at_once(config)
    self._least = blocks_of_an_update(config)
    self._refused_in_a_row = 0

  def run(self, recorder: recorders.Recorder, stop: threading.Event) -> None:
    """Works until `total_frames`, then sets `stop`.

    Raises:
      QueueClosed: If the queue was closed.
      UserError: If the replay never holds its minimum, or only spoilt blocks arrive.
    """
    while int(self._learner.frames) < self._config.total_frames:
      self.pulse.enter('waiting to hold the replay ratio')
      self._ratio.await_insert()
      self.pulse.enter('waiting for transitions')
      count = min(max(self._least, self._queue.size()), self._most)
      arrived = self._queue.take_many(count)

      self.pulse.enter('adding transitions')
      self._add(self._without_refused(arrived, recorder), recorder)
    stop.set()

  def _add(self, arrived: transitions.Shipment, recorder: recorders.Recorder) -> None:
    self._learner.gather(arrived)
    copies = self._config.replicas
    inserted = 0
    for _ in range(copies):
      inserted += replays.insert(self._config, self._replay, arrived)
    self._ratio.add_inserted(inserted, self._replay.size())
    self._filling.record(copies * len(arrived.block.priority))
    # Copies are not new experience (Figure 6).
    self._learner.frames.assign_add(inserted // copies * self._suite.action_repeat)
    recorder.record_arrival(arrived, inserted)

  def _without_refused(
    self, arrived: transitions.Shipment, recorder: recorders.Recorder
  ) -> transitions.Shipment:
    """Drops blocks with values that are not finite; logs their environments.

    Raises:
      UserError: If only such blocks have arrived for long.
    """
    bad = structures.refused(arrived.block)  # bool [M]
    for i, is_bad in enumerate(bad):
      self._refused_in_a_row = self._refused_in_a_row + 1 if is_bad else 0
      if not is_bad:
        continue
      name = replays.name_of(int(arrived.environment[i]), self._config, self._suite)
      block = tf.nest.map_structure(lambda x, i=i: x[i], arrived.block)
      fields = structures.not_finite(block)
      logging.warning(
        'A block of %s, is refused: not all of its numbers are finite (%s).',
        name,
        ', '.join(fields),
      )
      recorder.record_refusal()
      if self._refused_in_a_row > _MAX_REFUSED:
        raise self._only_refused(block, fields, name)
    if not bad.any():
      return arrived
    return tf.nest.map_structure(lambda x: x[~bad], arrived)  # [M', ...]

  def _only_refused(
    self, block: structures.TransitionBlock, fields: list[str], name: str
  ) -> errors.UserError:
    """The error that ends a run whose blocks are all refused, by the latest one."""
    count = self._refused_in_a_row
    if _COMPUTED.issuperset(fields):
      origin = f'the last {count} blocks, the latest of {name}'
      return self._drops.end_useless(block, fields, origin)
    return errors.UserError(
      f'the last {count} blocks were all refused, the latest of {name}: not all of their numbers '
      f'are finite. Do rewards or observations of {self._config.env} hold NaN?'
    )


def most_at_once(config: configs.Config) -> int:
  """The most blocks that are added at once; never more than the replay has room for."""
  return min(_MOST_AT_ONCE, config.replay_capacity // config.block_length)


def blocks_of_an_update(config: configs.Config) -> int:
  """Blocks that one update makes room for at the replay ratio: fewer need not be added at once."""
  if not config.replay_ratio:
    return 1
  inserted = config.batch_size / config.replay_ratio
  blocks = int(inserted / (config.block_length * config.replicas))
  # Actors fill the queue, however many of them there are, but no more than it.
  return max(1, min(blocks, most_at_once(config), config.queue_capacity))
