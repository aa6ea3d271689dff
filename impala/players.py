"""IMPALA's agent as a player of whole episodes."""

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from common import environments
from common.distributed import parameters
from common.evaluation import play
from common.runs import system as systems
from impala import actions as acting
from impala import config as configs
from impala import networks, policy


def make(
  config: configs.Config, suite: environments.Suite, seed: int, deterministic: bool
) -> systems.PlayingAgent:
  """An agent with fresh parameters.

  Args:
    config: The run's settings.
    suite: The environments to play in.
    seed: The seed of the actions, which are drawn from the policy as in the paper.
    deterministic: Whether to take the most likely actions instead.
  """
  agent = networks.make_agent(config, suite)
  # The attribute's name is a learner's, so a learner's checkpoint restores this agent.
  root = tf.Module()
  root.agent = agent

  def make_player(task: str, count: int) -> play.Player:
    # A new graph restarts its random numbers: actions do not depend on what was played before.
    decide = policy.traced_decide(agent, suite, None if deterministic else seed)
    reward_scale = suite.reward_scales.get(task, 1.0)
    first_actions = np.zeros((count, *acting.shape_of(suite.action_space)), np.int32)
    return _Player(decide, agent.initial_state(count), first_actions, reward_scale)

  return systems.PlayingAgent(root, parameters.published(agent), make_player)


class _Player:
  """Acts in N environments, and keeps their core state and last actions between steps."""

  def __init__(
    self,
    decide: Callable[..., policy.Decision],
    core_state: Any,
    last_actions: np.ndarray,
    reward_scale: float,
  ):
    self._decide = decide
    self._core_state = core_state
    self._last_actions = last_actions
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
