"""A vector environment whose environments step one after the other, in the caller's thread."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import gymnasium
import numpy as np

from common.environments import suite


class InlineVectorEnv(gymnasium.vector.VectorEnv):
  """As gymnasium's `SyncVectorEnv`, for environments that return dicts of arrays and no `info`.

  Tasks like CartPole step in few microseconds, and it takes longer than that to batch what they
  return in the general way.

  - Autoreset: `SAME_STEP`.
  - Arrays: the observations' are overwritten by the next step or reset.
  - `info`: `final_obs` where an episode has ended.
  """

  def __init__(self, makes: Sequence[Callable[[], gymnasium.Env]]):
    """Makes the environments.

    Args:
      makes: A function for each. They have the same spaces, and what they return stays theirs
        only until it is copied.
    """
    self.num_envs = len(makes)
    self.metadata = {'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}
    self.envs = [make() for make in makes]
    self.single_observation_space = self.envs[0].observation_space
    self.single_action_space = self.envs[0].action_space
    batch_space = gymnasium.vector.utils.batch_space
    self.observation_space = batch_space(self.single_observation_space, self.num_envs)
    self.action_space = batch_space(self.single_action_space, self.num_envs)
    self._observation = cast(
      suite.Observation,
      gymnasium.vector.utils.create_empty_array(self.single_observation_space, self.num_envs),
    )

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    del options
    for i, env in enumerate(self.envs):
      self._keep(i, env.reset(seed=None if seed is None else seed + i)[0])
    return self._observation, {}

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    rewards = np.empty(self.num_envs, np.float64)
    terminated = np.zeros(self.num_envs, bool)
    truncated = np.zeros(self.num_envs, bool)
    info: dict[str, Any] = {}
    for i, env in enumerate(self.envs):
      observation, rewards[i], has_terminated, is_truncated, _ = env.step(actions[i])
      if has_terminated or is_truncated:
        terminated[i] = has_terminated
        truncated[i] = is_truncated
        info.setdefault('final_obs', np.full(self.num_envs, None, object))[i] = observation
        observation, _ = env.reset()
      self._keep(i, observation)
    return self._observation, rewards, terminated, truncated, info

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    return cast(np.ndarray | None, self.envs[0].render())

  def close_extras(self, **kwargs: Any) -> None:
    for env in self.envs:
      env.close()

  def _keep(self, i: int, observation: suite.Observation) -> None:
    for name, values in observation.items():
      self._observation[name][i] = values
