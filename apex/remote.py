"""An Ape-X actor in a process of its own."""

from apex import actor as actors
from apex import algorithms, transitions
from apex import config as configs
from common import environments
from common.distributed import link as links
from common.distributed import wire


def make_actor(
  config: configs.Config, suite: environments.Suite, link: links.Link, welcome: links.Welcome
) -> tuple[actors.Actor, wire.Codec]:
  """Makes the actor that the learner assigned; returns it and the codec of its shipments.

  Raises:
    UserError: If the settings do not fit the environment or this machine.
  """
  config.check_environment(suite, actors=1)
  # The place determines the actor's epsilons.
  number = welcome.assignment
  tasks = [suite.tasks[0]] * config.envs_per_actor
  make_policy = algorithms.module(config).make_policy
  policy = make_policy(config, suite, link, number, welcome.seed, lambda: link.frames)
  actor = actors.Actor(number, suite, tasks, policy, config, welcome.seed)
  spec = transitions.specification(suite, config.block_length, config.n_step)
  # Without bounds: the learner checks what arrives.
  return actor, wire.Codec(spec, {})
