"""Limits of memory and of cores, by control groups of both versions and by affinity."""

import os
import subprocess
import sys

import pytest

from common.machine import cgroups, cores, memory
from tests.common.machine import control_groups

MIB = 2**20
NO_LIMIT = 9223372036854771712  # As version 1 writes it.


@pytest.fixture
def machine(tmp_path, monkeypatch):
  return control_groups.Machine(tmp_path, monkeypatch)


def folders(tmp_path, controller='memory'):
  return [
    (str(group.folder.relative_to(tmp_path)), group.version)
    for group in cgroups.of_process(controller)
  ]


def test_the_own_group_and_all_around_it_are_found(machine, tmp_path):
  machine.mount('cgroup', 'cgroup2')
  machine.join('0::/user.slice/job_7')
  machine.write('cgroup/user.slice/job_7')
  expected = [('cgroup/user.slice/job_7', 2), ('cgroup/user.slice', 2), ('cgroup', 2)]
  assert folders(tmp_path) == expected and folders(tmp_path, 'cpu') == expected


def test_each_controller_of_version_1_has_its_hierarchy(machine, tmp_path):
  """As on machines with both versions, the second of which limits nothing."""
  machine.mount('memory', 'cgroup', 'rw,memory')
  machine.mount('cpu,cpuacct', 'cgroup', 'rw,cpu,cpuacct')
  machine.mount('unified', 'cgroup2')
  machine.join('4:memory:/slurm/job', '2:cpu,cpuacct:/batch', '1:name=systemd:/x', '0::/')
  machine.write('memory/slurm/job')
  machine.write('cpu,cpuacct/batch')
  assert folders(tmp_path) == [
    ('memory/slurm/job', 1),
    ('memory/slurm', 1),
    ('memory', 1),
    ('unified', 2),
  ]
  assert folders(tmp_path, 'cpu') == [
    ('cpu,cpuacct/batch', 1),
    ('cpu,cpuacct', 1),
    ('unified', 2),
  ]


@pytest.mark.parametrize(
  'root, own, expected',
  [
    # A container that sees only its own group, by its name on the host.
    ('/docker/ab12', '/docker/ab12', ['memory']),
    ('/docker/ab12', '/docker/ab12/part', ['memory/part', 'memory']),
    # Outside of what is mounted, or of the namespace.
    ('/docker/ab12', '/docker/other', ['memory']),
    ('/', '/../../other', ['memory']),
    ('/', '/gone', ['memory']),
  ],
)
def test_a_group_is_found_where_only_a_part_is_mounted(machine, tmp_path, root, own, expected):
  machine.mount('memory', 'cgroup', 'rw,memory', root)
  machine.join(f'4:memory:{own}')
  machine.write('memory/part')
  assert [folder for folder, _ in folders(tmp_path)] == expected


def test_folders_may_have_spaces(machine, tmp_path):
  machine.mount('my groups', 'cgroup2')
  machine.join('0::/a b')
  machine.write('my groups/a b')
  assert folders(tmp_path) == [('my groups/a b', 2), ('my groups', 2)]


def test_without_control_groups_the_machine_counts(machine):
  assert cgroups.of_process('memory') == []
  assert memory.available() > 0
  assert cores.count() == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
  'own, middle, top, expected',
  [
    ((100, 30), ('max', 0), ('max', 0), 70),
    (('max', 30), (100, 60), ('max', 0), 40),
    ((100, 30), (100, 60), (90, 75), 15),
    ((100, 120), ('max', 0), ('max', 0), 0),
  ],
)
def test_the_tightest_of_all_limits_of_version_2_counts(machine, own, middle, top, expected):
  machine.mount('cgroup', 'cgroup2')
  machine.join('0::/user/job')
  for group, (maximum, current) in (('/user/job', own), ('/user', middle), ('', top)):
    scaled = maximum if maximum == 'max' else maximum * MIB
    machine.write(f'cgroup{group}', **control_groups.memory_2(scaled, current * MIB))
  assert memory.available() == expected * MIB


def test_the_limit_at_which_processes_are_slowed_down_counts(machine):
  machine.mount('cgroup', 'cgroup2')
  machine.join('0::/job')
  slowed = control_groups.memory_2(100 * MIB, 30 * MIB, 20 * MIB, high=80 * MIB)
  machine.write('cgroup/job', **slowed)
  assert memory.available() == 70 * MIB


@pytest.mark.parametrize(
  'own, top, expected',
  [((100, 30, 10), (NO_LIMIT, 9, 9), 80), ((NO_LIMIT, 30, 10), (200 * MIB, 60, 5), 145)],
)
def test_limits_of_version_1_count_with_the_caches_of_all_within(machine, own, top, expected):
  machine.mount('memory', 'cgroup', 'rw,memory')
  machine.join('4:memory:/slurm/job')
  for group, (maximum, current, cached) in (('/slurm/job', own), ('/slurm', top)):
    scaled = maximum if maximum > MIB else maximum * MIB
    machine.write(f'memory{group}', **control_groups.memory_1(scaled, current * MIB, cached * MIB))
  assert memory.available() == expected * MIB


@pytest.mark.parametrize(
  'kind, files, expected',
  [
    ('cgroup2', {'cpu_max': '150000 100000\n'}, 1.5),
    ('cgroup2', {'cpu_max': '1000 100000\n'}, 0.01),
    ('cgroup2', {'cpu_max': 'max 100000\n'}, 1000),
    ('cgroup2', {}, 1000),
    ('cgroup', {'cpu_cfs_quota_us': '300000\n', 'cpu_cfs_period_us': '100000\n'}, 3),
    ('cgroup', {'cpu_cfs_quota_us': '-1\n', 'cpu_cfs_period_us': '100000\n'}, 1000),
  ],
)
def test_time_on_cores_is_rounded_up_to_cores(machine, monkeypatch, kind, files, expected):
  monkeypatch.setattr(os, 'sched_getaffinity', lambda _: set(range(8)))
  machine.mount('cpu', kind, 'rw,cpu')
  machine.join('3:cpu:/', '0::/')
  machine.write('cpu', **files)
  assert cores.count() == min(8, max(1, -(-expected // 1)))


def test_only_the_cores_of_this_process_count():
  one = min(os.sched_getaffinity(0))
  program = (
    f'import os; os.sched_setaffinity(0, [{one}]); '
    'from common.machine import cores; print(cores.count())'
  )
  done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True, check=True)
  assert done.stdout == '1\n'
