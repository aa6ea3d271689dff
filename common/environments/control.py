"""The DeepMind Control Suite: `control:DOMAIN-TASK`, e.g. `control:humanoid-walk`.

Observations are features (Ape-X, section 4.2). Actions are rescaled to [-1, 1] from each actuator's
bounds. Episodes end by the clock, after 1,000 steps: they are truncated. In the few tasks whose
episodes do end, they are terminated.
"""

import functools
import os
from typing import Any, Mapping, NamedTuple, Sequence

# Without films, nothing is rendered: OpenGL is not needed. Must precede the import.
os.environ.setdefault('MUJOCO_GL', 'disable')

import gymnasium
import numpy as np
from dm_control import suite as control_suite
from dm_control.rl import control

from common import errors
from common.environments import actions, opengl, process, suite
from common.environments import options as option_sets

_MAX_BOUND = 1e6  # Of actions; those of lqr have 1e10.


def names() -> list[str]:
  """One value of `--env`: a misspelled task is compared with all tasks by `load`."""
  return ['control:cartpole-swingup']


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one task, without action repeat, stepped in a child process.

  See `suite.Family.load`.

  Raises:
    UserError: If there is no such task, or its actions have no usable bounds.
  """
  if member not in tasks():
    hint = 'Write it as in control:humanoid-walk.'
    raise errors.unknown('Control Suite task', member, tasks(), hint)
  selected = suite.select_tasks(name, (member,), options)

  highest = np.max(_form(member).high)
  if highest > _MAX_BOUND:
    raise errors.UserError(
      f'{name} has actions up to {highest:g}, which cannot be rescaled to [-1, 1]. Other tasks '
      'have bounds around 1.'
    )
  probe = ControlEnv(member)
  if options.pictures:
    opengl.choose(name)  # For the child process, which imports this module anew.

  def make(names: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    del training  # The tasks are the same in evaluation.
    return process.ProcessVectorEnv(
      functools.partial(together, tuple(names)), options.environment_timeout_seconds
    )

  return suite.Suite(
    name=name,
    tasks=selected,
    observation_space=probe.observation_space,
    action_space=probe.action_space,
    action_repeat=1,
    make=make,
    steps_per_second=1.0 / _form(member).seconds,
  )


def tasks() -> list[str]:
  """All tasks of the suite."""
  return sorted(f'{domain}-{task}' for domain, task in control_suite.ALL_TASKS)


class _Form(NamedTuple):
  """The sizes and bounds of a task."""

  low: np.ndarray  # Of the actions, [A].
  high: np.ndarray
  num_features: int
  seconds: float  # Of the task's time in one step.


@functools.cache
def _form(name: str) -> _Form:
  # Cached, as it makes an environment: a second or two for humanoids.
  domain, _, task = name.partition('-')
  env = control_suite.load(domain, task)
  actions = env.action_spec()
  features = env.observation_spec().values()
  seconds = env.control_timestep()
  env.close()
  num_features = sum(int(np.prod(spec.shape)) for spec in features)
  return _Form(actions.minimum, actions.maximum, num_features, seconds)


class ControlEnv(gymnasium.Env):
  """One task.

  Observations: `observation`, float32 `[D]`, all of the task's features one after the other.
  """

  metadata = {'render_modes': []}
  observation_space: gymnasium.spaces.Dict
  action_space: gymnasium.spaces.Box

  def __init__(self, name: str):
    """Only notes the task, DOMAIN-TASK: the engine starts in `reset`, which knows the seed."""
    self._name = name
    self._domain, _, self._task = name.partition('-')
    self._env: Any = None  # A `dm_control.rl.control.Environment`.
    self._low, self._high, num_features, _ = _form(name)
    features = gymnasium.spaces.Box(-np.inf, np.inf, (num_features,), np.float32)
    self.observation_space = gymnasium.spaces.Dict({'observation': features})
    self.action_space = suite.continuous_actions(len(self._low))

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    super().reset(seed=seed)
    if seed is not None or self._env is None:
      # dm_control takes a seed only when it makes a task.
      self._env = control_suite.load(self._domain, self._task, task_kwargs={'random': seed})
    return self._flat(self._env.reset().observation), {}

  def step(self, action: np.ndarray) -> suite.Step:
    if not np.isfinite(action).all():
      raise errors.UserError(f'control:{self._name}: the agent chose the action {action}')
    try:
      step = self._env.step(actions.rescaled(action, self._low, self._high))
    except control.PhysicsError as error:
      raise suite.EnvironmentCrashed(f'{self._name}: {error}') from error

    # At the clock's end the discount is still 1; it is 0 where the task itself has ended.
    terminated = step.last() and step.discount == 0.0
    truncated = step.last() and not terminated
    reward = float(step.reward)
    if not np.isfinite(reward):
      raise errors.UserError(f'control:{self._name}: the reward is {reward}')
    return self._flat(step.observation), reward, terminated, truncated, {}

  def render(self) -> Any:
    """The task's own view, uint8 `[240, 320, 3]`."""
    return self._env.physics.render(camera_id=0)

  def close(self) -> None:
    if self._env is not None:
      self._env.close()

  def _flat(self, features: Mapping[str, Any]) -> suite.Observation:
    flat = np.concatenate([np.ravel(feature) for feature in features.values()])
    flat = flat.astype(np.float32)
    if not np.isfinite(flat).all():
      wrong = [name for name, feature in features.items() if not np.isfinite(feature).all()]
      raise errors.UserError(
        f'control:{self._name} observes {" and ".join(wrong)} that are not finite'
      )
    return {'observation': flat}


def together(names: Sequence[str]) -> gymnasium.vector.VectorEnv:
  """Environments of tasks, stepped one after the other in this process."""
  return process.one_by_one([functools.partial(ControlEnv, name) for name in names], names)
