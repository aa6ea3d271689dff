"""Dropped batches: counted, logged, the first one saved, too many in a row refused."""

import collections
import os

import numpy as np
import pytest
import tensorflow as tf

from common.runs import counters, dropping

Batch = collections.namedtuple('Batch', 'reward task state')


def batch(number=0.0):
  return Batch(
    tf.constant([1.0, -2.5, number]), tf.constant([7]), (tf.constant([0.5]), tf.constant([-4.0]))
  )


@pytest.fixture
def learner():
  made = counters.Counters('learner')
  made.updates.assign(120)
  return made


@pytest.fixture
def drops(tmp_path, learner):
  return dropping.Drops(tmp_path, learner)


def test_a_drop_is_logged_with_its_contents(drops, caplog, tmp_path):
  drops.add(batch(np.nan), 'trajectories of actor 3 (basic)')
  (message,) = caplog.messages
  assert 'dropped at update 120' in message and '(1 dropped so far, 1 in a row' in message
  assert 'It holds trajectories of actor 3 (basic). reward: 1 of 3 numbers not finite' in message
  assert 'largest magnitude 2.5; state: largest magnitude 4' in message
  assert 'task:' not in message
  assert f'The first one is in {tmp_path}/non_finite_batch.npz' in message


def test_only_the_first_batch_is_saved(drops, tmp_path):
  for number in (np.inf, 5.0, 6.0):
    drops.add(batch(number), 'some')
    drops.end_row()
  saved = np.load(tmp_path / 'non_finite_batch.npz')
  assert set(saved) == {'reward', 'task', 'state', 'state/1'}
  np.testing.assert_array_equal(saved['reward'], np.float32([1.0, -2.5, np.inf]))
  assert drops.count == 3


def test_many_in_a_row_are_an_error_and_others_are_not(drops):
  for _ in range(3):
    for _ in range(dropping.MOST_IN_A_ROW - 1):
      drops.add(batch(), 'some')
    drops.end_row()
  for _ in range(dropping.MOST_IN_A_ROW - 1):
    drops.add(batch(), 'some')
  with pytest.raises(dropping.NonFiniteLoss, match='at update 120, for 10 batches in a row.*of me'):
    drops.add(batch(), 'trajectories of me')
  assert drops.count == 37


def test_not_all_of_many_are_logged(drops, caplog):
  for _ in range(120):
    drops.add(batch(), 'some')
    drops.end_row()
  assert len(caplog.messages) == 11
  assert '(100 dropped so far' in caplog.messages[-1]


def test_a_full_disk_does_not_end_the_run(drops, caplog, monkeypatch, tmp_path):
  with monkeypatch.context() as full:
    full.setattr(dropping, 'files', _FullDisk)
    drops.add(batch(), 'some')
  assert 'The first one is not saved (No space left on device)' in caplog.messages[0]
  drops.add(batch(), 'some')
  assert 'The first one is in' in caplog.messages[1] and list(tmp_path.glob('non_finite*'))


class _FullDisk:
  @staticmethod
  def replacing(path, mode):
    raise OSError(28, os.strerror(28))


def test_parameters_that_are_not_finite_are_another_error(drops, tmp_path):
  error = drops.end_run(batch(), 'trajectories of me')
  assert isinstance(error, dropping.NonFiniteParameters)
  assert 'the parameters are not finite at update 120' in str(error)
  assert 'trajectories of me' in str(error) and 'largest magnitude 2.5' in str(error)
  assert (tmp_path / 'non_finite_batch.npz').exists()


def test_parameters_that_spoil_what_actors_compute_are_named(learner, tmp_path):
  learner.weights = tf.Variable([1.0, -3e30])
  error = dropping.Drops(tmp_path, learner).end_useless(batch(), ['state'], 'a block of me')
  message = str(error)
  assert (
    'the parameters are useless at update 120: what actors compute with them (state)' in message
  )
  assert 'not finite in a block of me' in message and 'a parameter is 3e+30' in message
  assert 'reward: largest magnitude 2.5' in message and '--config.learning_rate' in message


def test_many_names_are_cut_and_none_comes_twice():
  assert dropping.listed(['b', 'a', 'b']) == 'b, a'
  names = [f'actor {i}' for i in range(32)] * 2
  assert dropping.listed(names) == ', '.join(names[:8]) + ' and 24 more'
  assert dropping.listed([]) == ''


@pytest.mark.parametrize('wrong', [np.nan, np.inf, -np.inf])
def test_variables_are_checked_to_the_last_number(wrong):
  variables = [tf.Variable(tf.zeros([3])), tf.Variable(tf.ones([2, 2]))]
  assert dropping.are_finite(variables) and dropping.are_finite([])
  variables[1].assign([[1.0, 1.0], [1.0, wrong]])
  assert not dropping.are_finite(variables)
