"""Ape-X DQN: dueling double Q-learning with n-step targets (Ape-X, section 3.1).

Names carry the paper's time: `_t` belongs to S_t, where a transition starts, and `_tpn` to
S_{t+n}, the state it bootstraps from.
"""

from typing import Callable, Mapping

import numpy as np
import sonnet as snt
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import exploration
from common import encoder as encoders
from common import networks, normalization, optimizers
from common.distributed import parameters
from common.environments import masks
from common.environments import suite as suites
from common.evaluation import play as evaluation
from common.replay import structures

STATISTICS: tuple[str, ...] = ('loss', 'gradient_norm', 'q_value')


class DuelingNetwork(snt.Module):
  """Q(s, a) = V(s) + A(s, a) - mean_a' A(s, a') (Wang et al. 2016, equation 9).

  All of its variables exist once it is constructed.

  Attributes:
    normalizer: See `apex.agent.Agent`.
  """

  def __init__(self, encoder: encoders.ObservationEncoder, num_actions: int, hidden_size: int):
    """Builds the network.

    Args:
      encoder: Reads observations.
      num_actions: A.
      hidden_size: The width of the hidden layer in each of the two streams.
    """
    super().__init__(name='dueling_network')
    self._encoder = encoder
    self.normalizer = encoder.normalizer
    self._value = snt.nets.MLP([hidden_size, 1])
    self._advantage = snt.nets.MLP([hidden_size, num_actions])

    # Sonnet creates variables in the first call.
    self(encoders.zeros(encoder.space, leading=(1,)))

  def __call__(self, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Observations by name, `[N, ...]`, to q-values float32 `[N, A]`; -1e8 for illegal actions."""
    # Both streams send their gradient into the encoder, so Wang et al. scale the sum by 1 / sqrt(2)
    # there (section 4.2).
    features = _scale_gradient(self._encoder(observation), 2.0**-0.5)
    advantage = self._advantage(features)
    # Subtracting the mean makes V and A identifiable; their sum alone would not be.
    q_values = self._value(features) + advantage - tf.reduce_mean(advantage, axis=1, keepdims=True)
    # Masked here, so that neither a policy nor a target ever prefers an illegal action.
    return networks.mask_illegal(q_values, observation)


class PlainNetwork(snt.Module):
  """Q(s, a) by one stream (Mnih et al. 2015). All of its variables exist once it is constructed.

  Attributes:
    normalizer: See `apex.agent.Agent`.
  """

  def __init__(self, encoder: encoders.ObservationEncoder, num_actions: int, hidden_size: int):
    """Builds the network; for the arguments, see `DuelingNetwork`."""
    super().__init__(name='plain_network')
    self._encoder = encoder
    self.normalizer = encoder.normalizer
    self._q_values = snt.nets.MLP([hidden_size, num_actions])
    self(encoders.zeros(encoder.space, leading=(1,)))

  def __call__(self, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Observations by name, `[N, ...]`, to q-values float32 `[N, A]`; -1e8 for illegal actions."""
    return networks.mask_illegal(self._q_values(self._encoder(observation)), observation)


Network = DuelingNetwork | PlainNetwork


def double_q_targets(
  n_step_return: tf.Tensor, discount_tpn: tf.Tensor, q_tpn: tf.Tensor, target_q_tpn: tf.Tensor
) -> tf.Tensor:
  """Computes n-step double-Q targets (section 3.1).

  G_t = R_{t+1} + ... + gamma^{n-1} R_{t+n}
        + gamma^n q(S_{t+n}, argmax_a q(S_{t+n}, a, theta), theta^-)

  Args:
    n_step_return: float32 `[K]`, the discounted rewards in G_t.
    discount_tpn: float32 `[K]`, gamma^n, or 0 where the episode ended.
    q_tpn: float32 `[K, A]`, q(S_{t+n}, ., theta) by the network being trained, which chooses. With
      that of the target network instead, targets are those of plain Q-learning.
    target_q_tpn: float32 `[K, A]`, q(S_{t+n}, ., theta^-) by the target network, which values.

  Returns:
    G_t, float32 `[K]`, without gradient.
  """
  tf.debugging.assert_shapes(
    [(n_step_return, 'K'), (discount_tpn, 'K'), (q_tpn, 'KA'), (target_q_tpn, 'KA')]
  )
  for x in (n_step_return, discount_tpn, q_tpn, target_q_tpn):
    tf.debugging.assert_type(x, tf.float32)

  best_action = tf.argmax(q_tpn, axis=1)
  bootstrap_value = tf.gather(target_q_tpn, best_action, batch_dims=1)
  return tf.stop_gradient(n_step_return + discount_tpn * bootstrap_value)


def td_losses(
  q_t: tf.Tensor, action_t: tf.Tensor, target_t: tf.Tensor, max_error: float = 0.0
) -> agents.TDLosses:
  """0.5 (G_t - q(S_t, A_t, theta))^2 (section 3.1).

  Args:
    q_t: float32 `[K, A]`, q(S_t, ., theta).
    action_t: int32 `[K]`, A_t.
    target_t: float32 `[K]`, G_t, without gradient.
    max_error: See `agents.td_losses`.
  """
  tf.debugging.assert_shapes([(q_t, 'KA'), (action_t, 'K'), (target_t, 'K')])
  tf.debugging.assert_type(q_t, tf.float32)
  tf.debugging.assert_type(action_t, tf.int32)

  taken = tf.gather(q_t, action_t, batch_dims=1)  # [K]
  return agents.td_losses(taken, target_t, max_error)


def evaluate_sample(
  network: Network,
  target_network: Network,
  sample: structures.Sample,
  double: bool = True,
  max_error: float = 0.0,
) -> agents.TDLosses:
  """The loss and TD error of each transition in a sample.

  Args:
    network: theta.
    target_network: theta^-.
    sample: K transitions.
    double: Whether `network` chooses the actions that targets value, or `target_network` both.
    max_error: See `agents.td_losses`.
  """
  observation_t = agents.network_observation(sample.observation, sample.frame_start)
  observation_tpn = agents.network_observation(sample.next_observation, sample.next_frame_start)
  target_q_tpn = target_network(observation_tpn)
  q_tpn = tf.stop_gradient(network(observation_tpn)) if double else target_q_tpn
  target_t = double_q_targets(sample.n_step_return, sample.discount, q_tpn, target_q_tpn)
  return td_losses(network(observation_t), sample.action, target_t, max_error)


class Agent(tf.Module):
  """The network, its target network and their optimizer; see `apex.agent.Agent`."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__(name='dqn')
    self._config = config
    self.networks = make_networks(config, suite)
    self._target_network = make_networks(config, suite, self.networks.normalizer)
    self._optimizer = optimizers.RMSProp(
      config.rmsprop_decay, config.rmsprop_epsilon, centered=True
    )
    # Before the first step, so that every checkpoint holds the accumulators.
    self._optimizer.create_slots(self.networks.trainable_variables)
    self.copy_to_target()

  def step(self, sample: structures.Sample) -> agents.Step:
    """Computes the importance-weighted mean loss over a sample, and its clipped gradients."""
    config = self._config
    variables = self.networks.trainable_variables
    with tf.GradientTape() as tape:
      td = evaluate_sample(
        self.networks, self._target_network, sample, config.double, config.max_td_error
      )
      loss = tf.reduce_mean(sample.weight * td.losses)

    gradients, norm = optimizers.clip_by_global_norm(
      tape.gradient(loss, variables), config.max_gradient_norm
    )
    statistics = {
      'loss': loss,
      'gradient_norm': norm,
      'q_value': tf.reduce_mean(td.q_values),
    }
    return agents.Step(statistics, td.td_errors, gradients)

  def apply(self, gradients: list[tf.Tensor]) -> None:
    """Takes one step of RMSProp, at a constant learning rate."""
    self._optimizer.apply(gradients, self.networks.trainable_variables, self._config.learning_rate)

  def copy_to_target(self, share: float = 1.0) -> None:
    """theta^- <- (1 - share) theta^- + share theta."""
    agents.copy(self.networks, self._target_network, share)


class Policy:
  """Epsilon-greedy behaviour policy; each environment has its own epsilon (section 4.1)."""

  def __init__(
    self,
    network: Network,
    suite: suites.Suite,
    source: parameters.Source,
    epsilon: Callable[[], np.ndarray],
    seed: int,
  ):
    """Copies the latest parameters.

    Args:
      network: This actor's own copy.
      suite: The environments it acts in.
      source: Where it copies parameters from.
      epsilon: Returns float32 `[N]`, one for each environment of this actor; called at each
        `refresh`.
      seed: Seeds exploration.
    """
    self._q_values = agents.traced(network, suite)
    self._network = network
    self._copy = parameters.ParameterCopy(parameters.published(network), source)
    self._current_epsilon = epsilon
    self._epsilon = epsilon()
    self._rng = np.random.default_rng(seed)

  def refresh(self) -> int:
    """Copies the latest parameters; returns their version."""
    with tf.device('/cpu:0'):
      version = self._copy.refresh()
    # With the parameters come the run's frames, by which an epsilon may fall.
    self._epsilon = self._current_epsilon()
    return version

  def __call__(self, observation: suites.Observation, start: np.ndarray) -> agents.Decision:
    """Chooses epsilon-greedy actions; see `agents.Policy`."""
    del start
    q_values = self.q_values(observation)
    mask = observation.get(masks.NAME)
    actions = exploration.epsilon_greedy(q_values, self._epsilon, self._rng, mask)
    return agents.Decision(
      actions=actions,
      q_taken=q_values[np.arange(len(actions)), actions],
      bootstrap_value=q_values.max(axis=1),
    )

  def bootstrap_value(self, observation: suites.Observation) -> np.ndarray:
    """max_a q(S, a), float32 `[M]`, for observations `[M, ...]`."""
    return self.q_values(observation).max(axis=1)

  def rewards(self, rewards: np.ndarray) -> np.ndarray:
    """Rewards, or sums of them, in units of the q-values."""
    with tf.device('/cpu:0'):
      return np.asarray(agents.in_units_of_values(self._network, rewards))

  def q_values(self, observation: suites.Observation) -> np.ndarray:
    """Q-values float32 `[N, A]` for observations `[N, ...]` in the environment's own layout."""
    with tf.device('/cpu:0'):
      return self._q_values(observation).numpy()


def make_agent(config: configs.Config, suite: suites.Suite) -> Agent:
  """The learner's agent."""
  return Agent(config, suite)


def make_networks(
  config: configs.Config,
  suite: suites.Suite,
  normalizer: normalization.Normalizer | None = None,
) -> Network:
  """A newly initialised network for a suite, which may share another's statistics."""
  kind = DuelingNetwork if config.dueling else PlainNetwork
  encoder = encoders.make(config, suite, normalizer)
  return kind(encoder, suite.num_actions, config.hidden_size)


def make_policy(
  config: configs.Config,
  suite: suites.Suite,
  source: parameters.Source,
  actor: int,
  seed: int,
  frames: Callable[[], int],
) -> Policy:
  """An actor's policy, with its share of all epsilons; on the CPU, as in the paper."""
  own = slice(actor * config.envs_per_actor, (actor + 1) * config.envs_per_actor)
  with tf.device('/cpu:0'):
    network = make_networks(config, suite)
    return Policy(network, suite, source, lambda: _epsilons(config, frames())[own], seed)


def make_player(
  network: Network, config: configs.Config, suite: suites.Suite, seed: int
) -> Callable[[str, int], evaluation.Player]:
  """Makes players that act greedily, except with probability `config.evaluation_epsilon`."""
  q_values = agents.traced(network, suite)

  def make(task: str, count: int) -> evaluation.Player:
    del task
    epsilon = np.full(count, config.evaluation_epsilon)
    rng = np.random.default_rng(seed)

    def act(
      observations: Mapping[str, np.ndarray], rewards: np.ndarray, done: np.ndarray
    ) -> np.ndarray:
      del rewards, done
      values = q_values(dict(observations)).numpy()
      return exploration.epsilon_greedy(values, epsilon, rng, observations.get(masks.NAME))

    return act

  return make


def shown_environments(config: configs.Config) -> np.ndarray:
  """Selects the eighth of the environments that explores least, or all if alike: bool `[N]`."""
  if config.epsilon_frames:
    return np.ones(config.num_environments, bool)
  return exploration.greediest(_epsilons(config, 0))


def _epsilons(config: configs.Config, frames: int) -> np.ndarray:
  """Epsilons of all environments after a number of frames of the run, float32 `[N]`."""
  count = config.num_environments
  if config.epsilon_frames:
    return exploration.annealed(frames, config.epsilon_frames, config.final_epsilon, count)
  return exploration.epsilons(count, config.distinct_epsilons)


def _scale_gradient(x: tf.Tensor, scale: float) -> tf.Tensor:
  """The identity, whose gradient is scaled."""
  return x + (scale - 1.0) * (x - tf.stop_gradient(x))
