"""IMPALA's parts in processes that are not its learner; see `common.runs.roles.System`."""

import sonnet as snt
import tensorflow as tf

from common import environments
from common.distributed import link as links
from common.distributed import parameters, wire
from impala import actor as actors
from impala import config as configs
from impala import networks, players, policy, trajectory


def make_actor(
  config: configs.Config, suite: environments.Suite, link: links.Link, welcome: links.Welcome
) -> tuple[actors.Actor, wire.Codec]:
  """The actor of the place that the learner has given, whose parameters come over the link; the codec of its unrolls."""
  config.fit(suite)
  tasks = environments.assign(
    suite.tasks, welcome.assignment, config.num_actors, config.envs_per_actor
  )
  acting = make_policy(config, suite, link, welcome.seed)
  actor = actors.Actor(welcome.assignment, suite, tasks, acting, config.unroll_length, welcome.seed)
  spec = trajectory.specification(suite, config.unroll_length, acting.initial_state(1))
  return actor, wire.Codec(spec, trajectory.bounds(suite, config.num_actors))


def make_policy(
  config: configs.Config, suite: environments.Suite, link: links.Link, seed: int
) -> policy.Policy:
  """With parameters of its own; or without any, where the learner decides for all actors (`dynamic_batching`)."""
  if not config.dynamic_batching:
    return policy.LocalPolicy(networks.make_agent(config, suite), suite, link, seed)
  # Without the network itself: that of an LSTM that has no variables yet.
  core_state = snt.LSTM(networks.CORE_SIZE).initial_state if config.lstm else lambda count: ()
  return policy.CentralPolicy(link, *policy.central_codecs(suite, core_state(1)), core_state)


def make_evaluator(config: configs.Config, suite: environments.Suite, seed: int):
  """What takes parameters, and what makes a player of them."""
  config.fit(suite)
  agent = networks.make_agent(config, suite)
  take = tf.function(lambda values: parameters.assign(agent.trainable_variables, values))
  return take, players.maker(agent, suite, seed)
