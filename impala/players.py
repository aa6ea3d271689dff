"""IMPALA's agent as a player of whole episodes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from common import environments
from common.evaluation import play
from common.runs import system as systems
from impala import config as configs
from impala import networks, policy


def make(config: configs.Config, suite: environments.Suite, seed: int) -> systems.PlayingAgent:
  """An agent with fresh parameters that samples actions from its policy; `seed` is its seed."""
  agent = networks.make_agent(config, suite)
  # The attribute's name is a learner's, so a learner's checkpoint restores this agent.
  root = tf.Module()
  root.agent = agent

  def make_player(task: str, count: int) -> play.Player:
    # A new graph restarts its random numbers: actions do not depend on what was played before.
    decide = policy.traced_decide(agent, suite, seed)
    reward_scale = suite.reward_scales.get(task, 1.0)
    return _Player(decide, agent.initial_state(count), count, reward_scale)

  return systems.PlayingAgent(root, agent.trainable_variables, make_player)


class _Player:
  """Acts in N environments, and keeps their core state and last actions between steps."""

  def __init__(
    self,
    decide: Callable[..., policy.Decision],
    core_state: Any,
    count: int,
    reward_scale: float,
  ):
    self._decide = decide
    self._core_state = core_state
    self._last_actions = np.zeros(count, np.int32)
    self._reward_scale = np.float32(reward_scale)

  def __call__(self, observations, rewards: np.ndarray, done: np.ndarray) -> np.ndarray:
    inputs = networks.AgentInput(
      observation=dict(observations),
      last_action=self._last_actions,
      reward=rewards * self._reward_scale,
      done=done,
    )
    decision = self._decide(inputs, self._core_state)
    self._core_state = decision.core_state
    self._last_actions = decision.actions.numpy()
    return self._last_actions
