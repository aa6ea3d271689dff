"""What every environment family promises to actors, learner and evaluation.

A new family adds a `Case` to `CASES`.
"""

import contextlib
import functools
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import atari, doom
from scripts import processes

FIRST_SEED = 1


class Case(NamedTuple):
  name: str
  tasks: tuple[str, ...]  # One environment each.
  num_actions: int  # Of continuous actions: the size of their vector.
  steps: int  # Enough for random actions to end an episode in each environment.


class Rollout(NamedTuple):
  observations: dict[str, np.ndarray]  # [T+1, N, ...]
  rewards: np.ndarray  # [T, N]
  terminated: np.ndarray  # [T, N]
  truncated: np.ndarray  # [T, N]
  game_over: np.ndarray  # [T, N]

  @property
  def done(self):
    return self.terminated | self.truncated


CASES = [
  Case('doom:basic', ('basic', 'basic'), 9, 200),
  Case('doom', ('predict_position', 'deadly_corridor', 'take_cover'), 9, 200),
  Case('atari:pong', ('pong', 'pong'), 6, 1300),
  Case('atari:breakout', ('breakout', 'breakout'), 4, 300),
  Case('gym:CartPole-v1', ('CartPole-v1', 'CartPole-v1'), 2, 200),
  Case('gym:Taxi-v4', ('Taxi-v4', 'Taxi-v4'), 6, 210),
  Case('gym:Pendulum-v1', ('Pendulum-v1', 'Pendulum-v1'), 1, 210),
  Case('control:cartpole-swingup', ('cartpole-swingup', 'cartpole-swingup'), 1, 1010),
  Case('envpool:CartPole-v1', ('CartPole-v1', 'CartPole-v1'), 2, 200),
  Case('envpool:Pendulum-v1', ('Pendulum-v1', 'Pendulum-v1'), 1, 210),
  Case('babyai', ('GoToRedBallNoDists', 'GoToRedBallNoDists', 'GoToLocalS5N2'), 7, 300),
]


@functools.cache
def suite_of(name):
  return environments.load(name)


def opened(case):
  return contextlib.closing(suite_of(case.name).make(case.tasks, True))


def random_actions(case, seed=0):
  rng = np.random.default_rng(seed)
  shape = (case.steps, len(case.tasks))
  if suite_of(case.name).is_discrete:
    return rng.integers(case.num_actions, size=shape)
  return rng.uniform(-1.0, 1.0, (*shape, case.num_actions)).astype(np.float32)


def copied(observations):
  """Observations may be views that the next step overwrites."""
  return {name: np.array(values) for name, values in observations.items()}


def play(environment, actions, seed):
  observations, _ = environment.reset(seed=seed)
  seen = [copied(observations)]
  steps = []
  for step_actions in actions:
    observations, rewards, terminated, truncated, info = environment.step(step_actions)
    seen.append(copied(observations))
    game_over = info.get('game_over', terminated | truncated)
    steps.append([np.array(x) for x in (rewards, terminated, truncated, game_over)])
  stacked = {name: np.stack([observation[name] for observation in seen]) for name in seen[0]}
  return Rollout(stacked, *map(np.stack, zip(*steps, strict=True)))


@pytest.fixture(scope='module', params=CASES, ids=lambda case: case.name)
def case(request):
  return request.param


@pytest.fixture(scope='module')
def rollout(case):
  with opened(case) as environment:
    return play(environment, random_actions(case), FIRST_SEED)


def assert_same(actual, expected):
  for name in expected.observations:
    np.testing.assert_array_equal(actual.observations[name], expected.observations[name])
  for actual_values, expected_values in zip(actual[1:], expected[1:], strict=True):
    np.testing.assert_array_equal(actual_values, expected_values)


def test_observations_are_of_the_declared_space(case, rollout):
  space = suite_of(case.name).observation_space
  assert rollout.observations.keys() == space.spaces.keys()
  for name, values in rollout.observations.items():
    assert values.shape == (case.steps + 1, len(case.tasks), *space[name].shape)
    assert values.dtype == space[name].dtype
    assert np.all(values >= space[name].low) and np.all(values <= space[name].high)


def test_vector_environment_declares_the_same_spaces(case):
  suite = suite_of(case.name)
  with opened(case) as environment:
    assert environment.num_envs == len(case.tasks)
    assert environment.single_observation_space == suite.observation_space
    assert environment.observation_space == gymnasium.vector.utils.batch_space(
      suite.observation_space, len(case.tasks)
    )
    assert environment.single_action_space == suite.action_space


def test_number_of_actions(case):
  suite = suite_of(case.name)
  if suite.is_discrete:
    assert suite.num_actions == case.num_actions
    tried = set(random_actions(case).flat)
    assert tried == set(range(case.num_actions)), 'these tests do not try all actions'
  else:
    assert suite.action_space == gymnasium.spaces.Box(-1.0, 1.0, (case.num_actions,), np.float32)


def test_tasks_are_of_the_suite(case):
  assert set(case.tasks) <= set(suite_of(case.name).tasks)


def test_autoreset_is_in_the_same_step(case):
  with opened(case) as environment:
    assert environment.metadata['autoreset_mode'] == gymnasium.vector.AutoresetMode.SAME_STEP


def test_rewards_are_finite_numbers(rollout):
  assert rollout.rewards.dtype.kind in 'fi'
  assert np.all(np.isfinite(rollout.rewards))
  assert np.any(rollout.rewards != 0), 'random actions earned nothing: these tests saw no reward'


def test_ends_are_marked(rollout):
  assert rollout.terminated.dtype == rollout.truncated.dtype == rollout.game_over.dtype == bool
  assert not np.any(rollout.terminated & rollout.truncated)
  assert not np.any(rollout.game_over & ~rollout.done), (
    'a game is over although the learner sees no end'
  )
  assert np.all(np.any(rollout.game_over, axis=0)), 'an environment ended no game'


def test_the_next_episode_starts_and_goes_on(rollout):
  for t, i in np.argwhere(rollout.game_over):
    after = rollout.observations['observation'][t + 1 :, i]
    if len(after) > 1:
      assert np.any(after[1:] != after[0]), f'environment {i} stands still after step {t}'


def test_same_seed_and_actions_repeat_everything(case, rollout):
  with opened(case) as environment:
    # Earlier episodes leave no trace.
    play(environment, random_actions(case, seed=1)[:50], seed=1000)
    assert_same(play(environment, random_actions(case), FIRST_SEED), rollout)


def test_another_seed_differs(case, rollout):
  with opened(case) as environment:
    other = play(environment, random_actions(case)[:100], seed=1001)
  assert np.any(other.observations['observation'] != rollout.observations['observation'][:101])


def test_environments_of_one_task_differ(case):
  case = case._replace(tasks=(case.tasks[0],) * 4)
  actions = random_actions(case)[:100, :1].repeat(4, axis=1)
  with opened(case) as environment:
    played = play(environment, actions, FIRST_SEED).observations['observation']
  # Not all four: Atari games differ by their no-ops alone, and Breakout's ball by their parity.
  assert len({played[:, i].tobytes() for i in range(4)}) >= 2


def test_close_ends_the_engines_and_may_be_called_again(case):
  before = processes.descendants()
  environment = suite_of(case.name).make(case.tasks, True)
  environment.reset(seed=FIRST_SEED)
  started = processes.descendants() - before
  family = case.name.partition(':')[0]
  assert len(started) == {'doom': 1 + len(case.tasks), 'control': 1}.get(family, 0)
  environment.close()
  assert not any(map(processes.is_alive, started))
  environment.close()


@pytest.mark.parametrize(
  'name, tasks',
  [
    ('doom', tuple(doom.INSTRUCTIONS)),
    ('doom:my_way_home', ('my_way_home',)),
    ('atari:space_invaders', ('space_invaders',)),
    ('gym:Acrobot-v1', ('Acrobot-v1',)),
    ('control:humanoid-walk', ('humanoid-walk',)),
  ],
)
def test_a_name_gives_its_tasks(name, tasks):
  suite = environments.load(name)
  assert suite.name == name
  assert suite.tasks == tasks


@pytest.mark.parametrize(
  'name, kind, suggestion',
  [
    ('dom', 'environment', 'doom'),
    ('atary:pong', 'environment', 'atari:pong'),
    ('doom:basik', 'doom scenario', 'basic'),
    ('atari:breakot', 'Atari game', 'breakout'),
    ('control:walker-wlk', 'Control Suite task', 'walker-walk'),
    ('gym:CartPol-v1', 'gymnasium environment', 'CartPole-v1'),
  ],
)
def test_unknown_names_are_refused_with_the_nearest(name, kind, suggestion):
  with pytest.raises(errors.UserError, match=f'unknown {kind} .*Did you mean .*{suggestion}'):
    environments.load(name)


def test_a_name_like_no_other_is_refused_with_all_names():
  with pytest.raises(errors.UserError, match=f'Known: {", ".join(sorted(doom.INSTRUCTIONS))}'):
    environments.load('doom:xxxxxx')


def test_help_names_all_scenarios():
  text = environments.describe()
  for task in doom.INSTRUCTIONS:
    assert task in text
  assert 'pong' in atari.games() and 'atari:GAME' in text
