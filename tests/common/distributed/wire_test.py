"""Message formats: elements survive encoding, and malformed payloads are refused."""

import collections
import json
import random

import numpy as np
import pytest
import tensorflow as tf

from common.distributed import wire

DTYPES = (np.uint8, np.bool_, np.int32, np.int64, np.float32)
# Its fields are not in alphabetical order, in which `tf.nest` puts dictionaries.
Pair = collections.namedtuple('Pair', 'zebra apple')
SPEC = Pair(
  {'one': tf.TensorSpec([], tf.uint8), 'flag': tf.TensorSpec([2], tf.bool)},
  tf.TensorSpec([3], tf.float32),
)


def values(rng, dtype, shape):
  """Random values over the whole range of a dtype."""
  if dtype == np.bool_:
    return rng.integers(0, 2, shape).astype(np.bool_)
  if dtype == np.float32:
    drawn = rng.integers(0, 2**32, shape, np.uint32).view(np.float32)
    return np.where(np.isfinite(drawn), drawn, np.float32(-0.0)).astype(np.float32)
  limits = np.iinfo(dtype)
  return rng.integers(limits.min, limits.max, shape, dtype, endpoint=True)


def random_spec(rng, depth, path=''):
  """A random nested specification, and the dtype of each leaf by path."""
  if depth == 0 or rng.random() < 0.2:
    shape = [rng.randint(1, 4) for _ in range(rng.randint(0, 3))]
    dtype = rng.choice(DTYPES)
    return tf.TensorSpec(shape, dtype), {path: dtype}
  names = rng.sample(['b', 'a', 'zz', 'c', 'k9'], rng.randint(1, 4))
  kind = rng.choice(['dict', 'named', 'tuple', 'list'])
  if kind in ('tuple', 'list'):
    names = [str(i) for i in range(len(names))]
  parts, leaves = {}, {}
  for name in names:
    parts[name], below = random_spec(rng, depth - 1, f'{path}.{name}' if path else name)
    leaves |= below
  build = {
    'dict': dict,
    'named': lambda p: collections.namedtuple('Named', names)(**p),
    'tuple': lambda p: (*p.values(), ()),
    'list': lambda p: list(p.values()),
  }[kind]
  return build(parts), leaves


def random_elements(rng, spec, count):
  return tf.nest.map_structure(
    lambda s: values(rng, s.dtype.as_numpy_dtype, (count, *s.shape)), spec
  )


def same(got, expected):
  """Asserts equality bit by bit, in the same structure, shapes and dtypes."""
  tf.nest.assert_same_structure(got, expected)
  for a, b in zip(tf.nest.flatten(got), tf.nest.flatten(expected), strict=True):
    assert a.dtype == b.dtype and a.shape == b.shape
    assert np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def good_elements(count):
  return Pair(
    {'one': np.arange(count, dtype=np.uint8), 'flag': np.ones((count, 2), np.bool_)},
    np.full((count, 3), 0.5, np.float32),
  )


@pytest.mark.parametrize('seed', range(60))
def test_elements_of_any_structure_survive_encoding(seed):
  spec, leaves = random_spec(random.Random(seed), depth=3)
  rng = np.random.default_rng(seed)
  codec = wire.Codec(spec, {})
  assert len(codec.specs) == len(leaves)
  for count in (1, 2, 7):
    elements = random_elements(rng, spec, count)
    payload = codec.encode(elements)
    assert len(payload) == count * codec.element_bytes
    same(tf.nest.pack_sequence_as(spec, codec.decode(payload)), elements)


@pytest.mark.parametrize('seed', range(20))
def test_bounds_apply_to_the_field_at_their_path(seed):
  rng = random.Random(seed)
  spec, leaves = random_spec(rng, depth=3)
  bounded = [path for path, dtype in leaves.items() if dtype is not np.bool_]
  if not bounded:
    spec, bounded = {'a': tf.TensorSpec([2], tf.int64)}, ['a']
  path = rng.choice(bounded)
  elements = tf.nest.map_structure(
    lambda s: np.full((2, *s.shape), 1, s.dtype.as_numpy_dtype), spec
  )
  payload = wire.Codec(spec, {}).encode(elements)
  same(tf.nest.pack_sequence_as(spec, wire.Codec(spec, {path: (1, 1)}).decode(payload)), elements)
  for bounds in ((2, 9), (-9, 0)):
    with pytest.raises(wire.Malformed) as refused:
      wire.Codec(spec, {path: bounds}).decode(payload)
    assert str(refused.value).startswith(f'{path} holds 1')


def test_fields_are_encoded_in_the_order_of_the_structure():
  payload = wire.Codec(SPEC, {}).encode(good_elements(2))
  # In the tuple's order, and in the dict's alphabetical order: zebra.flag, zebra.one, apple.
  assert payload == bytes([1] * 4) + bytes([0, 1]) + np.full(6, 0.5, np.float32).tobytes()


def test_decoded_fields_may_be_unaligned():
  spec = (
    tf.TensorSpec([3], tf.uint8),
    tf.TensorSpec([], tf.int64),
    tf.TensorSpec([1], tf.bool),
    tf.TensorSpec([2], tf.float32),
  )
  elements = random_elements(np.random.default_rng(0), spec, 5)
  payload = wire.Codec(spec, {}).encode(elements)
  for skipped in range(8):  # Whatever the alignment of the payload.
    moved = memoryview(b'-' * skipped + payload)[skipped:]
    fields = tf.numpy_function(
      lambda moved=moved: wire.Codec(spec, {}).decode(moved), [], [s.dtype for s in spec]
    )
    same(tuple(field.numpy() for field in fields), elements)


def test_arrays_that_are_not_contiguous_are_encoded():
  spec = tf.TensorSpec([2, 3], tf.int32)
  turned = np.arange(60, dtype=np.int32).reshape(3, 2, 10).T[::2]
  codec = wire.Codec(spec, {})
  np.testing.assert_array_equal(codec.decode(codec.encode(turned))[0], turned)
  np.testing.assert_array_equal(codec.decode(codec.encode(tf.constant(turned)))[0], turned)


def test_elements_of_another_structure_are_not_encoded():
  with pytest.raises(ValueError):
    wire.Codec(SPEC, {}).encode((np.zeros(1, np.uint8), np.zeros((1, 3), np.float32)))


def test_payloads_that_are_not_whole_elements_are_refused():
  codec = wire.Codec(SPEC, {})
  payload = codec.encode(good_elements(3))
  for count in range(len(payload) + 1):
    if count and count % codec.element_bytes == 0:
      assert len(codec.decode(payload[:count])[0]) == count // codec.element_bytes
    else:
      with pytest.raises(
        wire.Malformed, match=f'{count} bytes, expected a multiple of {codec.element_bytes}'
      ):
        codec.decode(payload[:count])
  with pytest.raises(wire.Malformed):
    codec.decode(payload + b'\0')


@pytest.mark.parametrize('wrong', [2, 3, 127, 128, 255])
@pytest.mark.parametrize('at', [0, 3])
def test_booleans_other_than_0_and_1_are_refused(wrong, at):
  codec = wire.Codec(SPEC, {})
  payload = bytearray(codec.encode(good_elements(2)))
  payload[at] = wrong
  with pytest.raises(wire.Malformed, match=f'zebra.flag holds {wrong}, expected booleans'):
    codec.decode(bytes(payload))


@pytest.mark.parametrize('bounds', [{}, {'apple': (-1e30, 1e30)}], ids=['unbounded', 'bounded'])
@pytest.mark.parametrize('wrong', [np.nan, -np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(wrong, bounds):
  codec = wire.Codec(SPEC, bounds)
  for at in range(6):
    elements = good_elements(2)
    elements.apple.flat[at] = wrong
    with pytest.raises(wire.Malformed, match='apple holds numbers that are not finite'):
      codec.decode(codec.encode(elements))


@pytest.mark.parametrize(
  'dtype, low, high',
  [(np.uint8, 3, 200), (np.int32, -5, 7), (np.int64, -(2**40), 2**40), (np.float32, -0.5, 0.25)],
)
def test_bounds_are_inclusive(dtype, low, high):
  codec = wire.Codec({'x': tf.TensorSpec([3], dtype)}, {'x': (low, high)})
  step = 2**-20 if dtype is np.float32 else 1

  def array(value):
    return {'x': np.array([[low, high, low], [low, value, high]], dtype)}

  for value in (low, high):
    np.testing.assert_array_equal(codec.decode(codec.encode(array(value)))[0], array(value)['x'])
  for value in (low - step, high + step):
    with pytest.raises(wire.Malformed, match='x holds .*, expected '):
      codec.decode(codec.encode(array(value)))


@pytest.mark.parametrize('wrong', [-1, -(2**63)])
def test_a_bound_at_the_limit_of_a_type_keeps_its_other_side(wrong):
  codec = wire.Codec(tf.TensorSpec([], tf.int64), {'': (0, np.iinfo(np.int64).max)})
  for value in (0, 2**62, 2**63 - 1):
    assert codec.decode(codec.encode(np.array([value])))[0] == value
  with pytest.raises(wire.Malformed):
    codec.decode(codec.encode(np.array([wrong])))


def test_a_bound_may_be_what_it_is_at_the_moment():
  newest = 5
  codec = wire.Codec({'version': tf.TensorSpec([], tf.int64)}, {'version': (0, lambda: newest)})

  def decode(version):
    return codec.decode(codec.encode({'version': np.array([version])}))[0]

  assert decode(5) == 5
  with pytest.raises(wire.Malformed, match='version holds 1234567, expected 0 to 5 at the moment$'):
    decode(1234567)
  newest = 1234567
  assert decode(1234567) == 1234567
  newest = 1234566
  with pytest.raises(wire.Malformed, match='expected 0 to 1234566 at the moment$'):
    decode(2**63 - 1)


def test_magnitudes_bound_every_float_of_a_specification_and_nothing_else():
  bounds = wire.magnitudes(SPEC)
  assert set(bounds) == {'apple'}
  codec = wire.Codec(SPEC, bounds)
  for sane in (0.0, wire.LARGEST, -wire.LARGEST):
    codec.decode(codec.encode(good_elements(1)._replace(apple=np.full((1, 3), sane))))
  for wrong in (np.nextafter(np.float32(wire.LARGEST), np.float32(np.inf)), 3e38, -3e38):
    with pytest.raises(wire.Malformed, match=r'apple holds .*, expected -1e\+09 to 1e\+09$'):
      codec.decode(codec.encode(good_elements(1)._replace(apple=np.full((1, 3), wrong))))


def test_a_bound_of_an_unknown_field_is_refused():
  with pytest.raises(ValueError, match='zebra.none'):
    wire.Codec(SPEC, {'zebra.none': (0, 1)})


@pytest.mark.parametrize('count', [0, 1, 4, 5, 9])
def test_groups_keep_the_order_and_fit_a_message(count):
  # Exactly two elements fit one message.
  spec = {
    'x': tf.TensorSpec([wire.MESSAGE_BYTES // 2 - 8], tf.uint8),
    'n': tf.TensorSpec([], tf.int64),
  }
  codec = wire.Codec(spec, {})
  assert 2 * codec.element_bytes == wire.MESSAGE_BYTES
  elements = {'x': np.broadcast_to(np.uint8(1), (count, *spec['x'].shape)), 'n': np.arange(count)}
  groups = codec.group(elements)
  assert [len(group['n']) for group in groups] == [2] * (count // 2) + [1] * (count % 2)
  assert [n for group in groups for n in group['n']] == list(range(count))
  assert all(len(group['x']) == len(group['n']) for group in groups)
  assert all(len(wire.split(codec.encode(group))) == 1 for group in groups)


def test_small_elements_share_a_message():
  codec = wire.Codec(SPEC, {})
  assert [len(group.apple) for group in codec.group(good_elements(200))] == [200]
  assert codec.most_parts == 1


@pytest.mark.parametrize(
  'size, parts',
  [
    (wire.MESSAGE_BYTES - 1, 1),
    (wire.MESSAGE_BYTES, 1),
    (wire.MESSAGE_BYTES + 1, 2),
    (2 * wire.MESSAGE_BYTES + 5, 3),
  ],
)
def test_an_element_larger_than_a_message_takes_several(size, parts):
  codec = wire.Codec({'x': tf.TensorSpec([size], tf.uint8)}, {})
  assert codec.most_parts == parts
  elements = {'x': np.random.default_rng(size).integers(0, 256, (3, size), np.uint8)}
  groups = codec.group(elements)
  assert [len(group['x']) for group in groups] == [1, 1, 1]
  messages = wire.split(codec.encode(groups[1]))
  assert len(messages) == parts and max(map(len, messages)) <= wire.MESSAGE_BYTES
  np.testing.assert_array_equal(codec.decode(b''.join(messages))[0], elements['x'][1:2])


@pytest.mark.parametrize(
  'size, count',
  [
    (0, 1),
    (1, 1),
    (wire.MESSAGE_BYTES, 1),
    (wire.MESSAGE_BYTES + 1, 2),
    (2 * wire.MESSAGE_BYTES, 2),
  ],
)
def test_split_returns_as_few_messages_as_possible_but_at_least_one(size, count):
  payload = np.random.default_rng(size).bytes(size)
  messages = wire.split(payload)
  assert len(messages) == count and max(map(len, messages)) <= wire.MESSAGE_BYTES
  assert b''.join(messages) == payload


def test_a_message_leaves_room_for_its_header_in_4_mib():
  assert 4 * 2**20 - wire.MESSAGE_BYTES >= 2**15


def test_flat_fields_in_any_memory_layout_are_encoded_one_after_the_other():
  codec = wire.Codec(
    (tf.TensorSpec([2], tf.int32), tf.TensorSpec([], tf.bool), tf.TensorSpec([0], tf.float32)), {}
  )
  parts = [
    np.arange(6, dtype=np.int32).reshape(2, 3).T,
    np.array([True] * 3),
    np.zeros([3, 0], np.float32),
  ]
  assert codec.encode(parts) == np.array([0, 3, 1, 4, 2, 5], np.int32).tobytes() + b'\1\1\1'


def test_json_survives_encoding():
  given = {
    'text': 'é"\n\ud800',
    'whole': 2**61,
    'number': 0.1,
    'list': [1, None],
    'object': {'a': {}},
    'yes': True,
  }
  assert wire.from_json(wire.to_json(**given)) == given
  assert (
    wire.from_json(wire.to_json(**given), {'text': str, 'whole': int, 'object': dict, 'yes': bool})
    == given
  )


@pytest.mark.parametrize(
  'message',
  [
    b'',
    b'{',
    b'\xff\xfe',
    b'\x00' * 5,
    b'[' * 200_000,
    b'{"a":' * 200_000,
    b'1' * 10_000,
    b'{"a": 1}x',
    b"{'a': 1}",
    b'[1]',
    b'"a"',
    b'1',
    b'null',
    b'NaN',
  ],
  ids=lambda message: repr(message[:12]),
)
def test_messages_that_are_not_json_objects_are_refused(message):
  with pytest.raises(wire.Malformed, match='not JSON|expected a JSON object'):
    wire.from_json(message)


@pytest.mark.parametrize('value', [None, True, 1.0, '1', [1], {}, -1, 2**62, 10**400])
def test_values_that_are_not_natural_numbers_are_refused(value):
  with pytest.raises(wire.Malformed, match='^n is .*, expected int'):
    wire.from_json(json.dumps({'n': value}).encode(), {'n': int})


@pytest.mark.parametrize(
  'kind, wrong', [(str, 1), (str, None), (dict, []), (dict, 'x'), (bool, 1), (str, ['a' * 99])]
)
def test_a_value_of_another_type_is_named(kind, wrong):
  with pytest.raises(wire.Malformed) as refused:
    wire.from_json(
      json.dumps({'first': 'x', 'second': wrong}).encode(), {'first': str, 'second': kind}
    )
  assert str(refused.value).startswith('second is ') and len(str(refused.value)) < 100


def test_a_missing_value_is_named_and_further_values_are_allowed():
  with pytest.raises(wire.Malformed, match="^session is 'None', expected str"):
    wire.from_json(b'{"other": 1}', {'session': str})
  assert wire.from_json(b'{"other": 1}', {'other': int}) == {'other': 1}
