"""A vector environment in a child process.

Two kinds of engine need one. Engines that hold Python's lock while they step (MuJoCo does, as
dm_control calls it) would have actor threads wait for each other, and the learner for all of them:
two threads of humanoids step only 1.06 times as fast as one. And engines that are processes
themselves (VizDoom's games) must not be forked from a process with TensorFlow's threads, which
hangs now and then.
"""

import functools
from typing import Any, Callable, NamedTuple, Sequence

import gymnasium
import numpy as np

from common.environments import options as option_sets
from common.environments import suite
from common.machine import shared, workers


class ProcessVectorEnv(gymnasium.vector.VectorEnv):
  """Steps a vector environment that lives in a child process.

  - Autoreset: that of the environment, `SAME_STEP` in this code base.
  - Arrays: observations are in shared memory, which the next step overwrites; the caller owns what
    else there is.
  - `info`: the environment's.
  - Crashes: if the child process dies, or the environment raises `EnvironmentCrashed`, so does the
    call that notices. The next `reset` starts another process, if the first one is dead.
  - Hangs: a process that does not answer in time is killed, which is a crash like any other.

  Not thread-safe, except for `awaited`.
  """

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv], timeout_seconds: float):
    """Starts the process and makes the environment there.

    Args:
      make: Builds the environment. It is pickled, as it is called in the child process.
      timeout_seconds: See `options.Options.environment_timeout_seconds`.

    Raises:
      EnvironmentCrashed: If the process dies meanwhile.
      UserError: If `make` raises it.
      RuntimeError: If `make` raises anything else; with its stack trace.
    """
    self._memory = shared.Memory()
    self._make = functools.partial(_Hosted, make, self._memory.fileno())
    self._timeout = timeout_seconds
    try:
      self._worker = self._start()
    except BaseException:
      self._memory.close()
      raise
    try:
      # The spaces come from there, as making an environment here is what this class avoids.
      form: _Form = self._call('form', self._timeout)
    except BaseException:
      self.close_extras()
      raise
    self.num_envs = form.num_envs
    self.metadata = form.metadata
    self.single_observation_space = form.observation_space
    self.single_action_space = form.action_space
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, self.num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)
    forms = shared.forms(self.observation_space)
    self._observations = shared.arrays(self._memory.fileno(), forms)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    # A process that raised `EnvironmentCrashed` still lives: its environment restarts the engine.
    if not self._worker.is_alive():
      self._worker.close()
      self._worker = self._start()
    patience = option_sets.RESET_FACTOR * self._timeout
    return self._observations, self._call('reset', patience, seed=seed, options=options)

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    answer = self._call('step', self._timeout, actions=actions)
    return self._observations, *answer

  def awaited(self) -> str:
    """What the environment is doing, if it says so; may be called by any thread."""
    return self._worker.note()

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    return self._call('picture', self._timeout)

  def close_extras(self, **kwargs: Any) -> None:
    """Ends the process."""
    del kwargs
    self._worker.close()
    self._memory.close()

  def _start(self) -> workers.Worker:
    worker = workers.Worker(self._make, descriptors=[self._memory.fileno()])
    try:
      worker.receive(option_sets.RESET_FACTOR * self._timeout)
    except BaseException as error:  # Ctrl-C too, or the process would be left behind.
      worker.close()
      if isinstance(error, workers.WorkerDied):
        raise suite.EnvironmentCrashed(f'environments: {error}') from error
      raise
    return worker

  def _call(self, method: str, patience: float, **arguments: Any) -> Any:
    try:
      return self._worker.call(method, patience, **arguments)
    except workers.WorkerDied as death:
      raise suite.EnvironmentCrashed(f'environments: {death}') from death


def one_by_one(
  makes: Sequence[Callable[[], gymnasium.Env]], names: Sequence[str]
) -> gymnasium.vector.VectorEnv:
  """Environments that are stepped one after the other by this process.

  Args:
    makes: A function for each environment that builds it.
    names: Their names, for messages about those that hang.
  """
  return gymnasium.vector.SyncVectorEnv(
    [
      functools.partial(_Noted, make, f'environment {i} ({name})')
      for i, (make, name) in enumerate(zip(makes, names, strict=True))
    ],
    copy=False,
    autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
  )


class _Noted(gymnasium.Wrapper):
  """Says what it is doing while it does it."""

  def __init__(self, make: Callable[[], gymnasium.Env], name: str):
    super().__init__(make())
    self._name = name

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    workers.note(f'resetting {self._name}')
    return self.env.reset(seed=seed, options=options)

  def step(self, action: Any) -> Any:
    workers.note(f'stepping {self._name}')
    return self.env.step(action)


class _Form(NamedTuple):
  """The attributes of a vector environment that its other side needs."""

  num_envs: int
  metadata: dict[str, Any]
  observation_space: gymnasium.Space
  action_space: gymnasium.Space


class _Hosted:
  """The vector environment on the child's side, with the methods that are called from here."""

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv], memory: int):
    """Makes the environment, whose observations go into `memory`, see `shared`."""
    self._environment = make()
    forms = shared.forms(self._environment.observation_space)
    self._observations = shared.arrays(memory, forms)
    self.close = self._environment.close
    self.picture = functools.partial(suite.picture, self._environment)

  def reset(self, seed: int | None, options: dict[str, Any] | None) -> dict[str, Any]:
    observations, info = self._environment.reset(seed=seed, options=options)
    shared.put(self._observations, observations)
    return info

  def step(self, actions: np.ndarray) -> tuple[Any, ...]:
    observations, *answer = self._environment.step(actions)
    shared.put(self._observations, observations)
    return tuple(answer)

  def form(self) -> _Form:
    environment = self._environment
    return _Form(
      num_envs=environment.num_envs,
      metadata=environment.metadata,
      observation_space=environment.single_observation_space,
      action_space=environment.single_action_space,
    )
