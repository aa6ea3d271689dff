"""The agent of a checkpoint as a player of whole episodes."""

import pathlib
from typing import Callable

import numpy as np
import tensorflow as tf

from apex import config as configs, dqn, exploration, policy
from common import checkpoints, environments, evaluation


def from_checkpoint(run: pathlib.Path, config: configs.Config, suite: environments.Suite, checkpoint: str,
                    seed: int) -> tuple[str, Callable[[str, int], evaluation.Player]]:
  """Restores the network of a run.

  Returns:
    The checkpoint's path, and what makes a player for a task and a number of environments.

  Raises:
    UserError: if the checkpoint cannot be read or is of another network.
  """
  model = tf.Module()
  model.network = dqn.make_network(suite, config.torso, config.hidden_size)
  path = checkpoints.Checkpoints(run / 'checkpoints', model).restore(checkpoint)
  q_values = policy.traced_q_values(model.network, suite)

  def make_player(task: str, count: int) -> evaluation.Player:
    del task
    epsilon, rng = np.full(count, config.evaluation_epsilon), np.random.default_rng(seed)
    return lambda observations, rewards, done: exploration.epsilon_greedy(
        q_values(observations['observation']).numpy(), epsilon, rng)

  return path, make_player
