"""Message formats: nested arrays as byte strings, requests and answers as JSON.

Arrays travel as byte strings because gRPC serialises uint8 tensors element by element, at 80 MB/s:
a fifth of the speed.
"""

import json
import math
from typing import Any, Callable, Iterable, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

# gRPC accepts 4 MiB; the remainder leaves room for the request beside the payload.
MESSAGE_BYTES = 4 * 2**20 - 2**16

# The largest magnitude of a reward, an observation, a logit or a core state that a learner takes.
# Returns add them up over an unroll, losses square the returns, and the gradient's norm squares the
# sum over a batch. From 1e9 all of these stay far below 3e38, where float32 ends; no task is known
# to come near it.
LARGEST = 1e9
# The same for what adds many of these up: returns and TD errors.
LARGEST_SUM = 1e12

# A bound; a function that returns it at the moment when a message arrives; or an array with one for
# each place along the field's last axis.
Bound = float | Callable[[], float] | np.ndarray
# The lowest and the highest valid value by field path, such as `block.action`.
Bounds = dict[str, tuple[Bound, Bound]]


class Malformed(Exception):
  """A message is not what its receiver expects; the text names the difference."""


class _Field(NamedTuple):
  path: str
  spec: tf.TensorSpec
  dtype: np.dtype
  size: int  # Bytes per element.


class Codec:
  """Encodes elements of one specification as bytes: field after field, each `[M, ...]`, no header.

  Attributes:
    spec: The nested `tf.TensorSpec`s of one element.
    element_bytes: The encoded size of one element.
  """

  def __init__(self, spec: Any, bounds: Bounds):
    """Computes the layout.

    Args:
      spec: The nested `tf.TensorSpec`s of one element.
      bounds: See `Bounds`.

    Raises:
      ValueError: If a bound names a field that does not exist.
    """
    self.spec = spec
    self._bounds = bounds
    self._fields = [_field(path, leaf) for path, leaf in _leaves('', spec)]
    self.element_bytes = sum(field.size for field in self._fields)

    paths = [field.path for field in self._fields]
    unknown = set(bounds) - set(paths)
    if unknown:
      raise ValueError(f'bounds name {unknown}, expected some of the fields {paths}')

  @property
  def specs(self) -> list[tf.TensorSpec]:
    """The fields' specifications, in the order of `decode`."""
    return [field.spec for field in self._fields]

  @property
  def most_parts(self) -> int:
    """The number of messages that one element takes."""
    return math.ceil(self.element_bytes / MESSAGE_BYTES)

  def nothing(self) -> list[np.ndarray]:
    """The flat fields of zero elements, `[0, ...]`."""
    return [np.zeros((0, *field.spec.shape), field.dtype) for field in self._fields]

  def pack(self, fields: Sequence[Any]) -> Any:
    """Nests flat fields as the specification is nested."""
    return tf.nest.pack_sequence_as(self.spec, fields)

  def encode(self, elements: Any) -> bytes:
    """Encodes elements `[M, ...]`, which may be NumPy arrays or tensors."""
    return b''.join(
      np.ascontiguousarray(part, field.dtype).tobytes()
      for field, part in zip(self._fields, tf.nest.flatten(elements), strict=True)
    )

  def decode(self, payload: bytes) -> list[np.ndarray]:
    """Decodes M elements to flat fields `[M, ...]`, which share the payload's memory.

    Raises:
      Malformed: If the size is not a positive multiple of one element's, or a value is not finite
        or out of its bounds.
    """
    count, rest = divmod(len(payload), self.element_bytes)
    if rest or not count:
      raise Malformed(
        f'{len(payload)} bytes, expected a multiple of {self.element_bytes}, the size of an element'
      )

    fields = []
    start = 0
    for field in self._fields:
      values = np.frombuffer(payload, np.uint8, count * field.size, start)
      start += count * field.size
      fields.append(self._checked(field, values, count))
    return fields

  def group(self, elements: Any) -> list[Any]:
    """Splits elements `[N, ...]` into groups `[M, ...]` that fit one message each.

    An element larger than a message is a group of its own; `split` cuts what it encodes to.
    """
    size = max(1, MESSAGE_BYTES // self.element_bytes)
    total = len(tf.nest.flatten(elements)[0])
    return [
      tf.nest.map_structure(lambda x, i=i: x[i : i + size], elements)  # [M, ...]
      for i in range(0, total, size)
    ]

  def _checked(self, field: _Field, values: np.ndarray, count: int) -> np.ndarray:
    """Views uint8 values as the field of `count` elements. Raises Malformed."""
    shape = (count, *field.spec.shape)
    if field.dtype == np.bool_:
      # Operations on booleans are undefined for any other byte.
      if values.size and values.max() > 1:
        raise Malformed(f'{field.path} holds {values.max()}, expected booleans')
      return values.view(np.bool_).reshape(shape)

    values = values.view(field.dtype).reshape(shape)
    if field.dtype.kind == 'f' and not np.isfinite(values).all():
      raise Malformed(f'{field.path} holds numbers that are not finite')
    if field.path in self._bounds and values.size:
      _check_bounds(field, values, *self._bounds[field.path])
    return values


def _check_bounds(field: _Field, values: np.ndarray, low: Bound, high: Bound) -> None:
  """Raises Malformed if a value is out of bounds."""
  low_now = low() if callable(low) else low
  high_now = high() if callable(high) else high
  wrong = (values < low_now) | (values > high_now)
  if not wrong.any():
    return

  at = np.unravel_index(int(np.argmax(wrong)), values.shape)
  expected = [_number(np.broadcast_to(limit, values.shape)[at]) for limit in (low_now, high_now)]
  place = f'[..., {at[-1]}]' if np.ndim(low_now) or np.ndim(high_now) else ''
  moment = ' at the moment' if callable(low) or callable(high) else ''
  raise Malformed(
    f'{field.path}{place} holds {values[at]}, expected {" to ".join(expected)}{moment}'
  )


def _number(value: np.generic) -> str:
  # Integers with all of their digits.
  return str(value) if isinstance(value, np.integer) else f'{value:g}'


def _field(path: str, spec: tf.TensorSpec) -> _Field:
  dtype = np.dtype(spec.dtype.as_numpy_dtype)
  return _Field(path=path, spec=spec, dtype=dtype, size=spec.shape.num_elements() * dtype.itemsize)


def _leaves(path: str, spec: Any) -> list[tuple[str, tf.TensorSpec]]:
  """The paths and specifications of all leaves, in the order of `tf.nest.flatten`."""
  if isinstance(spec, tf.TensorSpec):
    return [(path, spec)]

  named: Iterable[tuple[Any, Any]]
  if hasattr(spec, '_asdict'):
    named = spec._asdict().items()
  elif isinstance(spec, Mapping):
    named = sorted(spec.items())  # `tf.nest` sorts dictionaries, but not named tuples.
  else:
    named = enumerate(spec)

  leaves = []
  for name, part in named:
    leaves += _leaves(f'{path}.{name}' if path else str(name), part)
  return leaves


def magnitudes(spec: Any) -> dict[str, tuple[Bound, Bound]]:
  """Bounds of `LARGEST` for every field of floating-point numbers, by path."""
  return {path: (-LARGEST, LARGEST) for path, leaf in _leaves('', spec) if leaf.dtype.is_floating}


def split(payload: bytes) -> list[bytes]:
  """Cuts a payload into messages; an empty payload is one empty message."""
  return [payload[i : i + MESSAGE_BYTES] for i in range(0, max(1, len(payload)), MESSAGE_BYTES)]


def check_bytes(message: Any) -> None:
  """Raises Malformed unless the message is one byte string.

  TensorFlow's RPC server accepts string tensors of any shape, whatever the function's signature.
  """
  if not isinstance(message, bytes):
    raise Malformed(f'a tensor of shape {np.shape(message)}, expected one byte string')


def to_json(**values: Any) -> bytes:
  """Encodes a request or an answer."""
  return json.dumps(values).encode()


def from_json(message: bytes, types: Mapping[str, type] | None = None) -> dict[str, Any]:
  """Decodes a request or an answer.

  Args:
    message: The JSON text of an object.
    types: The types of its required values, as in `expect`.

  Raises:
    Malformed: If the message is something else.
  """
  check_bytes(message)
  try:
    values = json.loads(message)
  except (ValueError, RecursionError) as error:
    raise Malformed(f'not JSON: {error}') from error
  if not isinstance(values, dict):
    raise Malformed(f'expected a JSON object, got {str(values)[:40]}')
  expect(values, types or {})
  return values


def expect(values: Mapping[str, Any], types: Mapping[str, type]) -> None:
  """Checks that values have the given types; integers from 0 to 2^62 - 1, floats finite.

  Further values are ignored, so that newer processes may send more.

  Raises:
    Malformed: If a value is missing or invalid.
  """
  for name, kind in types.items():
    value = values.get(name)
    if not _is_valid(value, kind):
      raise Malformed(f'{name} is {str(value)[:40]!r}, expected {kind.__name__}')


def _is_valid(value: Any, kind: type) -> bool:
  if type(value) is not kind:  # Not `isinstance`: booleans are integers to it.
    return False
  if isinstance(value, int):
    return 0 <= value < 2**62  # Fits int64 with room for arithmetic.
  if isinstance(value, float):
    return math.isfinite(value)
  return True
