"""What an Ape-X algorithm provides to actors, learner and evaluation.

`apex.dqn` and `apex.dpg` each implement `Algorithm`; `apex.algorithms` chooses between them.
"""

from typing import Any, Callable, Mapping, NamedTuple, Protocol

import numpy as np
import sonnet as snt
import tensorflow as tf

from apex import config as configs
from common import encoder, frames, lean_graph
from common.distributed import parameters
from common.environments import suite as suites
from common.evaluation import play as evaluation
from common.replay import structures


class TDLosses(NamedTuple):
  """Losses of K transitions, before importance weights: float32 `[K]` each.

  Attributes:
    losses: 0.5 (G_t - q(S_t, A_t))^2; see `td_losses` for large errors.
    td_errors: G_t - q(S_t, A_t). New priorities are their absolute values.
    q_values: Q(S_t, A_t) by the network being trained.
  """

  losses: tf.Tensor
  td_errors: tf.Tensor
  q_values: tf.Tensor


def td_losses(q_values: tf.Tensor, targets: tf.Tensor, max_error: float = 0.0) -> TDLosses:
  """0.5 (G_t - q(S_t, A_t))^2, the loss of both algorithms (sections 3.1 and 3.2).

  Args:
    q_values: float32 `[K]`, q(S_t, A_t).
    targets: float32 `[K]`, the n-step targets G_t, through which no gradient may flow.
    max_error: Beyond it an error d counts as max_error (|d| - 0.5 max_error), whose gradient is
      that of an error clipped to this magnitude (Mnih et al. 2015). 0: no error does.
  """
  tf.debugging.assert_shapes([(q_values, 'K'), (targets, 'K')])
  for x in (q_values, targets):
    tf.debugging.assert_type(x, tf.float32)

  td_errors = targets - q_values
  losses = 0.5 * td_errors**2
  if max_error:
    size = tf.abs(td_errors)
    linear = max_error * (size - 0.5 * max_error)
    losses = tf.where(size > max_error, linear, losses)
  return TDLosses(losses=losses, td_errors=td_errors, q_values=q_values)


class Step(NamedTuple):
  """What an agent computes from a sample of K transitions.

  Attributes:
    statistics: Float32 scalars by name, as in the algorithm's `STATISTICS`.
    td_errors: float32 `[K]`, not weighted.
    gradients: The argument for `Agent.apply`.
  """

  statistics: dict[str, tf.Tensor]
  td_errors: tf.Tensor
  gradients: Any


class Agent(Protocol):
  """Networks, target networks and optimizers: a `tf.Module` with an algorithm's whole state.

  Attributes:
    networks: The trained networks, of which actors keep copies. Their `normalizer`, or None, has
      the statistics by which they and the target networks normalise.
  """

  networks: snt.Module

  def step(self, sample: structures.Sample) -> Step:
    """Computes losses and gradients of a sample `[K, ...]`; changes no variable."""

  def apply(self, gradients: Any) -> None:
    """Takes one step of every optimizer."""

  def copy_to_target(self, share: float = 1.0) -> None:
    """Moves the target networks to the trained ones, by a share of the way; see `copy`."""


class Decision(NamedTuple):
  """Actions for N environments, and the values for their initial priorities (appendix F).

  Attributes:
    actions: int32 `[N]`, or float32 `[N, A]`.
    q_taken: float32 `[N]`, the value of these actions.
    bootstrap_value: float32 `[N]`, the value of the actions the policy prefers, without noise.
  """

  actions: np.ndarray
  q_taken: np.ndarray
  bootstrap_value: np.ndarray


class Policy(Protocol):
  """The behaviour policy of one actor: its own copy of the networks, plus exploration."""

  def refresh(self) -> int:
    """Copies the latest parameters; returns their version."""

  def __call__(self, observation: suites.Observation, start: np.ndarray) -> Decision:
    """Chooses exploring actions.

    Args:
      observation: By name `[N, ...]`, in the environment's own layout.
      start: bool `[N]`, where it is the first of a game.
    """

  def bootstrap_value(self, observation: suites.Observation) -> np.ndarray:
    """Values observations `[M, ...]` as `Decision.bootstrap_value` does: float32 `[M]`."""

  def rewards(self, rewards: np.ndarray) -> np.ndarray:
    """Rewards, or sums of them, in units of the values: float32 of the same shape."""


class Algorithm(Protocol):
  """The module of an algorithm, such as `apex.dqn`.

  Attributes:
    STATISTICS: Names of a step's statistics, which are columns of the metrics in this order.
  """

  STATISTICS: tuple[str, ...]

  def make_agent(self, config: configs.Config, suite: suites.Suite) -> Agent:
    """Returns the learner's agent with newly initialised networks."""

  def make_networks(self, config: configs.Config, suite: suites.Suite) -> snt.Module:
    """Returns newly initialised networks; all their variables exist already."""

  def make_policy(
    self,
    config: configs.Config,
    suite: suites.Suite,
    source: parameters.Source,
    actor: int,
    seed: int,
    frames: Callable[[], int],
  ) -> Policy:
    """Returns an actor's behaviour policy.

    Args:
      config: The run's settings.
      suite: The environments it acts in.
      source: Where it copies parameters from, at once and at each `refresh`.
      actor: The actor's index, from 0 to `config.num_actors` - 1.
      seed: Seeds its exploration.
      frames: The run's environment frames so far, as far as the actor knows.
    """

  def make_player(
    self, networks: snt.Module, config: configs.Config, suite: suites.Suite, seed: int
  ) -> Callable[[str, int], evaluation.Player]:
    """Returns a function of task and number of environments, which makes an evaluation player.

    Args:
      networks: The networks to play with; players follow changes of their variables.
      config: The run's settings.
      suite: The environments to play in.
      seed: Seeds the player's random actions, if it has any.
    """

  def shown_environments(self, config: configs.Config) -> np.ndarray:
    """Selects the environments whose episodes make the learning curves: bool `[N]`."""


def copy(source: snt.Module, target: snt.Module, share: float = 1.0) -> None:
  """Moves one module's trained variables towards another's.

  target <- (1 - share) target + share source, DDPG's moving average for shares below 1.
  """
  for variable, value in zip(target.trainable_variables, source.trainable_variables, strict=True):
    # Exactly the source's value for 1: a sum would round.
    variable.assign(value if share == 1.0 else variable + share * (value - variable))


def in_units_of_values(networks: snt.Module, rewards: Any) -> tf.Tensor:
  """Rewards, or sums of them, as the loss sees them, float32 of any shape."""
  return networks.normalizer.rewards(rewards) if networks.normalizer else rewards


def traced(
  function: Callable[..., Any], suite: suites.Suite, *others: tf.TensorSpec
) -> lean_graph.LeanGraph:
  """Compiles a function of observations to one graph, and runs it once.

  See `apex.run.Run.start` for why every graph runs before environments exist.

  Args:
    function: Takes observations by name, `[N, ...]`, as networks read them, then `others`.
    suite: The environments. The graph takes their observations in their own layout.
    *others: Specifications of the other arguments, with an unknown leading axis.
  """

  def of_environment(observation: dict[str, tf.Tensor], *arguments: tf.Tensor) -> Any:
    if suite.frame_stack > 1:
      # Environments stack frames along the first axis, networks read them as channels.
      stacked = frames.channels(observation['observation'])
      observation = {**observation, 'observation': stacked}
    return function(observation, *arguments)

  zeros = encoder.zeros(suite.observation_space, leading=(1,))
  others_zeros = [tf.zeros([1, *spec.shape[1:]], spec.dtype) for spec in others]
  return lean_graph.LeanGraph(of_environment, zeros, *others_zeros)


def network_observation(
  entries: Mapping[str, tf.Tensor], frame_start: tf.Tensor
) -> dict[str, tf.Tensor]:
  """Observations as networks read them, from the entries of a sample.

  Args:
    entries: By name, `[K, stack, ...]`, the newest last. Those of `observation` are single frames
      if stack > 1; of all others only the newest counts.
    frame_start: bool `[K, stack]`, where the entry is the first of a game.

  Returns:
    By name, `[K, ...]`; frames as images uint8 `[K, H, W, stack]`.
  """
  observation = {name: part[:, -1] for name, part in entries.items()}
  if frame_start.shape[1] > 1:
    observation['observation'] = frames.stacks(entries['observation'], frame_start)
  return observation
