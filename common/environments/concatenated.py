"""Several vector environments as one, e.g. one for each game of a suite, all stepped at once."""

from typing import Any, Protocol, Sequence

import gymnasium
import numpy as np

from common.environments import suite


class Part(Protocol):
  """A vector environment whose step is split in two, so that several can work at the same time.

  Autoreset and the other promises are those of `suite.MakeVectorEnv`.
  """

  @property
  def num_envs(self) -> int: ...

  @property
  def metadata(self) -> dict[str, Any]: ...

  @property
  def single_observation_space(self) -> gymnasium.Space: ...

  @property
  def single_action_space(self) -> gymnasium.Space: ...

  def reset(
    self, *, seed: int | None = None, options: dict[str, Any] | None = None
  ) -> suite.Reset: ...

  def send(self, actions: np.ndarray, /) -> None:
    """Begins a step and returns at once."""

  def receive(self) -> suite.VectorStep:
    """Waits for the step that `send` has begun; returns what `step` would."""

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""

  def close(self, **kwargs: Any) -> None: ...


class ConcatenatedVectorEnv(gymnasium.vector.VectorEnv):
  """The environments of all parts, part after part, which must have the same spaces.

  - Autoreset: `SAME_STEP`, by the parts.
  - Arrays: copies, which the caller owns, but for the dicts in `final_obs`.
  - `info`: the arrays `[N]` that every part returns, `final_obs` and `crashes`. Keys of other kinds
    are dropped.
  - Crashes: what a part raises passes through; all parts must then be reset.
  """

  def __init__(self, parts: Sequence[Part]):
    self._parts = parts
    self._ends = np.cumsum([part.num_envs for part in parts])
    self.num_envs = int(self._ends[-1])
    self.metadata = parts[0].metadata
    self.single_observation_space = parts[0].single_observation_space
    self.single_action_space = parts[0].single_action_space
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, self.num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    """Resets all parts; environment i has the seed `seed + i`, as if there were one part."""
    observations = []
    infos = []
    for part, end in zip(self._parts, self._ends, strict=True):
      start = int(end) - part.num_envs
      part_seed = None if seed is None else seed + start
      observation, info = part.reset(seed=part_seed, options=options)
      observations.append(observation)
      infos.append(info)
    return self._joined(observations), self._joined_crashes(infos)

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    actions_of_parts = np.split(actions, self._ends[:-1])
    # All parts begin before the first one is waited for.
    for part, part_actions in zip(self._parts, actions_of_parts, strict=True):
      part.send(part_actions)
    answers = [part.receive() for part in self._parts]

    observations, rewards, terminated, truncated, infos = zip(*answers, strict=True)
    return (
      self._joined(observations),
      np.concatenate(rewards),
      np.concatenate(terminated),
      np.concatenate(truncated),
      self._joined_info(infos),
    )

  def awaited(self) -> str:
    """What the parts are waiting for, if they can say so; may be called by any thread."""
    return '; '.join(filter(None, map(suite.awaited, self._parts)))

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    return self._parts[0].picture()

  def close_extras(self, **kwargs: Any) -> None:
    for part in self._parts:
      part.close(**kwargs)

  def _joined(self, observations: Sequence[suite.Observation]) -> suite.Observation:
    return {name: np.concatenate([part[name] for part in observations]) for name in observations[0]}

  def _joined_crashes(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The `crashes` of all parts by the environments' numbers here; nothing if there are none."""
    starts = [0, *self._ends[:-1].tolist()]
    crashes = {
      start + i: reason
      for start, info in zip(starts, infos, strict=True)
      for i, reason in info.get('crashes', {}).items()
    }
    return {'crashes': crashes} if crashes else {}

  def _joined_info(self, infos: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The arrays `[N]` that all parts return, and `final_obs` if any does, with None elsewhere."""
    # A part returns `final_obs` only if one of its episodes was truncated; all have other keys.
    common = set.intersection(*map(set, infos)) - {'final_obs'}
    joined = self._joined_crashes(infos) | {
      name: np.concatenate([info[name] for info in infos])
      for name in common
      if all(np.ndim(info[name]) == 1 for info in infos)
    }
    if any('final_obs' in info for info in infos):
      final = [
        info.get('final_obs', np.full(part.num_envs, None))
        for part, info in zip(self._parts, infos, strict=True)
      ]
      joined['final_obs'] = np.concatenate(final)
    return joined
