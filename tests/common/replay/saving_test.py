"""A replay comes back from disk as it was: the same transitions, order and priorities."""

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from common.replay import saving, structures
from tests.common.replay import replays

B, E, STACK = 5, 9, 2
KIND = replays.Kind(STACK, replays.specification(STACK, (3,), np.uint8, length=B))


def make(capacity=300, kind=KIND, alpha=0.6):
  return kind.make(capacity, alpha, stratified=False)


def block(number):
  """A batch of one block, of which some places are not valid."""
  rng = np.random.default_rng(number)
  valid = rng.random((1, B)) < 0.8
  priority = np.where(valid, 1 + 10 * rng.random(B), 0).astype(np.float32)
  return replays.blocks(KIND, [number], valid=valid, priority=priority)


def fill(replay, numbers):
  for number in numbers:
    replay.add(block(number))


def held(replay):
  """The blocks with their priorities by field name, oldest first."""
  stamps, priorities = replay.priorities()
  _, parts = replay.read(np.arange(replay.slots))
  parts['priority'] = priorities
  slots = [slot for slot in np.argsort(stamps) if stamps[slot] >= 0]
  return [{name: values[slot] for name, values in parts.items()} for slot in slots]


def assert_same(first, second, rtol=1e-6):
  assert len(first) == len(second) > 0
  for one, other in zip(first, second, strict=True):
    for name in one:
      np.testing.assert_allclose(
        one[name], other[name], rtol=rtol if name == 'priority' else 0, err_msg=name
      )


def restored(folder, **settings):
  replay = make(**settings)
  assert saving.restore(replay, folder) == 7
  return replay


@pytest.mark.parametrize('count', [1, 7, 60, 200], ids=lambda n: f'{n} blocks')
def test_all_comes_back_in_order(tmp_path, count):
  replay = make()
  fill(replay, range(count))  # 200 blocks of 5 wrap around a ring for 330 transitions.
  saving.Saver(replay, tmp_path).save(7)
  again = restored(tmp_path)
  assert_same(held(replay), held(again))
  assert again.size() == replay.size()


def test_changed_priorities_come_back_too(tmp_path):
  replay = make()
  fill(replay, range(10))
  saver = saving.Saver(replay, tmp_path)
  saver.save(7)
  sample = replay.sample(20)
  replay.update_priorities(sample.leaf, sample.stamp, 100 + tf.range(20.0))
  saver.save(7)
  assert_same(held(replay), held(restored(tmp_path)))
  assert max(entry['priority'].max() for entry in held(replay)) > 99


def test_removed_blocks_do_not_come_back(tmp_path):
  replay = make(capacity=100)
  fill(replay, range(21))
  saver = saving.Saver(replay, tmp_path)
  saver.save(7)
  assert replay.remove_to_fit() > 0 or replay.size() <= 100
  fill(replay, range(21, 45))
  replay.remove_to_fit()
  saver.save(7)
  assert_same(held(replay), held(restored(tmp_path, capacity=100)))


def test_only_changed_chunks_are_written_again(tmp_path, monkeypatch):
  monkeypatch.setattr(saving, '_CHUNK_BYTES', 128 * structures.block_bytes(KIND.spec))
  replay = make(capacity=2000)
  fill(replay, range(300))
  saver = saving.Saver(replay, tmp_path)
  saver.save(7)

  def written():
    return {path.name: path.stat().st_mtime_ns for path in tmp_path.glob('*/chunk-*')}

  before = written()
  fill(replay, range(300, 310))
  saver.save(7)
  after = written()
  changed = [name for name in after if after[name] != before.get(name)]
  assert len(before) == 3 and changed == ['chunk-000002.npz']
  assert_same(held(replay), held(restored(tmp_path, capacity=2000)))


def test_a_smaller_replay_takes_the_newest(tmp_path):
  replay = make()
  fill(replay, range(60))
  saving.Saver(replay, tmp_path).save(7)
  smaller = restored(tmp_path, capacity=100)
  count = len(held(smaller))
  assert 100 <= 5 * count <= 120
  assert_same(held(replay)[-count:], held(smaller))


def test_another_process_continues_and_removes_the_earlier_save(tmp_path):
  replay = make()
  fill(replay, range(30))
  saving.Saver(replay, tmp_path).save(7)
  again = restored(tmp_path)
  fill(again, range(30, 40))
  saving.Saver(again, tmp_path).save(7)
  assert [path.name for path in tmp_path.iterdir()] == ['000002']
  fill(replay, range(30, 40))
  assert_same(held(replay), held(restored(tmp_path)))


def test_an_interrupted_save_leaves_the_one_before(tmp_path):
  replay = make()
  fill(replay, range(30))
  saving.Saver(replay, tmp_path).save(7)
  expected = held(replay)

  class Dying:
    """A replay whose process ends when all but the last file is written."""

    spec = replay.spec
    slots = replay.slots
    stamps = replay.stamps
    read = replay.read

    def priorities(self):
      raise KeyboardInterrupt

  fill(replay, range(30, 40))
  with pytest.raises(KeyboardInterrupt):
    saving.Saver(Dying(), tmp_path).save(7)
  assert sorted(path.name for path in tmp_path.iterdir()) == ['000001', '000002']
  assert_same(expected, held(restored(tmp_path)))


def test_a_save_that_is_given_up_leaves_the_one_before(tmp_path):
  replay = make()
  fill(replay, range(30))
  saving.Saver(replay, tmp_path).save(3)
  fill(replay, range(30, 40))
  saving.Saver(replay, tmp_path).save(9, given_up=lambda: True)
  again = make()
  assert saving.restore(again, tmp_path) == 3
  assert len(held(again)) == 30


def test_uniform_replay_comes_back(tmp_path):
  replay = make(alpha=0.0)
  fill(replay, range(12))
  saving.Saver(replay, tmp_path).save(7)
  assert_same(held(replay), held(restored(tmp_path, alpha=0.0)))


def test_nothing_saved_is_no_error(tmp_path):
  assert saving.restore(make(), tmp_path) is None


def test_a_damaged_file_is_reported(tmp_path):
  replay = make()
  fill(replay, range(10))
  saving.Saver(replay, tmp_path).save(7)
  chunk = next(tmp_path.glob('*/chunk-*'))
  chunk.write_bytes(chunk.read_bytes()[:1000])
  message = 'does not fit or is damaged.*--config.checkpoint_replay=false'
  with pytest.raises(errors.UserError, match=message):
    saving.restore(make(), tmp_path)


def test_transitions_of_another_shape_are_refused(tmp_path):
  replay = make()
  fill(replay, range(10))
  saving.Saver(replay, tmp_path).save(7)
  spec = KIND.spec._replace(observation=tf.TensorSpec([E, 4], tf.uint8))
  message = r'observation is uint8 \[9, 3\] in a block, expected uint8 \[9, 4\]'
  with pytest.raises(errors.UserError, match=message):
    saving.restore(make(kind=KIND._replace(spec=spec)), tmp_path)


def test_saving_while_others_add_loses_only_what_was_replaced_meanwhile(tmp_path):
  replay = make()
  fill(replay, range(60))
  numbers = iter(range(60, 1000))
  in_use = replays.ReplayInUse(replay, lambda: fill(replay, [next(numbers)]))

  saving.Saver(in_use, tmp_path).save(7)
  now, again = held(replay), held(restored(tmp_path))
  assert len(again) >= len(now) - 1
  by_return = {float(entry['n_step_return'][0]): entry for entry in now}
  assert_same([by_return[float(entry['n_step_return'][0])] for entry in again], again)
