"""n-step transitions against loops by section 3.1 and appendix F of the paper (arXiv 1803.00933).

The ground truth looks at whole episodes: it sums gamma^k R up to an episode's end or a time limit.
It knows neither a discount of zero nor blocks, windows or overlaps.
"""

import dataclasses

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import config as configs
from apex import transitions
from common import environments
from common.distributed import wire
from common.environments import suite as suites

GAMMA = 0.9
# Returns of at most five rewards of order one, in float32.
ROUNDING = dict(rtol=1e-6, atol=2e-6)
# The first environment's number, how many there are, and frames per stack.
FIRST = 100
N = 4
STACK = 4


def tiny_suite(stacked):
  if stacked:
    observation = gymnasium.spaces.Box(0, 255, (STACK, 2, 3), np.uint8)
  else:
    observation = gymnasium.spaces.Box(-np.inf, np.inf, (5,), np.float32)
  return suites.Suite(
    name='tiny',
    tasks=('tiny',),
    observation_space=gymnasium.spaces.Dict({'observation': observation}),
    action_space=gymnasium.spaces.Discrete(3),
    action_repeat=1,
    make=None,
    frame_stack=STACK if stacked else 1,
  )


def n_step_by_hand(rewards, ended, final, t, n):
  """The return from t, its discount and the step to bootstrap from; None after an episode's end."""
  total = 0.0
  for k in range(n):
    if final[t + k]:
      return total, GAMMA**k, t + k
    total += GAMMA**k * float(rewards[t + k])
    if ended[t + k]:
      return total, 0.0, None
  return total, GAMMA**n, t + n


def event_patterns(length):
  """Ends and final records `[E, length]`: none, one anywhere, two at every pair, random ones."""
  singles, none = np.eye(length, dtype=bool), np.zeros(length, bool)
  columns = [(none, none)]
  columns += [(single, none) for single in singles] + [(none, single) for single in singles]
  for first in range(length):
    for second in range(length):
      if second > first:
        both = singles[first] | singles[second]
        columns += [(both, none), (none, both)]
      if second != first:
        columns.append((singles[first], singles[second]))
  rng = np.random.default_rng(0)
  for _ in range(50):
    final = rng.random(length) < 0.3
    columns.append(((rng.random(length) < 0.3) & ~final, final))
  return (np.stack(kind) for kind in zip(*columns, strict=True))


class TestNStep:
  @pytest.mark.parametrize('n', [1, 3, 5])
  @pytest.mark.parametrize('length', [1, 4])
  def test_equals_the_sum_to_the_end_of_the_episode_wherever_episodes_end(self, length, n):
    ended, final = event_patterns(length + n)
    rng = np.random.default_rng(1)
    # A final record has no reward, so whatever stands there must not be read.
    rewards = np.where(final, 1e6, rng.normal(size=ended.shape)).astype(np.float32)
    discounts = np.where(final, 1e6, np.where(ended, 0.0, GAMMA)).astype(np.float32)
    returns, end_discounts, ends = transitions.n_step(rewards, discounts, final, n)
    assert returns.dtype == end_discounts.dtype == np.float32 and ends.dtype == np.int32
    assert returns.shape == end_discounts.shape == ends.shape == (len(ended), length)
    for b, t in np.ndindex(*returns.shape):
      total, discount, end = n_step_by_hand(rewards[b], ended[b], final[b], t, n)
      actual = [returns[b, t], end_discounts[b, t]]
      np.testing.assert_allclose(actual, [total, discount], **ROUNDING)
      assert ends[b, t] == end if discount else t < ends[b, t] <= t + n

  def test_worked_example(self):
    # Two steps are summed. The first row goes on, the second ends after its second reward, the
    # third is cut before it.
    rewards = np.float32([[1, 2, 4, 8]] * 3)
    discounts = np.full((3, 4), 0.5, np.float32)
    discounts[1, 1] = 0.0
    final = np.zeros((3, 4), bool)
    final[2, 1] = True
    returns, end_discounts, ends = transitions.n_step(rewards, discounts, final, 2)
    np.testing.assert_array_equal(returns, [[2, 4], [2, 2], [1, 0]])
    np.testing.assert_array_equal(end_discounts, [[0.25, 0.25], [0, 0], [0.5, 1]])
    np.testing.assert_array_equal(ends[[0, 2]], [[2, 3], [1, 1]])

  def test_arguments_are_left_as_they_are(self):
    rng = np.random.default_rng(2)
    arguments = [
      rng.normal(size=(2, 6)).astype(np.float32),
      rng.random((2, 6)).astype(np.float32),
      rng.random((2, 6)) < 0.3,
    ]
    before = [argument.copy() for argument in arguments]
    transitions.n_step(*arguments, 3)
    for argument, original in zip(arguments, before, strict=True):
      np.testing.assert_array_equal(argument, original)

  @pytest.mark.parametrize('argument', range(3))
  def test_arguments_of_other_shapes_are_refused(self, argument):
    arguments = [np.zeros((2, 6), np.float32), np.zeros((2, 6), np.float32), np.zeros((2, 6), bool)]
    arguments[argument] = arguments[argument][:1]
    with pytest.raises(ValueError, match=r'expected \[N, T \+ n\]'):
      transitions.n_step(*arguments, 3)


def test_specification_of_stacked_frames():
  block, *rest = transitions.specification(tiny_suite(True), 50, 3)
  assert block.observation == {'observation': tf.TensorSpec([3 + 50 + 3, 2, 3], tf.uint8)}
  assert block.frame_start == tf.TensorSpec([3 + 50 + 3], tf.bool)
  dtypes = [tf.int32, tf.float32, tf.float32, tf.int32, tf.bool, tf.float32]
  assert [part.dtype for part in block[2:]] == dtypes
  assert all(part.shape == [50] for part in block[2:])
  assert rest == [
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([50], tf.float32),
    tf.TensorSpec([50], tf.int32),
    (),
  ]
  counting = dataclasses.replace(tiny_suite(True), return_discount=0.9)
  *_, returns = transitions.specification(counting, 50, 3)
  assert returns == tf.TensorSpec([50], tf.float32)


def test_specification_of_vectors():
  block = transitions.specification(tiny_suite(False), 10, 5).block
  assert block.observation == {'observation': tf.TensorSpec([15, 5], tf.float32)}
  assert block.frame_start == tf.TensorSpec([15], tf.bool)


class Player:
  """Feeds an accumulator with records of random games; lists all records of each environment.

  The list of environment i begins with `empty[i]` places that hold no record, so that blocks fill
  up one after the other.

  Attributes:
    kept: By environment, all records, empty places among them.
    added: By environment, all records without the empty places.
    blocks: By environment, the blocks that were shipped.
    together: For each shipment, its environments, and whether final records completed its blocks.
  """

  def __init__(self, stacked, length, n, limits=0.12, seed=0):
    self.suite = tiny_suite(stacked)
    self._limits = limits
    self.rng = np.random.default_rng(seed)
    self.length = length
    self.n = n
    self.number = 0
    self.empty = [i * length // N for i in range(N)]
    self.accumulator = transitions.Accumulator(self.suite, FIRST, N, length, n)
    self.restart()

  def restart(self):
    """Starts new games and new lists."""
    self.accumulator.restart()
    final = self._records(1, final=np.ones(1, bool))
    nothing = tf.nest.map_structure(lambda part: np.array(part[0]), final)
    self.kept = [[nothing] * empty for empty in self.empty]
    self.added = [[] for _ in range(N)]
    self.blocks = [[] for _ in range(N)]
    self.together = []
    self._start = np.ones(N, bool)

  def _random(self, *shape):
    if self.suite.frame_stack > 1:
      return self.rng.integers(256, size=shape, dtype=np.uint8)
    return self.rng.normal(size=shape).astype(np.float32)

  def _records(self, count, **fixed):
    """Random records; their action numbers the call, so that each can be recognised."""
    self.number += 1
    shape = self.suite.observation_space['observation'].shape
    if self.suite.frame_stack > 1:
      shape = shape[1:]

    def number():
      return self.rng.normal(size=count).astype(np.float32)

    values = dict(
      observation={'observation': self._random(count, *shape)},
      start=np.zeros(count, bool),
      action=np.full(count, self.number, np.int32),
      q_taken=number(),
      bootstrap_value=number(),
      reward=number(),
      discount=np.full(count, GAMMA, np.float32),
      final=np.zeros(count, bool),
      episode_return=np.zeros(count, np.float32),
      episode_length=np.zeros(count, np.int32),
      discounted_return=number(),
    )
    return transitions.Records(**(values | fixed))

  def _add(self, which, records):
    for i, environment in enumerate(which):
      record = tf.nest.map_structure(lambda part, i=i: np.array(part[i]), records)
      self.kept[environment].append(record)
      self.added[environment].append(record)
    shipment = self.accumulator.add(which, records, self.number)
    due = []
    for environment in which:
      in_blocks = len(self.kept[environment]) - self.n
      if in_blocks > 0 and in_blocks % self.length == 0:
        due.append(environment)
    assert (shipment is None) == (not due)
    if due:
      assert list(shipment.environment) == [FIRST + e for e in due]
      assert list(shipment.parameter_version) == [self.number] * len(due)
      self.together.append((due, bool(records.final[0])))
      for i, environment in enumerate(due):
        self.blocks[environment].append(tf.nest.map_structure(lambda x, i=i: x[i], shipment))

  def play(self, steps):
    for _ in range(steps):
      # Games that end, and episodes that end within a game.
      over, lost = self.rng.random((2, N)) < 0.1
      limit = (self.rng.random(N) < self._limits) & ~over & ~lost
      finished = over | limit
      episode_return = np.where(finished, self.rng.normal(size=N), 0.0)
      episode_length = np.where(finished, self.rng.integers(1, 99, size=N), 0)
      records = self._records(
        N,
        start=self._start,
        discount=np.where(over | lost, 0.0, GAMMA).astype(np.float32),
        episode_return=episode_return.astype(np.float32),
        episode_length=episode_length.astype(np.int32),
      )
      self._add(np.arange(N), records)
      if limit.any():
        which = np.flatnonzero(limit)
        self._add(which, self._records(len(which), final=np.ones(len(which), bool)))
      self._start = finished

  def assert_blocks_are_the_records(self):
    """Every block, also the oldest, still agrees with the lists and the formula."""
    for environment in range(N):
      assert len(self.blocks[environment]) == (len(self.kept[environment]) - self.n) // self.length
      for number, shipment in enumerate(self.blocks[environment]):
        self._assert_block(environment, number * self.length, shipment)

  def _assert_block(self, environment, first, shipment):
    kept, block, older = self.kept[environment], shipment.block, self.suite.frame_stack - 1
    for entry in range(older + self.length + self.n):
      number = first - older + entry
      if number < self.empty[environment]:
        # Before the first record, where no stack reaches back to.
        assert not block.frame_start[entry]
      else:
        tf.nest.map_structure(
          np.testing.assert_array_equal,
          {'observation': block.observation['observation'][entry]},
          kept[number].observation,
        )
        assert block.frame_start[entry] == kept[number].start
    in_block = kept[first : first + self.length + self.n]
    window = tf.nest.map_structure(lambda *parts: np.stack(parts), *in_block)
    ended = (window.discount == 0.0) & ~window.final
    np.testing.assert_array_equal(block.valid, ~window.final[: self.length])
    np.testing.assert_array_equal(shipment.episode_length, window.episode_length[: self.length])
    ends = shipment.episode_length > 0
    expected_returns = window.episode_return[: self.length][ends]
    np.testing.assert_array_equal(shipment.episode_return[ends], expected_returns)
    assert np.all((0 <= block.end) & (block.end < self.length + self.n))
    np.testing.assert_array_equal(block.priority[~block.valid], 0.0)
    for t in np.flatnonzero(block.valid):
      total, discount, end = n_step_by_hand(window.reward, ended, window.final, t, self.n)
      assert block.action[t] == window.action[t]
      assert end is None or block.end[t] == end
      actual = [block.n_step_return[t], block.discount[t]]
      np.testing.assert_allclose(actual, [total, discount], **ROUNDING)
      bootstrap = 0.0 if end is None else discount * float(window.bootstrap_value[end])
      td_error = total + bootstrap - float(window.q_taken[t])
      # Q-values of order one are added to the return, and so are their rounding errors.
      np.testing.assert_allclose(block.priority[t], abs(td_error), rtol=1e-5, atol=2e-6)


# Transitions per block, and n.
SIZES = [(10, 3), (5, 1), (4, 5), (1, 1), (1, 3), (2, 5)]


class TestAccumulator:
  @pytest.mark.parametrize('stacked', [True, False], ids=['frames', 'vectors'])
  @pytest.mark.parametrize('length, n', SIZES)
  def test_blocks_are_those_of_a_list_of_all_records(self, length, n, stacked):
    player = Player(stacked, length, n)
    player.play(120)
    player.assert_blocks_are_the_records()
    # Final records have moved the environments apart, and have themselves completed blocks.
    assert len({len(added) for added in player.added}) > 1
    assert any(final for _, final in player.together)

  @pytest.mark.parametrize('length, n', SIZES)
  def test_no_transition_is_lost_and_none_comes_twice(self, length, n):
    player = Player(True, length, n, seed=1)
    player.play(120)
    for added, blocks in zip(player.added, player.blocks, strict=True):
      sent = np.concatenate([shipment.block.action[shipment.block.valid] for shipment in blocks])
      taken = [int(record.action) for record in added if not record.final]
      assert len(set(taken)) == len(taken)
      np.testing.assert_array_equal(sent, taken[: len(sent)])
      assert len(taken) - len(sent) < length + n

  def test_statistics_of_each_episode_are_sent_once(self):
    player = Player(True, 4, 3, seed=2)
    player.play(120)
    for added, blocks in zip(player.added, player.blocks, strict=True):
      lengths = np.concatenate([shipment.episode_length for shipment in blocks])
      returns = np.concatenate([shipment.episode_return for shipment in blocks])
      ends = np.flatnonzero(lengths > 0)
      sent = [(int(lengths[i]), float(returns[i])) for i in ends]
      had = [
        (int(record.episode_length), float(record.episode_return))
        for record in added
        if record.episode_length
      ]
      assert sent == had[: len(sent)] and len(had) - len(sent) <= 4 + 3 and len(sent) > 5

  @pytest.mark.parametrize(
    'length, turns',
    [
      (5, [[3], [2], [1], [0], []]),
      (8, [[3], [], [2], [], [1], [], [0], []]),
      (2, [[2, 3], [0, 1]]),
      (1, [[0, 1, 2, 3]]),
    ],
  )
  def test_without_time_limits_environments_take_turns(self, length, turns):
    # The first block is the last environment's, as it begins with the most empty places.
    player, n = Player(True, length, 3, limits=0.0), 3
    player.play(n + length - player.empty[-1] - 1)
    assert not player.together
    for turn in 3 * turns:
      player.together.clear()
      player.play(1)
      assert player.together == ([(turn, False)] if turn else [])
    player.assert_blocks_are_the_records()
    for blocks, empty in zip(player.blocks, player.empty, strict=True):
      np.testing.assert_array_equal(blocks[0].block.valid, np.arange(length) >= empty)
      assert blocks[1].block.valid.all() and blocks[2].block.valid.all()

  @pytest.mark.parametrize('stacked', [True, False], ids=['frames', 'vectors'])
  @pytest.mark.parametrize('steps', [2, 11, 33])
  def test_a_restart_drops_what_was_gathered(self, steps, stacked):
    player = Player(stacked, 10, 3, seed=3)
    player.play(steps)
    player.restart()
    player.play(60)
    player.assert_blocks_are_the_records()

  def test_shipments_are_as_specified(self):
    player = Player(True, 10, 3)
    player.play(60)
    parts = tf.nest.flatten(player.blocks[0][0])
    specs = tf.nest.flatten(transitions.specification(player.suite, 10, 3))
    for part, spec in zip(parts, specs, strict=True):
      assert part.shape == spec.shape and part.dtype == spec.dtype.as_numpy_dtype

  def test_a_scalar_stands_for_all_environments(self):
    # As the actor passes parts that are the same in all of them.
    accumulator = transitions.Accumulator(tiny_suite(False), 0, 2, 1, 1)
    accumulator.restart()
    observations = np.float32([[[i] * 5, [-i] * 5] for i in range(3)])
    acted = transitions.Records(
      observation={'observation': observations[0]},
      start=np.ones(2, bool),
      action=np.int32([1, 2]),
      q_taken=np.float32([3, 4]),
      bootstrap_value=np.float32([5, 6]),
      reward=np.float32([1, 2]),
      discount=np.full(2, 0.5),
      final=False,
      episode_return=np.zeros(2),
      episode_length=np.zeros(2),
    )
    at_limit = transitions.Records(
      observation={'observation': observations[1, 1:]},
      start=False,
      action=0,
      q_taken=0.0,
      bootstrap_value=np.float32([8.0]),
      reward=0.0,
      discount=0.0,
      final=True,
      episode_return=0.0,
      episode_length=0,
    )
    accumulator.add(np.arange(2), acted, 7)
    shipment = accumulator.add(np.array([1]), at_limit, 7)
    assert list(shipment.environment) == [1]
    np.testing.assert_array_equal(shipment.block.observation['observation'], [observations[:2, 1]])
    np.testing.assert_array_equal(shipment.block.n_step_return, [[2.0]])
    np.testing.assert_array_equal(shipment.block.discount, [[0.5]])
    np.testing.assert_array_equal(shipment.block.priority, [[abs(2.0 + 0.5 * 8.0 - 4.0)]])


def part(structure, path):
  """What stands at a path such as `block.action`."""
  for name in path.split('.'):
    structure = structure[name] if isinstance(structure, dict) else getattr(structure, name)
  return structure


class TestBounds:
  """What a learner takes from an actor."""

  VERSION = 7

  def codec(self, env):
    config = configs.PRESETS.preset(configs.PRESETS.preset_for(env))
    suite = environments.load(env)
    spec = transitions.specification(suite, config.block_length, config.n_step)
    return wire.Codec(spec, transitions.bounds(config, suite, lambda: self.VERSION))

  @pytest.mark.parametrize('env', ['gym:CartPole-v1', 'gym:Pendulum-v1'])
  @pytest.mark.parametrize(
    'name, sane, wrong',
    [
      ('parameter_version', VERSION, VERSION + 1),
      ('parameter_version', 0, 2**63 - 1),
      ('block.observation.observation', -wire.LARGEST, -3e38),
      ('block.action', 1, 2),
      ('block.n_step_return', -wire.LARGEST_SUM, -3e38),
      ('block.discount', 1, 1.5),
      ('block.priority', wire.LARGEST_SUM, 3e38),
      ('block.priority', 0, -1),
      ('episode_return', wire.LARGEST_SUM, 3e38),
      ('episode_length', 2**31 - 1, -1),
    ],
  )
  def test_insane_numbers_are_refused(self, env, name, sane, wrong):
    codec = self.codec(env)
    for value in (sane, wrong):
      shipment = tf.nest.map_structure(
        lambda s: np.zeros([1, *s.shape], s.dtype.as_numpy_dtype), codec.spec
      )
      part(shipment, name).flat[-1] = value
      payload = codec.encode(shipment)
      if value == sane:
        codec.decode(payload)
      else:
        with pytest.raises(wire.Malformed, match=f'^{name} holds .*, expected '):
          codec.decode(payload)
