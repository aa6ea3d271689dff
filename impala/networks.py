"""IMPALA's agent (Figure 3): torso, instruction encoder, last action and reward, LSTM core, policy and value heads."""

from typing import Any, Mapping, NamedTuple

import gymnasium
import sonnet as snt
import tensorflow as tf

from common import networks
from common.environments import suite as suites
from impala import config as configs

CORE_SIZE = 256


class AgentInput(NamedTuple):
  """What the environment said last, and what it was asked: all `[T, B]` or with these axes in front."""

  observation: Mapping[
    str, tf.Tensor
  ]  # `observation`: pixels uint8 or vectors float32; maybe `instruction`, int32.
  last_action: tf.Tensor  # int32.
  reward: tf.Tensor  # float32, for the last action, as the environment gave it.
  done: tf.Tensor  # bool: the observation is the first of an episode.


class AgentOutput(NamedTuple):
  """Policy logits `[T, B, A]` and values `[T, B]`, float32."""

  policy_logits: tf.Tensor
  values: tf.Tensor


class Agent(snt.Module):
  """The network of actors and learner. All of its variables exist once it is constructed."""

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
      observation_space: of one environment, as the torso gets it: images `[H, W, C]`.
      num_actions: A.
      torso: one of `common.networks.TORSOS`.
      lstm: whether there is a core of 256 units; else the heads stand on the torso.
      feedback: whether the last action and the last reward, clipped to [-1, 1], are inputs.
    """
    super().__init__(name='agent')
    self._num_actions, self._feedback = num_actions, feedback
    self._torso = networks.TORSOS[torso]()
    self._instructions = (
      networks.InstructionEncoder() if 'instruction' in observation_space.spaces else None
    )
    inputs = _zeros(observation_space)
    self._core = (
      networks.ResettingLSTM(self._features(inputs).shape[-1], CORE_SIZE) if lstm else None
    )
    self._policy_head, self._value_head = snt.Linear(num_actions), snt.Linear(1)
    self.unroll(inputs, self.initial_state(1))

  def initial_state(self, batch_size: int) -> Any:
    """The core state at the start of a run; empty for a feed-forward agent."""
    return self._core.initial_state(batch_size) if self._core else ()

  def unroll(self, inputs: AgentInput, core_state: Any) -> tuple[AgentOutput, Any]:
    """Runs over time and batch; an acting step is an unroll of one.

    Args:
      inputs: `[T, B]`.
      core_state: before the first of them, `[B, ...]`.

    Returns:
      The outputs `[T, B]` and the core state after the last step.
    """
    features = self._features(inputs)
    if self._core:
      features, core_state = self._core.unroll(features, inputs.done, core_state)
    return self._heads(features), core_state

  def _features(self, inputs: AgentInput) -> tf.Tensor:
    """All that does not depend on time, `[T, B, D]`: time is folded into the batch (section 3.1)."""
    folded = tf.nest.map_structure(lambda x: snt.merge_leading_dims(x, 2), inputs)
    return snt.split_leading_dim(self._step_features(folded), inputs.reward, 2)

  def _step_features(self, inputs: AgentInput) -> tf.Tensor:
    parts = [self._torso(inputs.observation['observation'])]
    if self._feedback:
      parts.append(tf.clip_by_value(inputs.reward, -1.0, 1.0)[:, tf.newaxis])
      parts.append(tf.one_hot(inputs.last_action, self._num_actions))
    if self._instructions:
      parts.append(self._instructions(inputs.observation['instruction']))
    return tf.concat(parts, axis=1)

  def _heads(self, features: tf.Tensor) -> AgentOutput:
    """One product over all steps for each head, after the core (section 3.1)."""
    policy_logits, values = (
      snt.BatchApply(head)(features) for head in (self._policy_head, self._value_head)
    )
    return AgentOutput(policy_logits, tf.squeeze(values, axis=-1))


def make_agent(config: configs.Config, suite: suites.Suite) -> Agent:
  """The network that a config says, for a suite."""
  spaces = gymnasium.spaces.Dict(
    suite.observation_space.spaces | {'observation': suites.network_space(suite)}
  )
  return Agent(spaces, suite.num_actions, config.torso, config.lstm, config.feedback)


def _zeros(observation_space: gymnasium.spaces.Dict) -> AgentInput:
  """An input of one step and a batch of one, to create variables with."""
  observation = {
    name: tf.zeros((1, 1, *space.shape), tf.as_dtype(space.dtype))
    for name, space in observation_space.spaces.items()
  }
  return AgentInput(
    observation, tf.zeros([1, 1], tf.int32), tf.zeros([1, 1]), tf.zeros([1, 1], tf.bool)
  )
