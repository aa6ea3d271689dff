"""The form of what goes over the wire: structures of arrays as byte strings, requests and answers as JSON.

uint8 tensors would go element by element (80 MB/s, a fifth of a byte string's speed).
"""

import json
import math
from typing import Any, Mapping, NamedTuple, Sequence

import numpy as np
import tensorflow as tf

MESSAGE_BYTES = (
  4 * 2**20 - 2**16
)  # gRPC takes 4 MiB; the rest is for the request beside the payload.


class Malformed(Exception):
  """A message is not what its receiver expects; the text says in what."""


class _Field(NamedTuple):
  path: str
  spec: tf.TensorSpec
  dtype: np.dtype
  size: int  # Bytes.


class Codec:
  """Elements of one specification to bytes and back: field after field, each `[M, ...]`, without any header."""

  def __init__(self, spec: Any, bounds: Mapping[str, tuple[float, float]]):
    """Args:
    spec: the nested `tf.TensorSpec`s of one element.
    bounds: by a field's path, as `block.action`, the lowest and the highest value that it can have.
    """
    self.spec, self._bounds = spec, bounds
    self._fields = [
      _Field(path, s, np.dtype(s.dtype.as_numpy_dtype), s.shape.num_elements() * s.dtype.size)
      for path, s in _leaves('', spec)
    ]
    unknown = set(bounds) - {field.path for field in self._fields}
    if unknown:
      raise ValueError(f'bounds of {unknown}: there are {[field.path for field in self._fields]}')
    self.element_bytes = sum(field.size for field in self._fields)

  @property
  def specs(self) -> list[tf.TensorSpec]:
    """Those of the fields, in the order of `decode`."""
    return [field.spec for field in self._fields]

  def nothing(self) -> list[np.ndarray]:
    """The flat fields of no elements."""
    return [np.zeros((0, *field.spec.shape), field.dtype) for field in self._fields]

  def pack(self, fields: Sequence[Any]) -> Any:
    """Flat fields as the nested structure of the specification."""
    return tf.nest.pack_sequence_as(self.spec, fields)

  def encode(self, elements: Any) -> bytes:
    """The bytes of elements `[M, ...]`."""
    return b''.join(
      np.ascontiguousarray(part, field.dtype).tobytes()
      for field, part in zip(self._fields, tf.nest.flatten(elements), strict=True)
    )

  def decode(self, payload: bytes) -> list[np.ndarray]:
    """The flat fields `[M, ...]` of M elements, which share the payload's memory.

    Raises:
      Malformed: if it is not a whole number of elements, or a value is not finite or out of its bounds.
    """
    count, rest = divmod(len(payload), self.element_bytes)
    if rest or not count:
      raise Malformed(
        f'{len(payload)} bytes, expected a multiple of {self.element_bytes}, those of one element'
      )
    fields, start = [], 0
    for field in self._fields:
      values = np.frombuffer(payload, np.uint8, count * field.size, start)
      start += count * field.size
      fields.append(self._checked(field, values).reshape(count, *field.spec.shape))
    return fields

  def group(self, elements: Any) -> list[Any]:
    """Elements `[N, ...]` as parts `[M, ...]` of one message each; of one element, if that takes several messages."""
    count = max(1, MESSAGE_BYTES // self.element_bytes)
    total = len(tf.nest.flatten(elements)[0])
    return [
      tf.nest.map_structure(lambda x, i=i: x[i : i + count], elements)
      for i in range(0, total, count)
    ]

  @property
  def most_parts(self) -> int:
    """Messages that one element takes."""
    return math.ceil(self.element_bytes / MESSAGE_BYTES)

  def _checked(self, field: _Field, values: np.ndarray) -> np.ndarray:
    if field.dtype == np.bool_:
      if values.size and values.max() > 1:
        raise Malformed(f'{field.path} holds {values.max()}, expected booleans')
      return values.view(np.bool_)
    values = values.view(field.dtype)
    if field.dtype.kind == 'f' and not np.isfinite(values).all():
      raise Malformed(f'{field.path} holds numbers that are not finite')
    if field.path in self._bounds and values.size:
      low, high = self._bounds[field.path]
      least, most = values.min(), values.max()
      if least < low or most > high:
        raise Malformed(
          f'{field.path} holds {least if least < low else most}, expected {low:g} to {high:g}'
        )
    return values


def _leaves(path: str, spec: Any) -> list[tuple[str, tf.TensorSpec]]:
  """In the order of `tf.nest.flatten`."""
  if isinstance(spec, tf.TensorSpec):
    return [(path, spec)]
  if hasattr(spec, '_asdict'):
    named = list(spec._asdict().items())
  else:
    named = sorted(spec.items()) if isinstance(spec, Mapping) else enumerate(spec)
  return [
    leaf for name, part in named for leaf in _leaves(f'{path}.{name}' if path else str(name), part)
  ]


def split(payload: bytes) -> list[bytes]:
  """The messages that a payload takes: at least one."""
  return [payload[i : i + MESSAGE_BYTES] for i in range(0, max(1, len(payload)), MESSAGE_BYTES)]


def check_bytes(message: Any) -> None:
  """Raises Malformed for what is no single byte string: a server takes string tensors of any shape."""
  if not isinstance(message, bytes):
    raise Malformed(f'a tensor of shape {np.shape(message)}, expected one byte string')


def to_json(**values: Any) -> bytes:
  return json.dumps(values).encode()


def from_json(message: bytes, types: Mapping[str, type] | None = None) -> dict[str, Any]:
  """The values of a request or an answer.

  Args:
    message: the JSON text of an object.
    types: what it must hold, by name, as `expect` says. More may be there.

  Raises:
    Malformed: if it does not.
  """
  check_bytes(message)
  try:
    values = json.loads(message)
  except (ValueError, RecursionError) as error:
    raise Malformed(f'not JSON: {error}') from error
  if not isinstance(values, dict):
    raise Malformed(f'expected a JSON object, got {str(values)[:40]}')
  return expect(values, types or {})


def expect(values: dict[str, Any], types: Mapping[str, type]) -> dict[str, Any]:
  """The values, which must hold so: whole numbers not below 0, others finite. Raises Malformed."""
  for name, kind in types.items():
    value = values.get(name)
    if (
      type(value) is not kind
      or kind is int
      and not 0 <= value < 2**62
      or kind is float
      and not math.isfinite(value)
    ):
      raise Malformed(f'{name} is {str(value)[:40]!r}, expected {kind.__name__}')
  return values
