"""What an actor accepts as a learner's answer."""

import json

import pytest

from common.distributed import answers, wire

JOINED = {'state': 'joined', 'session': 's', 'place': 0, 'assignment': 1, 'seed': 2, 'config': {}}
GIVEN = {'state': 'given', 'version': 5, 'parts': 2}
ODD = [None, True, -1, 1.5, 'x', [], {}, 2**62, float('nan')]


def encoded(answer):
  return json.dumps(answer).encode()


@pytest.mark.parametrize(
  'kind, answer',
  [
    ('join', JOINED),
    ('join', {'state': 'turned away', 'reason': 'r'}),
    ('beat', {'state': 'working'}),
    ('asked', {'state': 'missing'}),
    ('put', {'state': 'more'}),
    ('parameters', {**GIVEN, 'frames': 3}),
    ('parameters', GIVEN),
    ('parameters', {'state': 'known', 'frames': 3}),
    ('infer', {'state': 'decided', 'version': 0}),
    *((kind, {'state': 'unknown'}) for kind in ('beat', 'asked', 'put', 'parameters', 'infer')),
    *((kind, {'state': 'refused', 'reason': ''}) for kind in ('join', 'put', 'report')),
  ],
)
def test_a_learners_answers_are_accepted(kind, answer):
  assert answers.read(kind, encoded(answer)) == answer


@pytest.mark.parametrize(
  'kind, answer',
  [
    (kind, {**good, name: odd})
    for kind, good in (
      ('join', JOINED),
      ('parameters', GIVEN),
      ('parameters', {**GIVEN, 'frames': 3}),
      ('parameters', {'state': 'known', 'frames': 3}),
      ('infer', {'state': 'decided', 'version': 0}),
      ('put', {'state': 'refused', 'reason': 'r'}),
    )
    for name in good
    for odd in ODD
    if type(odd) is not type(good[name]) or odd in (-1, 2**62) or name == 'state'
  ],
  ids=str,
)
def test_a_value_of_another_type_is_refused(kind, answer):
  with pytest.raises(wire.Malformed):
    answers.read(kind, encoded(answer))


@pytest.mark.parametrize('name', list(JOINED))
def test_a_missing_value_is_refused(name):
  with pytest.raises(wire.Malformed, match=name):
    answers.read('join', encoded({key: JOINED[key] for key in JOINED if key != name}))


@pytest.mark.parametrize(
  'message', [b'', b'joined', b'[]', b'"joined"', b'\xff', b'[' * 10**5, b'1' * 5000]
)
def test_what_is_no_json_object_is_refused(message):
  with pytest.raises(wire.Malformed):
    answers.read('join', message)


@pytest.mark.parametrize(
  'kind, state',
  [
    ('join', 'working'),
    ('join', 'unknown'),
    ('beat', 'joined'),
    ('put', 'working'),  # An actor would put again and again.
    ('parameters', 'working'),
    ('infer', 'working'),
    ('asked', 'more'),
  ],
)
def test_a_state_that_answers_another_request_is_refused(kind, state):
  with pytest.raises(wire.Malformed, match=f"state is '{state}'"):
    answers.read(kind, encoded({**JOINED, 'state': state}))


def test_a_welcome_holds_what_was_answered():
  assert answers.welcome(JOINED) == ('s', 0, 1, 2, {})


@pytest.mark.parametrize(
  'change', [{'place': 2**31}, {'assignment': 2**40}, {'seed': 2**31}, {'session': 'x' * 201}]
)
def test_a_welcome_with_huge_values_is_refused(change):
  with pytest.raises(wire.Malformed, match=next(iter(change))):
    answers.welcome({**JOINED, **change})


@pytest.mark.parametrize(
  'first, answer, part, words',
  [
    ({'parts': 0}, {}, b'1234', '0 parts'),
    ({'parts': 2**40}, {'parts': 2**40}, b'1234', 'parts'),
    ({}, {'version': 6}, b'1234', 'version 6'),
    ({}, {'parts': 3}, b'1234', 'with 3 parts'),
    ({}, {}, b'', '0 bytes'),
    ({}, {}, b'12345', '5 bytes'),
    ({}, {}, bytes(wire.MESSAGE_BYTES + 4), 'bytes'),
  ],
)
def test_parts_that_cannot_be_of_one_snapshot_are_refused(first, answer, part, words):
  answers.check_part(GIVEN, GIVEN, b'1234')
  answers.check_part(GIVEN, GIVEN, bytes(wire.MESSAGE_BYTES))
  with pytest.raises(wire.Malformed, match=words):
    answers.check_part({**GIVEN, **first}, {**GIVEN, **answer}, part)
