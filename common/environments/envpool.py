"""EnvPool, environments in C++: `envpool:ID`, and the suites `babyai` and `minigrid`.

The engine steps many environments in threads of its own, without Python's lock.
"""

import functools
import itertools
from typing import Sequence

import gymnasium

from common import errors
from common.environments import concatenated, engines, grids, pool, suite
from common.environments import options as option_sets
from common.machine import cores


def names() -> list[str]:
  """Some values of `--env`: a misspelled id is compared with all ids by `load`."""
  return [*grids.SUITES, 'envpool:CartPole-v1']


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one id, or `babyai` or `minigrid`; see `suite.Family.load`.

  Raises:
    UserError: If there is no such id, its spaces are refused, or a package that it needs is
      missing.
  """
  family = name.partition(':')[0]
  if family in grids.SUITES:
    suite.refuse_member(name, member, 'envpool:ID')
    return _grids(family, options)

  if not engines.is_known(member):
    hint = f'Write it as in envpool:CartPole-v1. {engines.left_out()}'
    raise errors.unknown('EnvPool environment', member, engines.ids(), hint)
  form = pool.form(member)
  return suite.Suite(
    name=name,
    tasks=suite.select_tasks(name, (member,), options),
    observation_space=form.observation_space,
    action_space=form.action_space,
    action_repeat=form.action_repeat,
    make=functools.partial(_make_one, options.pictures),
    max_episode_steps=form.max_episode_steps,
  )


def _grids(name: str, options: option_sets.Options) -> suite.Suite:
  """The suite `babyai` or `minigrid`."""
  tasks = suite.select_tasks(name, grids.SUITES[name], options)
  form = pool.form(grids.engine_id(name, tasks[0]))
  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=form.observation_space,
    action_space=form.action_space,
    action_repeat=1,
    make=functools.partial(_make_grids, name, options.pictures),
    max_episode_steps=form.max_episode_steps if len(tasks) == 1 else None,
  )


def _make_one(pictures: bool, tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
  """See `suite.MakeVectorEnv`."""
  del training  # Episodes are drawn alike in evaluation.
  threads = min(len(tasks), cores.count())
  return pool.PoolVectorEnv(tasks[0], len(tasks), threads, pictures=pictures)


def _make_grids(
  name: str, pictures: bool, tasks: Sequence[str], training: bool
) -> gymnasium.vector.VectorEnv:
  """The same for a suite: an engine for each run of equal tasks."""
  counts = [(task, len(list(same))) for task, same in itertools.groupby(tasks)]
  # Engines work at the same time: one thread each, if there are several.
  threads = 1 if len(counts) > 1 else min(len(tasks), cores.count())
  parts = [
    pool.PoolVectorEnv(
      grids.engine_id(name, task),
      count,
      threads,
      functools.partial(_is_played, training) if grids.has_held_out(name, task) else None,
      pictures,
    )
    for task, count in counts
  ]
  return parts[0] if len(parts) == 1 else concatenated.ConcatenatedVectorEnv(parts)


def _is_played(training: bool, mission: str) -> bool:
  """Whether a mission is one of training, or of evaluation."""
  return grids.is_held_out(mission) != training
