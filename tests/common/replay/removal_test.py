"""Transitions removed one by one: never drawn again, not counted, not brought back."""

import numpy as np
import pytest
import tensorflow as tf

from common.replay import saving, storage
from tests.common.replay import replays

PLAIN = replays.KINDS['vectors, oldest first']
B = PLAIN.length
# Without alpha, the tree that samples are drawn from does not know the priorities.
CASES = [*((kind, 0.6) for kind in replays.KINDS), ('vectors, by priority', 0.0)]


def filled(kind, count=6, capacity=60, alpha=0.6):
  """A replay of `count` blocks of priority 1; block number i comes from 10 i."""
  replay = kind.make(capacity, alpha=alpha)
  replay.add(replays.blocks(kind, range(count)), 10 * np.arange(count, dtype=np.int32))
  return replay


def sample_of(replay, numbers):
  """Leaves and stamps of transitions by number, from a sample; a number may be drawn repeatedly."""
  sample = replay.sample(2000)
  chosen = np.isin(replays.identities(sample), list(numbers))
  leaf, stamp = sample.leaf[chosen], sample.stamp[chosen]
  assert len(set(leaf.numpy().tolist())) == len(numbers)
  return leaf, stamp


def held(replay):
  return set(replays.identities(replay.sample(5000)).tolist())


@pytest.mark.parametrize('kind, alpha', CASES)
def test_removed_transitions_are_not_drawn_again_and_not_counted(kind, alpha):
  kind = replays.KINDS[kind]
  replay = filled(kind, alpha=alpha)
  size = replay.size()
  everything = set(range(size))
  assert held(replay) == everything
  removed = {0, 3, size - 1}
  leaf, stamp = sample_of(replay, removed)
  assert replay.remove(leaf, stamp) == len(removed)
  assert replay.size() == size - len(removed) and held(replay) == everything - removed
  # Another time they have left already; so they have for new priorities.
  assert replay.remove(leaf, stamp) == 0 and replay.size() == size - len(removed)
  priorities = tf.fill([len(leaf)], 1e6)
  assert replay.update_priorities(leaf, stamp, priorities) == len(leaf)
  assert held(replay) == everything - removed


def test_the_size_is_right_when_blocks_with_removed_transitions_leave():
  replay = filled(PLAIN, count=4, capacity=4 * B)
  replay.remove(*sample_of(replay, {0, 1, 2, B}))
  assert replay.size() == 4 * B - 4
  replay.add(replays.blocks(PLAIN, [4, 5]))
  replay.remove_to_fit()
  # Of 26 transitions at most 20 stay: block 0 leaves with the two it has left, then block 1.
  assert replay.size() == 4 * B and held(replay) == set(range(2 * B, 6 * B))


def test_by_priority_removed_transitions_make_room_first():
  kind = replays.KINDS['vectors, by priority']._replace(alpha_evict=-8.0)
  replay = kind.make(20)
  replay.add(replays.blocks(kind, range(20)))
  removed = {2, 5, 11}
  replay.remove(*sample_of(replay, removed))
  assert replay.size() == 17
  replay.add(replays.blocks(kind, [20, 21, 22]))
  assert replay.size() == 20 and held(replay) == set(range(23)) - removed


@pytest.mark.parametrize('kind', replays.KINDS)
def test_origins_are_those_of_the_blocks_until_they_leave(kind):
  kind = replays.KINDS[kind]
  replay = filled(kind)
  sample = replay.sample(50)
  expected = 10 * (replays.identities(sample) // kind.length)
  np.testing.assert_array_equal(replay.origins(sample.leaf, sample.stamp), expected)
  replay.remove(sample.leaf[:1], sample.stamp[:1])
  found = replay.origins(sample.leaf, sample.stamp)
  gone = sample.leaf.numpy() == sample.leaf.numpy()[0]
  np.testing.assert_array_equal(found, np.where(gone, storage.UNKNOWN, expected))


@pytest.mark.parametrize('kind, alpha', CASES)
def test_removed_transitions_do_not_come_back_from_disk(tmp_path, kind, alpha):
  """Although their blocks were written before, and are not written again."""
  kind = replays.KINDS[kind]
  replay = filled(kind, alpha=alpha)
  saver = saving.Saver(replay, tmp_path)
  saver.save(6)
  replay.remove(*sample_of(replay, {1, 4}))
  saver.save(7)
  again = kind.make(60, alpha=alpha)
  assert saving.restore(again, tmp_path) == 7
  assert again.size() == replay.size() and held(again) == held(replay)


def test_a_draw_from_a_replay_that_was_emptied_has_nothing_to_remove():
  """The sampler may draw before it learns that the replay is empty."""
  replay = filled(PLAIN, count=1)
  replay.remove(*sample_of(replay, range(B)))
  nothing = replay.sample(3)
  assert replay.size() == 0 and np.isnan(nothing.weight).all()
  assert replay.remove(nothing.leaf, nothing.stamp) == 0 and replay.size() == 0
