"""Ape-X DQN: dueling double Q-learning with n-step targets (Ape-X, section 3.1)."""

from typing import Callable, NamedTuple

import gymnasium
import numpy as np
import sonnet as snt
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import exploration
from common import frames, networks, optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.evaluation import play as evaluation
from common.replay import structures

STATISTICS = ('loss', 'gradient_norm', 'q_value')


class DuelingNetwork(snt.Module):
  """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a') (Wang et al. 2016, equation 9).

  All of its variables exist once it is constructed.
  """

  def __init__(
    self, observation_space: gymnasium.spaces.Box, num_actions: int, torso: str, hidden_size: int
  ):
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
  """What a step on a sample needs, float32 `[K]`: the loss's terms, their TD errors, the values they began from."""

  losses: tf.Tensor
  td_errors: tf.Tensor
  q_values: tf.Tensor


def double_q_targets(
  n_step_return: tf.Tensor, discount: tf.Tensor, next_q: tf.Tensor, next_target_q: tf.Tensor
) -> tf.Tensor:
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


def evaluate_sample(
  network: DuelingNetwork, target_network: DuelingNetwork, sample: structures.Sample
) -> Targets:
  """The losses and TD errors of a sample, by the network that is trained and its older copy."""
  observation = agent_observation(sample.observation, sample.frame_start)
  next_observation = agent_observation(sample.next_observation, sample.next_frame_start)
  target = double_q_targets(
    sample.n_step_return,
    sample.discount,
    tf.stop_gradient(network(next_observation)),
    target_network(next_observation),
  )
  return td_losses(network(observation), sample.action, target)


def agent_observation(observation: tf.Tensor, frame_start: tf.Tensor) -> tf.Tensor:
  """What the network gets of a sample's single frames `[K, stack, ...]`: images `[K, H, W, stack]`, or vectors."""
  return observation[:, 0] if observation.shape[1] == 1 else frames.stacks(observation, frame_start)


class Agent(tf.Module):
  """The network, its older copy and the optimizer."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__(name='dqn')
    self._config = config
    self.networks, self._target_network = (make_networks(config, suite) for _ in range(2))
    self._optimizer = optimizers.RMSProp(
      config.rmsprop_decay, config.rmsprop_epsilon, centered=True
    )
    self._optimizer.create_slots(self.networks.trainable_variables)
    self.copy_to_target()

  def step(self, sample: structures.Sample) -> agents.Step:
    """The gradients of the mean loss over the sample, importance weighted."""
    variables = self.networks.trainable_variables
    with tf.GradientTape() as tape:
      targets = evaluate_sample(self.networks, self._target_network, sample)
      loss = tf.reduce_mean(sample.weight * targets.losses)
    gradients, norm = optimizers.clip_by_global_norm(
      tape.gradient(loss, variables), self._config.max_gradient_norm
    )
    statistics = (loss, norm, tf.reduce_mean(targets.q_values))
    return agents.Step(dict(zip(STATISTICS, statistics, strict=True)), targets.td_errors, gradients)

  def apply(self, gradients: list[tf.Tensor]) -> None:
    self._optimizer.apply(gradients, self.networks.trainable_variables, self._config.learning_rate)

  def copy_to_target(self) -> None:
    """theta^- <- theta."""
    agents.copy(self.networks, self._target_network)


class Policy:
  """Epsilon-greedy by the actor's own copy of the network; each environment has an epsilon of its own."""

  def __init__(
    self,
    network: DuelingNetwork,
    suite: suites.Suite,
    store: parameters.Source,
    epsilon: np.ndarray,
    seed: int,
  ):
    """`epsilon`: of this actor's environments, float32 `[N]`."""
    self._q_values = traced_q_values(network, suite)
    self._copy = parameters.ParameterCopy(network.trainable_variables, store)
    self._epsilon, self._rng = epsilon, np.random.default_rng(seed)

  def refresh(self) -> int:
    with tf.device('/cpu:0'):
      return self._copy.refresh()

  def __call__(self, observation: np.ndarray) -> agents.Decision:
    q_values = self.q_values(observation)
    actions = exploration.epsilon_greedy(q_values, self._epsilon, self._rng)
    return agents.Decision(
      actions, q_values[np.arange(len(actions)), actions], q_values.max(axis=1)
    )

  def bootstrap_value(self, observation: np.ndarray) -> np.ndarray:
    return self.q_values(observation).max(axis=1)

  def q_values(self, observation: np.ndarray) -> np.ndarray:
    """float32 `[N, A]` for observations `[N, ...]` as the environment gives them."""
    with tf.device('/cpu:0'):
      return self._q_values(observation).numpy()


def make_networks(config: configs.Config, suite: suites.Suite) -> DuelingNetwork:
  """The network for a suite."""
  return DuelingNetwork(
    suites.network_space(suite), suite.num_actions, config.torso, config.hidden_size
  )


def make_policy(
  config: configs.Config,
  suite: suites.Suite,
  store: parameters.Source,
  actor: int,
  seed: int,
) -> Policy:
  """An actor's policy, on the CPU, as in the paper, with its share of the ladder of epsilons."""
  epsilons = exploration.epsilons(config.num_environments, config.distinct_epsilons)
  own = epsilons[actor * config.envs_per_actor :][: config.envs_per_actor]
  with tf.device('/cpu:0'):
    return Policy(make_networks(config, suite), suite, store, own, seed)


def shown_environments(config: configs.Config) -> np.ndarray:
  """Whose episodes make the learning curves: bool `[N]`."""
  return exploration.greediest(
    exploration.epsilons(config.num_environments, config.distinct_epsilons)
  )


def make_player(
  network: DuelingNetwork, config: configs.Config, suite: suites.Suite, seed: int
) -> Callable[[str, int], evaluation.Player]:
  """What makes players for evaluation: greedy but for `evaluation_epsilon`."""
  q_values = traced_q_values(network, suite)

  def make(task: str, count: int) -> evaluation.Player:
    del task
    epsilon, rng = np.full(count, config.evaluation_epsilon), np.random.default_rng(seed)
    return lambda observations, rewards, done: exploration.epsilon_greedy(
      q_values(observations['observation']).numpy(), epsilon, rng
    )

  return make


def traced_q_values(
  network: DuelingNetwork, suite: suites.Suite
) -> Callable[[np.ndarray], tf.Tensor]:
  """The network as one graph for observations `[N, ...]` as environments give them, already run once."""
  return agents.traced(lambda x: network(frames.channels(x) if suite.frame_stack > 1 else x), suite)


def _scale_gradient(x: tf.Tensor, scale: float) -> tf.Tensor:
  """x itself, whose gradient is scaled."""
  return x + (scale - 1.0) * (x - tf.stop_gradient(x))
