"""Evaluates a run: `python -m impala.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]`.

Plays N episodes of every task with a checkpoint of the run in the folder RUN, and as many with a random policy. Prints
a table of mean returns with 95% bootstrap intervals and writes `evaluation.json` to RUN; with --video also a GIF for each
task, in RUN/videos. Actions are drawn from the policy, as in the paper.
"""

from typing import Sequence

from common import command_line, evaluation_command
from impala import config as configs

PLAYERS = 'impala.players'


def main(argv: Sequence[str]) -> int:
  """Evaluates from its command line."""
  return evaluation_command.main(argv, __doc__, configs.PRESETS, PLAYERS)


if __name__ == '__main__':
  command_line.run(main)
