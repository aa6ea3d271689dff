"""How environments are made: ids, functions, arguments, wrappers; and why one cannot be."""

import os
import sys

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import making, packages

MODULE = '''
import gymnasium
import numpy as np


class Corridor(gymnasium.Env):
  """Observes the size that it was made with."""
  observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def __init__(self, size=5, label=None):
    self.size = size
    self.label = label

  def reset(self, *, seed=None, options=None):
    return np.full(1, self.size, np.float32), {}

  def step(self, action):
    return np.full(1, self.size, np.float32), 1.0, False, False, {}


class Doubled(gymnasium.ObservationWrapper):
  def observation(self, observation):
    return 2 * observation


class Incremented(gymnasium.ObservationWrapper):
  def observation(self, observation):
    return observation + 1


def no_environment():
  return 3


number = 4
gymnasium.register('Corridor-v0', Corridor)
'''


@pytest.fixture
def module(tmp_path, monkeypatch):
  """A user's module, `corridors`."""
  (tmp_path / 'corridors.py').write_text(MODULE)
  (tmp_path / 'needs_more.py').write_text('import a_package_that_is_missing')
  (tmp_path / 'broken.py').write_text('x = 1 // 0')
  monkeypatch.syspath_prepend(tmp_path)
  yield tmp_path
  gymnasium.registry.pop('Corridor-v0', None)
  for name in ('corridors', 'needs_more', 'broken'):
    sys.modules.pop(name, None)


def made(name, **settings):
  return making.make(making.Recipe(name, **settings))


def refusal(name, **settings):
  with pytest.raises(errors.UserError) as refused:
    environments.load(name, environments.Options(**settings))
  return str(refused.value)


@pytest.mark.parametrize(
  'text, expected',
  [
    ('', {}),
    (
      'map_name=8x8,is_slippery=false',
      {'map_name': '8x8', 'is_slippery': False},
    ),
    ('a=1, b=-2.5,c=None,d=True,e=none', dict(a=1, b=-2.5, c=None, d=True, e=None)),
    ('size=(3,4),desc=["SF","FG"]', dict(size=(3, 4), desc=['SF', 'FG'])),
    ('text="a,b=c",other={"x": 1, "y": [2]}', dict(text='a,b=c', other={'x': 1, 'y': [2]})),
    ('path=/tmp/x=y', dict(path='/tmp/x=y')),
    ('empty=', dict(empty='')),
  ],
)
def test_arguments_are_pythons_literals_or_words(text, expected):
  assert making.parse_kwargs(text) == expected


@pytest.mark.parametrize('text', ['8x8', '=3', 'a b=3', 'a=1,b'])
def test_other_forms_of_arguments_are_refused(text):
  with pytest.raises(errors.UserError, match='env_kwargs has .*NAME=VALUE,NAME=VALUE'):
    making.parse_kwargs(text)


@pytest.mark.parametrize(
  'name', ['corridors:Corridor', 'gym:corridors:Corridor-v0'], ids=['function', 'id']
)
def test_arguments_and_wrappers_reach_the_environment(module, name):
  env = made(name, kwargs='size=7', wrappers='corridors:Doubled, corridors:Incremented')
  # The first wrapper is the innermost.
  assert env.reset()[0] == [15.0]
  options = environments.Options(
    env_kwargs='size=7', wrappers='corridors:Doubled', env_processes='never'
  )
  suite = environments.load(name, options)
  assert suite.name == name
  assert suite.make(suite.tasks, True).reset()[0]['observation'] == [[14.0]]


def test_arguments_reach_gymnasiums_own():
  suite = environments.load(
    'gym:FrozenLake-v1', environments.Options(env_kwargs='map_name=8x8,is_slippery=false')
  )
  assert suite.observation_space['observation'].shape == (64,)


@pytest.mark.parametrize(
  'env, wrappers, expected',
  [
    ('gym:CartPole-v1', '', ()),
    ('gym:maze:Maze-v0', '', ('maze',)),
    ('gym:a.b:Maze-v0', 'c.d:E, f:G', ('a.b', 'c.d', 'f')),
    ('gym:CartPole-v1', 'c:E,c:F', ('c',)),
    ('json.decoder:JSONDecoder', 'c:E', ('json.decoder', 'c')),
    ('doom', '', ()),
    ('atari:pong', '', ()),
    ('no_module_of_this_name:f', '', ()),
  ],
)
def test_the_modules_that_settings_name_are_told(env, wrappers, expected):
  assert environments.modules_of(env, wrappers) == expected


def test_telling_modules_imports_none_of_them(module):
  assert environments.modules_of('corridors:Corridor', 'needs_more:X') == (
    'corridors',
    'needs_more',
  )
  assert 'corridors' not in sys.modules and 'needs_more' not in sys.modules


@pytest.mark.parametrize(
  'name, settings, messages',
  [
    ('gym:CartPol-v1', {}, ["unknown gymnasium environment 'CartPol-v1'", 'CartPole-v1']),
    ('gym:Nonsense-v7', {}, ['--env=gym:MODULE:ID']),
    ('gym:corridors:Coridor-v0', {}, ["'Coridor-v0'", 'Corridor-v0']),
    ('gym:no_such_one:X-v0', {}, ["no module 'no_such_one'", 'PYTHONPATH', 'install no_such_one']),
    ('gym:needs_more:X-v0', {}, ['a_package_that_is_missing', 'bin/pip install a_package']),
    ('gym:broken:X-v0', {}, ['importing broken failed', 'ZeroDivisionError', 'broken.py, line 1']),
    ('gym:ALE/Pong-v9', {}, ['gym:ale_py:ALE/Pong-v9']),
    ('gym:FlappyBird-v0', {}, ['bin/pip install flappy-bird-gymnasium']),
    ('corridors:Coridor', {}, ["unknown function of corridors 'Coridor'", 'Corridor']),
    ('corridors:number', {}, ["unknown function of corridors 'number'"]),
    ('corridors:no_environment', {}, ['made a builtins.int, expected a gymnasium.Env']),
    ('corridors:Corridor', {'env_kwargs': 'sise=3'}, ["{'sise': 3}", 'unexpected keyword']),
    ('gym:CartPole-v1', {'env_kwargs': 'sise=3'}, ["{'sise': 3}", 'unexpected keyword']),
    ('gym:CartPole-v1', {'wrappers': 'corridors:Dubbled'}, ["'Dubbled'", 'Doubled']),
    ('gym:CartPole-v1', {'wrappers': 'corridors'}, ['--wrappers has', 'MODULE:NAME']),
    ('gym:CartPole-v1', {'wrappers': 'no_such_one:X'}, ["no module 'no_such_one'"]),
    ('no_such_one:Corridor', {}, ["unknown environment 'no_such_one:Corridor'", 'PYTHONPATH']),
    ('python:Corridor', {}, ['by a function of another process', '--env=MODULE:FUNCTION']),
    ('atari:pong', {'frame_stack': 2}, ['frame_stack is 2', 'gym:ID', 'atari:pong']),
    ('doom', {'wrappers': 'corridors:Doubled'}, ['wrappers is', 'doom']),
  ],
)
def test_what_cannot_be_made_is_refused_with_the_reason(module, name, settings, messages):
  text = refusal(name, **settings)
  for message in messages:
    assert message in text
  assert len(text) < 600  # Never all that exist.


def test_ids_without_a_near_one_are_not_all_listed():
  for i in range(100):
    gymnasium.register(f'Filler{i}-v0', entry_point='none:None')
  try:
    assert len(refusal('gym:qqqqq')) < 400
  finally:
    for i in range(100):
      gymnasium.registry.pop(f'Filler{i}-v0')


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch):
  monkeypatch.setitem(sys.modules, 'Box2D', None)
  monkeypatch.delitem(sys.modules, 'gymnasium.envs.box2d', raising=False)
  text = refusal('gym:LunarLander-v3')
  assert f'{packages.pip()} install swig "gymnasium[box2d]"' in text


def test_pip_is_that_of_the_environment_that_runs(monkeypatch):
  monkeypatch.chdir(os.path.dirname(sys.prefix))
  assert packages.pip() == os.path.join(os.path.basename(sys.prefix), 'bin', 'pip')
  monkeypatch.chdir('/')
  assert os.path.exists(packages.pip())


class Local(gymnasium.Env):
  """Importable by other processes."""

  observation_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)

  def reset(self, *, seed=None, options=None):
    return np.zeros(1, np.float32), {}


def test_a_function_that_can_be_imported_is_named_by_its_module():
  name = environments.remember(Local)
  assert name == f'{__name__}:Local' and making.given(name) is None
  assert environments.load(name).action_space == Local.action_space


def test_a_function_of_this_process_only_is_replaced_by_another_of_its_name():
  def other():
    env = Local()
    env.action_space = gymnasium.spaces.Discrete(3)
    return env

  first = environments.remember(lambda: Local())
  assert environments.load(first).num_actions == 2
  second = environments.remember(lambda: other())
  assert first == second == 'python:lambda'
  assert environments.load(second).num_actions == 3


def test_mujocos_environments_run_with_the_requirements():
  """They import imageio."""
  suite = environments.load('gym:HalfCheetah-v5')
  assert suite.observation_space['observation'].shape == (17,)
