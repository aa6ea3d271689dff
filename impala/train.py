"""Trains IMPALA: `python -m impala.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]`.

Actors step batches of environments and send trajectories through a bounded queue; a learner turns batches of them into
parameters, which it publishes after each update. Actors are threads of the learner; with --actor_processes=N processes
beside it; with --role=learner and --role=actor wherever they are started. Ctrl-C saves a checkpoint and ends; --resume
goes on.
"""

from typing import Sequence

from common import environments
from common.config import command_line
from common.distributed import cluster
from common.evaluation import command as evaluation_command
from common.machine import janitor
from impala import config as configs
from impala import evaluate

_DESCRIPTION = __doc__ + '\nEnvironments (--env):\n{environments}\n'


def main(argv: Sequence[str]) -> int:
  """Runs one training from its command line; returns the exit status."""
  config, options = command_line.parse(
    argv,
    _DESCRIPTION.format(environments=environments.describe()),
    configs.PRESETS,
    define_flags=cluster.define_flags,
  )
  with janitor.attend():
    command_line.import_tensorflow()  # Only now: --help and mistaken flags need not wait for it.
    who = cluster.resolve(options.values)
    if who.role in ('actor', 'evaluator'):
      from common.runs import roles
      from impala import remote

      return roles.work(config, options, who, configs.PRESETS, 'impala.train', remote)
    from impala import run

    config.num_actors = cluster.places(who, config.num_actors)
    finished = run.Run(config, options, who).train()
    if finished and config.evaluation_episodes and who.index == 0:
      evaluation_command.evaluate(
        options.run_dir, configs.PRESETS, evaluate.PLAYERS, config.evaluation_episodes
      )
  return 0 if finished else 130


if __name__ == '__main__':
  command_line.run(main)
