"""Environments that step in the caller's thread, against gymnasium's own vector environment."""

import contextlib
import functools

import gymnasium
import numpy as np
import pytest

from common import environments
from common.environments import adapted, making


@pytest.mark.parametrize('name, mask', [('gym:CartPole-v1', False), ('gym:Taxi-v4', True)])
def test_it_steps_as_gymnasiums_own(name, mask):
  options = environments.Options(env_kwargs='max_episode_steps=12')
  suite = environments.load(name, options)
  # One of the environments that the suite makes.
  make_one = functools.partial(adapted.AdaptedEnv, making.Recipe(name, options.env_kwargs), mask)
  rng = np.random.default_rng(0)
  truncations = 0
  with contextlib.ExitStack() as stack:
    ours = stack.enter_context(contextlib.closing(suite.make(suite.tasks * 3, True)))
    theirs = gymnasium.vector.SyncVectorEnv(
      [make_one] * 3,
      copy=False,
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )
    stack.enter_context(contextlib.closing(theirs))
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert_equal(ours.reset(seed=3)[0], theirs.reset(seed=3)[0])
    for _ in range(60):
      actions = rng.integers(suite.num_actions, size=3)
      own, expected = ours.step(actions), theirs.step(actions)
      assert_equal(own[0], expected[0])
      for mine, other in zip(own[1:4], expected[1:4], strict=True):
        np.testing.assert_array_equal(mine, other)
        assert mine.dtype == other.dtype
      for i in np.flatnonzero(own[2] | own[3]):
        assert_equal(own[4]['final_obs'][i], expected[4]['final_obs'][i])
      truncations += own[3].sum()
    # Without a seed the generators go on.
    assert_equal(ours.reset()[0], theirs.reset()[0])
  assert truncations >= 3


def assert_equal(mine, other):
  assert mine.keys() == other.keys()
  for name, values in mine.items():
    np.testing.assert_array_equal(values, other[name])
    assert values.dtype == other[name].dtype
