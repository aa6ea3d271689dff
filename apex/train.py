"""Trains Ape-X DQN or DPG: `python -m apex.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]`.

Actors step batches of environments and send transitions with initial priorities; one learner draws from the prioritized
replay. Actors are threads of the learner; with --actor_processes=N processes beside it; with --role=learner and
--role=actor wherever they are started. Ctrl-C saves a checkpoint and ends; --resume goes on.
"""

from typing import Sequence

from apex import config as configs
from apex import evaluate
from common import environments, errors
from common.config import command_line
from common.distributed import cluster
from common.evaluation import command as evaluation_command
from common.machine import janitor

_DESCRIPTION = __doc__ + '\nEnvironments (--env; of several tasks, name one):\n{environments}\n'
_SWITCHES = {
  'checkpoint_replay': 'Save the replay with each checkpoint; --resume then need not fill it anew.'
}


def main(argv: Sequence[str]) -> int:
  """Runs one training from its command line; returns the exit status."""
  config, options = command_line.parse(
    argv,
    _DESCRIPTION.format(environments=environments.describe()),
    configs.PRESETS,
    _SWITCHES,
    cluster.define_flags,
  )
  with janitor.attend():
    command_line.import_tensorflow(
      config.intra_op_threads
    )  # Only now: --help and mistaken flags need not wait for it.
    who = cluster.resolve(options.values)
    if who.role in ('actor', 'evaluator'):
      from apex import remote
      from common.runs import roles

      return roles.work(config, options, who, configs.PRESETS, 'apex.train', remote)
    if who.learners:
      raise errors.UserError(f'Ape-X has one learner, and the cluster names {len(who.learners)}')
    from apex import run

    config.num_actors = cluster.places(who, config.num_actors)
    finished = run.Run(config, options, who).train()
    if finished and config.evaluation_episodes:
      evaluation_command.evaluate(
        options.run_dir, configs.PRESETS, evaluate.PLAYERS, config.evaluation_episodes
      )
  return 0 if finished else 130


if __name__ == '__main__':
  command_line.run(main)
