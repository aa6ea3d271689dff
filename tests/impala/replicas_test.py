"""Several synchronous learners against a single one with their trajectories in one batch."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from common import errors
from impala import learner as learners
from impala import replicas
from tests.common import programs
from tests.impala import together

_PROCESSES = {
  'devices': 1,
  'machines': 2,
}  # Of learners: one with two devices; two with one each, on loopback.


def start(folder: pathlib.Path, devices: int, index: int, *addresses: str) -> subprocess.Popen:
  command = [
    sys.executable,
    '-m',
    'tests.impala.together',
    str(folder),
    str(devices),
    str(index),
    *addresses,
  ]
  return subprocess.Popen(
    command,
    cwd=programs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'CUDA_VISIBLE_DEVICES': ''},
  )


def free_addresses(count: int) -> list[str]:
  sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
  addresses = [f'127.0.0.1:{s.getsockname()[1]}' for s in sockets]
  for s in sockets:
    s.close()
  return addresses


@pytest.fixture(scope='module')
def single():
  """By network, what a single learner does with the whole batches."""
  found = {}
  for network, lstm in together.NETWORKS.items():
    strategy = replicas.make_strategy()
    found[network] = together.learn(
      together.make_learner(together.make_config(lstm), strategy, 1), strategy, 0
    )
  return found


@pytest.fixture(scope='module')
def folders(tmp_path_factory, request):
  """Of what the learners saw, when they have ended."""
  folders = {kind: tmp_path_factory.mktemp(kind) for kind in _PROCESSES}
  addresses = free_addresses(2)
  processes = [
    start(folders['machines'], 1, 0, *addresses),
    start(folders['machines'], 1, 1, *addresses),
    start(folders['devices'], 2, 0),
  ]
  request.getfixturevalue('single')  # Meanwhile.
  for process, status in zip(
    processes, (0, -9, 0), strict=True
  ):  # Of the two, the second kills itself.
    programs.finish(process, status)
  return folders


@pytest.fixture(
  params=[(kind, network) for kind in _PROCESSES for network in together.NETWORKS], ids='-'.join
)
def case(request, folders, single):
  """What each process of learners saw, and what the single one did."""
  kind, network = request.param
  return [
    dict(np.load(folders[kind] / f'{network}_{i}.npz')) for i in range(_PROCESSES[kind])
  ], single[network]


def test_parameters_slots_and_counters_are_those_of_a_single_learner(case):
  processes, single = case
  for found in processes:
    np.testing.assert_allclose(found['values'], single['values'], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
      found['values'], processes[0]['values']
    )  # To the last bit, or they drift apart.


def test_the_batches_are_clipped_and_one_is_not_finite(single):
  for found in single.values():
    finite = np.arange(together.UPDATES) != together.NOT_FINITE
    np.testing.assert_array_equal(found['finite'], finite)
    assert np.all(found['gradient_norm'][finite] > 2 * together.MAX_NORM)


def test_what_updates_tell_is_of_all_trajectories(case):
  processes, single = case
  names = {
    'loss/total',
    'loss/policy_gradient',
    'loss/baseline',
    'loss/entropy',
    'entropy',
    'value',
    'importance_weight',
    'gradient_norm',
    'learning_rate',
    'finite',
    'parameters',
    'stop',
  }
  assert names <= set(single)
  for found in processes:
    for name in names:
      np.testing.assert_allclose(found[name], single[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_update_that_is_not_finite_at_one_replica_changes_nothing_at_any(case):
  for found in case[0]:
    before, after = found['values'][together.NOT_FINITE : together.NOT_FINITE + 2]
    np.testing.assert_array_equal(before, after)


def test_all_stop_at_the_same_update_when_one_asks_to(case):
  for found in case[0]:
    assert found['stopped'] and not np.any(found['stop'])
    np.testing.assert_array_equal(found['values_when_stopped'], found['values'][-1])


def test_checkpoints_move_between_one_and_several(case):
  processes, _ = case
  saved = processes[0]['values'][-1]
  np.testing.assert_array_equal(processes[0]['moved'], saved)
  for found in processes:
    np.testing.assert_array_equal(found['back'], processes[0]['back'])
    np.testing.assert_allclose(found['back'], saved + 1, rtol=1e-6)


def test_a_batch_that_cannot_be_shared_out_is_refused(case):
  for found in case[0]:
    assert 'a batch of 9' in str(found['uneven']) and '--config.batch_size' in str(found['uneven'])


def test_who_is_left_tells_of_a_learner_that_was_killed(folders):
  told = (folders['machines'] / 'gone.txt').read_text()
  assert 'learner 2 of 2, 127.0.0.1:' in told and '--resume' in told


def test_more_devices_than_there_are_are_refused():
  with pytest.raises(errors.UserError, match='1000 devices are to learn'):
    replicas.make_strategy(1000)


@pytest.mark.parametrize('lstm', together.NETWORKS.values(), ids=list(together.NETWORKS))
def test_a_batch_is_split_in_its_order(lstm):
  learner = together.make_learner(together.make_config(lstm), replicas.make_strategy(), 1)
  batch = next(together.make_batches(learner.agent))
  parts = learners.split(batch, 4)
  assert [part.reward.shape for part in parts] == [(together.T + 1, 2)] * 4
  for name in batch._fields:
    axis = 0 if name in ('actor', 'parameter_version', 'task', 'core_state') else 1
    tf.nest.map_structure(
      lambda whole, *cut, axis=axis: np.testing.assert_array_equal(
        whole, np.concatenate(cut, axis)
      ),
      getattr(batch, name),
      *[getattr(part, name) for part in parts],
    )
