"""The sum tree: which leaves it finds, and that its sums stay exact however often leaves change."""

import itertools
import math

import numpy as np
import pytest
import tensorflow as tf

from common.replay import sum_tree

SIZES = [1, 2, 3, 7, 8, 9, 100, 128, 1000]
TINIEST = np.nextafter(0.0, 1.0)
# The worst for rounding: sums that swallow an addend, that lie between two numbers, that underflow.
ADVERSARIES = {
  'a huge one among tiny ones': [1e-30, 1e-30, 1e30, 1e-30, 1e-30],
  'huge ones among tiny ones and zeros': [0.0, 1e30, 0.0, 1e-30, 1e30, 0.0, 0.0, 1e-30, 0.0],
  'zeros on the right': [0.3, 0.1, 0.2, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
  'zeros on the left': [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.3, 0.1],
  'each other one zero': [0.1, 0.0] * 50,
  'sums that round up': [1.0, 2.0**-53, 2.0**-53, 1.0 - 2.0**-53, 0.0, 2.0**-52, 3.0, 0.0],
  'sums that swallow': [2.0**53, 1.0, 1.0, 0.0, 2.0**53, 1.0, 0.0, 1.0],
  'next to nothing': [TINIEST, 0.0, TINIEST, 1e-300, 0.0],
  'a single one': [0.0, 0.0, 1.0, 0.0, 0.0],
  'a tree of one': [0.7],
}


class Tree:
  """A sum tree and its operations as graphs, on arrays."""

  def __init__(self, size):
    self.tree = sum_tree.SumTree(size)
    self._set = tf.function(self.tree.set, reduce_retracing=True)
    self._get = tf.function(self.tree.get, reduce_retracing=True)
    self._find = tf.function(self.tree.find, reduce_retracing=True)
    self._total = tf.function(self.tree.total)

  def set(self, leaves, values):
    self._set(tf.constant(leaves, tf.int64), tf.constant(values, tf.float64))

  def get(self, leaves):
    return self._get(tf.constant(leaves, tf.int64)).numpy()

  def find(self, points):
    return self._find(tf.constant(points, tf.float64)).numpy()

  def total(self):
    return float(self._total())

  def levels(self):
    """From the leaves up, `[rows, width]` each."""
    return [level.numpy() for level in self.tree.levels]


def filled(values):
  tree = Tree(len(values))
  tree.set(np.arange(len(values)), values)
  return tree


def searched(values, points):
  """The leaf at each point by definition: the first whose stretch ends beyond it."""
  ends = np.cumsum(values)
  return [next(leaf for leaf, end in enumerate(ends) if point < end) for point in points]


def whole_numbers(size, seed, zeros=0.3):
  """Values whose sums are exact in float64; some are zero, but not all."""
  rng = np.random.default_rng(seed)
  values = rng.integers(1, 20, size) * (rng.random(size) >= zeros)
  values[rng.integers(size)] = 7
  return values.astype(np.float64)


def orders_of_magnitude(rng, *shape):
  """Values between 1e-150 and 1e150, and some zeros."""
  return 10.0 ** rng.uniform(-150, 150, shape) * (rng.random(shape) >= 0.2)


def assert_each_number_is_the_sum_of_its_row(levels):
  for level, above in itertools.pairwise(levels):
    # The bound for at most sixteen positive numbers, added in any order.
    np.testing.assert_allclose(above.ravel()[: len(level)], level.sum(axis=1), rtol=16 * 2.0**-53)
    assert not above.ravel()[len(level) :].any()


def assert_same(tree, other):
  for level, expected in zip(tree.levels(), other.levels(), strict=True):
    np.testing.assert_array_equal(level, expected)


@pytest.mark.parametrize('size', SIZES)
def test_a_new_tree_is_all_zero(size):
  tree = Tree(size)
  assert tree.total() == 0.0
  np.testing.assert_array_equal(tree.get(np.arange(size)), np.zeros(size))


@pytest.mark.parametrize('size', SIZES)
def test_leaves_hold_what_they_were_set_to_last(size):
  tree, expected, rng = Tree(size), np.zeros(size), np.random.default_rng(size)
  for _ in range(20):
    leaves = rng.permutation(size)[: rng.integers(0, size + 1)]
    expected[leaves] = rng.integers(0, 100, len(leaves))
    tree.set(leaves, expected[leaves])
    np.testing.assert_array_equal(tree.get(np.arange(size)), expected)
    assert tree.total() == expected.sum()
  asked = rng.integers(size, size=50)
  np.testing.assert_array_equal(tree.get(asked), expected[asked])


@pytest.mark.parametrize('size', SIZES)
def test_it_finds_what_a_search_of_the_prefix_sums_finds(size):
  for seed in range(3):
    values = whole_numbers(size, seed)
    points = np.arange(0.0, values.sum(), 0.5)  # Both ends of each stretch, and points within.
    points = points[np.random.default_rng(0).permutation(len(points))[:250]]
    np.testing.assert_array_equal(filled(values).find(points), searched(values, points))


@pytest.mark.parametrize('size', [1, 2, 3, 8, 9])
def test_it_finds_the_same_after_changes(size):
  tree, values, rng = Tree(size), np.zeros(size), np.random.default_rng(1)
  for seed in range(10):
    leaves = rng.permutation(size)[: rng.integers(1, size + 1)]
    values[leaves] = whole_numbers(size, seed)[leaves]
    tree.set(leaves, values[leaves])
    points = np.arange(0.0, values.sum(), 0.5)
    np.testing.assert_array_equal(tree.find(points), searched(values, points))


def test_both_ends_of_each_stretch():
  tree = filled([4.0, 3.0, 1.0, 2.0])

  def before(x):
    return np.nextafter(x, 0.0)

  points = [0.0, before(4.0), 4.0, before(7.0), 7.0, before(8.0), 8.0, before(10.0)]
  assert tree.find(points).tolist() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_nothing_to_set_and_nothing_to_find():
  tree = filled([4.0, 3.0, 1.0])
  tree.set([], [])
  assert tree.get(np.arange(3)).tolist() == [4.0, 3.0, 1.0]
  assert tree.find([]).tolist() == [] and tree.get([]).tolist() == []


@pytest.mark.parametrize('size', [1, 2, 5, 64])
def test_a_repeated_leaf_gets_one_of_its_values(size):
  rng = np.random.default_rng(0)
  tree, before = Tree(size), rng.uniform(1.0, 2.0, size)
  tree.set(np.arange(size), before)
  for count in [2, 30, 5000]:
    leaves, values = rng.integers(size, size=count), rng.uniform(3.0, 4.0, count)
    tree.set(leaves, values)
    after = tree.get(np.arange(size))
    for leaf in range(size):
      named = values[leaves == leaf]
      assert after[leaf] in (named if len(named) else before[[leaf]])
    assert_each_number_is_the_sum_of_its_row(tree.levels())
    before = after


def test_the_same_value_for_a_repeated_leaf():
  tree = Tree(3)
  tree.set([1, 1, 0, 1], [5.0, 5.0, 2.0, 5.0])
  assert tree.get([0, 1, 2]).tolist() == [2.0, 5.0, 0.0]
  assert tree.total() == 7.0


@pytest.mark.parametrize('values', ADVERSARIES.values(), ids=ADVERSARIES.keys())
def test_a_leaf_of_zero_is_never_found(values):
  """Not even at the total, which its product with a number below 1 can be rounded up to."""
  tree, values = filled(values), np.array(values)
  total, nodes = tree.total(), np.concatenate([level.ravel() for level in tree.levels()])
  # Around every sum that a point is compared with, and around what may be left of the point then.
  edges = np.concatenate(
    [nodes, np.cumsum(values), np.cumsum(values[::-1]), total - np.cumsum(values), [total]]
  )
  around = np.concatenate(
    [edges, np.nextafter(edges, 0.0), np.nextafter(edges, np.inf), edges * (1 - 2.0**-50)]
  )
  spread = np.concatenate([np.linspace(0.0, total, 1000), total * 2.0 ** -np.arange(1100)])
  points = np.concatenate([around, spread])
  points = points[(points >= 0.0) & (points <= total)]
  assert total in points and 0.0 in points and np.nextafter(total, 0.0) in points
  found = tree.find(points)
  assert found.min() >= 0 and found.max() < len(values)
  assert values[found].min() > 0.0


def test_a_leaf_of_zero_is_never_found_among_random_ones():
  rng = np.random.default_rng(0)
  for size in [3, 10, 64, 100]:
    tree = Tree(size)
    for _ in range(20):
      if rng.random() < 0.5:
        values = orders_of_magnitude(rng, size)
      else:
        values = rng.random(size) * rng.integers(2, size=size)
      values[rng.integers(size)] = 0.1
      tree.set(np.arange(size), values)
      total = tree.total()
      points = np.concatenate(
        [
          rng.random(300) * total,
          10.0 ** -rng.uniform(0, 300, 100) * total,
          np.cumsum(values),
          [0.0, np.nextafter(total, 0.0), total],
        ]
      )
      assert values[tree.find(np.clip(points, 0.0, total))].min() > 0.0


def test_a_tiny_value_counts_beside_a_large_sum():
  """A million times the highest priority, and once the lowest, which a float32 sum would lose."""
  values = np.full(1_000_001, 1e9)
  values[0] = 1e-6
  tree = filled(values)
  assert tree.find([0.0, 0.9e-6, 1.1e-6]).tolist() == [0, 0, 1]


def test_errors_do_not_accumulate_in_a_million_changes():
  """Over 300 orders of magnitude; if sums were updated by differences, none would be right."""
  size, batches, batch = 300, 5000, 200
  rng = np.random.default_rng(0)
  leaves = rng.permuted(np.tile(np.arange(size), (batches, 1)), axis=1)[:, :batch]
  values = orders_of_magnitude(rng, batches, batch)
  tree, expected = Tree(size), np.zeros(size)

  @tf.function
  def set_all(leaves, values):
    for i in tf.range(batches):
      tree.tree.set(leaves[i], values[i])

  set_all(tf.constant(leaves, tf.int64), tf.constant(values))
  for i in range(batches):
    expected[leaves[i]] = values[i]
  np.testing.assert_array_equal(tree.get(np.arange(size)), expected)
  assert_each_number_is_the_sum_of_its_row(tree.levels())
  assert_same(tree, filled(expected))
  exact, bound = math.fsum(expected), 16 * len(tree.levels()) * 2.0**-53
  assert abs(tree.total() - exact) <= bound * exact

  # Nothing is left of the largest values once they are replaced.
  small = rng.random(size)
  tree.set(np.arange(size), small)
  assert_same(tree, filled(small))
  assert abs(tree.total() - math.fsum(small)) <= bound * math.fsum(small)


@pytest.mark.parametrize('wrong', [[[1, 2]], 1])
def test_other_ranks_are_refused(wrong):
  tree = filled([4.0, 3.0, 1.0])
  with pytest.raises(ValueError, match='rank 1'):
    tree.get(wrong)
  with pytest.raises(ValueError, match='rank 1'):
    tree.find(wrong)
