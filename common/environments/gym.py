"""Any registered gymnasium environment with discrete or bounded continuous actions, and a Box of vectors or images to
observe.
"""

from typing import Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import suite


def rescaled(env: gymnasium.Env) -> gymnasium.Env:
  """The environment, with continuous actions float32 in [-1, 1]; what lies outside is clipped."""
  if isinstance(env.action_space, gymnasium.spaces.Discrete):
    return env
  space = suite.continuous_actions(env.action_space.shape[0])
  within = gymnasium.wrappers.RescaleAction(env, space.low, space.high)
  return gymnasium.wrappers.TransformAction(
    within, lambda action: np.clip(action, space.low, space.high), space
  )


class NamedObservation(gymnasium.ObservationWrapper):
  """Names the observation; vectors become float32."""

  def __init__(self, env: gymnasium.Env):
    super().__init__(env)
    space = env.observation_space
    if space.dtype != np.uint8:
      space = gymnasium.spaces.Box(-np.inf, np.inf, space.shape, np.float32)
    self.observation_space = gymnasium.spaces.Dict({'observation': space})

  def observation(self, observation):
    return {'observation': np.asarray(observation, self.observation_space['observation'].dtype)}


def load(name: str, env_id: str) -> suite.Suite:
  """The suite of one gymnasium id, e.g. `CartPole-v1`; its own time limits and rewards, no action repeat.

  Raises:
    UserError: if the id is not registered, or its spaces are not of the kinds above.
  """
  if env_id.rpartition(':')[2] not in gymnasium.registry and ':' not in env_id:
    raise errors.unknown('gymnasium environment', env_id, gymnasium.registry.keys())
  try:
    probe = gymnasium.make(env_id)
  except (gymnasium.error.Error, ImportError) as error:
    raise errors.UserError(f'gymnasium cannot make {env_id!r}: {error}') from error
  action_space, observation_space = probe.action_space, probe.observation_space
  probe.close()
  discrete = isinstance(action_space, gymnasium.spaces.Discrete) and action_space.start == 0
  if not discrete and not _is_bounded_vector(action_space):
    raise errors.UserError(
      f'{name} has the action space {action_space}: expected discrete actions, numbered from 0, '
      'or a vector of real numbers, each with a range of its own.'
    )
  image = observation_space.dtype == np.uint8 and len(observation_space.shape or ()) == 3
  if not isinstance(observation_space, gymnasium.spaces.Box) or not (
    image or len(observation_space.shape) == 1
  ):
    raise errors.UserError(
      f'{name} observes {observation_space}: expected a Box, a vector or an uint8 image [height, width, channels]. '
      'A gymnasium wrapper can flatten or rescale it.'
    )

  def make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    del training
    return gymnasium.vector.SyncVectorEnv(
      [lambda: NamedObservation(rescaled(gymnasium.make(env_id))) for _ in tasks],
      copy=False,
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
    )

  space = gymnasium.spaces.Dict(
    {
      'observation': gymnasium.spaces.Box(
        0 if image else -np.inf,
        255 if image else np.inf,
        observation_space.shape,
        np.uint8 if image else np.float32,
      )
    }
  )
  if not discrete:
    action_space = suite.continuous_actions(action_space.shape[0])
  return suite.Suite(name, (env_id,), space, action_space, action_repeat=1, make=make)


def _is_bounded_vector(space: gymnasium.Space) -> bool:
  return (
    isinstance(space, gymnasium.spaces.Box)
    and len(space.shape) == 1
    and np.issubdtype(space.dtype, np.floating)
    and bool(np.all(np.isfinite(space.low) & np.isfinite(space.high) & (space.low < space.high)))
  )
