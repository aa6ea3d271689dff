"""Odd tensors are what their names say, and calls byte by byte reach TensorFlow's server."""

import contextlib
import socket

import pytest

from common.distributed import wire
from scripts import tensors
from tests.common.distributed import learners


@pytest.fixture
def learner():
  with learners.closing(learners.Learner()) as made:
    yield made


def call(path, method, tensor):
  with socket.socket(socket.AF_UNIX) as connection:
    connection.settimeout(20.0)
    connection.connect(path)
    connection.sendall(tensors.request(method, tensor))
    return tensors.await_answer(connection)


def string(value):
  """A `TensorProto` of one string."""
  return b'\x08\x07\x12\x00B' + tensors._varint(len(value)) + value


def test_a_proper_call_does_what_it_says(learner):
  request = {'kind': 'join', 'name': 'n' * 150, 'role': 'actor', 'config': {}}
  message = wire.to_json(**request, version=learners.IDENTITY.version)
  assert call(learner.path, b'tell', string(message))
  (member,) = learner.roster.members()
  assert member.name == 'n' * 150


def test_odd_tensors_are_answered_and_do_no_harm(learner):
  for name, tensor in tensors.odd().items():
    assert call(learner.path, b'put', tensor), name
  with learners.closing(learners.link(learner.port)) as link:
    link.join()
    link.put(learners.payload(1))
  assert learner.take() == [1]


def test_a_server_that_hangs_up_has_not_answered():
  near, far = socket.socketpair()
  with contextlib.closing(near):
    far.sendall(b'\0\0\x04\x04\0\0\0\0\0abc')
    far.close()
    assert not tensors.await_answer(near)


def test_huge_tensors_are_small_and_of_all_types_of_numbers():
  from tensorflow.core.framework import tensor_pb2, types_pb2

  found = tensors.huge()
  assert {'DT_FLOAT', 'DT_HALF', 'DT_BFLOAT16', 'DT_QINT8', 'DT_COMPLEX128', 'DT_BOOL'} <= set(
    found
  )
  for name, serial in {**found, **tensors.strings()}.items():
    proto = tensor_pb2.TensorProto.FromString(serial)
    assert len(serial) < 20 and proto.tensor_shape.dim[0].size >= 2**24, name
    assert proto.dtype == types_pb2.DataType.Value(name if name in found else 'DT_STRING')


@pytest.mark.parametrize('value, expected', [(1, b'\x01'), (127, b'\x7f'), (300, b'\xac\x02')])
def test_numbers_are_written_as_protocol_buffers_do(value, expected):
  assert tensors._varint(value) == expected
