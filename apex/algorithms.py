"""Chooses a run's algorithm."""

from apex import agent as agents
from apex import config as configs
from apex import dpg, dqn

# Annotated so that mypy checks both modules against the protocol.
_ALGORITHMS: dict[str, agents.Algorithm] = {'dqn': dqn, 'dpg': dpg}


def module(config: configs.Config) -> agents.Algorithm:
  """The module that implements `config.algorithm`."""
  return _ALGORITHMS[config.algorithm]
