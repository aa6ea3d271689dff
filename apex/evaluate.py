"""Evaluates an Ape-X run.

    python -m apex.evaluate RUN [--episodes=N] [--checkpoint=latest|best|PATH] [--video]
                                [--deterministic] [--repeated_actions]

Plays N episodes with a checkpoint from the run's folder RUN. On Atari, episodes start with up to 30
no-ops. DQN acts greedily except with probability `evaluation_epsilon` (never with --deterministic),
DPG without noise. Prints the mean return with its 95% bootstrap interval and writes it to
`evaluation.json` in RUN. For Atari, also writes the human-normalised score beside the papers'
(`scores.json`, `scores.png`); for other environments, the returns of a random policy. Results with
the same checkpoint, N and seed are reused. --video films the first episode, in RUN/videos.
--repeated_actions also plays each action over and over, and shows the best of them.
"""

from collections.abc import Sequence

from apex import system
from common.config import command_line
from common.evaluation import command


def main(argv: Sequence[str]) -> int:
  """Runs the evaluation program; returns its exit status."""
  return command.main(argv, __doc__, system.APEX)


if __name__ == '__main__':
  command_line.run(main)
