"""An IMPALA actor in a process of its own."""

from typing import Any

import sonnet as snt

from common import environments
from common.distributed import link as links
from common.distributed import wire
from impala import actor as actors
from impala import config as configs
from impala import networks, policy, trajectory


def make_actor(
  config: configs.Config, suite: environments.Suite, link: links.Link, welcome: links.Welcome
) -> tuple[actors.Actor, wire.Codec]:
  """Makes the actor that the learner assigned; returns it and the codec of its trajectories.

  Raises:
    UserError: If the settings do not fit the environment or this machine.
  """
  # The learner sends its settings unresolved.
  config.fit(suite, actors=1)
  number = welcome.assignment
  tasks = environments.assign(suite.tasks, number, config.num_actors, config.envs_per_actor)
  acting = make_policy(config, suite, link, welcome.seed)
  actor = actors.Actor(number, suite, tasks, acting, config.unroll_length, welcome.seed)
  spec = trajectory.specification(suite, config.unroll_length, acting.initial_state(1))
  # Without bounds: the learner checks what arrives.
  return actor, wire.Codec(spec, {})


def make_policy(
  config: configs.Config, suite: environments.Suite, link: links.Link, seed: int
) -> policy.Policy:
  """A policy with its own parameters; with `dynamic_batching`, one that asks the learner."""
  if not config.dynamic_batching:
    return policy.LocalPolicy(networks.make_agent(config, suite), suite, link, seed)

  def initial_state(count: int) -> Any:
    # An LSTM makes its variables when it is first called, so this one has none:
    # the network is the learner's.
    return snt.LSTM(config.core_size).initial_state(count) if config.lstm else ()

  inputs, outputs = policy.central_codecs(suite, initial_state(1))
  return policy.CentralPolicy(link, inputs, outputs, initial_state)
