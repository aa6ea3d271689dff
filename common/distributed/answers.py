"""What a learner may answer its actors; anything else is refused before it is used.

An actor takes settings and parameters from its learner, and nothing on trust: states, values and
their number and sizes are checked here, what the settings mean in `common.runs.trust`.
"""

from typing import Any, Mapping, NamedTuple

from common.distributed import wire

# The learner's functions, with the number of byte strings that each returns.
OUTPUTS = {'tell': 1, 'put': 1, 'parameters': 2, 'infer': 2}
_MOST_PARAMETER_BYTES = 2**30  # The largest network here has 7 MB.
_MOST_PARTS = _MOST_PARAMETER_BYTES // wire.MESSAGE_BYTES
_LARGEST_NUMBER = 2**31 - 1  # Seeds that every engine takes; more places than there are machines.
_LONGEST_SESSION = 200

_Types = Mapping[str, type]
_REASON: _Types = {'reason': str}
# To any request of a member.
_OTHERWISE: Mapping[str, _Types] = {
  'finished': {},
  'stopped': {},
  'unknown': {},
  'refused': _REASON,
}
_NOTED: Mapping[str, _Types] = {'working': {}, **_OTHERWISE}
_JOINED: _Types = {'session': str, 'place': int, 'assignment': int, 'seed': int, 'config': dict}
# By the kind of a request, or else its function: states, with the values that come with them.
_STATES: Mapping[str, Mapping[str, _Types]] = {
  'join': {
    'joined': _JOINED,
    'turned away': _REASON,
    'refused': _REASON,
    'finished': {},
    'stopped': {},
  },
  'beat': _NOTED,
  'report': _NOTED,
  'leave': _NOTED,
  'asked': {'taken': {}, 'waiting': {}, 'missing': {}, **_OTHERWISE},
  'put': {'taken': {}, 'more': {}, 'waiting': {}, **_OTHERWISE},
  'parameters': {
    'known': {'frames': int},
    'given': {'version': int, 'parts': int},
    'outdated': {},
    **_OTHERWISE,
  },
  'infer': {'decided': {'version': int}, **_OTHERWISE},
}


class Welcome(NamedTuple):
  """A learner's answer to a successful join."""

  session: str
  place: int
  assignment: int  # The number of the run's actor whose tasks or epsilon this one has.
  seed: int
  config: Mapping[str, Any]


def read(kind: str, message: bytes) -> dict[str, Any]:
  """Decodes an answer.

  Args:
    kind: The kind of the request, such as `join`, or the function if it has none.
    message: The answer.

  Raises:
    Malformed: If it is none that this kind of request can have.
  """
  answer = wire.from_json(message, {'state': str})
  states = _STATES[kind]
  state = answer['state']
  if state not in states:
    raise wire.Malformed(f'state is {state[:40]!r}, expected one of {", ".join(states)}')
  wire.expect(answer, states[state])
  if 'frames' in answer:  # Comes with the first part of parameters only.
    wire.expect(answer, {'frames': int})
  return answer


def welcome(answer: Mapping[str, Any]) -> Welcome:
  """What a `joined` answer says. Raises Malformed if a value is too large."""
  for name in ('place', 'assignment', 'seed'):
    if answer[name] > _LARGEST_NUMBER:
      raise wire.Malformed(f'{name} is {answer[name]}, expected at most {_LARGEST_NUMBER}')
  if len(answer['session']) > _LONGEST_SESSION:
    raise wire.Malformed(
      f'session has {len(answer["session"])} characters, expected at most {_LONGEST_SESSION}'
    )
  return Welcome(**{name: answer[name] for name in _JOINED})


def check_part(first: Mapping[str, Any], answer: Mapping[str, Any], part: bytes) -> None:
  """Checks a part of the parameters.

  Args:
    first: The answer that came with the first part.
    answer: The answer that came with this one.
    part: The part.

  Raises:
    Malformed: If there are too many parts, this one is too large or holds no whole numbers, or it
      belongs to another snapshot.
  """
  count = first['parts']
  if not 0 < count <= _MOST_PARTS:
    raise wire.Malformed(f'the parameters have {count} parts, expected 1 to {_MOST_PARTS}')
  found = answer['version'], answer['parts']
  expected = first['version'], count
  if found != expected:
    raise wire.Malformed(
      f'a part of the parameters is of version {found[0]} with {found[1]} parts, expected version '
      f'{expected[0]} with {expected[1]}'
    )
  if not 0 < len(part) <= wire.MESSAGE_BYTES or len(part) % 4:
    raise wire.Malformed(
      f'a part of the parameters has {len(part)} bytes, expected at most {wire.MESSAGE_BYTES}, a '
      'multiple of 4'
    )
