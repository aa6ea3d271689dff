"""Ape-X DQN: dueling double Q-learning with n-step targets (Ape-X, section 3.1)."""

from typing import NamedTuple

import gymnasium
import sonnet as snt
import tensorflow as tf

from common import frames, networks
from common.environments import suite as suites
from common.replay import prioritized


class DuelingNetwork(snt.Module):
  """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a') (Wang et al. 2016, equation 9).

  All of its variables exist once it is constructed.
  """

  def __init__(self, observation_space: gymnasium.spaces.Box, num_actions: int, torso: str, hidden_size: int):
    """Builds the network.

    Args:
      observation_space: of one environment, as the torso gets it: images `[H, W, C]` or vectors.
      num_actions: A.
      torso: one of `common.networks.TORSOS`.
      hidden_size: of the layer in each of the two streams.
    """
    super().__init__(name='dueling_network')
    self._torso = networks.TORSOS[torso]()
    self._value, self._advantage = (snt.nets.MLP([hidden_size, size]) for size in (1, num_actions))
    self(tf.zeros([1, *observation_space.shape], tf.as_dtype(observation_space.dtype)))

  def __call__(self, observation: tf.Tensor) -> tf.Tensor:
    """Observations `[N, ...]` to q-values float32 `[N, A]`."""
    # Both streams send their gradient into the torso: it is scaled by 1 / sqrt(2) there (Wang et al., section 4.2).
    features = _scale_gradient(self._torso(observation), 2.0**-0.5)
    advantage = self._advantage(features)
    return self._value(features) + advantage - tf.reduce_mean(advantage, axis=1, keepdims=True)


class Targets(NamedTuple):
  """What a step on a sample needs, float32 `[K]`: the loss's terms, their TD errors and the values they started from."""
  losses: tf.Tensor
  td_errors: tf.Tensor
  q_values: tf.Tensor


def double_q_targets(n_step_return: tf.Tensor, discount: tf.Tensor, next_q: tf.Tensor,
                     next_target_q: tf.Tensor) -> tf.Tensor:
  """G_t = R + gamma^n q(S_{t+n}, argmax_a q(S_{t+n}, a, theta), theta^-) (section 3.1).

  Args:
    n_step_return: float32 `[K]`.
    discount: float32 `[K]`, gamma^n, or 0 after an episode's end.
    next_q: float32 `[K, A]`, of the network that is trained.
    next_target_q: float32 `[K, A]`, of the target network.

  Returns:
    float32 `[K]`, without gradient.
  """
  best = tf.argmax(next_q, axis=1)
  return tf.stop_gradient(n_step_return + discount * tf.gather(next_target_q, best, batch_dims=1))


def td_losses(q: tf.Tensor, action: tf.Tensor, target: tf.Tensor) -> Targets:
  """0.5 (G_t - q(S_t, A_t, theta))^2 for each of `[K]`: squared, as the paper has it, not Huber's."""
  taken = tf.gather(q, action, batch_dims=1)
  td_errors = target - taken
  return Targets(0.5 * td_errors**2, td_errors, taken)


def evaluate_sample(network: DuelingNetwork, target_network: DuelingNetwork, sample: prioritized.Sample) -> Targets:
  """The losses and TD errors of a sample, by the network that is trained and its older copy."""
  observation = agent_observation(sample.observation, sample.frame_start)
  next_observation = agent_observation(sample.next_observation, sample.next_frame_start)
  target = double_q_targets(
      sample.n_step_return, sample.discount, tf.stop_gradient(network(next_observation)),
      target_network(next_observation))
  return td_losses(network(observation), sample.action, target)


def agent_observation(observation: tf.Tensor, frame_start: tf.Tensor) -> tf.Tensor:
  """What the network gets of a sample's single frames `[K, stack, ...]`: images `[K, H, W, stack]`, or vectors."""
  return observation[:, 0] if observation.shape[1] == 1 else frames.stacks(observation, frame_start)


def make_network(suite: suites.Suite, torso: str, hidden_size: int) -> DuelingNetwork:
  """The network for a suite."""
  return DuelingNetwork(suites.network_space(suite), suite.num_actions, torso, hidden_size)


def _scale_gradient(x: tf.Tensor, scale: float) -> tf.Tensor:
  """x itself, whose gradient is scaled."""
  return x + (scale - 1.0) * (x - tf.stop_gradient(x))
