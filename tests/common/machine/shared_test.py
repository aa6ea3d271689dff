"""Arrays that a process and its workers share."""

import functools
import os

import gymnasium
import numpy as np
import pytest

from common.machine import shared, workers

SPACE = gymnasium.spaces.Dict(
  {
    'image': gymnasium.spaces.Box(0, 255, (2, 3, 5), np.uint8),
    'vector': gymnasium.spaces.Box(-np.inf, np.inf, (2, 3), np.float32),
    'words': gymnasium.spaces.Box(-1, 999, (2, 7), np.int32),
  }
)


class Writer:
  """In a worker: draws values from the space and writes them."""

  def __init__(self, descriptor):
    self._arrays = shared.arrays(descriptor, shared.forms(SPACE))

  def write(self, seed):
    SPACE.seed(seed)
    shared.put(self._arrays, SPACE.sample())

  def read(self):
    return self._arrays


@pytest.fixture
def memory():
  made = shared.Memory()
  yield made
  made.close()


def drawn(seed):
  SPACE.seed(seed)
  return SPACE.sample()


def assert_equal(found, expected):
  assert found.keys() == expected.keys()
  for name, values in expected.items():
    assert found[name].dtype == values.dtype
    np.testing.assert_array_equal(found[name], values)


def test_what_one_process_writes_the_other_reads(memory):
  worker = workers.Worker(functools.partial(Writer, memory.fileno()), descriptors=[memory.fileno()])
  try:
    worker.receive()
    arrays = shared.arrays(memory.fileno(), shared.forms(SPACE))
    assert not any(np.any(values) for values in arrays.values())
    for seed in (1, 2):
      worker.call('write', seed=seed)
      assert_equal(arrays, drawn(seed))
    shared.put(arrays, drawn(3))
    assert_equal(worker.call('read'), drawn(3))
  finally:
    worker.close()
  # What a dead process has written stays.
  assert_equal(arrays, drawn(3))


def test_arrays_do_not_overlap_and_are_aligned(memory):
  arrays = shared.arrays(memory.fileno(), shared.forms(SPACE))
  for values in arrays.values():
    assert values.ctypes.data % 64 == 0
    values.fill(1)
  assert all(np.all(values == 1) for values in arrays.values())


def test_closing_leaves_arrays_and_no_file(memory):
  arrays = shared.arrays(memory.fileno(), shared.forms(SPACE))
  descriptor = memory.fileno()
  for _ in range(2):
    memory.close()
  with pytest.raises(OSError, match='Bad file descriptor'):
    os.fstat(descriptor)
  arrays['image'].fill(7)
  assert np.all(arrays['image'] == 7)


def test_what_does_not_fit_is_refused(memory):
  arrays = shared.arrays(memory.fileno(), shared.forms(SPACE))
  with pytest.raises(ValueError, match='image has shape'):
    shared.put(arrays, drawn(1) | {'image': np.zeros((3, 5), np.uint8)})
  with pytest.raises(TypeError, match='same_kind'):
    shared.put(arrays, drawn(1) | {'image': np.zeros((2, 3, 5), np.float32)})
  # As gymnasium's wrappers leave them.
  shared.put(arrays, drawn(1) | {'vector': np.ones((2, 3), np.float64)})
  assert np.all(arrays['vector'] == 1)
