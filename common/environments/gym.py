"""Any environment registered with gymnasium: `gym:ID`.

It must have discrete or bounded continuous actions, and observe a Box: vectors or images.
"""

from typing import Any, Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import options as option_sets
from common.environments import suite


def names() -> list[str]:
  """One value of `--env`: a misspelled id is compared with all ids by `load`."""
  return ['gym:CartPole-v1']


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one gymnasium id, with its own time limits and rewards; no action repeat.

  See `suite.Family.load`.

  Args:
    name: The value of `--env`.
    member: ID, or MODULE:ID for an environment that importing MODULE registers.
    options: Only `tasks` is honoured.

  Raises:
    UserError: If the id is not registered, or its spaces are of other kinds than those above.
  """
  tasks = suite.select_tasks(name, (member,), options)
  module, colon, rest = member.partition(':')
  if colon and (not module or not rest or ':' in rest):
    raise errors.UserError(f'{name!r} is not an environment: expected gym:ID or gym:MODULE:ID')
  # With a module, only importing it tells whether the id exists.
  if ':' not in member and member not in gymnasium.registry:
    raise errors.unknown('gymnasium environment', member, gymnasium.registry.keys())
  probe = _probe(member)
  action_space = _action_space(name, probe.action_space)
  observation_space = _observation_space(name, probe.observation_space)

  def make_one() -> gymnasium.Env:
    return NamedObservation(rescaled(gymnasium.make(member)), observation_space)

  def make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    del training  # The environment is the same in evaluation.
    return gymnasium.vector.SyncVectorEnv(
      [make_one] * len(tasks),
      copy=False,
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )

  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=observation_space,
    action_space=action_space,
    action_repeat=1,
    make=make,
    max_episode_steps=probe.spec.max_episode_steps if probe.spec else None,
  )


def rescaled(env: gymnasium.Env) -> gymnasium.Env:
  """The environment, with continuous actions float32 in [-1, 1]; what lies outside is clipped."""
  if not isinstance(env.action_space, gymnasium.spaces.Box):
    return env
  space = suite.continuous_actions(env.action_space.shape[0])
  within = gymnasium.wrappers.RescaleAction(env, space.low, space.high)
  return gymnasium.wrappers.TransformAction(
    within, lambda action: np.clip(action, space.low, space.high), space
  )


class NamedObservation(gymnasium.ObservationWrapper):
  """Names the observation, and gives it the dtype of `space`."""

  def __init__(self, env: gymnasium.Env, space: gymnasium.spaces.Dict):
    super().__init__(env)
    self.observation_space = space
    self._dtype = space['observation'].dtype

  def observation(self, observation: Any) -> suite.Observation:
    return {'observation': np.asarray(observation, self._dtype)}


def _probe(member: str) -> gymnasium.Env:
  """An environment of an id, closed: only its spaces and its specification are of use."""
  try:
    probe = gymnasium.make(member)
  except (gymnasium.error.Error, ImportError) as error:
    raise errors.UserError(f'gymnasium cannot make {member!r}: {error}') from error
  probe.close()
  return probe


def _action_space(name: str, space: gymnasium.Space) -> suite.ActionSpace:
  """The suite's action space for an environment's; continuous actions are rescaled to [-1, 1]."""
  if isinstance(space, gymnasium.spaces.Discrete) and space.start == 0:
    return space
  if isinstance(space, gymnasium.spaces.Box) and _is_bounded_vector(space):
    return suite.continuous_actions(space.shape[0])
  raise errors.UserError(
    f'{name} has the action space {space}: expected discrete actions, numbered from 0, or a vector '
    'of real numbers, each with a finite lower and upper bound.'
  )


def _is_bounded_vector(space: gymnasium.spaces.Box) -> bool:
  is_bounded = np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)
  is_real = np.issubdtype(space.dtype, np.floating)
  return len(space.shape) == 1 and is_real and bool(np.all(is_bounded))


def _observation_space(name: str, space: gymnasium.Space) -> gymnasium.spaces.Dict:
  """The suite's observation space for an environment's; vectors become float32."""
  if isinstance(space, gymnasium.spaces.Box):
    if space.dtype == np.uint8 and len(space.shape) == 3:
      images = gymnasium.spaces.Box(0, 255, space.shape, np.uint8)
      return gymnasium.spaces.Dict({'observation': images})
    if len(space.shape) == 1:
      vectors = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
      return gymnasium.spaces.Dict({'observation': vectors})
  raise errors.UserError(
    f'{name} observes {space}: expected a Box, a vector or a uint8 image [height, width, '
    'channels]. A gymnasium wrapper can flatten or rescale it.'
  )
