"""The writer: how many blocks it adds at once, and what it says of blocks that it refuses."""

import dataclasses
import threading

import numpy as np
import pytest
import tensorflow as tf

from apex import config as configs
from apex import learner as learners
from apex import replay as replays
from apex import transitions, writer
from common import environments, errors
from common.distributed import queues
from common.replay import pacing
from common.runs import dropping

SUITE = environments.load('gym:CartPole-v1')
CONFIG = dataclasses.replace(
  configs.PRESETS.preset('gym'), replay_capacity=5_000, replay_ratio=0.0, total_frames=400
)


class Recorder:
  """Notes what a writer records."""

  def __init__(self):
    self.added = []
    self.refused = 0

  def record_arrival(self, shipment, inserted):
    self.added.append((len(shipment.environment), inserted))

  def record_refusal(self):
    self.refused += 1


@pytest.fixture(scope='module')
def learner():
  return learners.Learner(CONFIG, SUITE)


def shipment(count, **changes):
  """Blocks of ones, `[count, ...]`; `changes` replace fields of all of them."""
  spec = transitions.specification(SUITE, CONFIG.block_length, CONFIG.n_step)
  ones = tf.nest.map_structure(lambda s: np.ones((count, *s.shape), s.dtype.as_numpy_dtype), spec)
  block = ones.block._replace(end=np.full((count, 10), 3, np.int32))
  filled = {name: np.full_like(getattr(block, name), value) for name, value in changes.items()}
  return ones._replace(block=block._replace(**filled))


def run(learner, tmp_path, put, config=CONFIG, capacity=100):
  """Runs a writer on what `put` puts into its queue; returns what it records, and the replay."""
  learner.frames.assign(0)
  spec = transitions.specification(SUITE, config.block_length, config.n_step)
  queue = queues.StructureQueue(spec, capacity)
  replay = replays.make(config, SUITE)
  ratio = pacing.ReplayRatio(config.replay_ratio, 10**9, config.batch_size)
  drops = dropping.Drops(tmp_path, learner)
  put(queue)
  recorder = Recorder()
  made = writer.Writer(config, SUITE, learner, queue, replay, ratio, drops)
  made.run(recorder, threading.Event())
  return recorder, replay


@pytest.mark.parametrize('eviction', ['oldest', 'by_priority'])
def test_all_that_wait_are_added_in_one_call(learner, tmp_path, eviction):
  config = dataclasses.replace(CONFIG, eviction=eviction)

  def put(queue):
    for count in (1, 30, 9):
      queue.put_many(shipment(count))

  recorder, replay = run(learner, tmp_path, put, config)
  assert recorder.added == [(40, 400)] and replay.size() == 400
  assert int(learner.frames) == 400


def test_no_more_are_added_at_once_than_the_replay_holds(learner, tmp_path):
  config = dataclasses.replace(CONFIG, replay_capacity=200, min_replay=100, eviction='by_priority')
  recorder, replay = run(learner, tmp_path, lambda queue: queue.put_many(shipment(40)), config)
  assert recorder.added == [(20, 200), (20, 200)] and replay.size() == 200


@pytest.mark.parametrize(
  'settings, expected',
  [
    # An update of 64 samples makes room for 64 / 0.8 = 80 transitions: 8 blocks, or 2 with copies.
    (dict(replay_ratio=0.8), 8),
    (dict(replay_ratio=0.8, replicas=4), 2),
    (dict(replay_ratio=8.0), 1),
    (dict(replay_ratio=0.0), 1),
    # The queue of 8 environments has one block for each.
    (dict(replay_ratio=0.1), 8),
  ],
)
def test_it_waits_for_as_many_blocks_as_an_update_makes_room_for(settings, expected):
  config = dataclasses.replace(CONFIG, **settings)
  assert writer.blocks_of_an_update(config) == expected


@pytest.mark.parametrize(
  'changes, error, message',
  [
    # What an actor is given is the environment's fault.
    (dict(n_step_return=np.inf, priority=np.inf), errors.UserError, 'CartPole-v1 hold NaN'),
    # What it computes is the parameters'.
    (
      dict(priority=np.nan),
      dropping.UselessParameters,
      r'\(priority\) is not finite in the last 2',
    ),
  ],
)
def test_a_run_of_refused_blocks_ends_with_their_cause(learner, tmp_path, changes, error, message):
  def put(queue):
    queue.put_many(shipment(5))
    queue.put_many(shipment(240, **changes))

  with pytest.raises(error, match=message):
    run(learner, tmp_path, put, capacity=300)


def test_single_refused_blocks_are_left_out(learner, tmp_path):
  def put(queue):
    mixed = shipment(41)
    mixed.block.priority[7, 3] = np.nan
    queue.put_many(mixed)

  recorder, replay = run(learner, tmp_path, put)
  assert recorder.refused == 1 and recorder.added == [(40, 400)] and replay.size() == 400
