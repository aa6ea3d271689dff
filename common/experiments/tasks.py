"""Tasks, and their settings, that experiments of both systems have in common."""

from typing import Any

from common.experiments import definitions
from common.reporting import scores

# Training returns count: there is no evaluation at the end of a run.
QUIET: dict[str, Any] = dict(evaluation_episodes=0)

# From random play to solved. By EnvPool: they step in a fifth of the time that gymnasium's take.
CARTPOLE = definitions.Task('CartPole', 'envpool:CartPole-v1', low=20.0, high=500.0)
ACROBOT = definitions.Task('Acrobot', 'envpool:Acrobot-v1', low=-500.0, high=-80.0)

GAMES = tuple(scores.references('atari57'))


def game(name: str) -> definitions.Task:
  """An Atari game, from random play to a human."""
  known = scores.references('atari57')[name]
  return definitions.Task(name, f'atari:{name}', low=known['random'], high=known['human'])
