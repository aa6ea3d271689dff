"""EnvPool, environments in C++: `envpool:ID`, and the suites `babyai` and `minigrid`.

The engine steps many environments in threads of its own, without Python's lock. The package is not
among the requirements: with its assets it takes 740 MB.
"""

import itertools
from typing import Sequence

import envpool
import gymnasium

from common import errors
from common.environments import concatenated, grids, pool, suite
from common.environments import options as option_sets
from common.machine import cores


def names() -> list[str]:
  """Some values of `--env`: a misspelled id is compared with all ids by `load`."""
  return [*grids.SUITES, 'envpool:CartPole-v1']


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one id, or `babyai` or `minigrid`; see `suite.Family.load`.

  Raises:
    UserError: If there is no such id, or it has spaces that are refused.
  """
  family = name.partition(':')[0]
  if family in grids.SUITES:
    suite.refuse_member(name, member, 'envpool:ID')
    tasks = grids.SUITES[family]
  else:
    known = envpool.list_all_envs()
    if member not in known:
      hint = 'Write it as in envpool:CartPole-v1.'
      raise errors.unknown('EnvPool environment', member, known, hint)
    tasks = (member,)

  tasks = suite.select_tasks(name, tasks, options)
  form = pool.form(tasks[0])
  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=form.observation_space,
    action_space=form.action_space,
    action_repeat=1,
    make=_make,
    max_episode_steps=form.max_episode_steps if len(tasks) == 1 else None,
  )


def _make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
  """See `suite.MakeVectorEnv`."""
  del training  # Every episode is another room and another mission, in evaluation too.
  groups = [(task, len(list(same))) for task, same in itertools.groupby(tasks)]
  if len(groups) == 1:
    return pool.PoolVectorEnv(tasks[0], len(tasks), min(len(tasks), cores.count()))
  # One engine for each task. They work at the same time: one thread each.
  return concatenated.ConcatenatedVectorEnv(
    [pool.PoolVectorEnv(task, count, num_threads=1) for task, count in groups]
  )
