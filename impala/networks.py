"""IMPALA's agent (Figure 3): torso, instructions, last action and reward, LSTM, two heads."""

from typing import Any, Mapping, NamedTuple

import gymnasium
import sonnet as snt
import tensorflow as tf

from common import encoder as encoders
from common import networks, recurrent
from common.environments import suite as suites
from impala import actions as acting
from impala import config as configs


class AgentInput(NamedTuple):
  """An environment's last answer and the action it answered to, `[T, B]`.

  Actors have no time axis, `[N]`.
  """

  # By name, `[T, B, ...]`, as `Suite.observation_space` says.
  observation: Mapping[str, Any]
  # int32; for several actions at once `[T, B, K]`.
  last_action: Any
  # float32, for the last action, neither normalised nor clipped.
  reward: Any
  # bool. The observation is the first of an episode.
  done: Any


class AgentOutput(NamedTuple):
  """Policy logits `[T, B, A]` and values `[T, B]`, float32.

  With a value for each of N tasks, values are `[T, B, N]`, see `impala.popart`.
  """

  policy_logits: tf.Tensor
  values: tf.Tensor


class Agent(snt.Module):
  """The network of actors and learner. All its variables exist once it is constructed.

  Attributes:
    normalizer: The statistics by which observations and rewards are normalised; None for none.
    value_head: The last layer of the values.
  """

  def __init__(
    self,
    encoder: encoders.ObservationEncoder,
    action_space: suites.ActionSpace,
    core_size: int,
    feedback: bool,
    num_tasks: int | None = None,
  ):
    """Builds the network.

    Args:
      encoder: Reads observations.
      action_space: `Discrete`, or `MultiDiscrete` for several actions at once.
      core_size: The units of the core; with 0 there is none, and the heads read the features.
      feedback: Whether the last action and the last reward, normalised if rewards are and clipped
        to [-1, 1], are inputs.
      num_tasks: N, for a value for each task; None for one value.
    """
    super().__init__(name='agent')
    self._encoder = encoder
    self.normalizer = encoder.normalizer
    self._action_space = action_space
    self._feedback = feedback

    # One pass over zeros creates every variable and tells the core its input size.
    inputs = zeros(encoder.space, action_space, leading=(1, 1))
    feature_size = self._features(inputs).shape[-1]
    self._core = recurrent.ResettingLSTM(feature_size, core_size) if core_size else None
    self._policy_head = snt.Linear(acting.num_logits(action_space))
    self._num_tasks = num_tasks
    self.value_head = snt.Linear(num_tasks or 1)
    self.unroll(inputs, self.initial_state(1))

  def initial_state(self, batch_size: int) -> Any:
    """The core state at the start of a run, `[batch_size, H]`; empty without a core."""
    return self._core.initial_state(batch_size) if self._core else ()

  def rewards(self, rewards: tf.Tensor) -> tf.Tensor:
    """Rewards as the core and the loss see them before they are clipped, float32 of any shape."""
    return self.normalizer.rewards(rewards) if self.normalizer else rewards

  def unroll(self, inputs: AgentInput, core_state: Any) -> tuple[AgentOutput, Any]:
    """Runs over time and batch.

    Args:
      inputs: `[T, B, ...]`.
      core_state: The state before the first step, `[B, H]`. It is reset wherever `inputs.done`.

    Returns:
      The outputs `[T, B, ...]` and the core state after the last step.
    """
    features = self._features(inputs)  # [T, B, D]
    if self._core:
      features, core_state = self._core.unroll(features, inputs.done, core_state)
    return self._heads(features, inputs.observation), core_state

  def step(self, inputs: AgentInput, core_state: Any) -> tuple[tf.Tensor, Any]:
    """One step of N environments, as `unroll` without the time axis and without values.

    Args:
      inputs: `[N, ...]`.
      core_state: The state before the step, `[N, H]`. It is reset wherever `inputs.done`.

    Returns:
      The policy logits float32 `[N, A]` and the core state after the step.
    """
    features = self._step_features(inputs)  # [N, D]
    if self._core:
      features, core_state = self._core.step(features, inputs.done, core_state)
    policy_logits = self._policy_head(features)
    return networks.mask_illegal(policy_logits, inputs.observation), core_state

  def _features(self, inputs: AgentInput) -> tf.Tensor:
    """The core's inputs, float32 `[T, B, D]`, with time folded into the batch (section 3.1)."""
    folded = tf.nest.map_structure(lambda x: snt.merge_leading_dims(x, 2), inputs)  # [T*B, ...]
    return snt.split_leading_dim(self._step_features(folded), inputs.reward, 2)  # [T, B, D]

  def _step_features(self, inputs: AgentInput) -> tf.Tensor:
    """The features of `[N, ...]` inputs, float32 `[N, D]`."""
    features = self._encoder(inputs.observation)
    if not self._feedback:
      return features
    last_reward = tf.clip_by_value(self.rewards(inputs.reward), -1.0, 1.0)[:, tf.newaxis]
    last_action = acting.one_hot(inputs.last_action, self._action_space)
    return tf.concat([features, last_reward, last_action], axis=1)

  def _heads(self, features: tf.Tensor, observation: Mapping[str, tf.Tensor]) -> AgentOutput:
    """Policy and value, each one matrix product over all steps, after the core (section 3.1).

    Masks are applied here, so that the logits of behaviour policy and learner are masked alike.
    """
    policy_logits = snt.BatchApply(self._policy_head)(features)  # [T, B, A]
    policy_logits = networks.mask_illegal(policy_logits, observation)
    values = snt.BatchApply(self.value_head)(features)  # [T, B, N]
    if self._num_tasks is None:
      values = tf.squeeze(values, axis=-1)
    return AgentOutput(policy_logits=policy_logits, values=values)


def make_agent(config: configs.Config, suite: suites.Suite) -> Agent:
  """The network that the config asks for, for a suite's observations and actions."""
  encoder = encoders.make(config, suite)
  core_size = config.core_size if config.lstm else 0
  num_tasks = len(suite.tasks) if config.popart else None
  return Agent(encoder, suite.action_space, core_size, config.feedback, num_tasks)


def zeros(
  observation_space: gymnasium.spaces.Dict,
  action_space: suites.ActionSpace,
  leading: tuple[int, ...],
) -> AgentInput:
  """An input of zeros, `[*leading, ...]`, to create variables and trace graphs with."""
  return AgentInput(
    observation=encoders.zeros(observation_space, leading),
    last_action=tf.zeros((*leading, *acting.shape_of(action_space)), tf.int32),
    reward=tf.zeros(leading),
    done=tf.zeros(leading, tf.bool),
  )
