"""Eviction by priority: who leaves a full replay and how often, and that both distributions stay in step with it."""

import functools
import itertools

import numpy as np
import pytest
import tensorflow as tf

from common.replay import prioritized, saving, structures
from tests.common.replay import prioritized_test

ALPHA, ALPHA_EVICT = 0.6, -0.4
E = 2  # Entries of a transition: its state, and the one that it bootstraps from.
SPEC = structures.TransitionBlock(
  observation=tf.TensorSpec([E, 3], tf.float32),
  frame_start=tf.TensorSpec([E], tf.bool),
  action=tf.TensorSpec([1, 2], tf.float32),
  n_step_return=tf.TensorSpec([1], tf.float32),
  discount=tf.TensorSpec([1], tf.float32),
  end=tf.TensorSpec([1], tf.int32),
  valid=tf.TensorSpec([1], tf.bool),
  priority=tf.TensorSpec([1], tf.float32),
)
# Each is so likely to leave beside the others that it is seen to: 0 counts as 1e-6, and 1e30 as 1e9.
LOW = np.array([0.0, 1e-30, 1e-6, 1e-5, 1e-3, 0.003, 1e-4], np.float32)
HIGH = np.array([1e5, 1e30, 1e6, 3e38, 1e7, 1e8, 1e9], np.float32)

seed, restless = prioritized_test.seed, prioritized_test.restless


def clipped(priorities):
  return np.clip(np.asarray(priorities, np.float64), 1e-6, 1e9)


@functools.cache
def content():
  """All items that there are: random but for their returns, which are their numbers, and their priority of 1."""
  rng, count = np.random.default_rng(0), 12_000
  return structures.TransitionBlock(
    observation=rng.random((count, E, 3), np.float32),
    frame_start=rng.random((count, E)) < 0.4,
    action=rng.random((count, 1, 2), np.float32),
    n_step_return=np.arange(count, dtype=np.float32)[:, np.newaxis],
    discount=rng.random((count, 1), np.float32),
    end=rng.integers(E, size=(count, 1), dtype=np.int32),
    valid=np.ones((count, 1), bool),
    priority=np.ones((count, 1), np.float32),
  )


def items(numbers, priorities=1.0, valid=True):
  numbers = np.asarray(numbers, int)
  column = lambda x, dtype: np.broadcast_to(np.asarray(x, dtype), numbers.shape)[:, np.newaxis]
  return structures.TransitionBlock(*(part[numbers] for part in content()))._replace(
    priority=column(priorities, np.float32), valid=column(valid, bool)
  )


def make(capacity, alpha_evict=ALPHA_EVICT, alpha=ALPHA):
  return prioritized.PrioritizedReplay(SPEC, capacity, 1, alpha, 0.4, False, alpha_evict)


def full(priorities, alpha_evict=ALPHA_EVICT):
  """A full replay of items 0 to C - 1 with these priorities."""
  replay = make(len(priorities), alpha_evict)
  assert replay.add(items(range(len(priorities)), priorities)) == len(priorities)
  return replay


def spread(rng, count):
  """Priorities over ten orders of magnitude, and beyond those that count."""
  return (10.0 ** rng.uniform(-8.0, 11.0, count)).astype(np.float32)


def held(replay):
  """The numbers of the items in every slot, -1 where there is none; their contents belong together, and are valid."""
  stamps, parts = replay.read(np.arange(replay.slots))
  numbers = np.where(stamps >= 0, parts['n_step_return'][:, 0], -1.0).astype(int)
  for name, values in parts.items():
    if name != 'valid':
      np.testing.assert_array_equal(
        values[stamps >= 0], getattr(content(), name)[numbers[stamps >= 0]], err_msg=name
      )
  kept = stamps[stamps >= 0]
  assert len(set(kept)) == len(kept) and len(set(numbers[stamps >= 0])) == len(kept)
  return numbers


def numbers_of(replay):
  return sorted(number for number in held(replay).tolist() if number >= 0)


def trees(replay):
  """Of the one that samples are drawn by, and the one that decides who leaves: levels `[rows, width]`, leaves first."""
  return [
    [level.numpy() for level in tree.levels] for tree in (replay._tree, replay._eviction._tree)
  ]


def assert_same_trees(one, other):
  for levels, expected in zip(trees(one), trees(other), strict=True):
    for level, same in zip(levels, expected, strict=True):
      np.testing.assert_array_equal(level, same)


def assert_in_step(replay, priorities):
  """Both distributions are, in every slot, of the priority of the item there, by number; and all sums are right."""
  numbers = held(replay)
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
    assert len(expected) == 1, 'there is no top'
  assert replay.size() == valid.sum()


def departures(replay, priorities, rounds, count=1):
  """In which slots those lie that leave for `count` others at once, bool `[rounds, slots]`.

  Again and again from the same distribution: whoever comes is given the priority, of those by slot, of its place.
  """
  stamps = replay.stamps()
  left = np.zeros((rounds, len(stamps)), bool)
  for i, out in enumerate(left):
    replay.add(items(range(100 + i * count, 100 + (i + 1) * count)))
    before, stamps = stamps, replay.stamps()
    (slots,) = np.nonzero(stamps != before)
    assert len(slots) == count, 'not every newcomer has a place of its own'
    replay.update_priorities(slots, stamps[slots], priorities[slots])
    out[slots] = True
  return left


def leaving(priorities, alpha):
  """Who leaves alone: p_k^alpha / sum p^alpha."""
  return clipped(priorities) ** alpha / np.sum(clipped(priorities) ** alpha)


# One at a time.


def test_items_leave_in_proportion_to_a_power_of_their_priorities():
  """Of those that they were added with, and of new ones."""
  replay = full(HIGH)
  by_slot = HIGH[held(replay)]
  prioritized_test.assert_in_proportion(
    departures(replay, by_slot, 500).sum(axis=0), leaving(by_slot, ALPHA_EVICT)
  )
  assert replay.update_priorities(np.arange(replay.slots), replay.stamps(), LOW) == 0
  assert_in_step(replay, dict(zip(held(replay), LOW)))
  prioritized_test.assert_in_proportion(
    departures(replay, LOW, 500).sum(axis=0), leaving(LOW, ALPHA_EVICT)
  )


def test_an_exponent_of_zero_lets_all_leave_alike():
  replay = full(prioritized_test.EXTREME, 0.0)
  left = departures(replay, prioritized_test.EXTREME[held(replay)], 300)
  prioritized_test.assert_in_proportion(left.sum(axis=0), np.full(15, 1 / 15))


def test_through_a_long_life_each_leaves_by_the_formula():
  """While contents and priorities change. A departure is told by where it lies in the distribution of that moment.

  That is its part of the line on which all have a stretch as long as their probability, at random within: uniform.
  """
  capacity, rounds, rng = 13, 500, np.random.default_rng(0)
  priorities = spread(rng, capacity + rounds)
  replay, places = full(priorities[:capacity]), []
  slots = held(replay)  # The items in them.
  for number in range(capacity, capacity + rounds):
    before = replay.stamps()
    if number % 3 == 0:
      changed = rng.integers(capacity, size=2)
      priorities[slots[changed]] = spread(rng, 1)
      replay.update_priorities(changed, before[changed], priorities[slots[changed]])
    replay.add(items([number], priorities[number]))
    ((slot,),) = np.nonzero(replay.stamps() != before)
    order = np.argsort(priorities[slots])
    probability = leaving(priorities[slots[order]], ALPHA_EVICT)
    (rank,) = np.flatnonzero(order == slot)
    places.append(probability[:rank].sum() + rng.random() * probability[rank])
    slots[slot] = number
  np.testing.assert_array_equal(held(replay), slots)
  assert_in_step(replay, priorities)
  counts, _ = np.histogram(places, 20, (0.0, 1.0))
  prioritized_test.assert_in_proportion(counts, np.full(20, 1 / 20))


# Many at a time.


def test_several_leave_as_if_one_after_the_other():
  """Each by the formula among those that are left; the order is not seen. All subsets of five are told apart."""
  priorities = np.array([6.0, 0.1, 1.0, 0.5, 3.0], np.float32)
  replay = full(priorities)
  by_slot = priorities[held(replay)]
  values = clipped(by_slot) ** ALPHA_EVICT

  def chance(sequence):
    remaining = values.sum() - np.cumsum([0.0, *values[list(sequence)]])[:-1]
    return np.prod(values[list(sequence)] / remaining)

  for count in (2, 3):
    left = departures(replay, by_slot, 450, count)
    sets = list(itertools.combinations(range(5), count))
    probability = np.array([sum(map(chance, itertools.permutations(each))) for each in sets])
    assert probability.sum() == pytest.approx(1.0)
    counts = np.array([np.all(left[:, each], axis=1).sum() for each in sets])
    prioritized_test.assert_in_proportion(counts, probability)


@pytest.mark.parametrize('capacity', [1, 50])
def test_as_many_as_there_is_room_for_replace_all(capacity):
  """However unlikely it is that some leave."""
  rng = np.random.default_rng(0)
  priorities = spread(rng, 5 * capacity)
  replay = make(capacity)
  for first in range(0, 5 * capacity, capacity):
    numbers = np.arange(first, first + capacity)
    assert replay.add(items(numbers, priorities[numbers])) == capacity
    assert numbers_of(replay) == numbers.tolist()
  assert_in_step(replay, priorities)


def test_those_that_come_together_do_not_drive_out_each_other():
  """Nor do they when there still are some free places, and although those that are there are worth far more."""
  replay, priorities = make(10), np.full(200, 1e-6, np.float32)
  priorities[:8] = 1e9
  replay.add(items(range(8), priorities[:8]))
  replay.add(items(range(8, 15), priorities[8:15]))
  numbers = numbers_of(replay)
  assert numbers[-7:] == list(range(8, 15)) and len(numbers) == 10
  for first in range(15, 191, 8):
    batch = np.arange(first, first + 8)
    priorities[numbers_of(replay)] = 1e9
    replay.update_priorities(np.arange(10), replay.stamps(), np.full(10, 1e9, np.float32))
    replay.add(items(batch, priorities[batch]))
    assert numbers_of(replay)[-8:] == batch.tolist()
    assert_in_step(replay, priorities)


# What is held.


def test_nothing_leaves_before_it_is_full_and_never_are_there_more_than_the_capacity():
  capacity, rng, added = 27, np.random.default_rng(0), 0
  replay = make(capacity)
  priorities = spread(rng, 10 * capacity + 100)
  assert replay.slots == capacity
  before = set()
  while added < 6 * capacity + 20:
    count = rng.integers(0, min(capacity, 9) + 1)
    batch = np.arange(added, added + count)
    assert replay.add(items(batch, priorities[batch])) == count
    added += count
    now = set(numbers_of(replay))
    assert len(now) == replay.size() == min(added, capacity)
    assert set(batch.tolist()) <= now <= before | set(batch.tolist())
    assert replay.remove_to_fit() == 0 and set(numbers_of(replay)) == now
    assert_in_step(replay, priorities)
    before = now


def test_places_without_a_transition_are_not_counted_and_never_drawn():
  """But are held, until they leave as others do."""
  replay, rng, added = make(12), np.random.default_rng(0), 0
  priorities, valid = spread(rng, 200), rng.random(200) < 0.6
  while added < 150:
    batch = np.arange(added, added + 5)
    assert replay.add(items(batch, priorities[batch], valid[batch])) == valid[batch].sum()
    added += 5
    numbers = numbers_of(replay)
    assert len(numbers) == min(added, 12) and replay.size() == valid[numbers].sum()
    assert valid[prioritized_test.identities(replay.sample(50))].all()
    assert_in_step(replay, priorities)


def test_what_is_refused_changes_nothing():
  """Priorities that are none, and more at once than there is room for."""
  replay = full(LOW)
  before = prioritized_test.state(replay)
  for bad in (np.nan, np.inf, -1.0):
    with pytest.raises(structures.RefusedBlock):
      replay.add(items([7, 8], [1.0, bad]))
  with pytest.raises(ValueError, match='8 blocks at once, expected at most 7'):
    replay.add(items(range(8)))
  prioritized_test.assert_state(replay, before)


def test_blocks_of_more_than_one_transition_are_refused():
  with pytest.raises(ValueError, match='blocks of 5 transitions, expected 1'):
    prioritized.PrioritizedReplay(prioritized_test.SPEC, 30, 1, 0.6, 0.4, False, alpha_evict=-0.4)


def test_warming_up_changes_nothing():
  replay = make(9)
  for new in (
    range(0),
    range(5),
    range(5, 14),
  ):  # None are held, some, and as many as there is room for.
    replay.add(items(new))
    before = prioritized_test.state(replay)
    replay.warm_up()
    prioritized_test.assert_state(replay, before)


@pytest.mark.parametrize('capacity', [1, 5, 64, 1000])
def test_size_in_bytes_is_that_of_the_arrays(capacity):
  arrays = [variable for variable in make(capacity).variables if variable.shape.rank]
  assert prioritized.PrioritizedReplay.size_in_bytes(SPEC, capacity, ALPHA_EVICT) == sum(
    variable.shape.num_elements() * variable.dtype.size for variable in arrays
  )


# Samples, and new priorities of what was sampled.


def assert_whole(sample):
  number = prioritized_test.identities(sample)
  kept, at = content(), lambda entry: (number[:, np.newaxis], entry[:, np.newaxis])
  for part, expected in {
    'observation': kept.observation[at(np.zeros_like(number))],
    'next_observation': kept.observation[at(kept.end[number, 0])],
    'frame_start': kept.frame_start[at(np.zeros_like(number))],
    'next_frame_start': kept.frame_start[at(kept.end[number, 0])],
    'action': kept.action[number, 0],
    'discount': kept.discount[number, 0],
  }.items():
    np.testing.assert_array_equal(getattr(sample, part), expected, err_msg=part)


def test_samples_are_of_what_is_held_in_proportion_to_their_priorities():
  """By the other exponent; and their ages count those that came since, wherever they lie."""
  rng = np.random.default_rng(0)
  priorities = rng.uniform(0.3, 7.0, 60).astype(np.float32)
  replay = full(priorities[:15])
  for first in range(15, 60, 3):
    batch = np.arange(first, first + 3)
    replay.add(items(batch, priorities[batch]))
  sample, numbers = replay.sample(20_000), np.array(numbers_of(replay))
  drawn = prioritized_test.identities(sample)
  assert_whole(sample)
  probability = prioritized_test.probabilities(priorities[numbers], ALPHA)
  prioritized_test.assert_in_proportion(np.bincount(drawn, minlength=60)[numbers], probability)
  assert set(drawn) == set(numbers)
  np.testing.assert_array_equal(
    sample.stamp, drawn
  )  # They were added in the order of their numbers.
  np.testing.assert_array_equal(sample.age, 59 - drawn)
  np.testing.assert_allclose(sample.priority, priorities[drawn], rtol=1e-6)
  weights = (15 * probability[np.searchsorted(numbers, drawn)]) ** -0.4
  np.testing.assert_allclose(sample.weight, weights / weights.max(), rtol=1e-6)


def test_a_late_priority_changes_neither_distribution():
  """Its item has left, and another is in its place."""
  priorities = np.concatenate([prioritized_test.PRIORITIES, np.full(22, 3.0, np.float32)])
  replay = full(priorities[:15])
  sample = replay.sample(300)
  drawn = prioritized_test.identities(sample)
  assert set(drawn) == set(range(15))
  replay.add(items(range(15, 22), priorities[15:22]))
  gone = ~np.isin(drawn, numbers_of(replay))
  assert (
    replay.update_priorities(sample.leaf, sample.stamp, tf.constant(1000.0 + drawn, tf.float32))
    == gone.sum()
    > 0
  )
  assert_in_step(
    replay, np.append(1000.0 + np.arange(15), priorities[15:])
  )  # Those of the others do.
  replay.add(items(range(22, 37), priorities[22:]))
  before = prioritized_test.state(replay)
  assert replay.update_priorities(sample.leaf, sample.stamp, tf.fill([300], 1e6)) == 300
  prioritized_test.assert_state(replay, before)


def test_of_several_priorities_for_one_item_both_distributions_take_the_same():
  """As when it is in a batch twice."""
  replay, rng = full(prioritized_test.PRIORITIES), np.random.default_rng(0)
  for _ in range(20):
    sample = replay.sample(200)
    replay.update_priorities(sample.leaf, sample.stamp, spread(rng, 200))
    _, priorities = replay.priorities()
    assert_in_step(replay, dict(zip(held(replay), priorities[:, 0])))


def test_extreme_priorities_count_as_the_least_or_the_largest():
  """To the last bit, as added ones and as new ones: nobody has no chance to leave, or leaves no other a chance."""
  extreme = np.array([0.0, 1e-45, 1e-30, 1.0, 1e10, 1e30, 3e38], np.float32)
  as_much = np.array([1e-6, 1e-6, 1e-6, 1.0, 1e9, 1e9, 1e9], np.float32)
  one, other = full(extreme), full(as_much)
  assert_same_trees(one, other)
  for levels in trees(one):
    assert np.isfinite(levels[0]).all() and (levels[0].ravel()[:7] > 0).all()
  for replay, priorities in ((one, extreme), (other, as_much)):
    replay.update_priorities(np.arange(7), replay.stamps(), priorities[::-1])
    assert_in_step(replay, dict(zip(held(replay), as_much[::-1])))
  assert_same_trees(one, other)


# Threads.


@pytest.mark.usefixtures('restless')
def test_threads_leave_contents_and_both_distributions_in_step():
  """Three add, two sample, two give new priorities, often late ones, and one reads all as saving does.

  Many items at once, so that calls take their time and would meet each other half done. All stop again and again, so
  that what went wrong is seen before it is written over.
  """
  capacity, bursts, writers, each, drawn = 600, 5, 3, 600, 3000
  total = capacity + bursts * writers * each
  rng = np.random.default_rng(0)
  priorities, valid = spread(rng, total), rng.random(total) < 0.9
  batch = lambda numbers: items(numbers, priorities[numbers], valid[numbers])
  replay = make(capacity)
  replay.add(batch(np.arange(capacity)))
  replay.warm_up()
  samples, late, reads, latest = [replay.sample(drawn)], [], [], [{}, {}]

  def write(first):
    last, sizes = first + each, itertools.cycle([1, 200, 5, 100])
    while first < last:
      numbers = np.arange(first, min(first + next(sizes), last))
      assert replay.add(batch(numbers)) == valid[numbers].sum()
      first = numbers[-1] + 1

  def draw():
    samples.append(replay.sample(drawn))

  def update(mine):
    """Of every second stamp: so no two disagree on one item."""
    sample = samples[-min(len(samples), 1 + len(late) % 10)]
    stamps = sample.stamp.numpy()
    own = stamps % 2 == mine
    unique, place = np.unique(stamps[own], return_inverse=True)  # Some are drawn twice.
    new = spread(np.random.default_rng(len(late)), len(unique))
    late.append(replay.update_priorities(sample.leaf.numpy()[own], stamps[own], new[place]))
    latest[mine].update(zip(unique.tolist(), new.tolist()))

  def read():
    reads.append(replay.read(np.arange(capacity)))
    assert (replay.priorities()[0] >= 0).all()

  def assert_all_in_step():
    stamps = replay.stamps()
    assert (stamps >= 0).all()  # It is full.
    numbers, new = held(replay), latest[0] | latest[1]
    assert_in_step(
      replay,
      {
        number: new.get(stamp, priorities[number])
        for number, stamp in zip(numbers, stamps.tolist())
      },
    )

  for burst in range(bursts):
    first = capacity + burst * writers * each
    writing = [prioritized_test.Worker(write, first + i * each) for i in range(writers)]

    def go_on(function, *arguments):
      while any(worker.is_alive() for worker in writing):
        function(*arguments)

    calls = (draw,), (draw,), (update, 0), (update, 1), (read,)
    workers = [*writing, *(prioritized_test.Worker(go_on, *call) for call in calls)]
    for worker in workers:
      worker.join(prioritized_test.DEADLINE)
    assert not any(worker.is_alive() for worker in workers)
    assert [worker.error for worker in workers] == [None] * len(workers)
    assert_all_in_step()

  assert len(samples) > 20 and len(reads) > 10 and max(late) > 0
  assert set(replay.stamps().tolist()) & (latest[0] | latest[1]).keys(), (
    'all new priorities were in vain'
  )
  assert replay.stamps().max() == total - 1  # Every item was counted once.
  # What was seen meanwhile was whole, too, and every stamp was of one item.
  pairs = []
  for sample in samples:
    assert_whole(sample)
    pairs.append((sample.stamp.numpy(), prioritized_test.identities(sample)))
    assert valid[pairs[-1][1]].all()
  for stamps, parts in reads:
    pairs.append((stamps, parts['n_step_return'][:, 0].astype(int)))
    for part in ('observation', 'frame_start', 'action', 'discount', 'end'):
      np.testing.assert_array_equal(parts[part], getattr(content(), part)[pairs[-1][1]])
    np.testing.assert_array_equal(parts['valid'][:, 0], valid[pairs[-1][1]])
  unique = np.unique(np.concatenate(pairs, axis=1), axis=1)
  for stamps_or_numbers in unique:
    assert len(set(stamps_or_numbers)) == unique.shape[1]


def test_every_call_waits_for_its_turn():
  """Whoever misses it is rarely caught half done by the test above."""
  replay = full(LOW)
  sample = replay.sample(5)
  update = lambda: replay.update_priorities(sample.leaf, sample.stamp, tf.fill([5], 3.0))
  calls = (
    lambda: replay.add(items([7])),
    lambda: replay.sample(5),
    update,
    replay.remove_to_fit,
    replay.stamps,
    lambda: replay.read(np.arange(7)),
    replay.priorities,
  )
  for call in calls:  # Traces it.
    call()
  before = prioritized_test.state(replay)
  with replay._lock:
    workers = [prioritized_test.Worker(call) for call in calls]
    workers[0].join(0.3)
    assert all(worker.is_alive() for worker in workers)
    prioritized_test.assert_state(replay, before)
  for worker in workers:
    worker.join(prioritized_test.DEADLINE)
  assert [(worker.is_alive(), worker.error) for worker in workers] == [(False, None)] * len(workers)


# Saving.


@pytest.fixture
def chunks(monkeypatch):
  """Saves seven items to a file."""
  monkeypatch.setattr(saving, '_CHUNK_BYTES', 7 * structures.block_bytes(SPEC) + 1)


def lived(capacity, count, **settings):
  """A replay to which so many were added, and by number their priorities: some were given new ones."""
  replay, rng = make(capacity, **settings), np.random.default_rng(count)
  priorities = spread(rng, count)
  for first in range(0, count, 3):
    batch = np.arange(first, min(first + 3, count))
    replay.add(items(batch, priorities[batch]))
  sample = replay.sample(10)
  new = np.linspace(3.0, 4.0, count).astype(np.float32)
  priorities[prioritized_test.identities(sample)] = new[prioritized_test.identities(sample)]
  replay.update_priorities(
    sample.leaf, sample.stamp, priorities[prioritized_test.identities(sample)]
  )
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
  """And nothing leaves for others before all places are taken."""
  replay, priorities = lived(33, count)
  saving.Saver(replay, tmp_path).save(7)
  assert len(list(tmp_path.glob('*/chunk-*'))) == files
  again, new = restored(tmp_path, capacity), np.arange(1000, 1012)
  numbers = numbers_of(again)
  assert numbers == numbers_of(replay)
  assert_in_step(again, priorities)
  again.add(items(new))
  assert numbers_of(again)[-12:] == new.tolist() and set(numbers_of(again)[:-12]) <= set(numbers)
  assert again.size() == min(capacity, len(numbers) + 12)
  assert_in_step(again, dict(enumerate(priorities)) | dict.fromkeys(new, 1.0))


@pytest.mark.usefixtures('chunks')
def test_a_smaller_replay_takes_as_many_as_it_holds(tmp_path):
  """Those of several files, or of less than one."""
  replay, priorities = lived(33, 100)
  saving.Saver(replay, tmp_path).save(7)
  for capacity in (20, 4):
    again = restored(tmp_path, capacity)
    assert again.size() == len(numbers_of(again)) == capacity
    assert set(numbers_of(again)) < set(numbers_of(replay))
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
  assert numbers_of(again) == numbers_of(replay)
  assert_in_step(again, dict(zip(held(replay), range(1, 34))))


@pytest.mark.usefixtures('chunks')
def test_saving_while_others_add_loses_only_what_left_meanwhile(tmp_path):
  """And never takes one item's contents for another's, whose place it took."""
  replay, priorities = lived(33, 100)
  before, priorities = (
    set(numbers_of(replay)),
    dict(enumerate(priorities)) | dict.fromkeys(range(200, 300), 1.0),
  )

  class Adding:
    """A replay to which somebody adds between any two reads."""

    spec, slots, new = replay.spec, replay.slots, iter(range(200, 300))
    stamps, priorities = replay.stamps, replay.priorities

    def read(self, slots):
      replay.add(items([next(self.new)]))
      return replay.read(slots)

  saving.Saver(Adding(), tmp_path).save(7)
  again = restored(tmp_path, 33)
  now = set(numbers_of(replay))
  assert before & now <= set(numbers_of(again)) <= now
  assert_in_step(again, priorities)


@pytest.mark.usefixtures('chunks')
def test_from_one_way_of_leaving_to_the_other(tmp_path):
  """One that loses its oldest takes the newest, although they lie scattered; and what it saved is taken, too."""
  replay, priorities = lived(33, 100)
  saving.Saver(replay, tmp_path / 'by priority').save(7)
  ring = restored(tmp_path / 'by priority', 20, alpha_evict=None)
  ring.remove_to_fit()
  assert numbers_of(ring) == numbers_of(replay)[-20:]
  saving.Saver(ring, tmp_path / 'oldest first').save(7)
  again = restored(tmp_path / 'oldest first', 33)
  assert numbers_of(again) == numbers_of(ring)
  assert_in_step(again, priorities)


def test_priorities_come_back_that_only_eviction_uses(tmp_path):
  replay, priorities = lived(33, 33, alpha=0.0)
  assert_in_step(replay, priorities)
  saving.Saver(replay, tmp_path).save(7)
  assert_in_step(restored(tmp_path, 33, alpha=0.0), priorities)
