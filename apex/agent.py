"""What actors, learner and evaluation ask of an algorithm; `apex.dqn` and `apex.dpg` answer, each in its own way."""

from typing import Any, Callable, NamedTuple, Protocol

import numpy as np
import sonnet as snt
import tensorflow as tf

from common.environments import suite as suites
from common.replay import structures


class Step(NamedTuple):
  """What an update makes of a sample `[K, ...]`."""

  statistics: dict[
    str, tf.Tensor
  ]  # Float32 scalars by name, among them the loss and the gradients' norms.
  td_errors: tf.Tensor  # float32 [K].
  gradients: Any  # As `apply` takes them.


class Agent(Protocol):
  """Networks, their older copies and optimizers: all that a checkpoint has of an algorithm."""

  networks: snt.Module  # What actors have a copy of.

  def step(self, sample: structures.Sample) -> Step:
    """Losses and gradients; changes nothing."""

  def apply(self, gradients: Any) -> None:
    """Takes the optimizers' step."""

  def copy_to_target(self) -> None:
    """Brings the older copies up to date."""


class Decision(NamedTuple):
  """What N environments are told, and the values that initial priorities need (appendix F)."""

  actions: np.ndarray  # int32 [N], or float32 [N, A].
  q_taken: np.ndarray  # float32 [N]: of these actions.
  bootstrap_value: np.ndarray  # float32 [N]: of what the policy would do there without exploring.


class Policy(Protocol):
  """How one actor acts: with a copy of the networks that it brings up to date now and then."""

  def refresh(self) -> int:
    """Takes the latest parameters; returns their version."""

  def __call__(self, observation: np.ndarray) -> Decision:
    """Chooses actions, exploring, for observations `[N, ...]` as the environment gives them."""

  def bootstrap_value(self, observation: np.ndarray) -> np.ndarray:
    """As the decision's, for any number of observations: float32 `[M]`."""


def copy(source: snt.Module, target: snt.Module) -> None:
  """Gives one module's variables the values of another's."""
  for variable, value in zip(target.trainable_variables, source.trainable_variables, strict=True):
    variable.assign(value)


def traced(
  function: Callable[..., Any], suite: suites.Suite, *others: tf.TensorSpec
) -> Callable[..., Any]:
  """A function of observations `[N, ...]` as environments give them, and of others, as one graph that has run once.

  See `apex.run.Run.start` for why it has.
  """
  space = suite.observation_space['observation']
  signature = [tf.TensorSpec([None, *space.shape], tf.as_dtype(space.dtype)), *others]
  graph = tf.function(function, input_signature=signature)
  graph(*(tf.zeros([1, *spec.shape[1:]], spec.dtype) for spec in signature))
  return graph
