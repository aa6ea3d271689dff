"""Checkpoints: what comes back, how many are kept, which is best, and clear words where one cannot be read."""

import contextlib
import json
import resource

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from common.runs import checkpoints


class Network(tf.Module):
  def __init__(self, size=3):
    super().__init__()
    self.weights = tf.Variable(tf.random.stateless_normal([size, 2], seed=(size, 1)))


@contextlib.contextmanager
def full_disk():
  """No file of more than ten bytes can be written."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Learner(tf.Module):
  """What a run saves: a network, and more beside it."""

  def __init__(self, size=3):
    super().__init__()
    self.network = Network(size)
    self.updates = tf.Variable(0, dtype=tf.int64)
    self.slots = [tf.Variable(tf.ones([size])), tf.Variable(tf.zeros([2]))]

  def change(self, updates):
    self.updates.assign(updates)
    self.network.weights.assign_add(tf.ones_like(self.network.weights))
    self.slots[1].assign_add([1.0, 2.0])

  def values(self):
    return [v.numpy() for v in (self.network.weights, self.updates, *self.slots)]


class Player(tf.Module):
  """What evaluation needs of it."""

  def __init__(self):
    super().__init__()
    self.network = Network()


class LargerLearner(Learner):
  def __init__(self):
    super().__init__()
    self.temperature = tf.Variable(1.0)


def saved(folder, numbers):
  """A learner and its values at each checkpoint."""
  learner = Learner()
  saver, values = checkpoints.Checkpoints(folder, learner), {}
  for number in numbers:
    learner.change(number)
    saver.save(number)
    values[number] = learner.values()
  return values


def restored(folder, which='latest'):
  learner = Learner()
  checkpoints.Checkpoints(folder, learner).restore(which)
  return learner.values()


def assert_same(actual, expected):
  for a, e in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(a, e)


def test_all_values_come_back(tmp_path):
  values = saved(tmp_path, [7])
  assert_same(restored(tmp_path), values[7])


def test_save_and_restore_tell_the_path(tmp_path):
  learner = Learner()
  saver = checkpoints.Checkpoints(tmp_path, learner)
  assert saver.save(12) == saver.restore() == str(tmp_path / 'latest' / 'ckpt-12')


def test_only_the_last_three_are_kept(tmp_path):
  values = saved(tmp_path, [1, 2, 3, 10, 20])
  kept = sorted(path.name for path in (tmp_path / 'latest').glob('*.index'))
  assert kept == ['ckpt-10.index', 'ckpt-20.index', 'ckpt-3.index']
  assert len(list((tmp_path / 'latest').glob('*.data-*'))) == 3
  assert_same(restored(tmp_path), values[20])
  assert_same(restored(tmp_path, str(tmp_path / 'latest' / 'ckpt-3')), values[3])


def test_a_resumed_run_goes_on_counting(tmp_path):
  saved(tmp_path, [1, 2, 3])
  values = saved(tmp_path, [4, 5])
  assert sorted(path.stem for path in (tmp_path / 'latest').glob('*.index')) == [
    'ckpt-3',
    'ckpt-4',
    'ckpt-5',
  ]
  assert_same(restored(tmp_path), values[5])


def test_a_player_takes_its_part(tmp_path):
  values, player = saved(tmp_path, [1]), Player()
  checkpoints.Checkpoints(tmp_path, player).restore()
  np.testing.assert_array_equal(player.network.weights, values[1][0])


def test_best_is_replaced_by_better_returns_alone(tmp_path):
  learner = Learner()
  saver, best = checkpoints.Checkpoints(tmp_path, learner), []
  history = [
    (1, {'a': 1.0, 'b': -100.0}, True),
    (2, {'a': 0.5, 'b': -100.0}, False),
    (3, {'a': 1.0, 'b': -90.0}, True),
    (4, {'a': 1.0, 'b': -90.0}, False),
    (5, {'a': 1.2, 'b': -95.0}, True),
  ]
  for number, returns, is_better in history:
    learner.change(number)
    assert saver.save_if_best(number, returns) == is_better
    if is_better:
      best = learner.values(), returns
    assert_same(restored(tmp_path, 'best'), best[0])
    assert json.loads((tmp_path / 'best' / 'returns.json').read_text()) == best[1]
    assert [path.stem for path in (tmp_path / 'best').glob('*.index')] == [f'ckpt-{best[0][1]}']


def test_a_resumed_run_knows_the_best_so_far(tmp_path):
  assert checkpoints.Checkpoints(tmp_path, Learner()).save_if_best(1, {'a': 5.0})
  resumed = checkpoints.Checkpoints(tmp_path, Learner())
  assert not resumed.save_if_best(2, {'a': 4.0})
  assert resumed.save_if_best(3, {'a': 6.0})


def test_best_and_latest_do_not_mix(tmp_path):
  values, learner = saved(tmp_path, [1]), Learner()
  checkpoints.Checkpoints(tmp_path, learner).save_if_best(9, {'a': 0.0})
  assert_same(restored(tmp_path, 'latest'), values[1])
  assert_same(restored(tmp_path, 'best'), learner.values())


@pytest.mark.parametrize(
  'before, after, gain',
  [
    ({'a': 10.0}, {'a': 20.0}, 0.5),
    ({'a': -20.0}, {'a': -10.0}, 0.5),
    ({'a': -10.0}, {'a': -20.0}, -0.5),
    ({'a': -10.0}, {'a': 10.0}, 2.0),
    ({'a': 0.0}, {'a': 1e-3}, 1.0),
    ({'a': 0.0}, {'a': 0.0}, 0.0),
    # A thousand points of one game are not worth more than a fraction of one of another.
    ({'a': 2000.0, 'b': 0.1}, {'a': 1000.0, 'b': 0.4}, 0.125),
    ({'a': 2000.0, 'b': 0.4}, {'a': 3000.0, 'b': 0.1}, (1 / 3 - 0.75) / 2),
    ({'a': 5.0}, {'a': -5.0, 'b': 1.0}, np.inf),
    ({}, {'a': -5.0}, np.inf),
    ({'a': 5.0, 'b': 1.0}, {'a': 10.0}, 0.5),
    ({'a': 5.0}, {}, 0.0),
  ],
)
def test_relative_gain(before, after, gain):
  assert checkpoints.relative_gain(before, after) == pytest.approx(gain)


def test_relative_gain_does_not_depend_on_the_scale():
  before, after = {'a': 3.0, 'b': -7.0}, {'a': 4.0, 'b': -9.0}
  scaled = [{task: 1000 * value for task, value in returns.items()} for returns in (before, after)]
  assert checkpoints.relative_gain(*scaled) == pytest.approx(
    checkpoints.relative_gain(before, after)
  )


@pytest.mark.parametrize('which', ['latest', 'best', 'ckpt-1', '/nowhere/ckpt-1'])
def test_no_checkpoint(tmp_path, which):
  with pytest.raises(errors.UserError, match=f'there is no checkpoint {which!r} in {tmp_path}'):
    restored(tmp_path, which)


@pytest.mark.parametrize('part', ['data-00000-of-00001', 'index'])
@pytest.mark.parametrize('keep', [0.0, 0.5, 0.99])
def test_where_the_latest_is_cut_short_the_one_before_is_taken_loudly(tmp_path, part, keep, caplog):
  values = saved(tmp_path, [1, 2])
  path = tmp_path / 'latest' / f'ckpt-2.{part}'
  content = path.read_bytes()
  path.write_bytes(content[: int(keep * len(content))])
  assert_same(restored(tmp_path), values[1])
  assert (
    'ckpt-2 does not fit: it is damaged' in caplog.text
    and 'The one before it is tried' in caplog.text
  )
  with pytest.raises(errors.UserError, match='ckpt-2 does not fit: it is damaged'):
    restored(tmp_path, str(tmp_path / 'latest' / 'ckpt-2'))


def test_a_checkpoint_with_a_wrong_byte(tmp_path):
  saved(tmp_path, [1])
  path = tmp_path / 'latest' / 'ckpt-1.data-00000-of-00001'
  content = bytearray(path.read_bytes())
  content[5] ^= 0xFF
  path.write_bytes(content)
  with pytest.raises(errors.UserError, match='it is damaged'):
    restored(tmp_path)


def test_a_checkpoint_without_its_data(tmp_path):
  saved(tmp_path, [1])
  (tmp_path / 'latest' / 'ckpt-1.data-00000-of-00001').unlink()
  with pytest.raises(errors.UserError, match='it is damaged'):
    restored(tmp_path)


@pytest.mark.parametrize(
  'learner', [Learner(size=4), LargerLearner()], ids=['other shapes', 'more variables']
)
def test_a_checkpoint_of_another_network(tmp_path, learner):
  saved(tmp_path, [1])
  with pytest.raises(errors.UserError, match='of another network'):
    checkpoints.Checkpoints(tmp_path, learner).restore()


def test_a_full_disk_is_an_error_that_names_the_one_before_which_is_kept(tmp_path):
  learner = Learner()
  saver = checkpoints.Checkpoints(tmp_path, learner)
  before, values = saver.save(1), learner.values()
  learner.change(2)
  for save in (
    lambda: saver.save(2),
    lambda: saver.save(1),
    lambda: saver.save_if_best(2, {'a': 1.0}),
  ):
    with (
      full_disk(),
      pytest.raises(checkpoints.NotSaved, match='File too large.*is kept: ') as refused,
    ):
      save()
    assert str(refused.value).endswith(before)
  assert_same(restored(tmp_path), values)
  assert not [
    path for path in tmp_path.rglob('*') if 'ckpt-2' in path.name or 'saving' in path.name
  ]
  assert saver.save(2) == saver.restore()  # With room again.
  assert saver.save_if_best(2, {'a': 1.0})


def test_what_a_process_left_that_was_killed_while_it_saved_is_not_taken_and_goes_with_the_next_save(
  tmp_path,
):
  values, latest = saved(tmp_path, [1, 2]), tmp_path / 'latest'
  (latest / 'saving-3_temp').mkdir()
  for name in (
    'saving-3_temp/part',
    'saving-3.data-00000-of-00001',
    'ckpt-3.index',
    'ckpt-3.data-00000-of-00001',
  ):
    (latest / name).touch()
  assert_same(restored(tmp_path), values[2])
  saved(tmp_path, [4])
  assert {path.stem for path in latest.iterdir()} == {'checkpoint', 'ckpt-1', 'ckpt-2', 'ckpt-4'}
