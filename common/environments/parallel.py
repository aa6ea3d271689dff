"""A vector environment with a process for each environment: all step at once, and one that dies is started again alone.

For engines that hold Python's lock while they step, and that end their whole process when something goes wrong.
"""

import time
from typing import Any, Callable, Mapping, Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import suite
from common.machine import workers

_MAX_DEATHS = 5  # Of one environment in a row, without an episode that ended between them.
_RESTART_SEED = (
  1_000_003  # An environment that is started again gets another seed: the same one would die again.
)


class ParallelVectorEnv(gymnasium.vector.VectorEnv):
  """Environments in processes of their own, `SAME_STEP` autoreset.

  One that dies is started again within the step: it has then the first observation of an episode, no reward, no end,
  and `info['crashes']` names it with its reason; if it dies in the reset after an episode, that episode has its end.
  Resets are within the step, too: the slowest is waited for.
  """

  def __init__(
    self,
    makes: Sequence[Callable[[], gymnasium.Env]],
    names: Sequence[str],
    observation_space: gymnasium.spaces.Dict,
    action_space: gymnasium.Space,
  ):
    """Starts the processes.

    Args:
      makes: for each environment what makes it there; they are pickled.
      names: of the environments, for messages.
      observation_space: of one environment.
      action_space: likewise.

    Raises:
      UserError: if an environment cannot be made.
    """
    self.num_envs, self.metadata = (
      len(makes),
      {'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP},
    )
    self.single_observation_space, self.single_action_space = observation_space, action_space
    self.observation_space = gymnasium.vector.utils.batch_space(observation_space, self.num_envs)
    self.action_space = gymnasium.vector.utils.batch_space(action_space, self.num_envs)
    self._makes, self._names = makes, names
    self._deaths = np.zeros(self.num_envs, int)  # In a row.
    self._workers, self._seeds = {}, np.arange(self.num_envs)
    try:
      for i in range(self.num_envs):
        self._workers[i] = workers.Worker(self._makes[i])
      self._begin_again(_crashes(self._receive(self._workers)))
    except BaseException:
      self.close()
      raise

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Begins an episode in every environment, number i with the seed + i. Raises as `step`."""
    del options
    if seed is not None:
      self._seeds = seed + np.arange(self.num_envs)
    answers = self._ask(
      'reset', {i: dict(seed=None if seed is None else int(self._seeds[i])) for i in self._workers}
    )
    crashes = _crashes(answers)
    observations = self._begin_again(crashes) | {
      i: answer[0] for i, answer in answers.items() if i not in crashes
    }
    return self._stacked(observations), {'crashes': _reasons(crashes)}

  def step(self, actions: np.ndarray):
    """One step of all.

    Raises:
      UserError: if one environment dies again and again, with what its engine said.
    """
    answers = self._ask('step', {i: dict(action=actions[i]) for i in self._workers})
    crashes = _crashes(answers)
    observations = {i: answer[0] for i, answer in answers.items() if i not in crashes}
    rewards = np.zeros(self.num_envs)
    terminated, truncated = np.zeros(self.num_envs, bool), np.zeros(self.num_envs, bool)
    for i in observations:
      _, rewards[i], terminated[i], truncated[i], _ = answers[i]
    ended = np.flatnonzero(terminated | truncated).tolist()
    self._deaths[ended] = 0
    final = np.array(
      [*(observations[i] if i in ended else None for i in range(self.num_envs)), None], object
    )[:-1]
    resets = self._ask('reset', {i: dict(seed=None) for i in ended})
    crashes |= _crashes(resets)
    observations |= {
      i: answer[0] for i, answer in resets.items() if i not in crashes
    } | self._begin_again(crashes)
    return (
      self._stacked(observations),
      rewards,
      terminated,
      truncated,
      {'final_obs': final, 'crashes': _reasons(crashes)},
    )

  def close_extras(self, **kwargs) -> None:
    """Ends the processes."""
    del kwargs
    for worker in self._workers.values():
      worker.hang_up()
    deadline = time.monotonic() + workers.PATIENCE  # For all of them: each may be compiling a map.
    for worker in self._workers.values():
      worker.close(max(0.0, deadline - time.monotonic()))

  def _ask(self, method: str, arguments: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    """Calls a method of some environments at once; returns answers, or crashes, by number."""
    unsent = {}
    for i, asked in arguments.items():
      try:
        self._workers[i].send(method, **asked)
      except workers.WorkerDied as death:
        unsent[i] = death
    return self._receive([i for i in arguments if i not in unsent]) | unsent

  def _receive(self, which: Sequence[int]) -> dict[int, Any]:
    answers = {}
    for i in which:
      try:
        answers[i] = self._workers[i].receive()
      except (workers.WorkerDied, suite.EnvironmentCrashed) as crash:
        answers[i] = crash
    return answers

  def _begin_again(self, crashes: Mapping[int, Exception]) -> dict[int, Any]:
    """Starts dead environments again, until they live; returns their first observations by number."""
    begun = {}
    while crashes:
      for i, crash in crashes.items():
        self._deaths[i] += 1
        if self._deaths[i] == _MAX_DEATHS:
          raise errors.UserError(
            f'{self._names[i]} died {_MAX_DEATHS} times without an episode that ended. The last '
            f'time: {crash}'
          )
        self._seeds[i] = (self._seeds[i] + _RESTART_SEED) % 2**31
        self._workers[i].close()
        self._workers[i] = workers.Worker(self._makes[i])
      made = self._receive(crashes)
      crashes = _crashes(made)
      answers = self._ask(
        'reset', {i: dict(seed=int(self._seeds[i])) for i in made if i not in crashes}
      )
      crashes |= _crashes(answers)
      begun |= {i: answer[0] for i, answer in answers.items() if i not in crashes}
    return begun

  def _stacked(self, observations: Mapping[int, Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {
      name: np.stack([observations[i][name] for i in range(self.num_envs)])
      for name in self.single_observation_space
    }


def _crashes(answers: Mapping[int, Any]) -> dict[int, Exception]:
  return {i: answer for i, answer in answers.items() if isinstance(answer, Exception)}


def _reasons(crashes: Mapping[int, Exception]) -> dict[int, str]:
  return {i: str(crash) for i, crash in crashes.items()}
