"""Trains Ape-X DQN or DPG.

    python -m apex.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send transitions with initial priorities; one learner trains
on samples of the prioritized replay. Actors are threads of the learner; with --actor_processes=N,
processes on its machine; with --role=learner and --role=actor, processes on any machine. Ctrl-C
saves a checkpoint and ends; --resume continues. Ape-X learns one task: for an environment with
several, choose one with --tasks.
"""

from collections.abc import Sequence

from apex import system
from common.config import command_line
from common.runs import program


def main(argv: Sequence[str]) -> int:
  """Runs the training program; returns its exit status."""
  return program.main(argv, __doc__, system.APEX)


if __name__ == '__main__':
  command_line.run(main)
