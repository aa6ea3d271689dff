"""Several vector environments that step at the same time, and wait for the slowest at every step.

An actor whose environments step one after the other would use one core for all of them.
"""

import contextlib
import queue
import threading
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from common.environments import concatenated, suite
from common.machine import exits


def making(make: suite.MakeVectorEnv, count: int) -> suite.MakeVectorEnv:
  """A function that makes `count` vector environments, each of as many tasks, as one.

  Args:
    make: Makes one of them.
    count: A divisor of the number of tasks.
  """

  def make_all(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    size = len(tasks) // count
    with contextlib.ExitStack() as made:
      parts = []
      for i in range(count):
        parts.append(ThreadedPart(make(tasks[i * size : (i + 1) * size], training), i))
        made.callback(parts[-1].close)
      made.pop_all()  # Only if one cannot be made, the others are closed.
    return concatenated.ConcatenatedVectorEnv(parts)

  return make_all


class ThreadedPart:
  """A vector environment that steps in a thread of its own; a `concatenated.Part`."""

  def __init__(self, environment: gymnasium.vector.VectorEnv, number: int):
    """Starts the thread; `number` is for its name."""
    self._environment = environment
    self.num_envs = environment.num_envs
    self.metadata = environment.metadata
    self.single_observation_space = environment.single_observation_space
    self.single_action_space = environment.single_action_space
    self._actions: queue.SimpleQueue[np.ndarray | None] = queue.SimpleQueue()
    self._answers: queue.SimpleQueue[suite.VectorStep | BaseException] = queue.SimpleQueue()
    self._is_stepping = False
    name = f'{threading.current_thread().name}-part-{number}'
    self._thread = threading.Thread(target=self._work, name=name, daemon=True)
    exits.may_hang(self._thread)
    self._thread.start()

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    if self._is_stepping:
      # Another part has crashed meanwhile, so that nobody has asked for this one's step.
      with contextlib.suppress(suite.EnvironmentCrashed):
        self.receive()
    return self._environment.reset(seed=seed, options=options)

  def send(self, actions: np.ndarray) -> None:
    """Begins a step in the thread."""
    self._is_stepping = True
    self._actions.put(actions)

  def receive(self) -> suite.VectorStep:
    """Waits for the step; returns its result or raises its error."""
    answer = self._answers.get()
    self._is_stepping = False
    if isinstance(answer, BaseException):
      raise answer
    return answer

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    return suite.picture(self._environment)

  def awaited(self) -> str:
    """What the environment is waiting for, if it can say so."""
    return suite.awaited(self._environment)

  def close(self, **kwargs: Any) -> None:
    """Ends the thread, after its last step, and the environment."""
    self._actions.put(None)
    self._thread.join()
    self._environment.close(**kwargs)

  def _work(self) -> None:
    while (actions := self._actions.get()) is not None:
      try:
        self._answers.put(self._environment.step(actions))
      except BaseException as error:  # Of any kind: `receive` raises it.
        self._answers.put(error)
