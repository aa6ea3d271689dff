"""Small runs of threads in this process, of which every update is kept."""

import dataclasses
import pathlib
from typing import Any, NamedTuple

from common import environments
from common.config import command_line
from common.distributed import cluster
from impala import config as configs
from impala import learner as learners
from impala import system
from tests.common import programs

# Two actors of two environments each.
T = 4
ACTORS = 2
ENVS = 2


class Kept(NamedTuple):
  """An update, and what it learned from says of itself."""

  told: Any
  update: learners.Update


class _Keeping:
  """A run's material, which also keeps what happens."""

  def __init__(self, material: Any):
    self._material = material
    self.kept: list[Kept] = []

  def __getattr__(self, name: str) -> Any:
    return getattr(self._material, name)

  def update(self, arrived: Any) -> learners.Update:
    update = self._material.update(arrived)
    self.kept.append(Kept(self._material.told(arrived), update))
    return update


def make_config(**settings) -> configs.Config:
  small = {
    'lstm': False,
    'vector_sizes': '8',
    'unroll_length': T,
    'num_actors': ACTORS,
    'envs_per_actor': ENVS,
    'batch_size': ACTORS * ENVS,
    'evaluation_episodes': 0,
    'env_processes': 'never',
    'log_every_seconds': 0.001,
  }
  return dataclasses.replace(configs.PRESETS.preset('gym'), **(small | settings))


def train(
  folder: pathlib.Path,
  config: configs.Config,
  updates: int,
  make_env: Any = None,
  resume: bool = False,
) -> tuple[list[Kept], list[dict[str, float]]]:
  """Trains to the end; returns all updates, dropped ones too, and the rows of metrics.

  Args:
    folder: For the run's folder.
    config: Its settings, without `total_frames`.
    updates: Of `ACTORS * ENVS` trajectories of T frames each.
    make_env: Makes the environments, in place of the config's.
    resume: Whether to go on with the run that is there.
  """
  config.total_frames = updates * ACTORS * ENVS * T
  if make_env:
    config.env = environments.remember(make_env)
  config.check()
  options = command_line.Options(folder / 'run', resume=resume)
  training = system.IMPALA.make_run(config, options, cluster.Cluster())
  keeping = _Keeping(training._material)
  training._material = keeping
  assert training.train()
  return keeping.kept, programs.rows(training.run_dir)
