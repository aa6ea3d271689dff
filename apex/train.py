"""Trains Ape-X DQN or DPG.

    python -m apex.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send transitions with initial priorities; one learner
samples from the prioritized replay. Actors are threads of the learner; with --actor_processes=N,
processes beside it; with --role=learner and --role=actor, wherever they are started. Ctrl-C saves a
checkpoint and ends; --resume goes on. Of an environment with several tasks, name one.
"""

from collections.abc import Sequence

from apex import system
from common.config import command_line
from common.runs import program


def main(argv: Sequence[str]) -> int:
  """Runs one training from its command line; returns the exit status."""
  return program.main(argv, __doc__, system.APEX)


if __name__ == '__main__':
  command_line.run(main)
