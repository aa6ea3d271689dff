"""Parameters as one vector, and snapshots that never change."""

import threading

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from common.distributed import parameters

SHAPES = [(2, 3), (), (4,), (1, 2, 2)]


def new_variables(seed):
  rng = np.random.default_rng(seed)
  return [tf.Variable(rng.normal(size=shape).astype(np.float32)) for shape in SHAPES]


def test_flatten_concatenates_all_values():
  variables = new_variables(0)
  expected = np.concatenate([variable.numpy().reshape(-1) for variable in variables])
  np.testing.assert_array_equal(parameters.flatten(variables), expected)


def test_assign_is_the_inverse_of_flatten():
  source, target = new_variables(0), new_variables(1)
  parameters.assign(target, parameters.flatten(source))
  for expected, actual in zip(source, target, strict=True):
    np.testing.assert_array_equal(actual, expected)


def test_assign_is_the_inverse_of_flatten_in_graphs():
  source, target = new_variables(0), new_variables(1)
  values = tf.function(lambda: parameters.flatten(source))()
  tf.function(lambda x: parameters.assign(target, x))(values)
  for expected, actual in zip(source, target, strict=True):
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('size', [0, 14, 16])
def test_assigning_a_wrong_number_of_values_fails(size):
  with pytest.raises((ValueError, tf.errors.InvalidArgumentError)):
    parameters.assign(new_variables(0), tf.zeros([size]))


@pytest.mark.parametrize('count', [1, 4])
def test_a_snapshot_is_unaffected_by_later_updates(count):
  """Optimizers update variables in place: the vector must not share their memory."""
  variables = new_variables(0)[:count]
  store = parameters.ParameterStore(parameters.Snapshot(0, parameters.flatten(variables)))
  before = store.latest().values.numpy().copy()
  for variable in variables:
    variable.assign_add(tf.ones_like(variable))
    tf.raw_ops.ResourceApplyGradientDescent(
      var=variable.handle, alpha=1.0, delta=tf.ones_like(variable) * 5
    )
  np.testing.assert_array_equal(store.latest().values, before)
  np.testing.assert_allclose(parameters.flatten(variables), before - 4, rtol=1e-6, atol=1e-6)


def test_the_store_returns_the_latest_version():
  store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros([2])))
  assert store.latest().version == 0
  for version in (1, 2, 7):
    store.publish(parameters.Snapshot(version, tf.fill([2], float(version))))
    assert store.latest().version == version
    np.testing.assert_array_equal(store.latest().values, [version, version])


def test_readers_never_see_a_mixture_of_versions():
  """All values of a snapshot equal its version, and versions only grow."""
  store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros([50])))
  seen = [[], []]
  stop = threading.Event()

  def read(list_of_snapshots):
    while not stop.is_set():
      list_of_snapshots.append(store.latest())

  readers = [threading.Thread(target=read, args=(snapshots,)) for snapshots in seen]
  for reader in readers:
    reader.start()
  for version in range(1, 200):
    store.publish(parameters.Snapshot(version, tf.fill([50], float(version))))
  stop.set()
  for reader, snapshots in zip(readers, seen, strict=True):
    reader.join()
    versions = [snapshot.version for snapshot in snapshots]
    assert versions and versions == sorted(versions)
    for snapshot in {snapshot.version: snapshot for snapshot in snapshots}.values():
      assert set(snapshot.values.numpy()) == {snapshot.version}


def test_another_learners_snapshot_of_the_same_version_is_copied():
  variable = tf.Variable([0.0, 0.0])
  store = parameters.ParameterStore(parameters.Snapshot(3, tf.constant([1.0, 2.0])))
  copy = parameters.ParameterCopy([variable], store)
  store.publish(parameters.Snapshot(3, tf.constant([5.0, 6.0])))
  assert copy.refresh() == 3
  np.testing.assert_array_equal(variable, [5.0, 6.0])


@pytest.mark.parametrize('size', [0, 14, 16])
def test_a_copy_refuses_parameters_of_another_network(size):
  variables = new_variables(0)
  before = parameters.flatten(variables)
  store = parameters.ParameterStore(parameters.Snapshot(3, tf.zeros([size])))
  with pytest.raises(errors.UserError, match=f'are {size} numbers, but the network here has 15'):
    parameters.ParameterCopy(variables, store)
  np.testing.assert_array_equal(parameters.flatten(variables), before)
