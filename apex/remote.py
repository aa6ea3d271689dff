"""Ape-X's parts in processes that are not its learner; see `common.runs.roles.System`."""

import tensorflow as tf

from apex import actor as actors
from apex import algorithms, transitions
from apex import config as configs
from common import environments
from common.distributed import link as links
from common.distributed import parameters, wire


def make_actor(
  config: configs.Config, suite: environments.Suite, link: links.Link, welcome: links.Welcome
) -> tuple[actors.Actor, wire.Codec]:
  """The actor of the place that the learner has given, and so with that epsilon; the codec of its shipments."""
  number, seed = welcome.assignment, welcome.seed
  policy = algorithms.module(config).make_policy(config, suite, link, number, seed)
  actor = actors.Actor(
    number, suite, [suite.tasks[0]] * config.envs_per_actor, policy, config, seed
  )
  return actor, codec(config, suite)


def codec(config: configs.Config, suite: environments.Suite) -> wire.Codec:
  """Of shipments of one block."""
  return wire.Codec(
    transitions.specification(suite, config.block_length, config.n_step),
    transitions.bounds(config, suite),
  )


def make_evaluator(config: configs.Config, suite: environments.Suite, seed: int):
  """What takes parameters, and what makes a player of them."""
  algorithm = algorithms.module(config)
  networks = algorithm.make_networks(config, suite)
  take = tf.function(lambda values: parameters.assign(networks.trainable_variables, values))
  return take, algorithm.make_player(networks, config, suite, seed)
