"""The algorithms by the name that a config has for them.

Each is a module with an `Agent`, `make_networks`, `make_policy` for actors, `make_player` for evaluation,
`shown_environments` for the learning curves, and `STATISTICS`, the names of those of a step; see `apex.agent`.
"""

import types

from apex import config as configs
from apex import dpg, dqn


def module(config: configs.Config) -> types.ModuleType:
  """The module of a run's algorithm."""
  return {'dqn': dqn, 'dpg': dpg}[config.algorithm]
