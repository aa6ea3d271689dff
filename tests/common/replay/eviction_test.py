"""Eviction by priority: what leaves, how often, and that both distributions match contents."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.replay import prioritized, saving, structures
from tests.common.replay import replays

ALPHA, ALPHA_EVICT = 0.6, -0.4
KIND = replays.KINDS['vectors, by priority']
# Each is likely enough to leave beside the others to be seen: 0 counts as 1e-6, and 1e30 as 1e9.
LOW = np.array([0.0, 1e-30, 1e-6, 1e-5, 1e-3, 0.003, 1e-4], np.float32)
HIGH = np.array([1e5, 1e30, 1e6, 3e38, 1e7, 1e8, 1e9], np.float32)


def clipped(priorities):
  return np.clip(np.asarray(priorities, np.float64), 1e-6, 1e9)


@functools.cache
def content():
  """All items of these tests, by number: blocks of one transition."""
  return replays.blocks(KIND, range(12_000))


def items(numbers, priorities=1.0, valid=True):
  """The items of these numbers, with priorities and validity by item or for all."""
  numbers = np.asarray(numbers, int)

  def column(values, dtype):
    return np.broadcast_to(np.asarray(values, dtype), numbers.shape)[:, np.newaxis]

  chosen = structures.TransitionBlock(*(part[numbers] for part in content()))
  return chosen._replace(priority=column(priorities, np.float32), valid=column(valid, bool))


def make(capacity, alpha_evict=ALPHA_EVICT, alpha=ALPHA):
  return KIND._replace(alpha_evict=alpha_evict).make(capacity, alpha, stratified=False)


def full(priorities, alpha_evict=ALPHA_EVICT):
  """A full replay of items 0 to C - 1 with these priorities."""
  replay = make(len(priorities), alpha_evict)
  assert replay.add(items(range(len(priorities)), priorities)) == len(priorities)
  return replay


def spread(rng, count):
  """Priorities over ten orders of magnitude, and beyond the range that counts."""
  return (10.0 ** rng.uniform(-8.0, 11.0, count)).astype(np.float32)


def by_slot(replay):
  """The item numbers by slot, -1 for empty slots. Checks that contents match numbers."""
  stamps, parts = replay.read(np.arange(replay.slots))
  there = stamps >= 0
  numbers = np.where(there, parts['n_step_return'][:, 0], -1.0).astype(int)
  for name, values in parts.items():
    if name != 'valid':
      expected = getattr(content(), name)[numbers[there]]
      np.testing.assert_array_equal(values[there], expected, err_msg=name)
  assert len(set(stamps[there])) == len(set(numbers[there])) == there.sum()
  return numbers


def held(replay):
  """The numbers of all items, in ascending order."""
  return sorted(number for number in by_slot(replay).tolist() if number >= 0)


def trees(replay):
  """The tree of sampling and that of eviction: levels `[rows, width]`, leaves first."""
  return [
    [level.numpy() for level in tree.levels] for tree in (replay._tree, replay._eviction._tree)
  ]


def assert_same_trees(one, other):
  for levels, expected in zip(trees(one), trees(other), strict=True):
    for level, same in zip(levels, expected, strict=True):
      np.testing.assert_array_equal(level, same)


def assert_in_step(replay, priorities):
  """Every leaf of both trees matches the priority, by number, of the item in its slot.

  Also checks all sums.
  """
  numbers = by_slot(replay)
  there = numbers >= 0
  valid = replay.read(np.arange(replay.slots))[1]['valid'][:, 0] & there
  values = clipped([priorities[number] if number >= 0 else 1.0 for number in numbers])
  exponents = replay._alpha, replay._eviction._alpha
  for levels, alpha, counted in zip(trees(replay), exponents, (valid, there), strict=True):
    expected = np.where(counted, values**alpha, 0.0)
    for level in levels:
      np.testing.assert_allclose(level.ravel()[: len(expected)], expected, rtol=1e-13)
      assert not level.ravel()[len(expected) :].any()
      expected = level.sum(axis=1)
    assert len(expected) == 1, 'the last level has more than one row'
  assert replay.size() == valid.sum()


def departures(replay, priorities, rounds, count=1):
  """Adds `count` items at once, `rounds` times, and notes which slots they get.

  Every new item gets the priority of its slot, so that the distribution is always the same.

  Args:
    priorities: By slot.

  Returns:
    bool `[rounds, slots]`.
  """
  stamps = replay.stamps()
  left = np.zeros((rounds, len(stamps)), bool)
  for i, out in enumerate(left):
    replay.add(items(range(100 + i * count, 100 + (i + 1) * count)))
    before, stamps = stamps, replay.stamps()
    (slots,) = np.nonzero(stamps != before)
    assert len(slots) == count, 'not every new item has a slot of its own'
    replay.update_priorities(slots, stamps[slots], priorities[slots])
    out[slots] = True
  return left


def leaving(priorities, alpha):
  """The probabilities of leaving alone: p_k^alpha / sum_j p_j^alpha."""
  return clipped(priorities) ** alpha / np.sum(clipped(priorities) ** alpha)


# One at a time.


def test_items_leave_in_proportion_to_a_power_of_their_priorities():
  """Of those that they were added with, and of updated ones."""
  replay = full(HIGH)
  priorities = HIGH[by_slot(replay)]
  left = departures(replay, priorities, 500).sum(axis=0)
  replays.assert_in_proportion(left, leaving(priorities, ALPHA_EVICT))

  assert replay.update_priorities(np.arange(replay.slots), replay.stamps(), LOW) == 0
  assert_in_step(replay, dict(zip(by_slot(replay), LOW, strict=True)))
  left = departures(replay, LOW, 500).sum(axis=0)
  replays.assert_in_proportion(left, leaving(LOW, ALPHA_EVICT))


def test_an_exponent_of_zero_evicts_uniformly():
  replay = full(replays.EXTREME, 0.0)
  left = departures(replay, replays.EXTREME[by_slot(replay)], 300)
  replays.assert_in_proportion(left.sum(axis=0), np.full(15, 1 / 15))


def test_through_a_long_life_items_leave_by_the_formula():
  """While contents and priorities change.

  The distribution differs at every departure. So each item is given a stretch of [0, 1) as long as
  its probability of leaving: random points in the stretches of those that left are uniform.
  """
  capacity, rounds = 13, 500
  rng = np.random.default_rng(0)
  priorities = spread(rng, capacity + rounds)
  replay = full(priorities[:capacity])
  places = []
  numbers = by_slot(replay)
  for number in range(capacity, capacity + rounds):
    before = replay.stamps()
    if number % 3 == 0:
      changed = rng.integers(capacity, size=2)
      priorities[numbers[changed]] = spread(rng, 1)
      replay.update_priorities(changed, before[changed], priorities[numbers[changed]])
    replay.add(items([number], priorities[number]))
    ((slot,),) = np.nonzero(replay.stamps() != before)
    order = np.argsort(priorities[numbers])
    probability = leaving(priorities[numbers[order]], ALPHA_EVICT)
    (rank,) = np.flatnonzero(order == slot)
    places.append(probability[:rank].sum() + rng.random() * probability[rank])
    numbers[slot] = number
  np.testing.assert_array_equal(by_slot(replay), numbers)
  assert_in_step(replay, priorities)
  counts, _ = np.histogram(places, 20, (0.0, 1.0))
  replays.assert_in_proportion(counts, np.full(20, 1 / 20))


# Many at a time.


def test_several_leave_as_if_one_after_the_other():
  """Each by the formula among those left. Sets of two and of three of the five are counted."""
  priorities = np.array([6.0, 0.1, 1.0, 0.5, 3.0], np.float32)
  replay = full(priorities)
  priorities = priorities[by_slot(replay)]
  values = clipped(priorities) ** ALPHA_EVICT

  def chance(sequence):
    remaining = values.sum() - np.cumsum([0.0, *values[list(sequence)]])[:-1]
    return np.prod(values[list(sequence)] / remaining)

  for count in (2, 3):
    left = departures(replay, priorities, 450, count)
    sets = list(itertools.combinations(range(5), count))
    probability = np.array([sum(map(chance, itertools.permutations(each))) for each in sets])
    assert probability.sum() == pytest.approx(1.0)
    counts = np.array([np.all(left[:, each], axis=1).sum() for each in sets])
    replays.assert_in_proportion(counts, probability)


@pytest.mark.parametrize('capacity', [1, 50])
def test_as_many_as_there_is_room_for_replace_all(capacity):
  """However unlikely some are to leave."""
  rng = np.random.default_rng(0)
  priorities = spread(rng, 5 * capacity)
  replay = make(capacity)
  for first in range(0, 5 * capacity, capacity):
    numbers = np.arange(first, first + capacity)
    assert replay.add(items(numbers, priorities[numbers])) == capacity
    assert held(replay) == numbers.tolist()
  assert_in_step(replay, priorities)


def test_items_added_together_do_not_evict_each_other():
  """Also while some slots are free, and although the items there are far less likely to leave."""
  replay = make(10)
  priorities = np.full(200, 1e-6, np.float32)
  priorities[:8] = 1e9
  replay.add(items(range(8), priorities[:8]))
  replay.add(items(range(8, 15), priorities[8:15]))
  numbers = held(replay)
  assert numbers[-7:] == list(range(8, 15)) and len(numbers) == 10
  for first in range(15, 191, 8):
    batch = np.arange(first, first + 8)
    priorities[held(replay)] = 1e9
    replay.update_priorities(np.arange(10), replay.stamps(), np.full(10, 1e9, np.float32))
    replay.add(items(batch, priorities[batch]))
    assert held(replay)[-8:] == batch.tolist()
    assert_in_step(replay, priorities)


# What is kept.


def test_nothing_leaves_before_it_is_full_and_the_capacity_is_never_exceeded():
  capacity, added = 27, 0
  rng = np.random.default_rng(0)
  replay = make(capacity)
  priorities = spread(rng, 10 * capacity + 100)
  assert replay.slots == capacity
  before = set()
  while added < 6 * capacity + 20:
    count = rng.integers(0, min(capacity, 9) + 1)
    batch = np.arange(added, added + count)
    assert replay.add(items(batch, priorities[batch])) == count
    added += count
    now = set(held(replay))
    assert len(now) == replay.size() == min(added, capacity)
    assert set(batch.tolist()) <= now <= before | set(batch.tolist())
    assert replay.remove_to_fit() == 0 and set(held(replay)) == now
    assert_in_step(replay, priorities)
    before = now


def test_places_without_a_transition_are_not_counted_and_never_drawn():
  """They occupy slots until they leave as others do."""
  replay, added = make(12), 0
  rng = np.random.default_rng(0)
  priorities, valid = spread(rng, 200), rng.random(200) < 0.6
  while added < 150:
    batch = np.arange(added, added + 5)
    assert replay.add(items(batch, priorities[batch], valid[batch])) == valid[batch].sum()
    added += 5
    numbers = held(replay)
    assert len(numbers) == min(added, 12) and replay.size() == valid[numbers].sum()
    assert valid[replays.identities(replay.sample(50))].all()
    assert_in_step(replay, priorities)


def test_blocks_of_more_than_one_transition_are_refused():
  spec = replays.KINDS['vectors, oldest first'].spec
  with pytest.raises(ValueError, match='blocks of 5 transitions, expected 1'):
    prioritized.PrioritizedReplay(spec, 30, 1, 0.6, 0.4, False, alpha_evict=-0.4)


def test_warming_up_changes_nothing():
  """Of an empty, a partly filled and a full replay."""
  replay = make(9)
  for new in (range(0), range(5), range(5, 14)):
    replay.add(items(new))
    before = replays.state(replay)
    replay.warm_up()
    replays.assert_state(replay, before)


# Samples and their new priorities.


def test_samples_are_of_what_is_held_in_proportion_to_their_priorities():
  """By the exponent of sampling. Their ages count the items added since, wherever these lie."""
  rng = np.random.default_rng(0)
  priorities = rng.uniform(0.3, 7.0, 60).astype(np.float32)
  replay = full(priorities[:15])
  for first in range(15, 60, 3):
    batch = np.arange(first, first + 3)
    replay.add(items(batch, priorities[batch]))
  sample = replay.sample(20_000)
  numbers = np.array(held(replay))
  drawn = replays.identities(sample)
  replays.assert_whole(sample, content(), stack=1)
  probability = replays.probabilities(priorities[numbers], ALPHA)
  replays.assert_in_proportion(np.bincount(drawn, minlength=60)[numbers], probability)
  assert set(drawn) == set(numbers)
  np.testing.assert_array_equal(sample.stamp, drawn)  # Items were added in order.
  np.testing.assert_array_equal(sample.age, 59 - drawn)
  np.testing.assert_allclose(sample.priority, priorities[drawn], rtol=1e-6)
  weights = (15 * probability[np.searchsorted(numbers, drawn)]) ** -0.4
  np.testing.assert_allclose(sample.weight, weights / weights.max(), rtol=1e-6)


def test_a_late_priority_changes_neither_distribution():
  """Its item has left, and another is in its slot."""
  priorities = np.concatenate([replays.PRIORITIES, np.full(22, 3.0, np.float32)])
  replay = full(priorities[:15])
  sample = replay.sample(300)
  drawn = replays.identities(sample)
  assert set(drawn) == set(range(15))
  replay.add(items(range(15, 22), priorities[15:22]))
  gone = ~np.isin(drawn, held(replay))
  new = tf.constant(1000.0 + drawn, tf.float32)
  assert replay.update_priorities(sample.leaf, sample.stamp, new) == gone.sum() > 0
  # The priorities of the others have changed.
  assert_in_step(replay, np.append(1000.0 + np.arange(15), priorities[15:]))
  replay.add(items(range(22, 37), priorities[22:]))
  before = replays.state(replay)
  assert replay.update_priorities(sample.leaf, sample.stamp, tf.fill([300], 1e6)) == 300
  replays.assert_state(replay, before)


def test_of_several_priorities_for_one_item_both_distributions_take_the_same_one():
  """Batches contain items twice."""
  replay = full(replays.PRIORITIES)
  rng = np.random.default_rng(0)
  for _ in range(20):
    sample = replay.sample(200)
    replay.update_priorities(sample.leaf, sample.stamp, spread(rng, 200))
    _, priorities = replay.priorities()
    assert_in_step(replay, dict(zip(by_slot(replay), priorities[:, 0], strict=True)))


def test_extreme_priorities_are_clipped():
  """Bit for bit, both when they are added and when they are updated.

  So no item is certain to stay, or certain to leave.
  """
  extreme = np.array([0.0, 1e-45, 1e-30, 1.0, 1e10, 1e30, 3e38], np.float32)
  as_much = np.array([1e-6, 1e-6, 1e-6, 1.0, 1e9, 1e9, 1e9], np.float32)
  one, other = full(extreme), full(as_much)
  assert_same_trees(one, other)
  for levels in trees(one):
    assert np.isfinite(levels[0]).all() and (levels[0].ravel()[:7] > 0).all()
  for replay, priorities in ((one, extreme), (other, as_much)):
    replay.update_priorities(np.arange(7), replay.stamps(), priorities[::-1])
    assert_in_step(replay, dict(zip(by_slot(replay), as_much[::-1], strict=True)))
  assert_same_trees(one, other)


# Threads.


class Load:
  """Threads that use one full replay: three add, two sample, two update priorities, and one reads.

  Adds and samples are large, so that calls take long enough to interleave if they are not locked.
  """

  CAPACITY, BURSTS, WRITERS, EACH, DRAWN = 600, 5, 3, 600, 3000
  TOTAL = CAPACITY + BURSTS * WRITERS * EACH

  def __init__(self):
    rng = np.random.default_rng(0)
    self.priorities = spread(rng, self.TOTAL)  # As items are added.
    self.valid = rng.random(self.TOTAL) < 0.9
    self.replay = make(self.CAPACITY)
    self.replay.add(self._batch(np.arange(self.CAPACITY)))
    self.replay.warm_up()
    self.samples = [self.replay.sample(self.DRAWN)]
    self.late = []
    self.reads = []
    self._latest = [{}, {}]  # By the thread that updates: stamps to their last priorities.

  @property
  def latest(self):
    """The last updated priority by stamp."""
    return self._latest[0] | self._latest[1]

  def run(self, burst):
    """Adds the items of one burst, and meanwhile calls the others; waits for all threads."""
    first = self.CAPACITY + burst * self.WRITERS * self.EACH
    starts = [first + i * self.EACH for i in range(self.WRITERS)]
    writing = [replays.Worker(self._write, start) for start in starts]

    def go_on(function, *arguments):
      while any(worker.is_alive() for worker in writing):
        function(*arguments)

    calls = (self._draw,), (self._draw,), (self._update, 0), (self._update, 1), (self._read,)
    replays.join([*writing, *(replays.Worker(go_on, *call) for call in calls)])

  def _batch(self, numbers):
    return items(numbers, self.priorities[numbers], self.valid[numbers])

  def _write(self, first):
    last = first + self.EACH
    sizes = itertools.cycle([1, 200, 5, 100])
    while first < last:
      numbers = np.arange(first, min(first + next(sizes), last))
      assert self.replay.add(self._batch(numbers)) == self.valid[numbers].sum()
      first = numbers[-1] + 1

  def _draw(self):
    self.samples.append(self.replay.sample(self.DRAWN))

  def _update(self, mine):
    """Updates sampled items, often late. Only every second stamp: no two threads share an item."""
    sample = self.samples[-min(len(self.samples), 1 + len(self.late) % 10)]
    stamps = sample.stamp.numpy()
    own = stamps % 2 == mine
    unique, place = np.unique(stamps[own], return_inverse=True)  # Some are drawn twice.
    new = spread(np.random.default_rng(len(self.late)), len(unique))
    leaf = sample.leaf.numpy()[own]
    self.late.append(self.replay.update_priorities(leaf, stamps[own], new[place]))
    self._latest[mine].update(zip(unique.tolist(), new.tolist(), strict=True))

  def _read(self):
    """Reads all, as saving does."""
    self.reads.append(self.replay.read(np.arange(self.CAPACITY)))
    assert (self.replay.priorities()[0] >= 0).all()


@pytest.mark.usefixtures('restless')
def test_threads_leave_contents_and_both_distributions_in_step():
  """Checked between bursts, so that errors are seen before they are overwritten."""
  load = Load()
  replay = load.replay
  for burst in range(load.BURSTS):
    load.run(burst)
    stamps = replay.stamps()
    assert (stamps >= 0).all()  # It is full.
    by_stamp = zip(by_slot(replay), stamps.tolist(), strict=True)
    latest = load.latest
    assert_in_step(
      replay, {number: latest.get(stamp, load.priorities[number]) for number, stamp in by_stamp}
    )

  assert len(load.samples) > 20 and len(load.reads) > 10 and max(load.late) > 0
  updated = set(replay.stamps().tolist()) & load.latest.keys()
  assert updated, 'no updated item is left'
  assert replay.stamps().max() == load.TOTAL - 1  # Every item was counted once.
  assert_reads_are_whole(load)


def assert_reads_are_whole(load):
  """What was sampled and read meanwhile is whole, and every stamp is of one item."""
  pairs = []
  for sample in load.samples:
    replays.assert_whole(sample, content(), stack=1)
    numbers = replays.identities(sample)
    assert load.valid[numbers].all()
    pairs.append((sample.stamp.numpy(), numbers))
  for stamps, parts in load.reads:
    numbers = parts['n_step_return'][:, 0].astype(int)
    for part in ('observation', 'frame_start', 'action', 'discount', 'end'):
      np.testing.assert_array_equal(parts[part], getattr(content(), part)[numbers])
    np.testing.assert_array_equal(parts['valid'][:, 0], load.valid[numbers])
    pairs.append((stamps, numbers))
  unique = np.unique(np.concatenate(pairs, axis=1), axis=1)
  for stamps_or_numbers in unique:
    assert len(set(stamps_or_numbers)) == unique.shape[1]


def test_every_call_takes_the_lock():
  """The test above rarely catches a call that does not."""
  replay = full(LOW)
  sample = replay.sample(5)
  calls = (
    lambda: replay.add(items([7])),
    lambda: replay.sample(5),
    lambda: replay.update_priorities(sample.leaf, sample.stamp, tf.fill([5], 3.0)),
    replay.remove_to_fit,
    lambda: replay.origins(sample.leaf, sample.stamp),
    lambda: replay.remove(sample.leaf[:0], sample.stamp[:0]),
    replay.stamps,
    lambda: replay.read(np.arange(7)),
    replay.priorities,
  )
  for call in calls:
    call()  # Traces its graph.
  before = replays.state(replay)
  with replay._lock:
    workers = [replays.Worker(call) for call in calls]
    workers[0].join(0.3)
    assert all(worker.is_alive() for worker in workers)
    replays.assert_state(replay, before)
  replays.join(workers)


# Saving.


@pytest.fixture
def chunks(monkeypatch):
  """Seven items per chunk file."""
  monkeypatch.setattr(saving, '_CHUNK_BYTES', 7 * structures.block_bytes(KIND.spec) + 1)


def lived(capacity, count, **settings):
  """A replay to which `count` items were added, and their priorities. Some have been updated."""
  replay = make(capacity, **settings)
  priorities = spread(np.random.default_rng(count), count)
  for first in range(0, count, 3):
    batch = np.arange(first, min(first + 3, count))
    replay.add(items(batch, priorities[batch]))
  sample = replay.sample(10)
  drawn = replays.identities(sample)
  priorities[drawn] = np.linspace(3.0, 4.0, count).astype(np.float32)[drawn]
  replay.update_priorities(sample.leaf, sample.stamp, priorities[drawn])
  return replay, priorities


def restored(folder, capacity, **settings):
  replay = make(capacity, **settings)
  assert saving.restore(replay, folder) == 7
  return replay


@pytest.mark.usefixtures('chunks')
@pytest.mark.parametrize(
  'count, capacity, files', [(20, 33, 3), (100, 50, 5)], ids=['not full', 'into a larger one']
)
def test_all_comes_back(tmp_path, count, capacity, files):
  """And nothing leaves before all slots are taken."""
  replay, priorities = lived(33, count)
  saving.Saver(replay, tmp_path).save(7)
  assert len(list(tmp_path.glob('*/chunk-*'))) == files
  again = restored(tmp_path, capacity)
  numbers = held(again)
  assert numbers == held(replay)
  assert_in_step(again, priorities)

  new = np.arange(1000, 1012)
  again.add(items(new))
  assert held(again)[-12:] == new.tolist() and set(held(again)[:-12]) <= set(numbers)
  assert again.size() == min(capacity, len(numbers) + 12)
  assert_in_step(again, dict(enumerate(priorities)) | dict.fromkeys(new, 1.0))


@pytest.mark.usefixtures('chunks')
def test_a_smaller_replay_takes_as_many_as_it_holds(tmp_path):
  """More than one file has, or less."""
  replay, priorities = lived(33, 100)
  saving.Saver(replay, tmp_path).save(7)
  for capacity in (20, 4):
    again = restored(tmp_path, capacity)
    assert again.size() == len(held(again)) == capacity
    assert set(held(again)) < set(held(replay))
    assert_in_step(again, priorities)


@pytest.mark.usefixtures('chunks')
def test_a_later_save_has_what_came_and_not_what_left(tmp_path):
  replay, priorities = lived(33, 100)
  saver = saving.Saver(replay, tmp_path)
  saver.save(6)
  replay.add(items([200, 201]))
  replay.update_priorities(np.arange(33), replay.stamps(), np.arange(1, 34, dtype=np.float32))
  saver.save(7)
  again = restored(tmp_path, 33)
  assert held(again) == held(replay)
  assert_in_step(again, dict(zip(by_slot(replay), range(1, 34), strict=True)))


@pytest.mark.usefixtures('chunks')
def test_saving_while_others_add_loses_only_what_left_meanwhile(tmp_path):
  """And never mistakes the contents of a new item for those of the one whose slot it got."""
  replay, priorities = lived(33, 100)
  before = set(held(replay))
  priorities = dict(enumerate(priorities)) | dict.fromkeys(range(200, 300), 1.0)
  new = iter(range(200, 300))
  in_use = replays.ReplayInUse(replay, lambda: replay.add(items([next(new)])))

  saving.Saver(in_use, tmp_path).save(7)
  again = restored(tmp_path, 33)
  now = set(held(replay))
  assert before & now <= set(held(again)) <= now
  assert_in_step(again, priorities)


@pytest.mark.usefixtures('chunks')
def test_from_one_eviction_to_the_other(tmp_path):
  """By age, the newest are kept, although they lie scattered; a save of these fits by priority."""
  replay, priorities = lived(33, 100)
  saving.Saver(replay, tmp_path / 'by priority').save(7)
  ring = restored(tmp_path / 'by priority', 20, alpha_evict=None)
  ring.remove_to_fit()
  assert held(ring) == held(replay)[-20:]
  saving.Saver(ring, tmp_path / 'oldest first').save(7)
  again = restored(tmp_path / 'oldest first', 33)
  assert held(again) == held(ring)
  assert_in_step(again, priorities)


def test_priorities_come_back_that_only_eviction_uses(tmp_path):
  replay, priorities = lived(33, 33, alpha=0.0)
  assert_in_step(replay, priorities)
  saving.Saver(replay, tmp_path).save(7)
  assert_in_step(restored(tmp_path, 33, alpha=0.0), priorities)
