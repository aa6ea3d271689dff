"""Any gymnasium environment: `gym:ID`, `gym:MODULE:ID`, or `MODULE:FUNCTION`, which makes one.

Observations and actions of almost any kind are converted, see `observations` and `actions`. Time
limits and rewards are the environment's own.
"""

import functools
import logging
import math
from typing import NamedTuple, Sequence, cast

import gymnasium

from common.environments import (
  adapted,
  images,
  inline,
  making,
  observations,
  opengl,
  parallel,
  process,
  stepping,
  suite,
)
from common.environments import options as option_sets


def names() -> list[str]:
  """One value of `--env`: a misspelled id is compared with all ids by `load`."""
  return ['gym:CartPole-v1']


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one environment; see `suite.Family.load`.

  Args:
    name: The value of `--env`.
    member: ID or MODULE:ID for `gym:`, otherwise all of `name`.
    options: `tasks` and those that are for this family.

  Raises:
    UserError: If it does not exist, cannot be made, or has spaces that are refused.
  """
  tasks = suite.select_tasks(name, (member,), options)
  view = observations.View(
    options.grayscale, images.parse_size(options.image_size), options.frame_stack
  )
  recipe = making.Recipe(
    name,
    options.env_kwargs,
    options.wrappers,
    view,
    options.action_repeat,
    options.pictures,
  )
  probe = _probe(recipe, making.source(name))
  make_one = functools.partial(adapted.AdaptedEnv, recipe, probe.has_mask)
  if probe.draws_by_opengl:
    opengl.choose(name)

  def make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    del training  # The environment is the same in evaluation.
    if stepping.in_processes(recipe, options.env_processes, make_one):
      return parallel.ParallelVectorEnv(
        [make_one] * len(tasks),
        tasks,
        probe.observation_space,
        probe.action_space,
        options.environment_timeout_seconds,
      )
    together = functools.partial(process.one_by_one, [make_one] * len(tasks), tasks)
    if probe.draws_by_opengl:
      return process.ProcessVectorEnv(together, options.environment_timeout_seconds)
    return inline.InlineVectorEnv([make_one] * len(tasks))

  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=probe.observation_space,
    action_space=probe.action_space,
    action_repeat=options.action_repeat,
    make=make,
    steps_per_second=probe.steps_per_second,
    max_episode_steps=probe.max_episode_steps,
    frame_stack=options.frame_stack,
    measure_bytes=functools.partial(stepping.memory, recipe, options.env_processes, make_one),
  )


class _Probe(NamedTuple):
  """What a first environment shows.

  Attributes:
    observation_space: As suites promise it.
    action_space: As suites promise it.
    has_mask: Whether its `info` has masks of actions.
    max_episode_steps: The time limit that it is registered with, in agent steps; None for none.
    steps_per_second: Agent steps in a second of its own time.
    draws_by_opengl: Whether it will, for people. Mesa and TensorFlow in one process crash, as each
      brings an LLVM: such an environment needs a process of its own.
  """

  observation_space: gymnasium.spaces.Dict
  action_space: suite.ActionSpace
  has_mask: bool
  max_episode_steps: int | None
  steps_per_second: float
  draws_by_opengl: bool


@functools.lru_cache(maxsize=64)
def _probe(recipe: making.Recipe, source: object) -> _Probe:
  """Makes an environment and begins an episode; once in this process.

  Args:
    recipe: The environment.
    source: What makes it: another under the same name is another environment.
  """
  del source
  env = adapted.AdaptedEnv(recipe)
  try:
    for note in env.notes:
      logging.info('%s %s.', recipe.name, note)
    env.reset(seed=0)
    is_discrete = not isinstance(env.action_space, gymnasium.spaces.Box)
    has_mask = is_discrete and observations.MASK in env.first_info
    if has_mask:
      env.close()
      env = adapted.AdaptedEnv(recipe, has_mask)
    return _Probe(
      cast(gymnasium.spaces.Dict, env.observation_space),
      cast(suite.ActionSpace, env.action_space),
      has_mask,
      _time_limit(env, recipe.action_repeat),
      _speed(env) / recipe.action_repeat,
      recipe.pictures and opengl.is_needed(env),
    )
  finally:
    env.close()


def _speed(env: gymnasium.Env) -> float:
  """Steps of an environment in a second of its own time, as it says; 15 if it does not."""
  speed = env.metadata.get('render_fps')
  if isinstance(speed, (int, float)) and 0 < speed < math.inf:
    return float(speed)
  return suite.Suite.steps_per_second


def _time_limit(env: gymnasium.Env, action_repeat: int) -> int | None:
  """The time limit that an environment is registered with, in agent steps; None for none."""
  spec = env.spec
  if spec is None or spec.max_episode_steps is None:
    return None
  return math.ceil(spec.max_episode_steps / action_repeat)
