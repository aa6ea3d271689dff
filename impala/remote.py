"""An IMPALA actor in a process of its own."""

from typing import Any

import sonnet as snt

from common import environments
from common.distributed import link as links
from common.distributed import wire
from common.runs import system as systems
from impala import a3c, networks, policy, trajectory
from impala import actor as actors
from impala import config as configs


def make_actor(
  config: configs.Config, suite: environments.Suite, link: links.Link, welcome: links.Welcome
) -> tuple[systems.Actor, wire.Codec]:
  """Makes the actor that the learner assigned; returns it and the codec of what it sends.

  Raises:
    UserError: If the settings do not fit the environment or this machine.
  """
  # The learner sends its settings unresolved.
  config.fit(suite, actors=1)
  number = welcome.assignment
  tasks = environments.assign(suite.tasks, number, config.num_actors, config.envs_per_actor)
  seed = welcome.seed
  if config.architecture == 'a3c':
    worker = a3c.make_worker(config, suite, number, tasks, link, seed, seed)
    return worker, wire.Codec(worker.spec, {})
  acting = make_policy(config, suite, link, seed)
  actor = actors.Actor(number, suite, tasks, acting, config.unroll_length, seed)
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
