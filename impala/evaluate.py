"""Evaluates an IMPALA run.

    python -m impala.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]
                                  [--deterministic] [--repeated_actions]

Plays N episodes of every task with a checkpoint from the run's folder RUN, several tasks in several
processes. On Atari, episodes start with up to 30 no-ops; on DMLab-30, the test levels are played.
Actions are sampled from the policy, as in the paper; --deterministic takes the most likely ones.
Prints a table of mean returns with 95% bootstrap intervals and writes it to `evaluation.json` in
RUN. For Atari and DMLab-30, also writes human-normalised scores beside the papers' (`scores.json`,
`scores.png`); for other environments, the returns of a random policy. Results with the same
checkpoint, N and seed are reused, so an interrupted evaluation continues. --video films the first
episode of each task, in RUN/videos. --repeated_actions also plays each action over and over, and
shows the best of them.
"""

from collections.abc import Sequence

from common.config import command_line
from common.evaluation import command
from impala import system


def main(argv: Sequence[str]) -> int:
  """Runs the evaluation program; returns its exit status."""
  return command.main(argv, __doc__, system.IMPALA)


if __name__ == '__main__':
  command_line.run(main)
