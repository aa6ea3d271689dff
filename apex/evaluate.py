"""Evaluates an Ape-X run.

    python -m apex.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]

Plays N episodes with a checkpoint of the run in the folder RUN, on Atari after up to 30 no-ops.
Actions are greedy but for the config's `evaluation_epsilon`. Prints a table of mean returns with
95% bootstrap intervals and writes `evaluation.json` to RUN; for Atari also the human-normalised
score beside the papers' (`scores.json`, `scores.png`), for others the returns of a random policy.
Results with the same checkpoint, N and seed are kept and not played again. --video writes a GIF to
RUN/videos.
"""

from collections.abc import Sequence

from apex import system
from common.config import command_line
from common.evaluation import command


def main(argv: Sequence[str]) -> int:
  """Evaluates a run from its command line; returns the exit status."""
  return command.main(argv, __doc__, system.APEX)


if __name__ == '__main__':
  command_line.run(main)
