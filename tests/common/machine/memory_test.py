"""Whether a replay fits into memory, and the capacity advised if it does not."""

import functools
import math
import pathlib
import re

import numpy as np
import pytest

from common import errors
from common.machine import memory
from common.replay import prioritized
from tests.common.machine import control_groups
from tests.common.replay import replays

MIB = 2**20


def meminfo(name):
  text = pathlib.Path('/proc/meminfo').read_text()
  return int(re.search(rf'^{name}: +(\d+) kB$', text, re.MULTILINE).group(1)) * 1024


def linear(needed, capacity):
  """Maps capacities to sizes in proportion: `capacity` elements take `needed` bytes."""
  return lambda other: math.ceil(needed * other / capacity)


def advice(size_in_bytes, capacity):
  """The capacity that a refusal names."""
  with pytest.raises(errors.UserError) as caught:
    memory.check(size_in_bytes, capacity, 'transitions')
  match = re.search(r'replay_capacity to ([\d,]+) or less$', str(caught.value))
  return int(match.group(1).replace(',', ''))


@pytest.fixture
def container(tmp_path, monkeypatch):
  """Sets a container's limit and use of memory, as its processes see them."""
  machine = control_groups.Machine(tmp_path, monkeypatch)
  machine.mount('cgroup', 'cgroup2')
  machine.join('0::/')

  def limit(maximum, current=0, inactive_file=0, active_file=0):
    machine.write('cgroup', **control_groups.memory_2(maximum, current, inactive_file, active_file))

  return limit


def test_what_fits_is_not_refused():
  memory.check(linear(MIB, 10), 10, 'transitions')
  memory.check(linear(0, 10), 10, 'transitions')


@pytest.mark.parametrize('share', [1.1, 2.0, 30.0])
def test_what_does_not_fit_is_refused_with_a_capacity_that_does(share):
  capacity = 2_000_000
  size_in_bytes = linear(int(share * meminfo('MemTotal')), capacity)
  advised = advice(size_in_bytes, capacity)
  assert 0 < advised < capacity / share
  memory.check(size_in_bytes, advised, 'transitions')


def test_the_refusal_names_what_is_needed_and_what_is_free(container):
  container(512 * MIB, 128 * MIB)
  message = (
    'a replay of 1,000 trajectories takes 1.5 GiB and 0.4 GiB are free: '
    'lower --config.replay_capacity to '
  )
  with pytest.raises(errors.UserError, match=f'^{re.escape(message)}[0-9]+ or less$'):
    memory.check(linear(1536 * MIB, 1000), 1000, 'trajectories')
  assert 0 < advice(linear(1536 * MIB, 1000), 1000) <= 1000 * 384 // 1536


@pytest.mark.parametrize('free', [384 * MIB, 100])
def test_it_is_refused_from_the_first_byte_that_is_too_much(container, free):
  container(free)
  memory.check(linear(free, 1000), 1000, 'transitions')
  with pytest.raises(errors.UserError):
    memory.check(linear(free + 1, 1000), 1000, 'transitions')


@pytest.mark.parametrize(
  'spec',
  [
    replays.specification(4, (84, 84), np.uint8, length=50),
    replays.specification(1, (72, 96, 3), np.uint8, length=50),
    replays.specification(1, (4,), np.float32, length=50),
    replays.specification(1, (1,), np.float32, length=50),
  ],
  ids=['atari', 'doom', 'cartpole', 'a single number'],
)
def test_the_advised_capacity_of_a_prioritized_replay_fits(container, spec):
  """Its size is not proportional to the capacity: its sum tree is rounded up to rows."""
  for free in np.geomspace(20 * MIB, 400 * MIB, 100).astype(int).tolist():
    container(free)
    for capacity in (2**20, 2**21, 2_000_000, 10**8):
      size_in_bytes = functools.partial(prioritized.PrioritizedReplay.size_in_bytes, spec)
      if size_in_bytes(capacity) > free:
        advised = advice(size_in_bytes, capacity)
        assert size_in_bytes(advised) <= free, (free, capacity, advised)


def test_memory_that_only_caches_files_counts_as_free(tmp_path, monkeypatch):
  """After a while, most of a machine's memory caches files, which the kernel reclaims on demand.

  The files of TensorFlow alone are some hundred megabytes of it.
  """
  control_groups.Machine(tmp_path, monkeypatch)  # Without limits.
  before = meminfo('MemAvailable')
  available = memory.available()
  after = meminfo('MemAvailable')
  assert min(before, after) - 64 * MIB <= available <= max(before, after) + 64 * MIB
  memory.check(linear(available // 2, 1000), 1000, 'transitions')


def test_a_containers_limit_counts_and_what_only_caches_files_in_it_is_free(container):
  container(100 * MIB, 70 * MIB, inactive_file=20 * MIB, active_file=5 * MIB)
  assert memory.available() == 50 * MIB


@pytest.mark.parametrize('maximum', ['max', 2**50])
def test_a_container_without_a_limit_has_what_the_machine_has(container, maximum):
  container(maximum)
  before = meminfo('MemAvailable')
  available = memory.available()
  assert abs(available - before) <= 64 * MIB
