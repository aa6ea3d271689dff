"""The sampler's thread: batches ahead of the learner, and new priorities written with the draws."""

import dataclasses
import time

import numpy as np
import pytest
import tensorflow as tf

from apex import config as configs
from apex import sampler as samplers
from common.distributed import queues
from common.replay import pacing, structures
from tests.common.replay import replays

KIND = replays.KINDS['vectors, by priority']
CONFIG = dataclasses.replace(configs.PRESETS.preset('gym'), batch_size=8, prefetch=2)


def make(count=20):
  """A replay of some transitions of priority 1, and a sampler that never waits for others."""
  replay = KIND.make(count, stratified=False)
  replay.add(replays.blocks(KIND, range(count)))
  ratio = pacing.ReplayRatio(0.0, 1, CONFIG.batch_size)
  ratio.add_inserted(count, count)
  return replay, samplers.Sampler(CONFIG, replay, ratio)


def changed(sample, value):
  return structures.Priorities(sample.leaf, sample.stamp, tf.fill(sample.leaf.shape, value))


def test_a_draw_follows_the_priorities_that_come_with_it():
  replay, _ = make()
  sample = replay.sample(1)
  late, drawn = replay.update_and_sample(changed(sample, 1e9), 50)
  assert late == 0
  np.testing.assert_array_equal(drawn.leaf, np.repeat(sample.leaf, 50))
  # All others have come since, so none of the first ones is left.
  replay.add(replays.blocks(KIND, range(20, 40)))
  late, drawn = replay.update_and_sample(changed(sample, 5.0), 3)
  assert late == 1 and len(drawn.leaf) == 3
  np.testing.assert_allclose(replay.priorities()[1], 1.0, rtol=1e-6)


def test_the_thread_draws_ahead_and_writes_new_priorities():
  replay, sampler = make()
  late = []
  thread = replays.Worker(sampler.run, late.append)
  first = sampler.take()
  assert len(first.leaf) == CONFIG.batch_size
  sampler.change(changed(first, 3.0))
  sampler.change(changed(sampler.take(), 3.0))
  # Each take makes room for a draw.
  deadline = time.monotonic() + replays.DEADLINE
  while not late:
    sampler.take()
    assert time.monotonic() < deadline
  assert sum(late) == 0
  priorities = replay.priorities()[1][:, 0]
  np.testing.assert_allclose(priorities[first.leaf.numpy()], 3.0, rtol=1e-6)
  sampler.close()
  thread.join(replays.DEADLINE)
  assert isinstance(thread.error, queues.QueueClosed)
  # What was drawn before can still be taken.
  with pytest.raises(queues.QueueClosed):
    for _ in range(CONFIG.prefetch + 1):
      sampler.take()


def test_what_no_draw_has_written_is_written_before_the_replay_is_saved():
  replay, sampler = make()
  sampler.flush()
  samples = replay.sample(4), replay.sample(4)
  for sample in samples:
    sampler.change(changed(sample, 2.0))
  sampler.flush()
  expected = np.ones(20)
  expected[np.concatenate([sample.leaf for sample in samples])] = 2.0
  np.testing.assert_allclose(replay.priorities()[1][:, 0], expected, rtol=1e-6)
