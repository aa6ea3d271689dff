"""How single environments of a person's own are made: `gym:ID`, `MODULE:FUNCTION`, a function."""

import ast
import dataclasses
import functools
import importlib
import importlib.util
import os
import pathlib
import sys
import traceback
from collections.abc import Callable, Collection
from typing import Any

import gymnasium

from common import errors
from common.environments import observations, packages

MakeEnv = Callable[..., gymnasium.Env]

GYM = 'gym'
PYTHON = 'python'  # The family of functions that no other process can import.
_GIVEN: dict[str, MakeEnv] = {}  # By the value of `--env`.
_FOLDER = pathlib.Path(__file__).parent
_CONSTANTS = {'true': True, 'false': False, 'none': None}
# Where ids that begin like this are registered, for those who leave the module out.
_HOMES = {
  'ALE/': 'ale_py',
  'BabyAI-': 'minigrid',
  'Fetch': 'gymnasium_robotics',
  'FlappyBird-': 'flappy_bird_gymnasium',
  'MiniGrid-': 'minigrid',
  'PointMaze_': 'gymnasium_robotics',
  'Vizdoom': 'vizdoom.gymnasium_wrapper',
  'highway-': 'highway_env',
}


@dataclasses.dataclass(frozen=True)
class Recipe:
  """How an environment is made, and how it is shown to the agent. Pickled to other processes.

  Attributes:
    name: The value of `--env`: `gym:ID`, `gym:MODULE:ID`, `MODULE:FUNCTION` or `python:NAME`.
    kwargs: Arguments for its constructor, see `parse_kwargs`.
    wrappers: What wraps it, the innermost first, `MODULE:NAME,MODULE:NAME`.
    view: How its images are shown.
    action_repeat: Steps of the environment in one agent step.
    pictures: Whether it is made to render for people, if it can.
  """

  name: str
  kwargs: str = ''
  wrappers: str = ''
  view: observations.View = observations.View()
  action_repeat: int = 1
  pictures: bool = False


def modules_of(env: str, wrappers: str = '') -> tuple[str, ...]:
  """The modules that a run's settings name, and that making its environment would import.

  Args:
    env: The value of `--env`.
    wrappers: The value of `--wrappers`.
  """
  family, _, member = env.partition(':')
  modules = []
  if family == GYM and ':' in member:
    modules.append(member.partition(':')[0])
  elif is_function(env):
    modules.append(family)
  modules += [name.strip().partition(':')[0] for name in wrappers.split(',')]
  return tuple(dict.fromkeys(filter(None, modules)))


def is_function(env: str) -> bool:
  """Whether an unknown FAMILY:MEMBER is a MODULE:FUNCTION, as MODULE can be imported."""
  module, colon, function = env.partition(':')
  if not (colon and function and all(part.isidentifier() for part in module.split('.'))):
    return False
  # Only the top: finding what is inside a package would import the package.
  top = module.partition('.')[0]
  try:
    return top in sys.modules or importlib.util.find_spec(top) is not None
  except (ImportError, ValueError):
    return False


def remember(make_env: MakeEnv, families: Collection[str] = ()) -> str:
  """Makes a function known to `make`; returns the value of `--env` for it.

  That is MODULE:FUNCTION, if other processes can import it; otherwise `python:NAME`, which only
  this process knows.

  Args:
    make_env: Returns a new environment.
    families: Names that MODULE must not have.
  """
  module = getattr(make_env, '__module__', '') or ''
  function = getattr(make_env, '__qualname__', type(make_env).__name__)
  if module not in ('__main__', *families) and _find(module, function) is make_env:
    return f'{module}:{function}'
  name = f'{PYTHON}:{function.rpartition(".")[2].strip("<>")}'
  _GIVEN[name] = make_env
  return name


def given(env: str) -> MakeEnv | None:
  """The function that makes an environment, if only this process knows it."""
  return _GIVEN.get(env)


def source(env: str) -> object:
  """What makes an environment now; names may be given, registered or imported again.

  Raises:
    UserError: If a module that it names cannot be imported.
  """
  if env.startswith(f'{GYM}:'):
    _split_id(env)  # Refused before anything is imported.
  imported = tuple(_import(module, env) for module in modules_of(env))
  registered = gymnasium.registry.get(env.rpartition(':')[2])
  return _GIVEN.get(env), registered and registered.entry_point, imported


def parse_kwargs(text: str) -> dict[str, Any]:
  """Parses `NAME=VALUE,NAME=VALUE`.

  Values are Python's literals; true, false and none may be lower case; other words are strings.

  Raises:
    UserError: If the text has another form.
  """
  arguments = {}
  for part in filter(None, (part.strip() for part in _split(text))):
    name, equals, value = part.partition('=')
    if not equals or not name.strip().isidentifier():
      raise errors.UserError(
        f'env_kwargs has {part!r}, expected NAME=VALUE,NAME=VALUE such as '
        'map_name=8x8,is_slippery=false'
      )
    arguments[name.strip()] = _literal(value.strip())
  return arguments


def make(recipe: Recipe) -> gymnasium.Env:
  """Makes an environment, with its wrappers.

  Raises:
    UserError: If it does not exist, cannot be made or is none; the message has the reason.
  """
  name = recipe.name
  create = _creator(name)
  if recipe.pictures:
    create = functools.partial(_to_render, create)
  kwargs = parse_kwargs(recipe.kwargs)
  env = _called(name, create, kwargs)
  for wrapper in filter(None, (part.strip() for part in recipe.wrappers.split(','))):
    env = _called(f'{name}, wrapper {wrapper}', _function(wrapper, '--wrappers'), {}, env)
  return env


def fault_of(error: BaseException) -> str:
  """An exception in words, with the line of the environment's code that raised it."""
  stack = traceback.extract_tb(error.__traceback__)
  # Neither ours nor inside a library: the line of the user's that called it.
  others = [frame for frame in stack if str(_FOLDER) not in frame.filename]
  own = [frame for frame in others if 'site-packages' not in frame.filename] or others
  place = f' (in {own[-1].filename}, line {own[-1].lineno}: {own[-1].line})' if own else ''
  return f'{type(error).__name__}: {error}{place}'


def _creator(name: str) -> MakeEnv:
  """What makes the environment of a name."""
  family = name.partition(':')[0]
  if family == GYM:
    return _registered(name)
  if family != PYTHON:
    return _function(name, '--env')
  if name not in _GIVEN:
    raise errors.UserError(
      f'{name} was made by a function of another process. Train it by the same script, or put the '
      'function into a module and name it: --env=MODULE:FUNCTION'
    )
  return _GIVEN[name]


def _to_render(create: MakeEnv, **kwargs: Any) -> gymnasium.Env:
  """An environment that renders to arrays; as it is by itself, if it cannot be made so."""
  # pygame needs neither a screen nor loudspeakers for that, and says so where there are none.
  for variable in ('SDL_VIDEODRIVER', 'SDL_AUDIODRIVER'):
    os.environ.setdefault(variable, 'dummy')
  try:
    return create(**{'render_mode': 'rgb_array', **kwargs})
  except Exception:
    # Its constructor does not know the argument or the mode. Other errors come again.
    return create(**kwargs)


def _split_id(name: str) -> tuple[str, str]:
  """The module, '' for none, and the id of `gym:MODULE:ID` or `gym:ID`."""
  parts = name.split(':')[1:]
  if len(parts) > 2 or not all(parts):
    raise errors.UserError(f'{name!r} is not an environment: expected gym:ID or gym:MODULE:ID')
  return ('', *parts)[-2], parts[-1]


def _registered(name: str) -> MakeEnv:
  """The creator of an id that is registered with gymnasium."""
  module, env_id = _split_id(name)
  if module:
    _import(module, name)
  if env_id not in gymnasium.registry:
    raise _unknown_id(name, env_id)

  def create(**kwargs: Any) -> gymnasium.Env:
    # Its checker repeats the checks of `adapted`, with warnings for what does no harm.
    return gymnasium.make(env_id, disable_env_checker=True, **kwargs)

  return create


def _unknown_id(name: str, env_id: str) -> errors.UserError:
  hint = 'An environment of your own: --env=gym:MODULE:ID, where importing MODULE registers ID.'
  for beginning, module in _HOMES.items():
    if env_id.startswith(beginning) and module not in name:
      hint = f'Ids that begin with {beginning} are registered by a module: --env=gym:{module}:'
      hint += env_id
      if not is_function(f'{module}:x'):
        hint = f'{packages.install(module)} and then {hint}'
  return errors.unknown('gymnasium environment', env_id, gymnasium.registry, hint)


def _function(name: str, setting: str) -> Callable[..., Any]:
  """The function, or class, that MODULE:NAME means.

  Raises:
    UserError: If there is none.
  """
  module, _, function = name.partition(':')
  if not function:
    raise errors.UserError(f'{setting} has {name!r}, expected MODULE:NAME')
  found = _find(module, function) or _attribute(_import(module, name), function)
  if not callable(found):
    names = [key for key, value in vars(_import(module, name)).items() if callable(value)]
    raise errors.unknown(f'function of {module}', function, names)
  return found


def _find(module: str, function: str) -> Any:
  """An attribute of a module that is imported already; None if there is none."""
  return _attribute(sys.modules.get(module), function)


def _attribute(module: Any, dotted: str) -> Any:
  for part in dotted.split('.'):
    module = getattr(module, part, None)
  return module


def _import(module: str, name: str) -> Any:
  """Imports a module.

  Raises:
    UserError: If it cannot be imported.
  """
  try:
    return importlib.import_module(module)
  except ModuleNotFoundError as error:
    if error.name and module.startswith(error.name):
      raise errors.UserError(
        f'{name}: there is no module {module!r}. If it is yours, put its folder into PYTHONPATH; '
        f'if it belongs to a package: {packages.install(module)}'
      ) from error
    raise packages.missing(name, error) from error
  except ImportError as error:
    raise packages.missing(name, error) from error
  except Exception as error:
    raise errors.UserError(f'{name}: importing {module} failed: {fault_of(error)}') from error


def _called(
  name: str, create: Callable[..., Any], kwargs: dict[str, Any], *arguments: Any
) -> gymnasium.Env:
  """What a creator returns.

  Raises:
    UserError: If it fails, or returns no environment.
  """
  try:
    env = create(*arguments, **kwargs)
  except errors.UserError:
    raise
  except (ImportError, gymnasium.error.DependencyNotInstalled) as error:
    raise packages.missing(name, error) from error
  except Exception as error:
    given = f' with {kwargs}' if kwargs else ''
    raise errors.UserError(f'{name} cannot be made{given}: {fault_of(error)}') from error
  if not isinstance(env, gymnasium.Env):
    raise errors.UserError(
      f'{name} made a {type(env).__module__}.{type(env).__qualname__}, expected a gymnasium.Env'
    )
  return env


def _split(text: str) -> list[str]:
  """Splits at commas outside brackets and quotes."""
  parts = ['']
  depth = 0
  quote = ''
  for character in text:
    if quote:
      quote = '' if character == quote else quote
    elif character in '\'"':
      quote = character
    else:
      depth += (character in '([{') - (character in ')]}')
    if character == ',' and not depth and not quote:
      parts.append('')
    else:
      parts[-1] += character
  return parts


def _literal(text: str) -> Any:
  if text.lower() in _CONSTANTS:
    return _CONSTANTS[text.lower()]
  try:
    return ast.literal_eval(text)
  except (ValueError, SyntaxError):
    return text
