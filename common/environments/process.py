"""A vector environment in a process of its own.

Engines that hold Python's lock while they step (MuJoCo does, as dm_control calls it) would have actors in threads wait for
each other, and the learner for all of them: two threads of humanoids step 1.06 times as fast as one.
"""

import multiprocessing
from multiprocessing import connection as connections
import subprocess
import sys
import traceback
from typing import Any, Callable

import gymnasium
import numpy as np

from common.environments import suite

_PATIENCE = 5.0  # Seconds, for the process to end by itself.


class ProcessVectorEnv(gymnasium.vector.VectorEnv):
  """Steps what `make` makes there. The process ends with this, and with the process that this is in, however that ends.

  A process that ends before is an `EnvironmentCrashed`, and the next reset starts another.
  """

  def __init__(self, make: Callable[[], gymnasium.vector.VectorEnv]):
    """`make`: is pickled, as it is called in the other process."""
    self._make, self._process, self._connection = make, None, None
    described = self._start()
    self.num_envs, self.metadata = described['num_envs'], described['metadata']
    self.single_observation_space, self.single_action_space = described['spaces']
    self.observation_space = gymnasium.vector.utils.batch_space(self.single_observation_space, self.num_envs)
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, self.num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    if self._process.poll() is not None:
      self.close()
      self._start()
    return self._ask('reset', seed=seed, options=options)

  def step(self, actions: np.ndarray):
    return self._ask('step', actions=actions)

  def close_extras(self, **kwargs) -> None:
    """Ends the process."""
    del kwargs
    self._connection.close()  # Which it takes as its end.
    try:
      self._process.wait(_PATIENCE)
    except subprocess.TimeoutExpired:
      self._process.kill()
      self._process.wait()

  def _start(self) -> dict[str, Any]:
    self._connection, theirs = multiprocessing.Pipe()
    program = (f'import sys; sys.path[:] = {sys.path!r}; from common.environments import process; '
               f'process.serve({theirs.fileno()})')
    # A session of its own: Ctrl-C is for the run, which ends this once it has saved.
    self._process = subprocess.Popen(
        [sys.executable, '-c', program], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True)
    theirs.close()
    self.closed = False
    try:
      self._connection.send(self._make)
      return self._receive()
    except BaseException:
      self.close()
      raise

  def _ask(self, method: str, **arguments: Any) -> Any:
    try:
      self._connection.send((method, arguments))
    except OSError as error:
      raise self._crash() from error
    return self._receive()

  def _receive(self) -> Any:
    try:
      kind, answer = self._connection.recv()
    except (EOFError, OSError) as error:
      raise self._crash() from error
    if kind == 'crash':
      raise suite.EnvironmentCrashed(answer)
    if kind == 'error':
      raise RuntimeError(f'in the process of the environments:\n{answer}')
    return answer

  def _crash(self) -> suite.EnvironmentCrashed:
    self.close()
    return suite.EnvironmentCrashed(
        f'the process of the environments has ended, with status {self._process.returncode}')


def serve(file_descriptor: int) -> None:
  """What the other process does: answers questions until this side closes the connection, or dies."""
  connection, environment = connections.Connection(file_descriptor), None
  make = connection.recv()

  def begin() -> dict[str, Any]:
    nonlocal environment
    environment = make()
    return dict(num_envs=environment.num_envs, metadata=environment.metadata,
                spaces=(environment.single_observation_space, environment.single_action_space))

  answer = _answer(begin)
  while True:
    try:
      connection.send(answer)
      method, arguments = connection.recv()
    except (EOFError, OSError):
      return
    answer = _answer(lambda: getattr(environment, method)(**arguments))


def _answer(function: Callable[[], Any]) -> tuple[str, Any]:
  """What a function returns, or what it raises, in words."""
  try:
    return 'answer', function()
  except suite.EnvironmentCrashed as crash:
    return 'crash', str(crash)
  except Exception:
    return 'error', traceback.format_exc()
