"""Prioritized replay: sampling frequencies, what is kept for how long, and thread safety."""

import collections
import itertools
import os
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from common.replay import eviction, prioritized, structures
from tests.common.replay import replays

B = 5  # Transitions per block.
PLAIN = replays.Kind(1, replays.specification(1, (1,), np.float32, length=B))
# Kinds whose blocks hold B transitions.
WHOLE_BLOCKS = ['vectors, oldest first', 'images, oldest first']


def taken(stacked, first, last):
  """The blocks `first` to `last` - 1 of a batch."""
  return structures.TransitionBlock(*(x[first:last] for x in stacked))


def with_priorities(priorities, alpha, beta=0.4, stratified=False, valid=True, capacity=30):
  """A replay of transitions numbered from 0."""
  priorities = np.reshape(priorities, [-1, B]).astype(np.float32)
  valid = np.reshape(valid, [-1, B] if np.ndim(valid) else [])
  valid = np.broadcast_to(valid, priorities.shape)
  replay = PLAIN.make(capacity, alpha, beta, stratified)
  replay.add(replays.blocks(PLAIN, range(len(priorities)), priority=priorities, valid=valid))
  return replay


def uniform(capacity, kind=PLAIN):
  """A replay whose stratified draw of `size` transitions gives each exactly once."""
  return kind.make(capacity, alpha=0.0)


def counts_of(replay, draws):
  """How often each transition is drawn, by number."""
  return np.bincount(replays.identities(replay.sample(draws)), minlength=15)


def give_all(replay, priorities):
  """Gives each transition the priority at its number."""
  sample = replay.sample(2000)
  drawn = replays.identities(sample)
  assert len(set(drawn)) == replay.size()
  replay.update_priorities(sample.leaf, sample.stamp, tf.constant(priorities[drawn], tf.float32))


def held(replay):
  """The numbers of all transitions in a uniform replay."""
  if not replay.size():
    return []
  return sorted(replays.identities(replay.sample(replay.size())).tolist())


def numbers(*block_numbers):
  """The numbers of the transitions in blocks."""
  return [number * B + b for number in block_numbers for b in range(B)]


def tree_levels(replay):
  """From the leaves up, `[rows, width]` each."""
  return [level.numpy() for level in replay._tree.levels]


# Sampling frequencies: P(k) = p_k^alpha / sum_j p_j^alpha.


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0])
def test_independent_draws_are_in_proportion_to_the_priorities(alpha):
  priorities, others = replays.PRIORITIES, replays.PRIORITIES[::-1]
  replay = with_priorities(priorities, alpha)
  replays.assert_in_proportion(counts_of(replay, 20_000), replays.probabilities(priorities, alpha))
  give_all(replay, others)
  replays.assert_in_proportion(counts_of(replay, 20_000), replays.probabilities(others, alpha))


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0])
def test_stratified_draws_take_one_of_each_stratum_in_proportion_to_the_priorities(alpha):
  """Draw m falls in the m-th part of the line, on each transition by its share of that part."""
  strata, batches, count = 4, 1000, len(replays.PRIORITIES)
  replay = with_priorities(replays.PRIORITIES, alpha, stratified=True)
  drawn = np.stack([replays.identities(replay.sample(strata)) for _ in range(batches)])

  ends = np.cumsum(replays.probabilities(replays.PRIORITIES, alpha))
  begins = np.append(0.0, ends[:-1])
  edges = np.arange(strata + 1) / strata
  # [strata, count]: the length of each transition's stretch in each part.
  shared = np.minimum(ends, edges[1:, np.newaxis]) - np.maximum(begins, edges[:-1, np.newaxis])
  shared = np.where(shared > 1e-12, shared, 0.0)  # Stretches that only touch a part have no share.
  counts = np.stack([np.bincount(d, minlength=count) for d in drawn.T])
  replays.assert_in_proportion(counts, shared * strata)


def test_stratified_draws_of_equal_priorities_take_each_equally_often():
  replay = with_priorities(np.ones(15), 0.6, stratified=True)
  for count in [15, 45, 150] * 3:
    assert counts_of(replay, count).tolist() == [count // 15] * 15


def test_independent_draws_do_not_depend_on_each_other():
  drawn = replays.identities(with_priorities(np.ones(B), 1.0).sample(40_000))
  pairs = np.bincount(drawn[:-1:2] * B + drawn[1::2], minlength=B * B)
  replays.assert_in_proportion(pairs, np.full(B * B, 1 / B**2))


@pytest.mark.parametrize('stratified', [False, True])
def test_each_call_draws_anew(stratified):
  replay = with_priorities(replays.PRIORITIES, 0.6, stratified=stratified)
  assert not np.array_equal(replay.sample(50).leaf, replay.sample(50).leaf)


@pytest.mark.parametrize(
  'alpha, beta, stratified',
  [(0.6, 0.4, True), (0.6, 0.4, False), (0.6, 0.0, True), (0.0, 0.4, True), (1.0, 1.0, False)],
)
def test_importance_weights_are_those_of_the_formula(alpha, beta, stratified):
  """w_k = (N P(k))^-beta / max_j w_j."""
  valid = np.arange(15) % 4 != 1
  replay = with_priorities(replays.PRIORITIES, alpha, beta, stratified, valid)
  probability = replays.probabilities(replays.PRIORITIES, alpha, valid)
  for count in (1, 7, 40):
    sample = replay.sample(count)
    weights = (valid.sum() * probability[replays.identities(sample)]) ** -beta
    np.testing.assert_allclose(sample.weight, weights / weights.max(), rtol=1e-6)
    assert sample.weight.dtype == tf.float32 and np.max(sample.weight) == 1.0


@pytest.mark.parametrize('alpha', [0.0, 0.6, 1.0])
def test_a_sample_has_the_priorities_that_it_was_drawn_by(alpha):
  replay = with_priorities(np.ones(15), alpha)
  for priorities in (replays.PRIORITIES, replays.EXTREME):
    give_all(replay, priorities)
    sample = replay.sample(100)
    clipped = np.clip(priorities, replays.LOWEST, replays.HIGHEST)
    expected = clipped[replays.identities(sample)] if alpha else np.ones(100)
    np.testing.assert_allclose(sample.priority, expected, rtol=1e-6)


# Extreme and invalid priorities.


def test_extreme_priorities_are_clipped():
  """With so small an alpha, even the lowest is drawn beside the highest."""
  extreme, others = replays.EXTREME, replays.EXTREME[::-1]
  replay = with_priorities(extreme, 0.1)
  replays.assert_in_proportion(counts_of(replay, 20_000), replays.probabilities(extreme, 0.1))
  give_all(replay, others)
  replays.assert_in_proportion(counts_of(replay, 20_000), replays.probabilities(others, 0.1))


@pytest.mark.parametrize('alpha', [0.6, 1.0])
def test_extreme_priorities_give_bit_for_bit_what_the_clipped_ones_give(alpha):
  """Both when they are added and when they are updated."""
  clipped = np.clip(replays.EXTREME, np.float32(replays.LOWEST), np.float32(replays.HIGHEST))
  levels = []
  for priorities in (replays.EXTREME, clipped):
    replay = with_priorities(np.ones(15), alpha)
    give_all(replay, priorities)
    replay.add(replays.blocks(PLAIN, range(3, 6), priority=priorities.reshape(3, B)))
    levels.append(tree_levels(replay))
  for level, same in zip(*levels, strict=True):
    np.testing.assert_array_equal(level, same)
    assert np.isfinite(level).all()


@pytest.mark.parametrize('extreme', [0.0, 1e-30, 1e30])
def test_equal_extreme_priorities_are_drawn_uniformly(extreme):
  replay = with_priorities(np.full(15, extreme), 1.0)
  replays.assert_in_proportion(counts_of(replay, 10_000), np.full(15, 1 / 15))


def test_a_huge_priority_counts_no_more_than_the_highest():
  """Beside 1e30, 1e8 would never be drawn; beside 1e9, the other fourteen get most draws."""
  replay = with_priorities(np.ones(15), 1.0)
  priorities = np.full(15, 1e8)
  priorities[3] = 1e30
  give_all(replay, priorities)
  replays.assert_in_proportion(counts_of(replay, 10_000), np.where(np.arange(15) == 3, 10, 1) / 24)


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('part', ['observation', 'action', 'n_step_return', 'discount'])
@pytest.mark.parametrize('kind', ['vectors, oldest first', 'vectors, by priority'])
def test_a_number_that_is_not_finite_is_refused_with_its_block_alone(kind, part, bad):
  kind = replays.KINDS[kind]
  replay = uniform(100, kind)
  two = replays.blocks(kind, [7, 8])
  damaged = getattr(two, part).copy()
  damaged.reshape(2, -1)[1, -1] = bad
  two = two._replace(**{part: damaged})
  assert structures.refused(two).tolist() == [False, True]
  with pytest.raises(structures.RefusedBlock):
    replay.add(two)
  assert replay.size() == 0
  assert replay.add(taken(two, 0, 1)) == kind.length


@pytest.mark.parametrize('kind', replays.KINDS)
def test_an_invalid_priority_is_refused_and_changes_nothing(kind):
  """In a full replay, where adds evict."""
  kind = replays.KINDS[kind]
  replay = kind.make(30)
  replay.add(replays.blocks(kind, range(replay.slots)))
  before, size = replays.state(replay), replay.size()
  places = [(0, 0), (1, kind.length - 1)]
  for bad, place in itertools.product([np.nan, np.inf, -np.inf, -1.0, -1e-30], places):
    priority = np.ones((2, kind.length), np.float32)
    priority[place] = bad
    message = 'expected finite numbers, and priorities of at least 0'
    with pytest.raises(structures.RefusedBlock, match=message):
      replay.add(replays.blocks(kind, [7, 8], priority=priority))
    assert replay.size() == size
    replays.assert_state(replay, before)


def test_after_a_refusal_adds_are_accepted():
  replay = with_priorities(replays.PRIORITIES, 0.6)
  size = replay.size()
  with pytest.raises(structures.RefusedBlock):
    priority = np.full((2, B), np.nan, np.float32)
    replay.add(replays.blocks(PLAIN, [7, 8], priority=priority))
  assert replay.add(replays.blocks(PLAIN, [7, 8])) == 2 * B
  assert replay.size() == size + 2 * B


def test_an_invalid_place_is_never_drawn_and_not_counted():
  valid = np.arange(15) % 3 != 1
  priorities = np.where(valid, replays.PRIORITIES, np.float32(1e9))
  replay = PLAIN.make(15, stratified=False)
  changes = {'priority': priorities.reshape(3, B), 'valid': valid.reshape(3, B)}
  added = replay.add(replays.blocks(PLAIN, range(3), **changes))
  assert added == replay.size() == 10
  probability = replays.probabilities(priorities, 0.6, valid)
  replays.assert_in_proportion(counts_of(replay, 20_000), probability)


def test_a_block_without_any_transition():
  replay = uniform(20)
  nothing = np.zeros((1, B), bool)
  assert replay.add(replays.blocks(PLAIN, [0], valid=nothing)) == 0
  assert replay.size() == 0
  assert replay.add(replays.blocks(PLAIN, [1])) == B
  assert replay.add(replays.blocks(PLAIN, [2], valid=nothing)) == 0
  assert replay.size() == B and held(replay) == numbers(1)


# What is kept, and for how long.


def test_adds_are_accepted_to_a_little_beyond_the_capacity():
  replay = uniform(1000)
  for number in range(1030 // B):
    replay.add(replays.blocks(PLAIN, [number]))
    assert replay.size() == (number + 1) * B
  assert held(replay) == list(range(1030))


def test_adds_beyond_that_replace_the_oldest():
  capacity = 100
  replay = uniform(capacity)
  most = (1 + eviction.OldestFirst._SLACK) * capacity
  for number in range(80):
    replay.add(replays.blocks(PLAIN, [number]))
    added = (number + 1) * B
    assert min(added, most) <= replay.size() <= most + 2 * B
    assert held(replay) == list(range(added - replay.size(), added))


@pytest.mark.parametrize('count, left', [(4, 4), (8, 8), (10, 8)])
def test_the_excess_is_removed_first_in_first_out(count, left):
  replay = uniform(8 * B)
  replay.add(replays.blocks(PLAIN, range(count)))
  assert replay.remove_to_fit() == (count - left) * B
  assert replay.size() == left * B
  assert held(replay) == numbers(*range(count - left, count))
  assert replay.remove_to_fit() == 0
  assert replay.size() == left * B


def test_whole_blocks_are_removed_until_no_more_than_the_capacity_is_left():
  replay = uniform(8 * B - 1)
  replay.add(replays.blocks(PLAIN, range(8)))
  assert replay.remove_to_fit() == B
  assert held(replay) == numbers(*range(1, 8))


@pytest.mark.parametrize('capacity, all_valid', [(5, False), (40, True), (40, False), (63, False)])
def test_it_holds_what_a_plain_queue_of_blocks_holds(capacity, all_valid):
  replay = uniform(capacity)
  rng = np.random.default_rng(capacity)
  model = collections.deque()  # The numbers of the transitions in each block.
  added = 0

  def remove():
    removed = 0
    while sum(map(len, model)) > capacity:
      removed += len(model.popleft())
    assert replay.remove_to_fit() == removed

  def add(count):
    valid = (rng.random((count, B)) < 0.7) & (rng.random((count, 1)) < 0.8) | all_valid
    new = [[(added + i) * B + b for b in range(B) if valid[i, b]] for i in range(count)]
    new_blocks = replays.blocks(PLAIN, range(added, added + count), valid=valid)
    assert replay.add(new_blocks) == sum(map(len, new))
    model.extend(new)
    while len(model) > replay.slots:
      model.popleft()

  for _ in range(60):
    if rng.random() < 0.25:
      remove()
    elif count := rng.integers(0, min(4, replay.slots) + 1):
      add(count)
      added += count
    assert replay.size() == sum(map(len, model))
    assert held(replay) == list(itertools.chain(*model))


def test_as_many_blocks_at_once_as_there_are_slots():
  replay = uniform(20)
  replay.add(replays.blocks(PLAIN, range(3)))
  replay.add(replays.blocks(PLAIN, range(3, 3 + replay.slots)))
  assert held(replay) == numbers(*range(3, 3 + replay.slots))


@pytest.mark.parametrize('filled', [3, None], ids=['not full', 'full'])
@pytest.mark.parametrize('kind', replays.KINDS)
def test_more_blocks_at_once_than_there_are_slots_are_refused(kind, filled):
  kind = replays.KINDS[kind]
  replay = kind.make(20)
  replay.add(replays.blocks(kind, range(filled or replay.slots)))
  before = replays.state(replay)
  message = f'{replay.slots + 1} blocks at once, expected at most {replay.slots}'
  with pytest.raises(ValueError, match=message):
    replay.add(replays.blocks(kind, range(replay.slots + 1)))
  replays.assert_state(replay, before)


@pytest.mark.parametrize('how', ['removed', 'overwritten', 'removed and others in their places'])
def test_new_priorities_of_what_has_left_do_nothing(how):
  replay = with_priorities(replays.PRIORITIES, 1.0, capacity=500)
  sample = replay.sample(50)
  replay.add(replays.blocks(PLAIN, range(3, 103)))
  if how != 'overwritten':
    assert replay.remove_to_fit() == 3 * B
  if how != 'removed':
    replay.add(replays.blocks(PLAIN, range(103, 103 + replay.slots - 100)))
  before, size = replays.state(replay), replay.size()
  assert not set(replays.identities(replay.sample(5000))) & set(numbers(0, 1, 2))
  assert replay.update_priorities(sample.leaf, sample.stamp, tf.fill([50], 1e6)) == 50
  assert replay.size() == size
  replays.assert_state(replay, before)


def test_new_priorities_of_what_has_partly_left():
  replay = with_priorities(replays.PRIORITIES, 1.0)
  sample = replay.sample(2000)
  drawn = replays.identities(sample)
  # The last of these takes the place of block 0.
  replay.add(replays.blocks(PLAIN, range(3, replay.slots + 1)))
  gone = drawn < B
  assert 0 < gone.sum() < 2000

  priorities = 100.0 + np.arange(15)
  new = tf.constant(priorities[drawn], tf.float32)
  assert replay.update_priorities(sample.leaf, sample.stamp, new) == gone.sum()

  after = replay.sample(20_000)
  numbers_after = replays.identities(after).tolist()
  found = dict(zip(numbers_after, after.priority.numpy().tolist(), strict=True))
  expected = dict.fromkeys(range(3 * B, (replay.slots + 1) * B), 1.0)
  expected |= {number: priorities[number] for number in range(B, 3 * B)}
  assert found == pytest.approx(expected, rel=1e-6)


# What comes back.


@pytest.mark.parametrize('kind', WHOLE_BLOCKS)
def test_a_transition_comes_back_as_it_was_added(kind):
  """From every block and offset, while the ring wraps around, in adds of one to four blocks."""
  kind = replays.KINDS[kind]
  replay = uniform(60, kind)
  kept = replays.blocks(kind, range(60))
  added = 0
  for count in itertools.cycle([1, 2, 3, 4]):
    replay.add(taken(kept, added, added + count))
    added += count
    sample = replay.sample(replay.size())
    drawn = replays.identities(sample)
    assert sorted(drawn.tolist()) == list(range(added * B - replay.size(), added * B))
    replays.assert_whole(sample, kept, kind.stack)
    number = drawn // B
    np.testing.assert_array_equal(sample.stamp, number)
    np.testing.assert_array_equal(sample.age, (added - 1 - number) * B)
    assert len(set(sample.leaf.numpy().tolist())) == replay.size()
    if added > 50:
      break
  assert added > 3 * replay.slots


@pytest.mark.parametrize('kind', replays.KINDS)
def test_a_sample_does_not_change_with_what_comes_after_it(kind):
  kind = replays.KINDS[kind]
  replay = uniform(4 * kind.length, kind)
  kept = replays.blocks(kind, range(20))
  replay.add(taken(kept, 0, 4))
  sample = replay.sample(50)
  for first in range(4, 20, 4):
    replay.add(taken(kept, first, first + 4))
  replays.assert_whole(sample, kept, kind.stack)


@pytest.mark.parametrize('kind', replays.KINDS)
def test_warming_up_leaves_it_empty_and_the_specification_of_samples_is_right(kind):
  kind = replays.KINDS[kind]
  replay = kind.make(30)
  before = replays.state(replay)
  replay.warm_up()
  specified = replay.sample_spec(7)
  assert replay.size() == 0
  replays.assert_state(replay, before)
  kept = replays.blocks(kind, range(4))
  assert replay.add(kept) == 4 * kind.length
  sample = replay.sample(7)
  replays.assert_whole(sample, kept, kind.stack)
  assert specified == tf.nest.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), sample)


# Memory.


@pytest.mark.parametrize('capacity', [1, 5, 64, 100, 1000])
@pytest.mark.parametrize('kind', replays.KINDS)
def test_size_in_bytes_is_that_of_the_arrays(kind, capacity):
  kind = replays.KINDS[kind]
  arrays = [variable for variable in kind.make(capacity).variables if variable.shape.rank]
  size = sum(variable.shape.num_elements() * variable.dtype.size for variable in arrays)
  expected = prioritized.PrioritizedReplay.size_in_bytes(kind.spec, capacity, kind.alpha_evict)
  assert expected == size


def resident_bytes():
  """The memory that this process really uses."""
  pages = int(pathlib.Path('/proc/self/statm').read_text().split()[1])
  return pages * os.sysconf('SC_PAGE_SIZE')


def test_memory_is_committed_as_it_fills():
  kind = replays.Kind(4, replays.specification(4, (84, 84), np.uint8, length=50))
  size = prioritized.PrioritizedReplay.size_in_bytes(kind.spec, 300_000)
  assert size > 2 * 2**30
  before = resident_bytes()
  replay = uniform(300_000, kind)
  replay.warm_up()
  replay.add(replays.blocks(kind, range(3)))
  replay.sample(64)
  assert resident_bytes() - before < size / 4


# Threads.


@pytest.mark.usefixtures('restless')
@pytest.mark.parametrize(
  'capacity', [200, 6000], ids=['the ring wraps around many times', 'nothing leaves']
)
def test_threads_do_not_disturb_each_other(capacity):
  """Three add, one samples, one updates priorities and one removes the excess."""
  kind = replays.KINDS['images, oldest first']
  writers, each, rounds = 3, 360, 50
  total = 1 + writers * each
  rng = np.random.default_rng(0)
  valid = rng.random((total, B)) < 0.9
  priority = rng.uniform(0.5, 2.0, (total, B)).astype(np.float32)
  kept = replays.blocks(kind, range(total), valid=valid, priority=priority)
  replay = kind.make(capacity)
  replay.add(taken(kept, 0, 1))
  samples, late, sizes = [replay.sample(32)], [], []

  def write(parts):
    for part in parts:
      assert replay.add(part) == np.sum(part.valid)

  # Adds of one block and of two in turn.
  ranges = [(k, k + 1) for k in range(1, total, 3)] + [(k + 1, k + 3) for k in range(1, total, 3)]
  parts = [taken(kept, first, last) for first, last in sorted(ranges)]
  share = len(parts) // writers
  writing = [replays.Worker(write, parts[share * i : share * (i + 1)]) for i in range(writers)]

  def goes_on(results):
    return len(results) < rounds or any(worker.is_alive() for worker in writing)

  def draw():
    while goes_on(samples):
      samples.append(replay.sample(32))

  def update():
    while goes_on(late):
      sample = samples[rng.integers(max(0, len(samples) - 20), len(samples))]
      priorities = tf.constant(rng.uniform(0.5, 2.0, 32), tf.float32)
      late.append(replay.update_priorities(sample.leaf, sample.stamp, priorities))

  def remove():
    while goes_on(sizes):
      replay.remove_to_fit()
      sizes.append(replay.size())

  replays.join([*writing, *(replays.Worker(function) for function in (draw, update, remove))])
  assert min(late) >= 0 and max(late) <= 32
  assert 0 < min(sizes) and max(sizes) <= replay.slots * B

  everything = replay.sample(80 * replay.size())  # Misses one with a probability of 1e-15.
  assert min(capacity, total * B) / B * 0.9 < len(set(everything.stamp.numpy())) <= replay.slots
  assert_samples_are_of(kept, kind, samples + [everything])
  assert_holds_the_newest(replay, kept, everything)
  assert_tree_matches(replay, everything)


def assert_samples_are_of(kept, kind, samples):
  """All transitions are whole and valid, and every stamp is of one block."""
  block_of = {}
  for sample in samples:
    replays.assert_whole(sample, kept, kind.stack)
    number, offset = np.divmod(replays.identities(sample), B)
    assert kept.valid[number, offset].all()
    for stamp, block_number in zip(sample.stamp.numpy().tolist(), number.tolist(), strict=True):
      assert block_of.setdefault(stamp, block_number) == block_number
  assert len(set(block_of.values())) == len(block_of)


def assert_holds_the_newest(replay, kept, everything):
  """The last blocks added are there, with all their transitions, and no others."""
  total = len(kept.valid)
  remaining = set(everything.stamp.numpy().tolist())
  assert remaining == set(range(total - len(remaining), total))
  expected = {
    number * B + b
    for number in set((replays.identities(everything) // B).tolist())
    for b in np.flatnonzero(kept.valid[number])
  }
  assert set(replays.identities(everything).tolist()) == expected
  assert replay.size() == len(expected)


def assert_tree_matches(replay, everything):
  """All sums are right, and exactly the leaves of the transitions held have a value."""
  levels = tree_levels(replay)
  for level, above in itertools.pairwise(levels):
    np.testing.assert_allclose(level.sum(axis=1), above.ravel()[: len(level)], rtol=1e-14)
    assert not above.ravel()[len(level) :].any()
  leaves = set(everything.leaf.numpy().tolist())
  values = levels[0].ravel()
  np.testing.assert_array_equal(values > 0, [leaf in leaves for leaf in range(values.size)])
  np.testing.assert_array_equal(values >= 0, True)
