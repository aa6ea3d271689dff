"""Tensors that no actor sends, and TensorFlow's RPC byte by byte, to send them.

TensorFlow's server decodes every tensor of a call before it asks whether the function takes it.
"""

import socket
from typing import TYPE_CHECKING, Any, Sequence

if TYPE_CHECKING:
  from tensorflow.core.framework import tensor_pb2

# A tensor of type variant, which names a type and does not hold it: it kills a server that decodes
# it (TensorFlow 2.21), as those of `deadly` do.
VARIANT = b'\x08\x15\x12\x04\x12\x02\x08\x01z\x16\n\x12tensorflow::Tensor\x12\x00'
HUGE_BYTES = 2**28  # What each of `huge` makes a server allocate.
MANY_STRINGS = 2**25

_HEADERS, _RESET, _END_OF_STREAM, _END_OF_HEADERS = 1, 3, 1, 4
_STRANGE_VARIANTS = (
  'no::such::Type',
  'tensorflow::TensorList',
  'tensorflow::TensorMap',
  'tensorflow::data::OptionalVariant',
  'RaggedTensorVariant',
  'CompressedElement',
)


def deadly() -> dict[str, bytes]:
  """Variants that TensorFlow's decoder does not survive."""
  return {
    'no tensor': VARIANT,
    'no data set': _variant('tensorflow::data::WrappedDatasetVariant'),
  }


def huge() -> dict[str, bytes]:
  """For each type of numbers, a large shape without content."""
  import tensorflow as tf
  from tensorflow.core.framework import types_pb2

  found = {}
  for name, number in types_pb2.DataType.items():
    dtype = tf.dtypes.as_dtype(number) if number else None
    if dtype and not name.endswith('_REF') and dtype not in (tf.string, tf.resource, tf.variant):
      found[name] = _serial(number, [HUGE_BYTES // dtype.size])
  return found


def strings() -> dict[str, bytes]:
  """Strings of a large shape: 24 bytes each, once decoded."""
  from tensorflow.core.framework import types_pb2

  dtype = types_pb2.DT_STRING
  return {
    'none of many strings': _serial(dtype, [MANY_STRINGS]),
    'one of many strings': _serial(dtype, [MANY_STRINGS], string_val=[b'x']),
    'packed strings': _serial(dtype, [MANY_STRINGS], tensor_content=b'\0'),
  }


def odd() -> dict[str, bytes]:
  """Wrong types, ranks and shapes, resources, variants, and bytes that are no tensors."""
  from tensorflow.core.framework import types_pb2

  found = {f'scalar {name}': _serial(number, []) for name, number in types_pb2.DataType.items()}
  shapes = ([1], [1] * 254, [1] * 300, [-5], [2**62, 2**62], [2**40])
  for dtype in ('DT_STRING', 'DT_FLOAT', 'DT_RESOURCE', 'DT_VARIANT'):
    for shape in shapes:
      number = types_pb2.DataType.Value(dtype)
      found[f'{dtype} of shape {str(shape)[:20]}'] = _serial(number, shape)
  found['no dtype'] = b''
  found['dtype 999'] = b'\x08\xe7\x07'
  found['no rank'] = b'\x08\x07\x12\x02\x18\x01'
  found['no proto'] = b'\xff' * 20
  for name in _STRANGE_VARIANTS:
    found[f'variant {name}'] = _variant(name)
  found['resource'] = _resource()
  return found


def request(method: bytes, tensor: bytes) -> bytes:
  """The bytes of an HTTP/2 connection that calls a method with one tensor of at most 16,000 bytes.

  Args:
    method: The name.
    tensor: A `TensorProto`, or anything else.
  """

  def frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, 'big') + bytes([kind, flags]) + stream.to_bytes(4, 'big') + body

  def literal(name: bytes, value: bytes) -> bytes:
    return b'\x00' + bytes([len(name)]) + name + bytes([len(value)]) + value

  headers = b''.join(
    literal(name, value)
    for name, value in (
      (b':method', b'POST'),
      (b':scheme', b'http'),
      (b':path', b'/tensorflow.rpc.RpcService/Call'),
      (b':authority', b'here'),
      (b'content-type', b'application/grpc'),
      (b'te', b'trailers'),
    )
  )
  message = b'\x0a' + _varint(len(method)) + method + b'\x12' + _varint(len(tensor)) + tensor
  body = b'\x00' + len(message).to_bytes(4, 'big') + message
  preface = b'PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n' + frame(4, 0, 0, b'')
  return preface + frame(_HEADERS, _END_OF_HEADERS, 1, headers) + frame(0, _END_OF_STREAM, 1, body)


def await_answer(connection: socket.socket) -> bool:
  """Reads until the call of `request` is answered; returns whether it was before the end."""
  while head := _read(connection, 9):
    kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], 'big')
    _read(connection, int.from_bytes(head[:3], 'big'))
    if stream == 1 and (kind == _RESET or kind == _HEADERS and flags & _END_OF_STREAM):
      return True
  return False


def _read(connection: socket.socket, count: int) -> bytes:
  """Exactly `count` bytes; fewer if the connection ends before."""
  found = b''
  try:
    while len(found) < count and (more := connection.recv(count - len(found))):
      found += more
  except ConnectionError:
    return b''
  return found


def _varint(value: int) -> bytes:
  """A number as protocol buffers write it: seven bits a byte, the lowest first."""
  head = b''
  while value > 127:
    head += bytes([value & 127 | 128])
    value >>= 7
  return head + bytes([value])


def _serial(dtype: int, shape: Sequence[int], **fields: Any) -> bytes:
  return _proto(dtype, shape, **fields).SerializeToString()


def _proto(dtype: int, shape: Sequence[int], **fields: Any) -> 'tensor_pb2.TensorProto':
  from tensorflow.core.framework import tensor_pb2

  made = tensor_pb2.TensorProto(dtype=dtype, **fields)
  for size in shape:
    made.tensor_shape.dim.add(size=size)
  return made


def _variant(name: str) -> bytes:
  from tensorflow.core.framework import types_pb2

  made = _proto(types_pb2.DT_VARIANT, [1])
  made.variant_val.add(type_name=name, metadata=b'\xff' * 9)
  return made.SerializeToString()


def _resource() -> bytes:
  from tensorflow.core.framework import types_pb2

  made = _proto(types_pb2.DT_RESOURCE, [])
  handle = made.resource_handle_val.add(device='x', name='y', hash_code=1)
  handle.dtypes_and_shapes.add(dtype=types_pb2.DT_FLOAT).shape.dim.add(size=-7)
  return made.SerializeToString()
