"""IMPALA's agent (Figure 3): torso, instructions, last action and reward, LSTM, two heads."""

from typing import Any, Mapping, NamedTuple

import gymnasium
import sonnet as snt
import tensorflow as tf

from common import networks
from common.environments import suite as suites
from impala import config as configs

CORE_SIZE = 256


class AgentInput(NamedTuple):
  """An environment's last answer and the action it answered to, `[T, B]`.

  Actors have no time axis, `[N]`.
  """

  # By name, `[T, B, ...]`: `observation`, pixels uint8 or vectors float32, and in some suites
  # `instruction`, words int32.
  observation: Mapping[str, Any]
  # int32.
  last_action: Any
  # float32, for the last action, not clipped.
  reward: Any
  # bool. The observation is the first of an episode.
  done: Any


class AgentOutput(NamedTuple):
  """Policy logits `[T, B, A]` and values `[T, B]`, float32."""

  policy_logits: tf.Tensor
  values: tf.Tensor


class Agent(snt.Module):
  """The network of actors and learner. All its variables exist once it is constructed."""

  def __init__(
    self,
    observation_space: gymnasium.spaces.Dict,
    num_actions: int,
    torso: str,
    lstm: bool,
    feedback: bool,
  ):
    """Builds the network.

    Args:
      observation_space: One environment's, as the torso reads it: images are `[H, W, C]`.
      num_actions: A.
      torso: One of `common.networks.TORSOS`.
      lstm: Whether there is a core, of 256 units; else the heads read the features.
      feedback: Whether the last action and the last reward, clipped to [-1, 1], are inputs.
    """
    super().__init__(name='agent')
    self._num_actions = num_actions
    self._feedback = feedback
    self._torso: Any = networks.TORSOS[torso]()
    has_instructions = 'instruction' in observation_space.spaces
    self._instructions = networks.InstructionEncoder() if has_instructions else None

    # One pass over zeros creates every variable and tells the core its input size.
    inputs = zeros(observation_space, leading=(1, 1))
    feature_size = self._features(inputs).shape[-1]
    self._core = networks.ResettingLSTM(feature_size, CORE_SIZE) if lstm else None
    self._policy_head = snt.Linear(num_actions)
    self._value_head = snt.Linear(1)
    self.unroll(inputs, self.initial_state(1))

  def initial_state(self, batch_size: int) -> Any:
    """The core state at the start of a run, `[batch_size, H]`; empty without a core."""
    return self._core.initial_state(batch_size) if self._core else ()

  def unroll(self, inputs: AgentInput, core_state: Any) -> tuple[AgentOutput, Any]:
    """Runs over time and batch; acting is an unroll of one step.

    Args:
      inputs: `[T, B, ...]`.
      core_state: The state before the first step, `[B, H]`. It is reset wherever `inputs.done`.

    Returns:
      The outputs `[T, B, ...]` and the core state after the last step.
    """
    features = self._features(inputs)  # [T, B, D]
    if self._core:
      features, core_state = self._core.unroll(features, inputs.done, core_state)
    return self._heads(features), core_state

  def _features(self, inputs: AgentInput) -> tf.Tensor:
    """The core's inputs, float32 `[T, B, D]`, with time folded into the batch (section 3.1)."""
    folded = tf.nest.map_structure(lambda x: snt.merge_leading_dims(x, 2), inputs)  # [T*B, ...]
    return snt.split_leading_dim(self._step_features(folded), inputs.reward, 2)  # [T, B, D]

  def _step_features(self, inputs: AgentInput) -> tf.Tensor:
    """The features of `[N, ...]` inputs, float32 `[N, D]`."""
    parts = [self._torso(inputs.observation['observation'])]
    if self._feedback:
      parts.append(tf.clip_by_value(inputs.reward, -1.0, 1.0)[:, tf.newaxis])
      parts.append(tf.one_hot(inputs.last_action, self._num_actions))
    if self._instructions:
      parts.append(self._instructions(inputs.observation['instruction']))
    return tf.concat(parts, axis=1)

  def _heads(self, features: tf.Tensor) -> AgentOutput:
    """Policy and value, each one matrix product over all steps, after the core (section 3.1)."""
    policy_logits = snt.BatchApply(self._policy_head)(features)  # [T, B, A]
    values = snt.BatchApply(self._value_head)(features)  # [T, B, 1]
    return AgentOutput(policy_logits=policy_logits, values=tf.squeeze(values, axis=-1))


def make_agent(config: configs.Config, suite: suites.Suite) -> Agent:
  """The network that the config asks for, for a suite's observations and actions."""
  spaces = gymnasium.spaces.Dict(
    suite.observation_space.spaces | {'observation': suites.network_space(suite)}
  )
  return Agent(spaces, suite.num_actions, config.torso, config.lstm, config.feedback)


def zeros(observation_space: gymnasium.spaces.Dict, leading: tuple[int, ...]) -> AgentInput:
  """An input of zeros, `[*leading, ...]`, to create variables and trace graphs with."""
  observation = {}
  for name, space in observation_space.spaces.items():
    assert space.shape is not None  # Suites observe boxes.
    observation[name] = tf.zeros((*leading, *space.shape), tf.as_dtype(space.dtype))
  return AgentInput(
    observation=observation,
    last_action=tf.zeros(leading, tf.int32),
    reward=tf.zeros(leading),
    done=tf.zeros(leading, tf.bool),
  )
