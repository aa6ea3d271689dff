"""Trains Ape-X DQN or DPG.

    python -m apex.train [--env=NAME] [--run_dir=DIR] [--config.FIELD=VALUE ...]

Actors step batches of environments and send transitions with initial priorities; one learner trains
on samples of the prioritized replay. Actors are threads of the learner; with --actor_processes=N,
processes on its machine; with --role=learner and --role=actor, processes on any machine. Ctrl-C
saves a checkpoint and ends; --resume continues. Ape-X learns one task: for an environment with
several, choose one with --tasks.
"""

import os
import pathlib
from collections.abc import Callable, Sequence

import gymnasium

from apex import config as configs
from apex import system
from common.config import command_line
from common.runs import program


def main(argv: Sequence[str]) -> int:
  """Runs the training program; returns its exit status."""
  return program.main(argv, __doc__, system.APEX)


def train(
  config: configs.Config,
  make_env: Callable[..., gymnasium.Env] | None = None,
  run_dir: str | os.PathLike[str] = '',
  resume: bool = False,
) -> pathlib.Path:
  """Trains from Python, see `common.runs.program.train`; returns the run's folder."""
  return program.train(system.APEX, config, make_env, run_dir, resume)


if __name__ == '__main__':
  command_line.run(main)
