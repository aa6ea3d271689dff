"""Traces of what environments were told and answered: the ground truth for what actors send."""

from typing import Any, Callable, Mapping

import gymnasium
import numpy as np


class Trace:
  """T steps of N environments: lists of T arrays `[N, ...]`, and of T + 1 observations.

  Attributes:
    last: By step and environment, the last observation of an episode that a time limit ended.
    on_step: Called after each step with the number of steps so far.
  """

  def __init__(self, on_step: Callable[[int], Any] = lambda steps: None):
    self.on_step = on_step
    self.observations: list[np.ndarray] = []
    self.actions: list[np.ndarray] = []
    self.rewards: list[np.ndarray] = []
    self.terminated: list[np.ndarray] = []
    self.truncated: list[np.ndarray] = []
    self.game_over: list[np.ndarray] = []
    self.last: dict[tuple[int, int], np.ndarray] = {}

  def transition(
    self, t: int, environment: int, n: int, discount: float, reward: Callable[[float], float]
  ) -> tuple[float, float, np.ndarray | None]:
    """One n-step transition by the formula of section 3.1.

    Args:
      t: The step it starts at.
      environment: The environment's index.
      n: The largest number of steps.
      discount: gamma.
      reward: What an actor makes of an environment's reward.

    Returns:
      The n-step return, its discount, and the observation to bootstrap from; None for that after an
      episode's end.
    """
    total = 0.0
    for k in range(n):
      total += discount**k * reward(self.rewards[t + k][environment])
      if self.terminated[t + k][environment]:
        return total, 0.0, None
      if self.truncated[t + k][environment]:
        return total, discount ** (k + 1), self.last[t + k, environment]
    return total, discount**n, self.observations[t + n][environment]

  def records(self, environment: int) -> int:
    """How many records an actor makes of an environment: one per step and one per time limit."""
    cut = np.array(self.truncated)[:, environment] & ~np.array(self.terminated)[:, environment]
    return len(cut) + np.count_nonzero(cut)


class Recorder(gymnasium.vector.VectorWrapper):
  """Records everything that vector environments are told and answer, in copies."""

  def __init__(self, env: gymnasium.vector.VectorEnv, trace: Trace):
    super().__init__(env)
    self._trace = trace

  def reset(
    self, *, seed: Any = None, options: Any = None
  ) -> tuple[Mapping[str, np.ndarray], dict[str, Any]]:
    observations, info = self.env.reset(seed=seed, options=options)
    self._trace.observations.append(observations['observation'].copy())
    return observations, info

  def step(self, actions: np.ndarray) -> tuple[Any, ...]:
    trace = self._trace
    step = len(trace.actions)
    observations, rewards, terminated, truncated, info = self.env.step(actions)
    trace.actions.append(np.array(actions))
    trace.observations.append(observations['observation'].copy())
    trace.rewards.append(np.array(rewards, np.float64))
    trace.terminated.append(terminated.copy())
    trace.truncated.append(truncated.copy())
    trace.game_over.append(np.array(info.get('game_over', terminated | truncated)))
    for i in np.flatnonzero(truncated):
      trace.last[step, i] = info['final_obs'][i]['observation'].copy()
    trace.on_step(step + 1)
    return observations, rewards, terminated, truncated, info
