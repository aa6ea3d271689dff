"""Ape-X DPG: deterministic policy gradients with n-step targets (Ape-X, section 3.2 and appendix D)."""

from typing import Callable, NamedTuple

import numpy as np
import sonnet as snt
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import exploration
from common import optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.evaluation import play as evaluation
from common.replay import structures

STATISTICS = ('loss', 'gradient_norm', 'policy_gradient_norm', 'q_value')
# Where the paper is silent: as in DDPG, ReLU follows both networks' second layer, the action enters the critic beside
# its first layer's output, tanh keeps actions in [-1, 1], and the last layers start within 0.003.
_LAST_LAYER = snt.initializers.RandomUniform(-3e-3, 3e-3)


class PolicyNetwork(snt.Module):
  """pi(s, phi): 300 units, tanh, 200 units, actions in [-1, 1]."""

  def __init__(self, action_size: int):
    super().__init__(name='policy')
    self._first, self._second = snt.Linear(300), snt.Linear(200)
    self._action = snt.Linear(action_size, w_init=_LAST_LAYER)

  def __call__(self, observation: tf.Tensor) -> tf.Tensor:
    """Observations float32 `[N, D]` to actions float32 `[N, A]`."""
    features = tf.nn.relu(self._second(tf.tanh(self._first(observation))))
    return tf.tanh(self._action(features))


class Critic(snt.Module):
  """q(s, a, psi): 400 units, tanh, 300 units, a scalar."""

  def __init__(self):
    super().__init__(name='critic')
    self._first, self._second = snt.Linear(400), snt.Linear(300)
    self._value = snt.Linear(1, w_init=_LAST_LAYER)

  def __call__(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Observations float32 `[N, D]` and actions float32 `[N, A]` to values float32 `[N]`."""
    features = tf.concat([tf.tanh(self._first(observation)), action], axis=1)
    return tf.squeeze(self._value(tf.nn.relu(self._second(features))), axis=1)


class Networks(snt.Module):
  """Policy and critic. All of their variables exist once they are constructed."""

  def __init__(self, observation_size: int, action_size: int):
    super().__init__(name='networks')
    self.policy, self.critic = PolicyNetwork(action_size), Critic()
    observation = tf.zeros([1, observation_size])
    self.critic(observation, self.policy(observation))


class Gradients(NamedTuple):
  """Of both networks, in the order of their variables."""

  policy: list[tf.Tensor]
  critic: list[tf.Tensor]


class CriticLoss(NamedTuple):
  """float32 `[K]`."""

  losses: tf.Tensor
  td_errors: tf.Tensor
  q_values: tf.Tensor


def critic_losses(
  networks: Networks, target_networks: Networks, sample: structures.Sample
) -> CriticLoss:
  """0.5 (G_t - q(S_t, A_t, psi))^2, G_t = R + gamma^n q(S_{t+n}, pi(S_{t+n}, phi^-), psi^-) (section 3.2)."""
  next_observation = sample.next_observation[:, 0]
  bootstrap = target_networks.critic(next_observation, target_networks.policy(next_observation))
  target = tf.stop_gradient(sample.n_step_return + sample.discount * bootstrap)
  q_values = networks.critic(sample.observation[:, 0], sample.action)
  td_errors = target - q_values
  return CriticLoss(0.5 * td_errors**2, td_errors, q_values)


def policy_gradients(networks: Networks, observation: tf.Tensor) -> list[tf.Tensor]:
  """grad_phi of -q(S_t, pi(S_t, phi), psi), the mean over observations `[K, D]` (section 3.2).

  It is dpi/dphi dq/da, and each dq/da is clipped to [-1, 1], element by element. "The gradient used to update the actor
  network" is clipped, says the paper, and not which of the two factors, or the product.
  """
  variables = networks.policy.trainable_variables
  with tf.GradientTape() as tape:
    actions = networks.policy(observation)
  with tf.GradientTape(watch_accessed_variables=False) as action_tape:
    action_tape.watch(actions)
    q_values = networks.critic(observation, actions)
  by_action = tf.clip_by_value(action_tape.gradient(q_values, actions), -1.0, 1.0)
  return tape.gradient(actions, variables, -by_action / tf.cast(tf.shape(actions)[0], tf.float32))


class Agent(tf.Module):
  """The two networks, their older copies and two optimizers."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__(name='dpg')
    self._config = config
    self.networks, self._target_networks = (make_networks(config, suite) for _ in range(2))
    self._policy_optimizer, self._critic_optimizer = (
      optimizers.Adam(network.trainable_variables, config.learning_rate)
      for network in (self.networks.policy, self.networks.critic)
    )
    self.copy_to_target()

  def step(self, sample: structures.Sample) -> agents.Step:
    """The gradients of both losses, means over the sample; the critic's loss is importance weighted."""
    variables = self.networks.critic.trainable_variables
    with tf.GradientTape() as tape:
      critic = critic_losses(self.networks, self._target_networks, sample)
      loss = tf.reduce_mean(sample.weight * critic.losses)
    gradients, norm = optimizers.clip_by_global_norm(
      tape.gradient(loss, variables), self._config.max_gradient_norm
    )
    policy = policy_gradients(self.networks, sample.observation[:, 0])
    statistics = (loss, norm, tf.linalg.global_norm(policy), tf.reduce_mean(critic.q_values))
    return agents.Step(
      dict(zip(STATISTICS, statistics, strict=True)), critic.td_errors, Gradients(policy, gradients)
    )

  def apply(self, gradients: Gradients) -> None:
    self._policy_optimizer.apply(gradients.policy, self.networks.policy.trainable_variables)
    self._critic_optimizer.apply(gradients.critic, self.networks.critic.trainable_variables)

  def copy_to_target(self) -> None:
    """phi^- <- phi, psi^- <- psi."""
    agents.copy(self.networks, self._target_networks)


class Policy:
  """The actor's own copy of both networks: one acts, with noise; the other values what was done, for priorities."""

  def __init__(
    self,
    networks: Networks,
    suite: suites.Suite,
    store: parameters.Source,
    sigma: float,
    seed: int,
  ):
    """`sigma`: of the noise on each action."""
    self._size = suite.action_space.shape[0]
    self._decide = agents.traced(
      lambda observation, noise: _decide(networks, observation, noise),
      suite,
      tf.TensorSpec([None, self._size], tf.float32),
    )
    self._copy = parameters.ParameterCopy(networks.trainable_variables, store)
    self._sigma, self._rng = sigma, np.random.default_rng(seed)

  def refresh(self) -> int:
    with tf.device('/cpu:0'):
      return self._copy.refresh()

  def __call__(self, observation: np.ndarray) -> agents.Decision:
    return self._run(
      observation, exploration.gaussian_noise(len(observation), self._size, self._sigma, self._rng)
    )

  def bootstrap_value(self, observation: np.ndarray) -> np.ndarray:
    return self._run(
      observation, np.zeros([len(observation), self._size], np.float32)
    ).bootstrap_value

  def _run(self, observation: np.ndarray, noise: np.ndarray) -> agents.Decision:
    with tf.device('/cpu:0'):
      return agents.Decision(*(part.numpy() for part in self._decide(observation, noise)))


def _decide(networks: Networks, observation: tf.Tensor, noise: tf.Tensor) -> agents.Decision:
  """Clips actions to the bounds, once the noise is on them."""
  own = networks.policy(observation)
  actions = tf.clip_by_value(own + noise, -1.0, 1.0)
  q_values = networks.critic(tf.concat([observation, observation], 0), tf.concat([actions, own], 0))
  return agents.Decision(actions, *tf.split(q_values, 2))


def make_networks(config: configs.Config, suite: suites.Suite) -> Networks:
  """The networks for a suite; their sizes are the paper's, whatever the config."""
  del config
  return Networks(suite.observation_space['observation'].shape[0], suite.action_space.shape[0])


def make_policy(
  config: configs.Config,
  suite: suites.Suite,
  store: parameters.Source,
  actor: int,
  seed: int,
) -> Policy:
  """An actor's policy, on the CPU; all actors explore alike."""
  del actor
  with tf.device('/cpu:0'):
    return Policy(make_networks(config, suite), suite, store, config.noise_sigma, seed)


def shown_environments(config: configs.Config) -> np.ndarray:
  """Whose episodes make the learning curves, bool `[N]`: all, as all explore alike."""
  return np.ones(config.num_environments, bool)


def make_player(
  networks: Networks, config: configs.Config, suite: suites.Suite, seed: int
) -> Callable[[str, int], evaluation.Player]:
  """What makes players for evaluation, which is without noise."""
  del config, seed
  act = agents.traced(networks.policy, suite)
  return lambda task, count: (
    lambda observations, rewards, done: act(observations['observation']).numpy()
  )
