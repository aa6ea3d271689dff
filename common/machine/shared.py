"""Arrays in memory that a process shares with its workers: no copies through pipes."""

import math
import mmap
import os
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

# Arrays begin at multiples of this, as TensorFlow's own do, which saves it a copy.
_ALIGNMENT = 64


class Form(NamedTuple):
  """What an array looks like."""

  shape: tuple[int, ...]
  dtype: np.dtype


def forms(like: Any) -> dict[str, Form]:
  """The forms of a mapping to anything with a `shape` and a `dtype`, such as a `Dict` space."""
  return {name: Form(tuple(one.shape), np.dtype(one.dtype)) for name, one in like.items()}


class Memory:
  """Memory for arrays; empty until `arrays` is called in any of the processes that have it.

  It has no name, so the system frees it once all of them have closed it or died.
  """

  def __init__(self) -> None:
    self._descriptor = os.memfd_create('arrays')

  def fileno(self) -> int:
    """Its descriptor, for `workers.Worker`."""
    return self._descriptor

  def close(self) -> None:
    """Arrays that were made before stay. Idempotent."""
    if self._descriptor >= 0:
      os.close(self._descriptor)
      self._descriptor = -1


def arrays(descriptor: int, wanted: Mapping[str, Form]) -> dict[str, np.ndarray]:
  """The arrays in a memory, which all processes that want the same share.

  Args:
    descriptor: The memory's.
    wanted: Their forms by name.
  """
  offsets = {}
  size = 0
  for name, form in wanted.items():
    offsets[name] = size
    num_bytes = math.prod(form.shape) * form.dtype.itemsize
    size += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
  # Of equal size for all, so it does not matter who is first.
  os.ftruncate(descriptor, size)
  mapped = mmap.mmap(descriptor, size)
  return {
    name: np.ndarray(form.shape, form.dtype, mapped, offsets[name]) for name, form in wanted.items()
  }


def put(into: Mapping[str, np.ndarray], values: Mapping[str, Any]) -> None:
  """Copies values into arrays of the same names.

  Raises:
    ValueError: A value has another shape.
    TypeError: It would lose what its dtype can hold, as when floats become bytes.
  """
  for name, array in into.items():
    value = np.asarray(values[name])
    if value.shape != array.shape:
      raise ValueError(f'{name} has shape {value.shape}, expected {array.shape}')
    np.copyto(array, value, casting='same_kind')
