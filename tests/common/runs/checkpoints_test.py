"""Checkpoints: what is restored, how many are kept, which is best, and what damage leads to."""

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
  """Stands in for a full disk: no file can grow beyond ten bytes."""
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Learner(tf.Module):
  """A root as a run saves it: a network, and variables besides."""

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
  """A root as evaluation restores it: the network alone."""

  def __init__(self):
    super().__init__()
    self.network = Network()


class LargerLearner(Learner):
  def __init__(self):
    super().__init__()
    self.temperature = tf.Variable(1.0)


def saved(folder, numbers):
  """Saves a learner that changes in between; returns its values by checkpoint."""
  learner = Learner()
  saver = checkpoints.Checkpoints(folder, learner)
  values = {}
  for number in numbers:
    learner.change(number)
    saver.save(number)
    values[number] = learner.values()
  return values


def restored(folder, which='latest'):
  """The values of a new learner after restoring."""
  learner = Learner()
  checkpoints.Checkpoints(folder, learner).restore(which)
  return learner.values()


def assert_same(actual, expected):
  for one, other in zip(actual, expected, strict=True):
    np.testing.assert_array_equal(one, other)


def test_all_values_come_back(tmp_path):
  values = saved(tmp_path, [7])
  assert_same(restored(tmp_path), values[7])


def test_save_and_restore_return_the_path(tmp_path):
  learner = Learner()
  saver = checkpoints.Checkpoints(tmp_path, learner)
  assert saver.save(12) == saver.restore() == str(tmp_path / 'latest' / 'ckpt-12')


def test_only_the_latest_three_are_kept(tmp_path):
  values = saved(tmp_path, [1, 2, 3, 10, 20])
  kept = sorted(path.name for path in (tmp_path / 'latest').glob('*.index'))
  assert kept == ['ckpt-10.index', 'ckpt-20.index', 'ckpt-3.index']
  assert len(list((tmp_path / 'latest').glob('*.data-*'))) == 3
  assert_same(restored(tmp_path), values[20])
  assert_same(restored(tmp_path, str(tmp_path / 'latest' / 'ckpt-3')), values[3])


def test_a_resumed_run_keeps_earlier_checkpoints(tmp_path):
  saved(tmp_path, [1, 2, 3])
  values = saved(tmp_path, [4, 5])
  kept = sorted(path.stem for path in (tmp_path / 'latest').glob('*.index'))
  assert kept == ['ckpt-3', 'ckpt-4', 'ckpt-5']
  assert_same(restored(tmp_path), values[5])


def test_a_network_alone_is_restored(tmp_path):
  values = saved(tmp_path, [1])
  player = Player()
  checkpoints.Checkpoints(tmp_path, player).restore()
  np.testing.assert_array_equal(player.network.weights, values[1][0])


def test_best_is_replaced_only_by_better_returns(tmp_path):
  learner = Learner()
  saver = checkpoints.Checkpoints(tmp_path, learner)
  # Update, returns, and whether they are the best so far.
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
      best_number = number
      best_returns = returns
      best_values = learner.values()
    assert_same(restored(tmp_path, 'best'), best_values)
    assert json.loads((tmp_path / 'best' / 'returns.json').read_text()) == best_returns
    assert [path.stem for path in (tmp_path / 'best').glob('*.index')] == [f'ckpt-{best_number}']


def test_a_resumed_run_knows_the_best_so_far(tmp_path):
  assert checkpoints.Checkpoints(tmp_path, Learner()).save_if_best(1, {'a': 5.0})
  resumed = checkpoints.Checkpoints(tmp_path, Learner())
  assert not resumed.save_if_best(2, {'a': 4.0})
  assert resumed.save_if_best(3, {'a': 6.0})


def test_best_is_compared_only_when_all_its_tasks_are_there_again(tmp_path):
  saver = checkpoints.Checkpoints(tmp_path, Learner())
  assert saver.save_if_best(1, {'a': 100.0, 'b': 100.0, 'c': 100.0})
  assert not saver.save_if_best(2, {'a': 101.0})
  assert not saver.save_if_best(3, {'a': 900.0, 'b': 900.0})
  assert saver.save_if_best(4, {'a': 101.0, 'b': 100.0, 'c': 100.0})


@pytest.mark.parametrize('damage', [b'', b'\xff\x00', b'[1, 2]', b'{"a": "x"}', b'{"a": '])
def test_damaged_returns_of_the_best_are_a_warning(tmp_path, damage, caplog):
  saver = checkpoints.Checkpoints(tmp_path, Learner())
  saver.save_if_best(1, {'a': 100.0})
  (tmp_path / 'best' / 'returns.json').write_bytes(damage)
  assert saver.save_if_best(2, {'a': 1.0})
  assert 'returns.json is damaged' in caplog.text
  assert not saver.save_if_best(3, {'a': 0.5})


@pytest.mark.parametrize('damage', [None, b'', b'\xff\xfe\x00', b'garbage', b'model_checkpoint'])
def test_without_its_list_checkpoints_are_found_by_their_names(tmp_path, damage, caplog):
  values = saved(tmp_path, [8, 9, 10])
  listed = tmp_path / 'latest' / 'checkpoint'
  if damage is None:
    listed.unlink()
  else:
    listed.write_bytes(damage)
  assert_same(restored(tmp_path, 'latest'), values[10])
  assert 'going by the names beside it' in caplog.text
  # The next save keeps what is there, and lists it again.
  learner = Learner()
  checkpoints.Checkpoints(tmp_path, learner).save(11)
  assert sorted(path.stem for path in (tmp_path / 'latest').glob('*.index')) == [
    'ckpt-10',
    'ckpt-11',
    'ckpt-9',
  ]
  assert_same(restored(tmp_path, 'latest'), learner.values())


def test_saving_warns_of_nothing(tmp_path, caplog):
  saver = checkpoints.Checkpoints(tmp_path, Learner())
  for number in (1, 2):
    saver.save(number)
    saver.save_if_best(number, {'a': float(number)})
  assert not caplog.text


def test_best_and_latest_do_not_mix(tmp_path):
  values = saved(tmp_path, [1])
  learner = Learner()
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
    # A thousand points of one game count no more than a fraction of a point of another.
    ({'a': 2000.0, 'b': 0.1}, {'a': 1000.0, 'b': 0.4}, 0.125),
    ({'a': 2000.0, 'b': 0.4}, {'a': 3000.0, 'b': 0.1}, (1 / 3 - 0.75) / 2),
    ({'a': 5.0}, {'a': -5.0, 'b': 1.0}, np.inf),
    ({}, {'a': -5.0}, np.inf),
    # Nobody knows what became of the others.
    ({'a': 5.0, 'b': 1.0}, {'a': 10.0}, -np.inf),
    ({'a': 5.0}, {}, -np.inf),
    ({'a': 90.0, 'b': 5.0}, {'a': 100.0, 'c': 5.0}, -np.inf),
  ],
)
def test_relative_gain(before, after, gain):
  assert checkpoints.relative_gain(before, after) == pytest.approx(gain)


def test_relative_gain_does_not_depend_on_the_scale():
  gain = checkpoints.relative_gain({'a': 3.0, 'b': -7.0}, {'a': 4.0, 'b': -9.0})
  scaled = checkpoints.relative_gain({'a': 3000.0, 'b': -7000.0}, {'a': 4000.0, 'b': -9000.0})
  assert scaled == pytest.approx(gain)


def test_what_an_earlier_version_did_not_have_keeps_its_value(tmp_path, caplog):
  values = saved(tmp_path, [1])
  larger = LargerLearner()
  larger.temperature.assign(7.0)
  checkpoints.Checkpoints(tmp_path, larger, ['temperature']).restore()
  assert_same(larger.values(), values[1])
  assert float(larger.temperature) == 7.0 and 'without temperature: left' in caplog.text
  # From here on it is saved and restored as everything else.
  checkpoints.Checkpoints(tmp_path, larger, ['temperature']).save(2)
  again = LargerLearner()
  checkpoints.Checkpoints(tmp_path, again, ['temperature']).restore()
  assert float(again.temperature) == 7.0


def test_nothing_else_may_be_missing(tmp_path):
  saved(tmp_path, [1])
  with pytest.raises(errors.UserError, match='of another network'):
    checkpoints.Checkpoints(tmp_path, LargerLearner(), ['updates']).restore()


@pytest.mark.parametrize('which', ['latest', 'best', 'ckpt-1', '/nowhere/ckpt-1'])
def test_no_checkpoint(tmp_path, which):
  with pytest.raises(errors.UserError, match=f'there is no checkpoint {which!r} in {tmp_path}'):
    restored(tmp_path, which)


@pytest.mark.parametrize('part', ['data-00000-of-00001', 'index'])
@pytest.mark.parametrize('keep', [0.0, 0.5, 0.99])
def test_the_one_before_a_truncated_latest_is_restored_with_a_warning(tmp_path, part, keep, caplog):
  values = saved(tmp_path, [1, 2])
  path = tmp_path / 'latest' / f'ckpt-2.{part}'
  content = path.read_bytes()
  path.write_bytes(content[: int(keep * len(content))])
  assert_same(restored(tmp_path), values[1])
  assert 'ckpt-2 does not fit: it is damaged' in caplog.text
  assert 'Trying the one before it.' in caplog.text
  with pytest.raises(errors.UserError, match='ckpt-2 does not fit: it is damaged'):
    restored(tmp_path, str(tmp_path / 'latest' / 'ckpt-2'))


def test_a_checkpoint_with_a_wrong_byte(tmp_path):
  saved(tmp_path, [1])
  path = tmp_path / 'latest' / 'ckpt-1.data-00000-of-00001'
  content = bytearray(path.read_bytes())
  # The file keeps its size, so only its checksum tells.
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


def test_a_full_disk_is_an_error_and_earlier_checkpoints_are_kept(tmp_path):
  learner = Learner()
  saver = checkpoints.Checkpoints(tmp_path, learner)
  before = saver.save(1)
  values = learner.values()
  learner.change(2)

  attempts = [
    lambda: saver.save(2),
    # Over the one that is there.
    lambda: saver.save(1),
    lambda: saver.save_if_best(2, {'a': 1.0}),
  ]
  for attempt in attempts:
    refused = pytest.raises(checkpoints.NotSaved, match='File too large.*is kept: ')
    with full_disk(), refused as error:
      attempt()
    assert str(error.value).endswith(before)
  assert_same(restored(tmp_path), values)
  names = [path.name for path in tmp_path.rglob('*')]
  assert not [name for name in names if 'ckpt-2' in name or 'saving' in name]

  # The disk has room again.
  assert saver.save(2) == saver.restore()
  assert saver.save_if_best(2, {'a': 1.0})


def test_files_of_a_save_that_was_killed_are_ignored_and_removed_by_the_next_save(tmp_path):
  values = saved(tmp_path, [1, 2])
  latest = tmp_path / 'latest'
  # Killed while TensorFlow wrote, and killed between renaming and listing.
  (latest / 'saving-3_temp').mkdir()
  (latest / 'saving-3_temp' / 'part').touch()
  for name in ('saving-3', 'ckpt-3'):
    (latest / f'{name}.data-00000-of-00001').touch()
  (latest / 'ckpt-3.index').touch()
  assert_same(restored(tmp_path), values[2])
  saved(tmp_path, [4])
  assert {path.stem for path in latest.iterdir()} == {'checkpoint', 'ckpt-1', 'ckpt-2', 'ckpt-4'}
