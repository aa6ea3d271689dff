"""EnvPool's environments; see also `family_test`."""

import contextlib
import importlib.util
import os
import subprocess
import sys

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import grids, pool, suite
from common.environments import options as option_sets
from tests.common import programs

GOTO = 'BabyAI-GoToRedBallNoDists-v0'
GOTO_LIMIT = 64  # Agent steps: rooms of 8x8, one thing to do.


def opened(name, count, training=True):
  """N environments of the suite's first task."""
  loaded = environments.load(name)
  return contextlib.closing(loaded.make(loaded.tasks[:1] * count, training))


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
    form = pool.form(grids.engine_id(name, task))
    assert form.observation_space == loaded.observation_space, task
    assert form.action_space == loaded.action_space == gymnasium.spaces.Discrete(7)


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
    together, *alone = [
      stack.enter_context(contextlib.closing(pool.PoolVectorEnv('CartPole-v1', count, threads)))
      for count, threads in ((5, 3), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1))
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


def test_the_time_limit_truncates_and_success_terminates():
  with opened(f'envpool:{GOTO}', 32) as environment:
    environment.reset(seed=0)
    ages = np.zeros(32, int)
    seen = set()
    for (observation, rewards, terminated, truncated, info), _ in played(environment, 1000):
      ages += 1
      # Reaching the ball pays and terminates, in the last step too.
      np.testing.assert_array_equal(terminated, rewards > 0)
      np.testing.assert_array_equal(truncated, (ages == GOTO_LIMIT) & ~terminated)
      paid = 1 - 0.9 * ages[terminated] / GOTO_LIMIT  # Sent as float32.
      np.testing.assert_allclose(rewards[terminated], paid, rtol=1e-6)
      for i in np.flatnonzero(truncated):
        assert info['final_obs'][i].keys() == observation.keys()
      done = terminated | truncated
      seen |= set(zip(terminated[done], ages[done] == GOTO_LIMIT, strict=True))
      ages[done] = 0
  assert seen == {(True, False), (False, True), (True, True)}


def test_the_last_observation_is_that_of_the_old_episode():
  # MountainCar's first speed is 0; after 200 random steps it is not.
  with opened('envpool:MountainCar-v0', 4) as environment:
    environment.reset(seed=0)
    *_, ((observation, _, _, truncated, info), _) = played(environment, 200)
  assert truncated.all()
  last = suite.final_observations(info, np.arange(4))['observation']
  assert np.all(last[:, 1] != 0)
  np.testing.assert_array_equal(observation['observation'][:, 1], 0)


def test_a_picture_shows_the_whole_grid():
  loaded = environments.load(f'envpool:{GOTO}', option_sets.Options(pictures=True))
  with contextlib.closing(loaded.make([GOTO] * 3, False)) as environment:
    environment.reset(seed=0)
    shown = [suite.picture(environment) for _ in played(environment, 20)]
  assert {picture.shape for picture in shown} == {(256, 256, 3)}  # 8x8 cells.
  assert len({picture.tobytes() for picture in shown}) > 1  # The agent moves.


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


def instructions(task, training):
  """The instructions of episodes of a BabyAI level, and their number."""
  loaded = environments.load('babyai', option_sets.Options(tasks=task))
  with contextlib.closing(loaded.make([task] * 100, training)) as environment:
    rows = environment.reset(seed=0)[0]['instruction']
    # Episodes that begin later are drawn in the same way.
    first = {bytes(row) for row in rows}
    for (observation, *_, info), _ in played(environment, 70):
      if 'final_obs' in info:
        rows = np.concatenate([rows, observation['instruction']])
  assert {bytes(row) for row in rows} >= first
  return rows


@pytest.mark.parametrize('task', ['GoToLocal', 'OpenDoor', 'PutNextLocalS5N3', 'PickupLoc'])
def test_training_never_names_what_evaluation_always_does(task):
  kept = {tuple(suite.hash_words(name)[:2]) for name in grids.HELD_OUT}
  for training in (True, False):
    rows = instructions(task, training)
    assert len(np.unique(rows, axis=0)) >= 1
    names = [bool(kept & set(zip(row[:-1], row[1:], strict=True))) for row in rows]
    assert not any(names) if training else all(names)


def test_a_task_of_a_suite_is_not_its_member():
  with pytest.raises(errors.UserError, match='write a single task as envpool:ID'):
    environments.load('babyai:GoToLocal')


def test_what_cannot_be_read_is_refused_by_name():
  with pytest.raises(errors.UserError, match='unknown EnvPool .*CartPol-v1.*Did you mean CartPole'):
    environments.load('envpool:CartPol-v1')


@pytest.mark.skipif(
  importlib.util.find_spec('envpool_assets') is not None, reason='the assets are installed'
)
def test_an_engine_whose_files_are_missing_is_refused_with_the_command():
  with pytest.raises(errors.UserError, match='unknown .*Pong-v5.*pip install envpool-assets==0.3'):
    environments.load('envpool:Pong-v5')


def test_tasks_narrow_a_suite():
  loaded = environments.load('babyai', option_sets.Options(tasks='GoToLocal'))
  assert loaded.tasks == ('GoToLocal',)


def test_importing_it_changes_nothing_for_matplotlib():
  """EnvPool makes a folder in /tmp for all users, and sets it for the whole process."""
  code = (
    'import os, sys; import common.environments.engines; '
    'print(os.environ.get("MPLCONFIGDIR"), "matplotlib" in sys.modules)'
  )
  environ = {name: value for name, value in os.environ.items() if name != 'MPLCONFIGDIR'}
  for given in ({}, {'MPLCONFIGDIR': '/mine'}):
    shown = subprocess.run(
      [sys.executable, '-c', code],
      cwd=programs.ROOT,
      env={**environ, **given},
      stdout=subprocess.PIPE,
      text=True,
      check=True,
    ).stdout
    assert shown.split() == [given.get('MPLCONFIGDIR', 'None'), 'False']
