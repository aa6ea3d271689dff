"""Evaluates an IMPALA run.

    python -m impala.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]

Plays N episodes of every task with a checkpoint of the run in the folder RUN, in several processes:
on Atari after up to 30 no-ops, on DMLab-30 in the test levels. Actions are sampled from the policy,
as in the paper. Prints a table of mean returns with 95% bootstrap intervals and writes
`evaluation.json` to RUN; for Atari-57 and DMLab-30 also human-normalised scores beside the papers'
(`scores.json`, `scores.png`), for others the returns of a random policy. Results with the same
checkpoint, N and seed are kept: an evaluation that was interrupted goes on. --video writes a GIF
for each task to RUN/videos.
"""

from collections.abc import Sequence

from common.config import command_line
from common.evaluation import command
from impala import system


def main(argv: Sequence[str]) -> int:
  """Evaluates a run from its command line; returns the exit status."""
  return command.main(argv, __doc__, system.IMPALA)


if __name__ == '__main__':
  command_line.run(main)
