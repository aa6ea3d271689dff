"""Evaluates a run: `python -m impala.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]`.

Plays N episodes of every task with a checkpoint of the run in the folder RUN, in several processes; on Atari from up to
30 no-ops, on DMLab-30 in the test levels. Prints a table of mean returns with 95% bootstrap intervals and writes
`evaluation.json` to RUN, for Atari-57 and DMLab-30 also human-normalised scores beside the papers' (`scores.json`,
`scores.png`), for others what a random policy returns. What was played before, with the same checkpoint, N and seed, is
not played again: an evaluation that was ended goes on. --video writes a GIF for each task, in RUN/videos. Actions are
drawn from the policy, as in the paper.
"""

from typing import Sequence

from common.config import command_line
from common.evaluation import command as evaluation_command
from impala import config as configs

PLAYERS = 'impala.players'


def main(argv: Sequence[str]) -> int:
  """Evaluates from its command line."""
  return evaluation_command.main(argv, __doc__, configs.PRESETS, PLAYERS)


if __name__ == '__main__':
  command_line.run(main)
