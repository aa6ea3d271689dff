"""Trains IMPALA.

    python -m impala.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send trajectories through a bounded queue; a learner trains
on batches of them and publishes its parameters after each update. Actors are threads of the
learner; with --actor_processes=N, processes on its machine; with --role=learner and --role=actor,
processes on any machine. Ctrl-C saves a checkpoint and ends; --resume continues.
"""

from collections.abc import Sequence

from common.config import command_line
from common.runs import program
from impala import system


def main(argv: Sequence[str]) -> int:
  """Runs the training program; returns its exit status."""
  return program.main(argv, __doc__, system.IMPALA)


if __name__ == '__main__':
  command_line.run(main)
