"""Ape-X's agent as a player of whole episodes."""

import tensorflow as tf

from apex import algorithms
from apex import config as configs
from common import environments
from common.distributed import parameters
from common.runs import system as systems


def make(config: configs.Config, suite: environments.Suite, seed: int) -> systems.PlayingAgent:
  """An agent with fresh parameters: DQN acts almost greedily, DPG without noise."""
  algorithm = algorithms.module(config)
  networks = algorithm.make_networks(config, suite)
  # The attributes' names are a learner's, so a learner's checkpoint restores these networks.
  root = tf.Module()
  root.agent = tf.Module()
  root.agent.networks = networks
  make_player = algorithm.make_player(networks, config, suite, seed)
  return systems.PlayingAgent(root, parameters.published(networks), make_player)
