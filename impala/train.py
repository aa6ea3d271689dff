"""Trains IMPALA.

    python -m impala.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send trajectories through a bounded queue; a learner trains
on batches of them and publishes its parameters after each update. Actors are threads of the
learner; with --actor_processes=N, processes on its machine; with --role=learner and --role=actor,
processes on any machine. Ctrl-C saves a checkpoint and ends; --resume continues.
"""

import os
import pathlib
from collections.abc import Callable, Sequence

import gymnasium

from common.config import command_line
from common.runs import program
from impala import config as configs
from impala import system


def main(argv: Sequence[str]) -> int:
  """Runs the training program; returns its exit status."""
  return program.main(argv, __doc__, system.IMPALA)


def train(
  config: configs.Config,
  make_env: Callable[..., gymnasium.Env] | None = None,
  run_dir: str | os.PathLike[str] = '',
  resume: bool = False,
) -> pathlib.Path:
  """Trains from Python, see `common.runs.program.train`; returns the run's folder."""
  return program.train(system.IMPALA, config, make_env, run_dir, resume)


if __name__ == '__main__':
  command_line.run(main)
