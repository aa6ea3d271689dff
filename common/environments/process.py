"""A vector environment in a child process.

Two kinds of engine need one. Engines that hold Python's lock while they step (MuJoCo does, as
dm_control calls it) would have actor threads wait for each other, and the learner for all of them:
two threads of humanoids step only 1.06 times as fast as one. And engines that are processes
themselves (VizDoom's games) must not be forked from a process with TensorFlow's threads, which
hangs now and then.
"""

import functools
from typing import Any, Callable, NamedTuple

import gymnasium
import numpy as np

from common.environments import suite
from common.machine import workers


class ProcessVectorEnv(gymnasium.vector.VectorEnv):
  """Steps a vector environment that lives in a child process.

  - Autoreset: that of the environment, `SAME_STEP` in this code base.
  - Arrays: unpickled copies, which the caller owns.
  - `info`: the environment's.
  - Crashes: if the child process dies, or the environment raises `EnvironmentCrashed`, so does the
    call that notices. The next `reset` starts another process, if the first one is dead.

  Not thread-safe.
  """

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv]):
    """Starts the process and makes the environment there.

    Args:
      make: Builds the environment. It is pickled, as it is called in the child process.

    Raises:
      EnvironmentCrashed: If the process dies meanwhile.
      UserError: If `make` raises it.
      RuntimeError: If `make` raises anything else; with its stack trace.
    """
    self._make = functools.partial(_Hosted, make)
    self._worker = self._start()
    # The spaces come from there, as making an environment here is what this class avoids.
    form: _Form = self._worker.call('form')
    self.num_envs = form.num_envs
    self.metadata = form.metadata
    self.single_observation_space = form.observation_space
    self.single_action_space = form.action_space
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, self.num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    # A process that raised `EnvironmentCrashed` still lives: its environment restarts the engine.
    if not self._worker.is_alive():
      self._worker.close()
      self._worker = self._start()
    return self._call('reset', seed=seed, options=options)

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    return self._call('step', actions=actions)

  def close_extras(self, **kwargs: Any) -> None:
    """Ends the process."""
    del kwargs
    self._worker.close()

  def _start(self) -> workers.Worker:
    worker = workers.Worker(self._make)
    try:
      worker.receive()
    except BaseException as error:  # Ctrl-C too, or the process would be left behind.
      worker.close()
      if isinstance(error, workers.WorkerDied):
        raise suite.EnvironmentCrashed(f'environments: {error}') from error
      raise
    return worker

  def _call(self, method: str, **arguments: Any) -> Any:
    try:
      return self._worker.call(method, **arguments)
    except workers.WorkerDied as death:
      raise suite.EnvironmentCrashed(f'environments: {death}') from death


class _Form(NamedTuple):
  """The attributes of a vector environment that its other side needs."""

  num_envs: int
  metadata: dict[str, Any]
  observation_space: gymnasium.Space
  action_space: gymnasium.Space


class _Hosted:
  """The vector environment on the child's side, with the methods that are called from here."""

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv]):
    self._environment = make()
    self.reset = self._environment.reset
    self.step = self._environment.step
    self.close = self._environment.close

  def form(self) -> _Form:
    environment = self._environment
    return _Form(
      num_envs=environment.num_envs,
      metadata=environment.metadata,
      observation_space=environment.single_observation_space,
      action_space=environment.single_action_space,
    )
