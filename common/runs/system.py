"""The interface between the shared programs and a system: IMPALA, Ape-X, or a third one.

A system is a package, such as `impala/`, whose `system.py` holds one instance of `System`. The
package's programs `train.py` and `evaluate.py` pass it to `common.runs.program` and
`common.evaluation.command`, which do the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from common.config import presets as all_presets

# Importing TensorFlow takes seconds, so mistakes on the command line are found before that.
if TYPE_CHECKING:
  import pathlib

  import tensorflow as tf

  from common import environments
  from common.config import command_line
  from common.distributed import cluster, link, wire
  from common.evaluation import play
  from common.runs import games


class Actor(Protocol):
  """Collects experience in environments of its own."""

  games: games.Games

  def run(self, put: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    """Acts and passes elements `[M, ...]` to `put`, until `stopped()` or the queue is closed."""


class Run(Protocol):
  """A learner's training run. `common.runs.run.Run` has what such runs have in common."""

  @property
  def run_dir(self) -> pathlib.Path:
    """The run's folder."""

  def train(self) -> bool:
    """Trains, saves, and returns whether training is finished."""


class PlayingAgent(NamedTuple):
  """The part of a learner that chooses actions, with fresh parameters.

  Attributes:
    checkpointed: Holds the networks under a learner's attribute names, so that the learner's
      checkpoints restore them.
    variables: The parameters, in the order in which the learner publishes them.
    make_player: Makes a player for a task and a number of environments.
  """

  checkpointed: tf.Module
  variables: Sequence[tf.Variable]
  make_player: Callable[[str, int], play.Player]


class System(Protocol):
  """A learning system. Its methods import TensorFlow only when they are called.

  Attributes:
    title: The system's name in messages.
    name: The package's name: `python -m NAME.train` and `python -m NAME.evaluate` are its programs.
    presets: The system's configs by name.
    switches: Boolean fields of the config that get a flag of their own, `--FIELD`, by name; the
      values are the flags' help texts.
    has_several_learners: Whether several synchronous learners can train together.
  """

  title: str
  name: str
  presets: all_presets.Presets
  has_several_learners: bool

  # Read-only, so that a system may declare it as a dict of its own.
  @property
  def switches(self) -> Mapping[str, str]: ...

  def make_run(self, config: Any, options: command_line.Options, who: cluster.Cluster) -> Run:
    """Builds a learner's training run; starts nothing.

    Raises:
      UserError: If the settings do not fit the environment, the machine or the folder.
    """

  def make_actor(
    self, config: Any, suite: environments.Suite, to_learner: link.Link, welcome: link.Welcome
  ) -> tuple[Actor, wire.Codec]:
    """Makes an actor in a process of its own.

    Args:
      config: The learner's settings.
      suite: The environments.
      to_learner: The source of the actor's parameters.
      welcome: The learner's answer, with the actor's place and seed.

    Returns:
      The actor, and the codec that encodes its elements for the learner.
    """

  def make_playing_agent(
    self, config: Any, suite: environments.Suite, seed: int, deterministic: bool = False
  ) -> PlayingAgent:
    """Makes the agent as it is evaluated.

    Args:
      config: The run's settings.
      suite: The environments to play in.
      seed: Determines its random actions.
      deterministic: Whether it takes no random actions, but those that it prefers.
    """
