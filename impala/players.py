"""The agent of a checkpoint as a player of whole episodes."""

import pathlib
from typing import Callable

import numpy as np
import tensorflow as tf

from common import environments
from common.evaluation import play as evaluation
from common.runs import checkpoints
from impala import config as configs
from impala import networks, policy


def from_checkpoint(
  run: pathlib.Path, config: configs.Config, suite: environments.Suite, checkpoint: str, seed: int
) -> tuple[str, Callable[[str, int], evaluation.Player]]:
  """Restores the agent of a run.

  Returns:
    The checkpoint's path, and what makes a player for a task and a number of environments.

  Raises:
    UserError: if the checkpoint cannot be read or is of another network.
  """
  tf.random.set_seed(seed)
  model = tf.Module()
  model.agent = networks.make_agent(config, suite)
  path = checkpoints.Checkpoints(run / 'checkpoints', model).restore(checkpoint)
  return path, maker(model.agent, suite, seed)


def maker(
  agent: networks.Agent, suite: environments.Suite, seed: int
) -> Callable[[str, int], evaluation.Player]:
  """What makes a player of an agent for a task and a number of environments."""

  def make_player(task: str, count: int) -> evaluation.Player:
    decide = policy.traced_decide(
      agent, suite, seed
    )  # Anew: its draws depend on nothing played before.
    return _Player(decide, agent.initial_state(count), count, suite.reward_scales.get(task, 1.0))

  return make_player


class _Player:
  """Keeps the core state and the last actions between steps."""

  def __init__(self, decide, core_state, count: int, reward_scale: float):
    self._decide, self._core_state, self._last_actions = (
      decide,
      core_state,
      np.zeros(count, np.int32),
    )
    self._reward_scale = np.float32(reward_scale)

  def __call__(self, observations, rewards, done) -> np.ndarray:
    inputs = networks.AgentInput(
      dict(observations), self._last_actions, rewards * self._reward_scale, done
    )
    decision = self._decide(inputs, self._core_state)
    self._core_state, self._last_actions = decision.core_state, decision.actions.numpy()
    return self._last_actions
