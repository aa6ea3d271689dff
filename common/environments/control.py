"""The DeepMind Control Suite: tasks as `DOMAIN-TASK`, e.g. `humanoid-walk`, seen as features (Ape-X, section 4.2).

Actions are rescaled to [-1, 1] from each actuator's bounds. Episodes end by the clock, after 1,000 steps: they are
truncated, not terminated, but for the few tasks whose episodes do end.
"""

import functools
import os
from typing import Any, Sequence

os.environ.setdefault(
  'MUJOCO_GL', 'disable'
)  # Nothing is rendered: no display is needed, nor its libraries.

import gymnasium
import numpy as np
from dm_control import suite as control_suite
from dm_control.rl import control

from common import errors
from common.environments import process, suite

_MAX_BOUND = 1e6  # Of actions; those of lqr have 1e10.


def tasks() -> list[str]:
  """All tasks of the suite."""
  return sorted(f'{domain}-{task}' for domain, task in control_suite.ALL_TASKS)


@functools.cache
def _form(domain: str, task: str) -> tuple[np.ndarray, np.ndarray, int]:
  """Bounds of a task's actions, and how many numbers an observation has."""
  env = control_suite.load(domain, task)
  actions, observation = env.action_spec(), env.observation_spec()
  env.close()
  return (
    actions.minimum,
    actions.maximum,
    sum(int(np.prod(spec.shape)) for spec in observation.values()),
  )


class ControlEnv(gymnasium.Env):
  """One task. Observations: `observation`, float32 `[D]`, all of the task's features one after the other."""

  metadata = {'render_modes': []}

  def __init__(self, task: str):
    self._domain, _, self._task = task.partition('-')
    self._env, (self._low, self._high, size) = None, _form(self._domain, self._task)
    self.action_space = suite.continuous_actions(len(self._low))
    self.observation_space = gymnasium.spaces.Dict(
      {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)}
    )

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    if seed is not None or self._env is None:
      self._env = control_suite.load(self._domain, self._task, task_kwargs={'random': seed})
    return self._flat(self._env.reset().observation), {}

  def step(self, action: np.ndarray):
    action = np.clip(np.asarray(action, np.float64), -1.0, 1.0)
    try:
      step = self._env.step(self._low + 0.5 * (action + 1.0) * (self._high - self._low))
    except control.PhysicsError as error:
      raise suite.EnvironmentCrashed(f'{self._domain}-{self._task}: {error}') from error
    # At the clock's end the discount still is 1; it is 0 where the task itself says that nothing comes after.
    terminated = step.last() and step.discount == 0.0
    return (
      self._flat(step.observation),
      float(step.reward),
      terminated,
      step.last() and not terminated,
      {},
    )

  def close(self):
    if self._env is not None:
      self._env.close()

  def _flat(self, observation) -> dict[str, np.ndarray]:
    return {
      'observation': np.concatenate([np.ravel(part) for part in observation.values()]).astype(
        np.float32
      )
    }


def load(name: str, task: str) -> suite.Suite:
  """The suite of one task; no action repeat. Its environments are stepped in processes of their own.

  Raises:
    UserError: if the actions have no bounds to speak of.
  """
  _, high, _ = _form(*task.split('-'))
  if np.max(high) > _MAX_BOUND:
    raise errors.UserError(
      f'{name} has actions up to {np.max(high):g}: there is nothing to rescale them by. Other '
      'tasks have bounds around 1.'
    )
  probe = ControlEnv(task)
  return suite.Suite(
    name, (task,), probe.observation_space, probe.action_space, action_repeat=1, make=_make
  )


def together(names: Sequence[str]) -> gymnasium.vector.VectorEnv:
  """Environments of tasks, stepped one after the other in this process."""
  return gymnasium.vector.SyncVectorEnv(
    [lambda name=name: ControlEnv(name) for name in names],
    copy=False,
    autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
  )


def _make(names: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
  del training  # The tasks are the same in evaluation.
  return process.ProcessVectorEnv(functools.partial(together, tuple(names)))
