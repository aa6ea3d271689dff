"""Trains IMPALA.

    python -m impala.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send trajectories through a bounded queue; a learner turns
batches of them into parameters, which it publishes after each update. Actors are threads of the
learner; with --actor_processes=N, processes beside it; with --role=learner and --role=actor,
wherever they are started. Ctrl-C saves a checkpoint and ends; --resume goes on.
"""

from collections.abc import Sequence

from common.config import command_line
from common.runs import program
from impala import system


def main(argv: Sequence[str]) -> int:
  """Runs one training from its command line; returns the exit status."""
  return program.main(argv, __doc__, system.IMPALA)


if __name__ == '__main__':
  command_line.run(main)
