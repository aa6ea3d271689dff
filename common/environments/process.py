"""A vector environment in a process of its own.

Engines that hold Python's lock while they step (MuJoCo does, as dm_control calls it) would have actors in threads wait
for each other, and the learner for all of them: two threads of humanoids step 1.06 times as fast as one. And engines
that are processes themselves (VizDoom's games) are not to be forked from a process with TensorFlow's threads: now and
then, that hangs.
"""

import functools
from typing import Any, Callable

import gymnasium
import numpy as np

from common.environments import suite
from common.machine import workers


class ProcessVectorEnv(gymnasium.vector.VectorEnv):
  """Steps what `make` makes there. If the process ends, that is an `EnvironmentCrashed`; the next reset starts another."""

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv]):
    """`make`: is pickled, as it is called in the other process."""
    self._make = functools.partial(_Described, make)
    self._worker = self._start()
    described = self._worker.call('describe')
    self.num_envs, self.metadata = described['num_envs'], described['metadata']
    self.single_observation_space, self.single_action_space = described['spaces']
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, self.num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    if not self._worker.is_alive():
      self._worker.close()
      self._worker = self._start()
    return self._ask('reset', seed=seed, options=options)

  def step(self, actions: np.ndarray):
    return self._ask('step', actions=actions)

  def close_extras(self, **kwargs) -> None:
    """Ends the process."""
    del kwargs
    self._worker.close()

  def _start(self) -> workers.Worker:
    worker = workers.Worker(self._make)
    try:
      worker.receive()
    except BaseException as error:
      worker.close()
      if isinstance(error, workers.WorkerDied):
        raise suite.EnvironmentCrashed(f'environments: {error}') from error
      raise
    return worker

  def _ask(self, method: str, **arguments: Any) -> Any:
    try:
      return self._worker.call(method, **arguments)
    except workers.WorkerDied as death:
      raise suite.EnvironmentCrashed(f'environments: {death}') from death


class _Described:
  """A vector environment, as a worker has it."""

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv]):
    self._environment = make()
    self.reset, self.step, self.close = (
      self._environment.reset,
      self._environment.step,
      self._environment.close,
    )

  def describe(self) -> dict[str, Any]:
    environment = self._environment
    return dict(
      num_envs=environment.num_envs,
      metadata=environment.metadata,
      spaces=(environment.single_observation_space, environment.single_action_space),
    )
