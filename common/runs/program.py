"""The training program: one process of a run, from its command line to its exit status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from common import environments, errors
from common.config import command_line, settings
from common.distributed import cluster
from common.evaluation import command as evaluation
from common.machine import janitor

if TYPE_CHECKING:
  from common.runs import system as systems

_ENVIRONMENTS = '\nEnvironments (--env):\n'


def main(argv: Sequence[str], description: str, system: systems.System) -> int:
  """Does what this process is asked to do for a run: train, act, evaluate, or look after actors.

  Args:
    argv: `sys.argv`.
    description: Shown by --help, before the environments and the flags.
    system: What is trained.

  Returns:
    The exit status: 0 when training is finished, 130 when it was stopped before.

  Raises:
    UserError: For mistakes of the user, and for what failed that the user can mend.
  """
  config, options = command_line.parse(
    argv,
    description + _ENVIRONMENTS + environments.describe() + '\n',
    system.presets,
    system.switches,
    define_flags=cluster.define_flags,
  )
  with janitor.attend():
    # Only now: --help and mistaken flags need not wait for it.
    command_line.import_tensorflow(config.intra_op_threads)
    assert options.values is not None
    who = cluster.resolve(options.values)
    if who.role in ('actor', 'evaluator'):
      from common.runs import roles

      return roles.work(system, config, options, who)
    return _train(system, config, options, who)


def _train(
  system: systems.System,
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
) -> int:
  """A learner's part: trains, then evaluates if training is finished."""
  if who.learners and not system.has_several_learners:
    raise errors.UserError(
      f'{system.title} has one learner, and the cluster names {len(who.learners)}'
    )
  config.num_actors = cluster.places(who, config.num_actors)
  finished = system.make_run(config, options, who).train()
  if finished and config.evaluation_episodes and who.index == 0:
    evaluation.evaluate(options.run_dir, system, config.evaluation_episodes)
  return 0 if finished else 130
