"""IMPALA for the shared programs: implements `common.runs.system.System`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from common.runs import system as systems
from impala import config as configs

# Mistakes on the command line are found before TensorFlow is imported, hence imports in methods.
if TYPE_CHECKING:
  from common import environments
  from common.config import command_line
  from common.distributed import cluster, link, wire
  from impala import run


class Impala:
  """Decoupled actors and learner with V-trace (arXiv 1802.01561)."""

  title = 'IMPALA'
  name = 'impala'
  presets = configs.PRESETS
  switches: dict[str, str] = {}
  has_several_learners = True

  def make_run(
    self, config: configs.Config, options: command_line.Options, who: cluster.Cluster
  ) -> run.Run:
    from impala import run

    return run.Run(self, config, options, who)

  def make_actor(
    self,
    config: configs.Config,
    suite: environments.Suite,
    to_learner: link.Link,
    welcome: link.Welcome,
  ) -> tuple[systems.Actor, wire.Codec]:
    from impala import remote

    return remote.make_actor(config, suite, to_learner, welcome)

  def make_playing_agent(
    self, config: configs.Config, suite: environments.Suite, seed: int, deterministic: bool = False
  ) -> systems.PlayingAgent:
    from impala import players

    return players.make(config, suite, seed, deterministic)


IMPALA = Impala()
