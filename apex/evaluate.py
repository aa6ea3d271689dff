"""Evaluates a run: `python -m apex.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]`.

Plays N episodes with a checkpoint of the run in the folder RUN, from up to 30 no-ops on Atari. Prints a table of mean
returns with 95% bootstrap intervals and writes `evaluation.json` to RUN, for Atari also the human-normalised score
beside the papers' (`scores.json`, `scores.png`), for others what a random policy returns. What was played before, with
the same checkpoint, N and seed, is not played again. --video writes a GIF, in RUN/videos. Actions are greedy but for
the config's `evaluation_epsilon`.
"""

from typing import Sequence

from apex import config as configs
from common.config import command_line
from common.evaluation import command as evaluation_command

PLAYERS = 'apex.players'


def main(argv: Sequence[str]) -> int:
  """Evaluates from its command line."""
  return evaluation_command.main(argv, __doc__, configs.PRESETS, PLAYERS)


if __name__ == '__main__':
  command_line.run(main)
