"""Several synchronous learners against a single one with their trajectories in one batch."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from common import errors
from impala import population_folder, replicas
from tests.common import programs
from tests.impala import together

# Learner processes: one with two devices, or two with one device each, on loopback.
_PROCESSES = {'devices': 1, 'machines': 2}
_RESULTS = (
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
  'parameters_finite',
  'stop',
)


def start(folder: pathlib.Path, devices: int, index: int, *addresses: str) -> subprocess.Popen:
  program = [sys.executable, '-m', 'tests.impala.together']
  return subprocess.Popen(
    [*program, str(folder), str(devices), str(index), *addresses],
    cwd=programs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    # A proxy where nobody listens: learners must not ask for it.
    env={**os.environ, 'CUDA_VISIBLE_DEVICES': '', 'http_proxy': 'http://127.0.0.1:9'},
  )


def free_addresses(count: int) -> list[str]:
  sockets = [socket.create_server(('127.0.0.1', 0)) for _ in range(count)]
  addresses = [f'127.0.0.1:{s.getsockname()[1]}' for s in sockets]
  for s in sockets:
    s.close()
  return addresses


@pytest.fixture(scope='module')
def single():
  """What a single learner does with the whole batches, by network."""
  strategy = replicas.make_strategy()
  found = {}
  for network, lstm in together.NETWORKS.items():
    learner = together.make_learner(together.make_config(lstm), strategy, 1)
    found[network] = together.learn(learner, strategy, 0)
  return found


@pytest.fixture(scope='module')
def folders(tmp_path_factory, request):
  """Folders with the results of learners that have ended, by kind."""
  folders = {kind: tmp_path_factory.mktemp(kind) for kind in _PROCESSES}
  for kind, processes in _PROCESSES.items():
    (folders[kind] / 'population').mkdir()
    together.found_population(folders[kind] / 'population', processes)
  addresses = free_addresses(2)
  processes = [
    start(folders['machines'], 1, 0, *addresses),
    start(folders['machines'], 1, 1, *addresses),
    start(folders['devices'], 2, 0),
  ]
  # The single learner runs meanwhile.
  request.getfixturevalue('single')
  # The second learner of two kills itself.
  for process, status in zip(processes, (0, -9, 0), strict=True):
    programs.finish(process, status)
  return folders


@pytest.fixture(
  params=[(kind, network) for kind in _PROCESSES for network in together.NETWORKS], ids='-'.join
)
def case(request, folders, single):
  """The results of every process of one kind, and those of a single learner."""
  kind, network = request.param
  processes = [dict(np.load(folders[kind] / f'{network}_{i}.npz')) for i in range(_PROCESSES[kind])]
  return processes, single[network]


def test_parameters_slots_and_counters_are_those_of_a_single_learner(case):
  processes, single = case
  for found in processes:
    np.testing.assert_allclose(found['values'], single['values'], rtol=1e-5, atol=1e-6)
    # Exactly equal to each other, or they would drift apart.
    np.testing.assert_array_equal(found['values'], processes[0]['values'])


@pytest.mark.parametrize('kind', _PROCESSES)
def test_a_member_of_several_learners_is_measured_by_all_and_all_take_over(kind, folders):
  count = _PROCESSES[kind]
  found = [dict(np.load(folders[kind] / f'population_{i}.npz')) for i in range(count)]
  (event,) = population_folder.history(folders[kind] / 'population', 0)
  # 30 in each episode of the first learner, 40 in those of the second.
  assert event.returns == dict.fromkeys(together.SUITE.tasks, {1: 30.0, 2: 35.0}[count])
  assert (event.partner, event.taken_generation) == (1, 0)
  assert found[0]['saves'] == 1
  for each in found:
    np.testing.assert_array_equal(each['evolved'], found[0]['evolved'])
    # The weights, several thousand, are the other's.
    assert np.sum(each['evolved'] == 2.0) > 1000


def test_a_total_counts_each_process_once(case):
  processes, single = case
  np.testing.assert_array_equal(single['total'], [1.0, 0.5])
  for found in processes:
    expected = [1.0, 0.5] if len(processes) == 1 else [3.0, 1.0]
    np.testing.assert_array_equal(found['total'], expected)


def test_the_batches_are_clipped_and_one_is_not_finite(single):
  for found in single.values():
    finite = np.arange(together.UPDATES) != together.NOT_FINITE
    np.testing.assert_array_equal(found['finite'], finite)
    assert np.all(found['gradient_norm'][finite] > 2 * together.MAX_NORM)


def test_statistics_are_of_all_trajectories(case):
  processes, single = case
  assert set(_RESULTS) <= set(single)
  for found in processes:
    for name in _RESULTS:
      np.testing.assert_allclose(found[name], single[name], rtol=1e-5, atol=1e-6, err_msg=name)


def test_an_update_that_is_not_finite_at_one_replica_changes_nothing_at_any(case):
  processes, _ = case
  for found in processes:
    before, after = found['values'][together.NOT_FINITE : together.NOT_FINITE + 2]
    np.testing.assert_array_equal(before, after)


def test_all_stop_at_the_same_update_when_one_asks_to(case):
  processes, _ = case
  for found in processes:
    assert found['stopped'] and not np.any(found['stop'])
    np.testing.assert_array_equal(found['values_when_stopped'], found['values'][-1])


def test_checkpoints_move_between_one_and_several(case):
  processes, _ = case
  saved = processes[0]['values'][-1]
  np.testing.assert_array_equal(processes[0]['moved'], saved)
  for found in processes:
    np.testing.assert_array_equal(found['back'], processes[0]['back'])
    np.testing.assert_allclose(found['back'], saved + 1, rtol=1e-6)


def test_a_batch_that_cannot_be_divided_evenly_is_refused(case):
  processes, _ = case
  for found in processes:
    assert 'a batch of 9' in str(found['uneven']) and '--config.batch_size' in str(found['uneven'])


def test_the_remaining_learner_names_the_one_that_was_killed(folders):
  message = (folders['machines'] / 'gone.txt').read_text()
  assert 'learner 2 of 2, 127.0.0.1:' in message and '--resume' in message


def test_more_devices_than_there_are_are_refused():
  with pytest.raises(errors.UserError, match='1000 devices are to learn.*--config.learner_devices'):
    replicas.make_strategy(1000)


def test_several_processes_are_refused_on_a_network_that_nobody_has_called_trusted():
  """Before anything listens: the refusal takes no time, and the port stays free."""
  addresses = free_addresses(2)
  with pytest.raises(errors.UserError) as refused:
    replicas.make_strategy(1, addresses, 1)
  message = str(refused.value)
  assert addresses[1] in message and '--trusted_network' in message and message.isprintable()
  host, port = addresses[1].split(':')
  socket.create_server((host, int(port))).close()
