"""A vector environment with a child process per environment; one that dies is restarted alone.

For engines that hold Python's lock while they step, and that end their whole process when something
goes wrong.
"""

import functools
import time
from typing import Any, Callable, Collection, Mapping, Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import options as option_sets
from common.environments import suite
from common.machine import shared, workers

_MAX_DEATHS = 5  # Of one environment in a row, without an episode that ended between them.
# Added to the seed of an environment that is restarted: under the same seed it would die again.
_RESTART_SEED = 1_000_003
_SOON = 1.0  # Seconds.


class ParallelVectorEnv(gymnasium.vector.VectorEnv):
  """Environments in child processes, which step at the same time.

  - Autoreset: `SAME_STEP`. Resets are part of the step, which waits for the slowest.
  - Arrays: observations are in shared memory, which the next step overwrites; the caller owns what
    else there is.
  - `info`: `final_obs` and `crashes`, see `suite.StepInfo`; both are always present after a step.
  - Crashes: an environment that dies is restarted within the same call, under another seed. It then
    has the first observation of an episode, reward 0 and no end, and `crashes` has the reason. If
    it dies in the reset after an episode, that episode keeps its reward and its end.
    `EnvironmentCrashed` is never raised; an environment that dies again and again is a `UserError`.
  - Hangs: an environment that does not answer in time is killed, which is a crash like any other.

  Not thread-safe, except for `awaited`.
  """

  def __init__(
    self,
    makes: Sequence[Callable[[], gymnasium.Env]],
    names: Sequence[str],
    observation_space: gymnasium.spaces.Dict,
    action_space: gymnasium.Space,
    timeout_seconds: float,
    patience: float | None = None,
  ):
    """Starts the processes and makes the environments there.

    Args:
      makes: A function for each environment that builds it. They are pickled, as they are called in
        the child processes.
      names: Names of the environments, for messages.
      observation_space: The space of one environment.
      action_space: The space of one environment.
      timeout_seconds: See `options.Options.environment_timeout_seconds`.
      patience: Seconds for all processes to end when this is closed, before they are killed; None
        for `workers.PATIENCE`.

    Raises:
      UserError: If an environment cannot be made.
    """
    self.num_envs = len(makes)
    self.metadata = {'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP}
    self.single_observation_space = observation_space
    self.single_action_space = action_space
    self.observation_space = gymnasium.vector.utils.batch_space(observation_space, self.num_envs)
    self.action_space = gymnasium.vector.utils.batch_space(action_space, self.num_envs)

    self._memory = shared.Memory()
    # Not the space, which has bounds for each number of all environments.
    forms = shared.forms(self.observation_space)
    self._shared = shared.arrays(self._memory.fileno(), forms)
    self._makes = [
      functools.partial(_Hosted, make, self._memory.fileno(), forms, i)
      for i, make in enumerate(makes)
    ]
    self._names = names
    self._timeout = timeout_seconds
    self._patience = patience
    self._seeds = np.arange(self.num_envs)
    self._deaths = np.zeros(self.num_envs, int)  # In a row.
    self._workers: dict[int, workers.Worker] = {}
    self._awaited = ''
    try:
      # All processes start before the first one is waited for.
      for i in range(self.num_envs):
        self._workers[i] = self._start(i)
      self._restart(_crashes(self._receive('make', self._workers)))
    except BaseException:  # Ctrl-C too, or the processes would be left behind.
      self.close()
      raise

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    """Begins an episode in every environment; environment i has the seed `seed + i`.

    Raises:
      UserError: See `step`.
    """
    del options
    if seed is not None:
      self._seeds = seed + np.arange(self.num_envs)
    seeds = {i: None if seed is None else int(self._seeds[i]) for i in self._workers}
    answers = self._call('reset', {i: {'seed': seeds[i]} for i in self._workers})

    crashes = _crashes(answers)
    self._restart(crashes)
    return self._shared, {'crashes': _reasons(crashes)}

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    """Steps all environments at the same time, and resets or restarts those that need it.

    Raises:
      UserError: If one environment dies again and again; with what its engine wrote last.
    """
    answers = self._call('step', {i: {'action': actions[i]} for i in self._workers})
    crashes = _crashes(answers)
    rewards = np.zeros(self.num_envs)
    terminated = np.zeros(self.num_envs, bool)
    truncated = np.zeros(self.num_envs, bool)
    for i in answers.keys() - crashes.keys():
      rewards[i], terminated[i], truncated[i], _ = answers[i]

    ended = np.flatnonzero(terminated | truncated).tolist()
    # An engine that leaks may die every few episodes; only one that finishes none is given up.
    self._deaths[ended] = 0
    final = np.full(self.num_envs, None, object)
    for i in ended:
      final[i] = {name: values[i].copy() for name, values in self._shared.items()}

    # Without a seed: the environment's own generator goes on.
    resets = self._call('reset', {i: {'seed': None} for i in ended})
    crashes |= _crashes(resets)
    self._restart(crashes)
    info = {'final_obs': final, 'crashes': _reasons(crashes)}
    return self._shared, rewards, terminated, truncated, info

  def awaited(self) -> str:
    """Which environments have not answered yet, and to what; may be called by any thread."""
    return self._awaited

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`; None too if environment 0 has died, which the next step finds out."""
    shown = self._call('render', {0: {}})[0]
    return None if isinstance(shown, Exception) else shown

  def close_extras(self, **kwargs: Any) -> None:
    """Ends the processes."""
    del kwargs
    for worker in self._workers.values():
      worker.hang_up()
    # One deadline for all of them: each may be compiling a map, which cannot be interrupted.
    patience = workers.PATIENCE if self._patience is None else self._patience
    deadline = time.monotonic() + patience
    for worker in self._workers.values():
      worker.close(max(0.0, deadline - time.monotonic()))
    self._memory.close()

  def _start(self, i: int) -> workers.Worker:
    return workers.Worker(self._makes[i], descriptors=[self._memory.fileno()])

  def _call(self, method: str, arguments: Mapping[int, Mapping[str, Any]]) -> dict[int, Any]:
    """Calls a method of some environments at the same time.

    Args:
      method: Its name.
      arguments: Named arguments, by index of the environment.

    Returns:
      What the method returns, or the exception of an environment that crashed, by index.
    """
    unsent: dict[int, Any] = {}
    for i, asked in arguments.items():
      try:
        self._workers[i].send(method, **asked)
      except workers.WorkerDied as death:
        unsent[i] = death
    return self._receive(method, [i for i in arguments if i not in unsent]) | unsent

  def _receive(self, method: str, which: Collection[int]) -> dict[int, Any]:
    """Waits for answers to a method; returns them, or the exceptions of crashes, by index.

    An environment that does not answer in time is killed, and has crashed.
    """
    timeout = self._timeout * (1 if method == 'step' else option_sets.RESET_FACTOR)
    left = {self._workers[i]: i for i in which}
    # Mostly all answer soon: to ask each in turn costs less than to wait for all at once.
    ready = [worker for worker in left if workers.answered([worker], _SOON)]
    answers = {left.pop(worker): _answer(worker) for worker in ready}
    while left:
      self._awaited = f'{method} of ' + ', '.join(map(self._title, left.values()))
      ready = workers.answered(left, timeout)
      answers |= {left.pop(worker): _answer(worker) for worker in ready}
      if not ready:
        answers |= {i: worker.give_up(timeout) for worker, i in left.items()}
        break
    self._awaited = ''
    return answers

  def _title(self, i: int) -> str:
    return f'environment {i} ({self._names[i]})'

  def _restart(self, crashes: Mapping[int, Exception]) -> None:
    """Restarts crashed environments until each has begun an episode.

    Args:
      crashes: What they died of, by index.

    Raises:
      UserError: If one has died `_MAX_DEATHS` times in a row.
    """
    while crashes:
      for i, crash in crashes.items():
        self._count_death(i, crash)
        self._seeds[i] = (self._seeds[i] + _RESTART_SEED) % 2**31
        self._workers[i].close()
        self._workers[i] = self._start(i)
      # They may die while they are made, or in the reset: the next round is for those.
      made = self._receive('make', crashes)
      died = _crashes(made)

      seeds = {i: {'seed': int(self._seeds[i])} for i in made if i not in died}
      crashes = died | _crashes(self._call('reset', seeds))

  def _count_death(self, i: int, crash: Exception) -> None:
    self._deaths[i] += 1
    if self._deaths[i] == _MAX_DEATHS:
      raise errors.UserError(
        f'{self._names[i]} died {_MAX_DEATHS} times in a row without finishing an episode. '
        f'The last time: {crash}'
      )


class _Hosted:
  """An environment on the child's side, which answers by all but its observations."""

  def __init__(
    self,
    make: Callable[[], gymnasium.Env],
    memory: int,
    forms: Mapping[str, shared.Form],
    row: int,
  ):
    """Makes the environment.

    Args:
      make: Builds it.
      memory: Where its observations go, see `shared`.
      forms: Those of the observations of all environments.
      row: The place of this one.
    """
    self._environment = make()
    arrays = shared.arrays(memory, forms)
    self._observation = {name: array[row] for name, array in arrays.items()}
    self.render = self._environment.render
    self.close = self._environment.close

  def reset(self, seed: int | None) -> dict[str, Any]:
    observation, info = self._environment.reset(seed=seed)
    shared.put(self._observation, observation)
    return info

  def step(self, action: Any) -> tuple[Any, ...]:
    observation, *answer = self._environment.step(action)
    shared.put(self._observation, observation)
    return tuple(answer)


def _answer(worker: workers.Worker) -> Any:
  """A worker's answer, or the exception of an environment that crashed."""
  try:
    return worker.receive()
  except (workers.WorkerDied, suite.EnvironmentCrashed) as crash:
    return crash


def _crashes(answers: Mapping[int, Any]) -> dict[int, Exception]:
  """Those answers that are exceptions."""
  return {i: answer for i, answer in answers.items() if isinstance(answer, Exception)}


def _reasons(crashes: Mapping[int, Exception]) -> dict[int, str]:
  return {i: str(crash) for i, crash in crashes.items()}
