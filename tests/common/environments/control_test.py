"""Continuous actions: the Control Suite as dm_control plays it, and gymnasium environments."""

import contextlib
import functools

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import control, suite

# isort: split
# After the family, which tells dm_control not to render: on its own dm_control looks for a display.
from dm_control import suite as dm_suite
from dm_control.suite.wrappers import action_scale

SEED = 7
LENGTH = 1000  # Steps of an episode that ends by the clock.
# Physics amplifies rounding, and the two ways to rescale an action may round its last bit
# differently.
TOLERANCE = {'rtol': 1e-4, 'atol': 1e-4}


class Reference:
  """dm_control as its users drive it: its own flat observations, and its wrapper for actions."""

  def __init__(self, task, seed):
    domain, name = task.split('-')
    self.engine = dm_suite.load(
      domain, name, task_kwargs={'random': seed}, environment_kwargs={'flat_observation': True}
    )
    self._env = action_scale.Wrapper(self.engine, minimum=-1.0, maximum=1.0)

  def reset(self):
    return self._env.reset().observation['observations'].astype(np.float32)

  def step(self, action):
    """The observation, the reward, whether it was the last step, and the discount."""
    step = self._env.step(np.clip(action.astype(np.float64), -1.0, 1.0))
    observation = step.observation['observations'].astype(np.float32)
    return observation, step.reward, step.last(), step.discount


@functools.cache
def suite_of(task):
  return environments.load(f'control:{task}')


def opened(task, count=2):
  return contextlib.closing(control.together((task,) * count))


def random_actions(environment, steps, seed=0, bound=1.0):
  shape = (steps, environment.num_envs, *environment.single_action_space.shape)
  return np.random.default_rng(seed).uniform(-bound, bound, shape).astype(np.float32)


def seen(observations):
  """A copy: the next step may overwrite it."""
  return np.array(observations['observation'])


def play(environment, actions, seed):
  """All observations of an episode that does not end."""
  observations, _ = environment.reset(seed=seed)
  played = [seen(observations)]
  for step_actions in actions:
    observations, _, terminated, truncated, _ = environment.step(step_actions)
    assert not np.any(terminated | truncated)
    played.append(seen(observations))
  return np.stack(played)


def last_of(info, i):
  """The observation that ended environment i's episode."""
  (observation,) = suite.final_observations(info, np.array([i]))['observation']
  return observation


def assert_plays_as(environment, references, actions):
  """Steps both, over the ends of episodes.

  Returns:
    Observations `[T, N, D]`, rewards, terminated and truncated `[T, N]`.
  """
  observations, _ = environment.reset(seed=SEED)
  for i, reference in enumerate(references):
    np.testing.assert_allclose(observations['observation'][i], reference.reset(), **TOLERANCE)
  played = []
  for step_actions in actions:
    observations, rewards, terminated, truncated, info = environment.step(step_actions)
    for i, reference in enumerate(references):
      expected, reward, last, discount = reference.step(step_actions[i])
      assert rewards[i] == pytest.approx(reward, rel=1e-4, abs=1e-4)
      assert terminated[i] == (last and discount == 0.0)
      assert truncated[i] == (last and discount == 1.0)
      if last:
        np.testing.assert_allclose(last_of(info, i), expected, **TOLERANCE)
        expected = reference.reset()
      np.testing.assert_allclose(observations['observation'][i], expected, **TOLERANCE)
    arrays = [np.array(array) for array in (rewards, terminated, truncated)]
    played.append((seen(observations), *arrays))
  return [np.stack(parts) for parts in zip(*played, strict=True)]


# The tasks.


def test_every_task_of_the_suite_has_its_name():
  assert control.tasks() == sorted('-'.join(names) for names in dm_suite.ALL_TASKS)
  assert len(control.tasks()) > 40
  assert {'humanoid-stand', 'humanoid-walk', 'humanoid-run'} < set(control.tasks())


def test_actions_without_bounds_are_refused():
  with pytest.raises(errors.UserError, match=r'control:lqr-lqr_2_1 has actions up to 1e\+10'):
    environments.load('control:lqr-lqr_2_1')


@pytest.mark.parametrize(
  'task, features, actions',
  [
    ('humanoid-walk', 67, 21),
    ('manipulator-bring_ball', 44, 5),
    ('cartpole-swingup', 5, 1),
    ('ball_in_cup-catch', 8, 2),
    ('walker-walk', 24, 6),
    ('quadruped-walk', 78, 12),
    ('humanoid_CMU-stand', 137, 56),
  ],
)
def test_a_name_gives_its_task(task, features, actions):
  loaded = suite_of(task)
  assert loaded.name == f'control:{task}' and loaded.tasks == (task,)
  assert loaded.observation_space == gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (features,), np.float32)}
  )
  assert loaded.action_space == gymnasium.spaces.Box(-1.0, 1.0, (actions,), np.float32)
  assert not loaded.is_discrete and loaded.action_repeat == 1 and loaded.frame_stack == 1
  with opened(task) as environment:
    assert environment.single_observation_space == loaded.observation_space
    assert environment.single_action_space == loaded.action_space
    assert environment.metadata['autoreset_mode'] == gymnasium.vector.AutoresetMode.SAME_STEP
    observations, _ = environment.reset(seed=SEED)
    assert observations.keys() == {'observation'}
    for _ in range(2):
      assert observations['observation'].shape == (2, features)
      assert observations['observation'].dtype == np.float32
      observations, rewards, *_ = environment.step(random_actions(environment, 1)[0])
      assert rewards.shape == (2,) and np.all(np.isfinite(rewards))


@pytest.mark.parametrize(
  'name, near',
  [
    ('humanoid-wlk', 'humanoid-walk'),
    ('humanoid', 'humanoid-run'),
    ('cartpole_swingup', 'cartpole-swingup'),
    ('manipulator-bringball', 'manipulator-bring_ball'),
  ],
)
def test_unknown_tasks_are_refused_with_the_nearest(name, near):
  message = f"unknown Control Suite task '{name}'.*Did you mean .*{near}"
  with pytest.raises(errors.UserError, match=message):
    environments.load(f'control:{name}')


@pytest.mark.parametrize('name', ['', 'xxxxxxxx'])
def test_a_task_like_no_other_is_refused_with_an_example(name):
  message = 'Did you mean .*control:humanoid-walk'
  with pytest.raises(errors.UserError, match=message):
    environments.load(f'control:{name}')


# As dm_control itself plays them.


@pytest.mark.parametrize(
  'task', ['humanoid-walk', 'manipulator-bring_ball', 'quadruped-walk', 'walker-walk']
)
def test_plays_as_dm_control_does(task):
  """Some of the actions are out of bounds. The quadruped's actuators have bounds of their own."""
  references = [Reference(task, SEED + i) for i in range(2)]
  with opened(task) as environment:
    actions = random_actions(environment, 60, bound=1.5)
    observations, rewards, *_ = assert_plays_as(environment, references, actions)
  assert np.all(np.any(observations[1:] != observations[:-1], axis=2)), 'it stands still'
  assert np.any(rewards), 'it earned nothing: this test saw no reward'


@pytest.mark.parametrize('task', ['cartpole-swingup', 'ball_in_cup-catch'])
def test_episodes_end_by_the_clock_and_are_truncated(task):
  """Others follow at once. The last observation, before the reset, is in `info`."""
  with opened(task) as environment:
    # Gentle actions: a chaotic motion would amplify rounding over a thousand steps.
    actions = random_actions(environment, 2 * LENGTH + 5, bound=0.1)
    references = [Reference(task, SEED + i) for i in range(2)]
    observations, _, terminated, truncated = assert_plays_as(environment, references, actions)
    assert not terminated.any()
    np.testing.assert_array_equal(np.flatnonzero(truncated[:, 0]), [LENGTH - 1, 2 * LENGTH - 1])
    np.testing.assert_array_equal(truncated[:, 0], truncated[:, 1])
    first = environment.reset(seed=SEED)[0]['observation'][0].copy()
  beginnings = [first, observations[LENGTH - 1, 0], observations[2 * LENGTH - 1, 0]]
  assert len({x.tobytes() for x in beginnings}) == 3, 'all episodes begin alike'


@pytest.mark.parametrize('task', ['humanoid-run', 'manipulator-bring_ball'])
def test_episodes_of_the_papers_tasks_have_a_thousand_steps(task):
  with opened(task, 1) as environment:
    environment.reset(seed=SEED)
    for t, actions in enumerate(random_actions(environment, LENGTH)):
      observations, _, terminated, truncated, info = environment.step(actions)
      assert not terminated.any() and truncated.tolist() == [t == LENGTH - 1]
    assert np.any(last_of(info, 0) != observations['observation'][0])


def test_a_task_with_discount_zero_terminates():
  """Only the linear-quadratic regulators end so, when all masses rest. Here friction stops them."""
  task = 'lqr-lqr_2_1'
  with opened(task) as environment:
    references = [Reference(task, SEED + i) for i in range(2)]
    environment.reset(seed=SEED)  # Loads the engines.
    # Not `assert_plays_as`: its reset with a seed would load other engines, without the friction.
    engines = [env.unwrapped._env for env in environment.envs]
    engines += [reference.engine for reference in references]
    for engine in engines:
      engine.physics.model.dof_damping[:] = 5.0
    for reference in references:
      reference.reset()
    ended = {}
    still = np.zeros((2, 1), np.float32)
    for t in range(4000):
      observations, rewards, terminated, truncated, info = environment.step(still)
      assert not truncated.any()
      for i, reference in enumerate(references):
        expected, reward, last, discount = reference.step(still[i])
        assert rewards[i] == pytest.approx(reward, rel=1e-6) and terminated[i] == last
        if last:
          assert discount == 0.0 and t > 100
          np.testing.assert_allclose(last_of(info, i), expected, rtol=1e-6)
          assert np.linalg.norm(last_of(info, i)) < 1.1e-6
          expected = reference.reset()
          assert np.linalg.norm(expected) > 1.0  # Displaced again.
          ended[i] = t
        np.testing.assert_allclose(observations['observation'][i], expected, rtol=1e-6)
      if len(ended) == 2:
        break
  assert len(ended) == 2 and ended[0] != ended[1]


# Actions.


def test_actions_span_each_actuators_own_bounds():
  with opened('quadruped-walk', 1) as environment:
    environment.reset(seed=SEED)
    controls = environment.envs[0].unwrapped._env.physics.data
    controls_of_a_leg = {
      -1.0: [-1.0, -1.0, -0.8],
      1.0: [1.0, 1.1, 0.8],
      0.0: [0.0, 0.05, 0.0],
      0.5: [0.5, 0.575, 0.4],
      -7.0: [-1.0, -1.0, -0.8],
      7.0: [1.0, 1.1, 0.8],
    }
    for action, expected in controls_of_a_leg.items():
      environment.step(np.full((1, 12), action, np.float32))
      np.testing.assert_allclose(controls.ctrl, expected * 4, rtol=1e-12, atol=1e-12)


def test_each_actuator_has_its_own_action():
  with opened('humanoid-walk', 1) as environment:
    environment.reset(seed=SEED)
    (actions,) = random_actions(environment, 1)
    environment.step(actions)
    controls = environment.envs[0].unwrapped._env.physics.data.ctrl
    np.testing.assert_allclose(controls, actions[0], rtol=0, atol=1e-12)


def test_actions_outside_are_clipped():
  with opened('walker-walk') as environment:
    actions = random_actions(environment, 30, bound=2.5)
    assert np.any(actions > 1) and np.any(actions < -1)
    outside = play(environment, actions, SEED)
    np.testing.assert_array_equal(play(environment, np.clip(actions, -1, 1), SEED), outside)
    assert np.any(play(environment, np.clip(actions, -0.9, 0.9), SEED) != outside)


def test_the_caller_keeps_its_actions():
  with opened('cartpole-swingup') as environment:
    environment.reset(seed=SEED)
    actions = np.array([[3.0], [-0.5]], np.float32)
    environment.step(actions)
  assert actions.tolist() == [[3.0], [-0.5]]


# Seeds.


@pytest.mark.parametrize('task', ['manipulator-bring_ball', 'ball_in_cup-catch'])
def test_a_seed_decides_everything_and_the_environments_differ(task):
  with opened(task, 3) as environment:
    actions = random_actions(environment, 30)[:, :1].repeat(3, axis=1)
    first = play(environment, actions, SEED)
    environment.step(actions[0])  # Earlier episodes leave no trace.
    np.testing.assert_array_equal(play(environment, actions, SEED), first)
    other = play(environment, actions, SEED + 100)
  with opened(task, 3) as environment:
    np.testing.assert_array_equal(play(environment, actions, SEED), first)
  beginnings = np.concatenate([first[0], other[0]])
  assert len({beginning.tobytes() for beginning in beginnings}) == 6
  assert np.any(first[-1] != other[-1])


def test_episodes_without_a_seed_differ():
  """From the one before, from those beside them, and from those of another run."""
  beginnings = []
  for _ in range(2):
    with opened('walker-walk') as environment:
      for _ in range(3):
        beginnings += list(seen(environment.reset()[0]))
  assert len({beginning.tobytes() for beginning in beginnings}) == 12


def test_episodes_after_a_seed_go_on_differing():
  with opened('walker-walk') as environment:
    rounds = [seen(environment.reset(seed=seed)[0]) for seed in (SEED, None, None, SEED, None)]
  np.testing.assert_array_equal(rounds[3:], rounds[:2])
  assert len({beginning.tobytes() for beginning in np.concatenate(rounds[:3])}) == 6


# Physics that diverges.


@pytest.mark.parametrize('value', [np.nan, 1e11], ids=['not a number', 'far away'])
def test_a_physics_error_is_a_crash_and_a_reset_starts_again(value):
  with opened('cartpole-swingup') as environment:
    actions = random_actions(environment, 20)
    expected = play(environment, actions, SEED)
    environment.reset(seed=SEED + 1)
    environment.envs[1].unwrapped._env.physics.data.qpos[0] = value
    with pytest.raises(suite.EnvironmentCrashed, match='cartpole-swingup.*BADQPOS'):
      environment.step(actions[0])
    observations, _ = environment.reset()
    assert np.all(np.isfinite(observations['observation']))
    for step_actions in actions:
      observations, rewards, terminated, truncated, _ = environment.step(step_actions)
      assert np.all(np.isfinite(observations['observation'])) and np.all(rewards >= 0)
      assert not np.any(terminated | truncated)
    # The crash leaves no trace.
    np.testing.assert_array_equal(play(environment, actions, SEED), expected)


def test_an_episode_after_a_crash_has_all_its_steps():
  with opened('cartpole-swingup', 1) as environment:
    environment.reset(seed=SEED)
    still = np.zeros((1, 1), np.float32)
    for _ in range(10):
      environment.step(still)
    environment.envs[0].unwrapped._env.physics.data.qvel[:] = np.inf
    with pytest.raises(suite.EnvironmentCrashed):
      environment.step(still)
    environment.reset()
    ends = [environment.step(still)[3].item() for _ in range(LENGTH)]
  assert ends == [False] * (LENGTH - 1) + [True]


def test_other_errors_are_no_crashes(monkeypatch):
  """Restarting must not hide a bug."""
  with opened('cartpole-swingup', 1) as environment:
    environment.reset(seed=SEED)

    def mistaken(_):
      raise ZeroDivisionError

    monkeypatch.setattr(environment.envs[0].unwrapped._env.task, 'get_reward', mistaken)
    with pytest.raises(ZeroDivisionError):
      environment.step(np.zeros((1, 1), np.float32))


# Any gymnasium environment with continuous actions.


class Recording(gymnasium.Env):
  """Keeps the actions that reach it."""

  observation_space = gymnasium.spaces.Box(-1.0, 1.0, (3,), np.float64)

  def __init__(self, action_space):
    self.action_space = action_space
    self.received = []

  def reset(self, *, seed=None, options=None):
    super().reset(seed=seed)
    return np.zeros(3), {}

  def step(self, action):
    self.received.append(np.array(action))
    return np.zeros(3), 0.0, False, False, {}


@pytest.fixture
def named():
  """A function that registers an environment with an action space, and returns its name."""
  name = 'Recording-v0'

  def register(action_space):
    gymnasium.register(name, lambda: Recording(action_space))
    return f'gym:{name}'

  yield register
  gymnasium.registry.pop(name, None)


def received(action_space_name, rows):
  """The actions that reach one environment, given one row after the other."""
  loaded = environments.load(action_space_name)
  with contextlib.closing(loaded.make(loaded.tasks, True)) as environment:
    environment.reset(seed=SEED)
    for row in rows:
      environment.step(np.array([row], loaded.action_space.dtype))
    return np.array(environment.envs[0].unwrapped.received)


def test_pendulum_plays_as_gymnasium_does_with_its_own_torques():
  """Its torques are in [-2, 2]: -1 and 1 are the strongest."""
  loaded = environments.load('gym:Pendulum-v1')
  assert not loaded.is_discrete
  assert loaded.action_space == gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
  vectors = gymnasium.spaces.Box(-np.inf, np.inf, (3,), np.float32)
  assert loaded.observation_space['observation'] == vectors
  single = [gymnasium.make('Pendulum-v1') for _ in range(2)]
  ends = 0
  expected = [game.reset(seed=SEED + i)[0] for i, game in enumerate(single)]
  actions = np.random.default_rng(0).uniform(-1.0, 1.0, (410, 2, 1)).astype(np.float32)
  actions[::5] = 1.0
  actions[1::5] = -1.0
  with contextlib.closing(loaded.make(loaded.tasks * 2, True)) as environment:
    observations, _ = environment.reset(seed=SEED)
    assert environment.single_action_space == loaded.action_space
    assert observations['observation'].dtype == np.float32
    for step_actions in actions:
      np.testing.assert_allclose(observations['observation'], expected, rtol=1e-4, atol=1e-4)
      observations, rewards, terminated, truncated, info = environment.step(step_actions)
      for i, game in enumerate(single):
        expected[i], reward, _, over, _ = game.step(2.0 * step_actions[i])
        if not over:  # Otherwise it is reset already.
          torque = environment.envs[i].unwrapped.last_u
          assert torque == pytest.approx(2.0 * step_actions[i, 0], rel=1e-6, abs=1e-6)
        assert rewards[i] == pytest.approx(reward, rel=1e-4, abs=1e-4)
        assert not terminated[i] and truncated[i] == over
        if over:
          np.testing.assert_allclose(last_of(info, i), expected[i], rtol=1e-4, atol=1e-4)
          expected[i], _ = game.reset()
          ends += 1
  assert ends == 4


# Within gymnasium, from float32 beside float64.
@pytest.mark.filterwarnings('ignore:overflow encountered in cast')
@pytest.mark.parametrize('dtype', [np.float32, np.float64])
def test_actions_reach_a_gymnasium_environment_in_its_own_bounds(named, dtype):
  space = gymnasium.spaces.Box(
    np.array([-3.0, 0.0], dtype), np.array([1.0, 10.0], dtype), dtype=dtype
  )
  name = named(space)
  assert environments.load(name).action_space == gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
  rows = {
    (-1.0, 1.0): (-3.0, 10.0),
    (1.0, -1.0): (1.0, 0.0),
    (0.0, 0.5): (-1.0, 7.5),
    (-0.5, 0.0): (-2.0, 5.0),
    (1.5, -9.0): (1.0, 0.0),  # Clipped, like the next.
    (-1.01, 1.01): (-3.0, 10.0),
  }
  np.testing.assert_allclose(received(name, rows), list(rows.values()), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
  'space',
  [
    gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float32),
    gymnasium.spaces.Box(np.array([-1.0, 0.0], np.float32), np.array([1.0, np.inf], np.float32)),
    gymnasium.spaces.Box(np.array([-np.inf, 0.0], np.float32), np.array([1.0, 1.0], np.float32)),
    gymnasium.spaces.Tuple([gymnasium.spaces.Discrete(2)]),
  ],
  ids=['unbounded', 'unbounded above', 'unbounded below', 'tuple'],
)
def test_other_action_spaces_are_refused(named, space):
  message = 'gym:Recording-v0 has the action space .*expected .* or a Box of real'
  with pytest.raises(errors.UserError, match=message):
    environments.load(named(space))


@pytest.mark.filterwarnings('ignore:.*maximum and minimum')
@pytest.mark.parametrize(
  'space',
  [
    gymnasium.spaces.Box(0, 10, (2,), np.int32),
    gymnasium.spaces.Box(0, 255, (2,), np.uint8),
  ],
  ids=['integers', 'bytes'],
)
def test_vectors_without_ranges_of_real_numbers_are_refused(named, space):
  with pytest.raises(errors.UserError, match='gym:Recording-v0 has the action space'):
    environments.load(named(space))


def test_discrete_actions_reach_an_environment_unchanged(named):
  loaded = environments.load(named(gymnasium.spaces.Discrete(4)))
  assert loaded.is_discrete and loaded.num_actions == 4
  assert loaded.action_space == gymnasium.spaces.Discrete(4)
  assert received('gym:Recording-v0', [0, 3, 1, 2]).tolist() == [0, 3, 1, 2]
