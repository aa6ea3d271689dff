"""EnvPool's environments, where the package is installed; see also `family_test`."""

import contextlib

import gymnasium
import numpy as np
import pytest

pytest.importorskip('envpool')  # It is no requirement; `pool` imports it.

from common import environments, errors
from common.environments import grids, pool, suite
from common.environments import options as option_sets

GOTO = 'BabyAI-GoToRedBallNoDists-v0'
GOTO_LIMIT = 64  # Agent steps: rooms of 8x8, one thing to do.


def opened(name, count, tasks=None):
  loaded = environments.load(name)
  return contextlib.closing(loaded.make(tasks or [loaded.tasks[0]] * count, True))


def played(environment, steps, seed=0):
  """Random actions; yields what each step returns, and the actions."""
  rng = np.random.default_rng(seed)
  space = environment.single_action_space
  for _ in range(steps):
    actions = rng.integers(space.n, size=environment.num_envs)
    yield environment.step(actions), actions


@pytest.mark.parametrize('name', grids.SUITES)
def test_all_tasks_of_a_suite_have_one_form(name):
  loaded = environments.load(name)
  assert len(set(loaded.tasks)) == len(loaded.tasks) >= 10
  for task in loaded.tasks:
    assert pool.form(task).observation_space == loaded.observation_space, task
    assert pool.form(task).action_space == loaded.action_space == gymnasium.spaces.Discrete(7)


def test_a_grid_is_an_image_a_direction_and_a_mission():
  with opened(f'envpool:{GOTO}', 2) as environment:
    observation, _ = environment.reset(seed=1)
    directions = [observation['vector']]
    for (observation, *_), _ in played(environment, 30):
      directions.append(observation['vector'])
  expected = suite.hash_words('go to the red ball')
  np.testing.assert_array_equal(observation['instruction'], [expected, expected])
  assert observation['observation'].shape == (2, 7, 7, 3)
  np.testing.assert_array_equal(np.sum(directions, axis=-1), 1)  # One-hot.
  assert np.all(np.any(np.concatenate(directions), axis=0))  # All four are seen.


def test_environments_of_several_threads_keep_their_places():
  with contextlib.ExitStack() as stack:
    together = stack.enter_context(contextlib.closing(pool.PoolVectorEnv('CartPole-v1', 5, 3)))
    alone = [
      stack.enter_context(contextlib.closing(pool.PoolVectorEnv('CartPole-v1', 1, 1)))
      for _ in range(5)
    ]
    together.reset(seed=7)
    for i, one in enumerate(alone):
      one.reset(seed=7 + i)
    ends = 0
    for (observation, *rest, _), actions in played(together, 120):
      for i, one in enumerate(alone):
        one_observation, *one_rest, _ = one.step(actions[i : i + 1])
        np.testing.assert_array_equal(
          observation['observation'][i], one_observation['observation'][0]
        )
        assert [values[i] for values in rest] == [values[0] for values in one_rest]
      ends += np.sum(rest[1])
  assert ends > 10


def test_the_time_limit_truncates_with_the_last_observation():
  with opened(f'envpool:{GOTO}', 8) as environment:
    environment.reset(seed=0)
    ages = np.zeros(8, int)
    truncations = 0
    for (observation, rewards, terminated, truncated, info), _ in played(environment, 200):
      ages += 1
      # Reaching the ball pays and terminates, but in the last step, which the engine cannot tell.
      np.testing.assert_array_equal(terminated, (rewards > 0) & (ages < GOTO_LIMIT))
      np.testing.assert_array_equal(truncated, ages == GOTO_LIMIT)
      if truncated.any():
        which = np.flatnonzero(truncated)
        last = suite.final_observations(info, which)
        assert last.keys() == observation.keys()
        truncations += len(which)
      ages[terminated | truncated] = 0
  assert truncations > 5


def test_the_last_observation_is_that_of_the_old_episode():
  # MountainCar's first speed is 0; after 200 random steps it is not.
  with opened('envpool:MountainCar-v0', 4) as environment:
    environment.reset(seed=0)
    *_, ((observation, _, _, truncated, info), _) = played(environment, 200)
  assert truncated.all()
  last = suite.final_observations(info, np.arange(4))['observation']
  assert np.all(last[:, 1] != 0)
  np.testing.assert_array_equal(observation['observation'][:, 1], 0)


def test_observations_are_fresh_arrays():
  with opened(f'envpool:{GOTO}', 4) as environment:
    first, _ = environment.reset(seed=0)
    before = {name: values.copy() for name, values in first.items()}
    for _ in played(environment, 20):
      pass
  for name, values in before.items():
    np.testing.assert_array_equal(first[name], values)


def test_an_action_that_does_not_exist_is_refused():
  with opened('envpool:CartPole-v1', 2) as environment:
    environment.reset(seed=0)
    with pytest.raises(errors.UserError, match=r'CartPole-v1: the agent chose .*\[1 2\] of 2'):
      environment.step(np.array([1, 2]))


def test_continuous_actions_are_rescaled():
  # Pendulum's torque is from -2 to 2: its reward has -0.001 times the torque's square.
  with opened('envpool:Pendulum-v1', 2) as environment:
    observation, _ = environment.reset(seed=0)
    cosine, sine, speed = observation['observation'].T
    actions = np.array([[1.0], [-0.5]], np.float32)
    _, rewards, *_ = environment.step(actions)
  angle = np.arctan2(sine, cosine)
  expected = -(angle**2 + 0.1 * speed**2 + 0.001 * (2 * actions[:, 0]) ** 2)
  np.testing.assert_allclose(rewards, expected, rtol=1e-4)


def test_cart_poles_move_as_gymnasiums():
  reference = gymnasium.make('CartPole-v1').unwrapped
  reference.reset(seed=0)
  compared = 0
  with opened('envpool:CartPole-v1', 4) as environment:
    state, _ = environment.reset(seed=0)
    for (after, rewards, terminated, *_), actions in played(environment, 60):
      for i in range(4):
        reference.state = tuple(state['observation'][i].astype(np.float64))
        reference.steps_beyond_terminated = None
        expected, reward, ended, *_ = reference.step(int(actions[i]))
        assert rewards[i] == reward
        assert terminated[i] == ended
        if not ended:
          np.testing.assert_allclose(after['observation'][i], expected, rtol=1e-5, atol=1e-6)
          compared += 1
      state = after
  assert compared > 100


@pytest.mark.parametrize('task', ['BabyAI-GoToLocalS5N2-v0', 'MiniGrid-Fetch-5x5-N2-v0'])
def test_random_play_is_that_of_minigrid(task):
  """Returns, lengths and what is seen have the same means, within four standard errors."""
  pytest.importorskip('minigrid')
  episodes = 150
  ours = _statistics(environments.load(f'envpool:{task}').make([task] * 16, True), episodes)
  loaded = environments.load(f'gym:minigrid:{task}', option_sets.Options(env_processes='never'))
  theirs = _statistics(loaded.make(loaded.tasks * 16, True), episodes)
  error = np.sqrt(ours.var(axis=0) / len(ours) + theirs.var(axis=0) / len(theirs))
  difference = np.abs(ours.mean(axis=0) - theirs.mean(axis=0))
  assert np.all(difference <= 4 * error + 1e-9), (ours.mean(axis=0), theirs.mean(axis=0), error)
  assert ours[:, 0].max() > 0 and theirs[:, 0].max() > 0


def _statistics(environment, episodes):
  """Of each episode: return, length, words of its mission, and cells of the first view's kinds.

  The first `episodes / N` of each environment: not those that end first, which are short.
  """
  found = []
  with contextlib.closing(environment):
    first, _ = environment.reset(seed=0)
    first = {name: values.copy() for name, values in first.items()}
    count = environment.num_envs
    per_environment = episodes // count
    ended = np.zeros(count, int)
    returns = np.zeros(count)
    lengths = np.zeros(count)
    steps = played(environment, 100_000)
    while ended.min() < per_environment:
      (observation, rewards, terminated, truncated, _), _ = next(steps)
      returns += rewards
      lengths += 1
      for i in np.flatnonzero(terminated | truncated):
        if ended[i] < per_environment:
          objects = np.bincount(first['observation'][i, ..., 0].ravel(), minlength=11)
          words = np.sum(first['instruction'][i] >= 0)
          found.append([returns[i], lengths[i], words, *objects])
        ended[i] += 1
        returns[i] = lengths[i] = 0
        for name in first:
          first[name][i] = observation[name][i]
  return np.array(found)


def test_a_task_of_a_suite_is_not_its_member():
  with pytest.raises(errors.UserError, match='write a single task as envpool:ID'):
    environments.load('babyai:GoToLocal')


def test_what_cannot_be_read_is_refused_by_name():
  with pytest.raises(errors.UserError, match='unknown EnvPool .*CartPol-v1.*Did you mean CartPole'):
    environments.load('envpool:CartPol-v1')


def test_tasks_narrow_a_suite():
  loaded = environments.load('babyai', option_sets.Options(tasks=GOTO))
  assert loaded.tasks == (GOTO,)
