"""Ape-X for the shared programs: implements `common.runs.system.System`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from apex import config as configs
from common.runs import system as systems

# Mistakes on the command line are found before TensorFlow is imported, hence imports in methods.
if TYPE_CHECKING:
  from apex import actor, run
  from common import environments
  from common.config import command_line
  from common.distributed import cluster, link, wire


class ApeX:
  """Distributed prioritized experience replay, DQN or DPG (arXiv 1803.00933)."""

  title = 'Ape-X'
  name = 'apex'
  presets = configs.PRESETS
  switches = {
    'checkpoint_replay': 'Save the replay with each checkpoint, so that --resume finds it filled.'
  }
  has_several_learners = False

  def make_run(
    self, config: configs.Config, options: command_line.Options, who: cluster.Cluster
  ) -> run.Run:
    from apex import run

    return run.Run(self, config, options, who)

  def make_actor(
    self,
    config: configs.Config,
    suite: environments.Suite,
    to_learner: link.Link,
    welcome: link.Welcome,
  ) -> tuple[actor.Actor, wire.Codec]:
    from apex import remote

    return remote.make_actor(config, suite, to_learner, welcome)

  def make_playing_agent(
    self, config: configs.Config, suite: environments.Suite, seed: int, deterministic: bool = False
  ) -> systems.PlayingAgent:
    from apex import players

    if deterministic:
      config = dataclasses.replace(config, evaluation_epsilon=0.0)
    return players.make(config, suite, seed)


APEX = ApeX()
