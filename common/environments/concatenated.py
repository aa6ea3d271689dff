"""Several vector environments as one, e.g. one for each game of a suite: all step at once."""

from typing import Any, Sequence

import gymnasium
import numpy as np


class ConcatenatedVectorEnv(gymnasium.vector.VectorEnv):
  """The environments of all parts, part after part. All have the same spaces.

  A part steps by `send(actions)` and `receive()`, the answer; so engines with threads of their own all work at once.
  """

  def __init__(self, parts: Sequence[gymnasium.vector.VectorEnv]):
    self._parts = parts
    self._ends = np.cumsum([part.num_envs for part in parts])
    self.num_envs, self.metadata = int(self._ends[-1]), parts[0].metadata
    self.single_observation_space = parts[0].single_observation_space
    self.single_action_space = parts[0].single_action_space
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, self.num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Resets all parts; environment number i has the seed + i, as if there were one part."""
    starts = self._ends - [part.num_envs for part in self._parts]
    resets = [
      part.reset(seed=None if seed is None else seed + int(start), options=options)
      for part, start in zip(self._parts, starts)
    ]
    return self._joined([observation for observation, _ in resets]), {}

  def step(self, actions: np.ndarray):
    for part, own in zip(self._parts, np.split(actions, self._ends[:-1])):
      part.send(own)
    observations, *rest, infos = zip(*(part.receive() for part in self._parts))
    return self._joined(observations), *map(np.concatenate, rest), self._joined_info(infos)

  def close_extras(self, **kwargs) -> None:
    for part in self._parts:
      part.close(**kwargs)

  def _joined(self, observations: Sequence[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
      name: np.concatenate([part[name] for part in observations])
      for name in self.single_observation_space
    }

  def _joined_info(self, infos: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """What every part tells, one after the other; `final_obs`, which only some tell, with None elsewhere."""
    common = set.intersection(*map(set, infos)) - {'final_obs'}
    joined = {
      name: np.concatenate([info[name] for info in infos])
      for name in common
      if all(np.ndim(info[name]) == 1 for info in infos)
    }
    if any('final_obs' in info for info in infos):
      joined['final_obs'] = np.concatenate(
        [
          info.get('final_obs', np.full(part.num_envs, None))
          for part, info in zip(self._parts, infos)
        ]
      )
    return joined
