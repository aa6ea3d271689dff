"""What a system is: everything that the shared programs ask of IMPALA, of Ape-X, or of a third one.

A system lives in a package of its own, `impala/` say, with one instance of `System` in its
`system.py`. The package's programs `train.py` and `evaluate.py` hand it to `common.runs.program`
and `common.evaluation.command`, which do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from common.config import presets as all_presets

if TYPE_CHECKING:  # Command lines are checked before TensorFlow, which takes seconds, is imported.
  import tensorflow as tf

  from common import environments
  from common.config import command_line
  from common.distributed import cluster, link, wire
  from common.evaluation import play
  from common.runs import games, run


class Actor(Protocol):
  """Collects experience in environments of its own."""

  games: games.Games

  def run(self, put: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    """Acts, and puts elements `[M, ...]`, until `stopped()` or until the queue is closed."""


class PlayingAgent(NamedTuple):
  """The part of a learner that plays, with fresh parameters.

  Attributes:
    checkpointed: Has the networks where a learner has them, so that its checkpoints restore them.
    variables: In the order in which the learner publishes them.
    make_player: Makes a player for a task and a number of environments.
  """

  checkpointed: tf.Module
  variables: Sequence[tf.Variable]
  make_player: Callable[[str, int], play.Player]


class System(Protocol):
  """One of the systems. Its methods import what needs TensorFlow when they are called.

  Attributes:
    title: How it is called in messages.
    name: Its package: `python -m NAME.train` and `python -m NAME.evaluate` are its programs.
    command: What a user types to train, for messages that say how to go on.
    presets: Its configs by name.
    switches: The config's boolean fields that have a flag of their own, `--FIELD`, with its help.
    has_several_learners: Whether several synchronous learners can train together.
  """

  title: str
  name: str
  command: str
  presets: all_presets.Presets
  has_several_learners: bool

  @property
  def switches(self) -> Mapping[str, str]: ...

  def make_run(self, config: Any, options: command_line.Options, who: cluster.Cluster) -> run.Run:
    """Builds a learner's training run. Raises UserError if its settings cannot work."""

  def make_actor(
    self, config: Any, suite: environments.Suite, to_learner: link.Link, welcome: link.Welcome
  ) -> tuple[Actor, wire.Codec]:
    """An actor for the place that the learner assigned, and the codec of what it puts."""

  def make_playing_agent(self, config: Any, suite: environments.Suite, seed: int) -> PlayingAgent:
    """The agent as evaluation plays it, its actions drawn under a seed."""
