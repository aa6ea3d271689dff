"""Actions of every kind reach the environment as it numbers and bounds them."""

import numpy as np
import pytest
from gymnasium import spaces

from common import errors
from common.environments import actions


@pytest.mark.parametrize('start', [0, 1, -3])
def test_discrete_actions_with_any_start(start):
  own = spaces.Discrete(3, start=start)
  space, size, convert = actions.converter(own)
  assert space == spaces.Discrete(3) and size == 3
  assert [convert(np.int32(i)) for i in range(3)] == [start, start + 1, start + 2]
  assert convert(np.int64(2)) in own and type(convert(np.int64(2))) is int


@pytest.mark.parametrize(
  'own, counts',
  [
    (spaces.MultiDiscrete([2, 3]), [2, 3]),
    (spaces.MultiDiscrete([2, 3], start=[1, -4]), [2, 3]),
    (spaces.MultiDiscrete([[2, 3], [4, 5]]), [2, 3, 4, 5]),
    (spaces.MultiBinary(3), [2, 2, 2]),
    (spaces.MultiBinary((2, 2)), [2, 2, 2, 2]),
  ],
)
def test_several_discrete_actions_reach_every_one_of_the_environments(own, counts):
  space, size, convert = actions.converter(own)
  assert space == spaces.MultiDiscrete(counts) and size == sum(counts)
  tried = {convert(np.array(choice)).tobytes() for choice in np.ndindex(*counts)}
  assert len(tried) == np.prod(counts)
  assert all(convert(np.array(choice)) in own for choice in np.ndindex(*counts))


@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_an_action_never_leaves_the_box(dtype):
  """Half a unit in the last place is outside: 0.01 to 0.5 was, in float32."""
  rng = np.random.default_rng(0)
  scale = 10.0 ** rng.uniform(-30, 30, (3000, 2))
  bounds = np.sort(rng.normal(size=(3000, 2)) * scale, axis=1).astype(dtype)
  bounds = np.concatenate([bounds, np.array([(0.01, 0.5), (-0.1, 0.3), (1, 1)], dtype)])
  own = spaces.Box(bounds[:, 0], bounds[:, 1], dtype=dtype)
  space, size, convert = actions.converter(own)
  assert space == spaces.Box(-1.0, 1.0, (len(bounds),), np.float32) and size == 0
  edges = [np.full(len(bounds), value, np.float32) for value in (-1, 1, -2, 2, 0, 1 - 2**-24)]
  for action in (*edges, *rng.uniform(-1.1, 1.1, (200, len(bounds))).astype(np.float32)):
    assert convert(action) in own
  np.testing.assert_array_equal(convert(edges[0]), own.low)
  np.testing.assert_array_equal(convert(edges[1]), own.high)


def test_actions_are_rescaled_linearly():
  own = spaces.Box(np.array([[-2.0, 0.0]], np.float32), np.array([[2.0, 10.0]], np.float32))
  _, _, convert = actions.converter(own)
  np.testing.assert_array_equal(convert(np.array([0.5, -0.5], np.float32)), [[1.0, 2.5]])


def test_bounds_as_wide_as_the_type_do_not_overflow():
  most = np.finfo(np.float64).max
  _, _, convert = actions.converter(spaces.Box(-most, most, (1,), np.float64))
  assert convert(np.array([0.0])) == 0.0 and convert(np.array([1.0])) == most


@pytest.mark.parametrize(
  'space',
  [
    spaces.Box(-np.inf, np.inf, (2,)),
    spaces.Box(0, 5, (2,), np.int32),
    spaces.Text(3),
    spaces.Dict(a=spaces.Discrete(2)),
  ],
  ids=str,
)
def test_other_actions_are_refused_with_the_next_step(space):
  with pytest.raises(errors.UserError, match='has the action space .*--wrappers=MODULE:NAME'):
    actions.converter(space)


@pytest.mark.parametrize(
  'space, action',
  [
    (spaces.Discrete(2), 2),
    (spaces.Discrete(2), -1),
    (spaces.MultiDiscrete([2, 3]), [0, 3]),
    (spaces.Box(-1.0, 1.0, (2,)), [0.0, np.nan]),
  ],
)
def test_actions_that_do_not_exist_are_refused(space, action):
  with pytest.raises(ValueError, match='the agent chose'):
    actions.converter(space).convert(np.array(action))
