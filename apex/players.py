"""The agent of a checkpoint as a player of whole episodes."""

import pathlib
from typing import Callable

import tensorflow as tf

from apex import algorithms
from apex import config as configs
from common import environments
from common.evaluation import play as evaluation
from common.runs import checkpoints


def from_checkpoint(
  run: pathlib.Path, config: configs.Config, suite: environments.Suite, checkpoint: str, seed: int
) -> tuple[str, Callable[[str, int], evaluation.Player]]:
  """Restores the networks of a run.

  Returns:
    The checkpoint's path, and what makes a player for a task and a number of environments.

  Raises:
    UserError: if the checkpoint cannot be read or is of other networks.
  """
  algorithm = algorithms.module(config)
  model = tf.Module()  # The part of a learner that plays.
  model.agent = tf.Module()
  model.agent.networks = algorithm.make_networks(config, suite)
  path = checkpoints.Checkpoints(run / 'checkpoints', model).restore(checkpoint)
  return path, algorithm.make_player(model.agent.networks, config, suite, seed)
