"""Ape-X DPG: deterministic policy gradients with n-step targets (Ape-X, section 3.2, appendix D).

Names carry the paper's time: `_t` belongs to S_t, where a transition starts, and `_tpn` to
S_{t+n}, the state it bootstraps from. phi are the policy's parameters, psi the critic's.
"""

from typing import Callable, Mapping, NamedTuple

import numpy as np
import sonnet as snt
import tensorflow as tf

from apex import agent as agents
from apex import config as configs
from apex import noise as noises
from common import encoder as encoders
from common import normalization, optimizers
from common.distributed import parameters
from common.environments import suite as suites
from common.evaluation import play as evaluation
from common.replay import structures

STATISTICS: tuple[str, ...] = ('loss', 'gradient_norm', 'policy_gradient_norm', 'q_value')

# The paper does not say how the networks go on after their first layer. As in DDPG, ReLU follows
# the second layer, the action enters the critic beside the first layer's output, tanh keeps actions
# in [-1, 1], and the last layers start within 0.003.
_LAST_LAYER = snt.initializers.RandomUniform(-3e-3, 3e-3)


class Layers(NamedTuple):
  """Units of both networks' two hidden layers, and the activation after the first."""

  policy: tuple[int, int]
  critic: tuple[int, int]
  activation: Callable[[tf.Tensor], tf.Tensor]


_LAYERS = {
  # Appendix D.
  'apex': Layers(policy=(300, 200), critic=(400, 300), activation=tf.tanh),
  # Lillicrap et al. 2016.
  'ddpg': Layers(policy=(400, 300), critic=(400, 300), activation=tf.nn.relu),
}


class PolicyNetwork(snt.Module):
  """pi(s, phi): two hidden layers, of which ReLU follows the second; actions in [-1, 1]."""

  def __init__(self, encoder: encoders.ObservationEncoder, action_size: int, layers: Layers):
    super().__init__(name='policy')
    self._encoder = encoder
    self._activation = layers.activation
    first, second = layers.policy
    self._first = snt.Linear(first)
    self._second = snt.Linear(second)
    self._action = snt.Linear(action_size, w_init=_LAST_LAYER)

  def __call__(self, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Observations by name, `[N, ...]`, to actions float32 `[N, A]`."""
    features = self._activation(self._first(self._encoder(observation)))  # [N, 300]
    features = tf.nn.relu(self._second(features))  # [N, 200]
    return tf.tanh(self._action(features))


class Critic(snt.Module):
  """q(s, a, psi): two hidden layers, of which ReLU follows the second; a scalar."""

  def __init__(self, encoder: encoders.ObservationEncoder, layers: Layers) -> None:
    super().__init__(name='critic')
    self._encoder = encoder
    self._activation = layers.activation
    first, second = layers.critic
    self._first = snt.Linear(first)
    self._second = snt.Linear(second)
    self._value = snt.Linear(1, w_init=_LAST_LAYER)

  def __call__(self, observation: Mapping[str, tf.Tensor], action: tf.Tensor) -> tf.Tensor:
    """Observations by name, `[N, ...]`, and actions float32 `[N, A]` to values float32 `[N]`."""
    return self.value(self.encode(observation), action)

  def encode(self, observation: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Observations by name, `[N, ...]`, to features float32 `[N, D]`."""
    return self._encoder(observation)

  def value(self, features: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Encoded observations float32 `[N, D]` and actions float32 `[N, A]` to values `[N]`."""
    features = self._activation(self._first(features))  # [N, 400]
    features = tf.concat([features, action], axis=1)  # [N, 400 + A]
    features = tf.nn.relu(self._second(features))  # [N, 300]
    return tf.squeeze(self._value(features), axis=1)


class Networks(snt.Module):
  """Policy and critic; all of their variables exist once they are constructed.

  Attributes:
    normalizer: See `apex.agent.Agent`; one for both.
  """

  def __init__(
    self,
    policy_encoder: encoders.ObservationEncoder,
    critic_encoder: encoders.ObservationEncoder,
    action_size: int,
    layers: Layers,
  ):
    """Builds both networks, which share no trained variables.

    Vectors reach their first layers as they are, or normalised.

    Args:
      policy_encoder: Reads observations for the policy.
      critic_encoder: Reads the same observations for the critic.
      action_size: A.
      layers: The hidden layers.
    """
    super().__init__(name='networks')
    self.normalizer = policy_encoder.normalizer
    self.policy = PolicyNetwork(policy_encoder, action_size, layers)
    self.critic = Critic(critic_encoder, layers)

    # Sonnet creates variables in the first call.
    observation = encoders.zeros(policy_encoder.space, leading=(1,))
    self.critic(observation, self.policy(observation))


class Gradients(NamedTuple):
  """Gradients of both networks, each in the order of its `trainable_variables`."""

  policy: list[tf.Tensor]
  critic: list[tf.Tensor]


def critic_losses(
  networks: Networks, target_networks: Networks, sample: structures.Sample
) -> agents.TDLosses:
  """The critic's loss and TD error of each transition in a sample (section 3.2).

  The loss is 0.5 (G_t - q(S_t, A_t, psi))^2, with

  G_t = R_{t+1} + ... + gamma^{n-1} R_{t+n} + gamma^n q(S_{t+n}, pi(S_{t+n}, phi^-), psi^-)

  Args:
    networks: phi and psi.
    target_networks: phi^- and psi^-.
    sample: K transitions, with actions float32 `[K, A]`.
  """
  shapes = [(sample.action, 'KA'), (sample.n_step_return, 'K'), (sample.discount, 'K')]
  tf.debugging.assert_shapes(shapes)
  for x, _ in shapes:
    tf.debugging.assert_type(x, tf.float32)

  observation_t = agents.network_observation(sample.observation, sample.frame_start)
  observation_tpn = agents.network_observation(sample.next_observation, sample.next_frame_start)
  action_tpn = target_networks.policy(observation_tpn)
  bootstrap_value = target_networks.critic(observation_tpn, action_tpn)  # [K]
  target_t = tf.stop_gradient(sample.n_step_return + sample.discount * bootstrap_value)
  return agents.td_losses(networks.critic(observation_t, sample.action), target_t)


def policy_gradients(
  networks: Networks, observation_t: Mapping[str, tf.Tensor], max_action_gradient: float = 1.0
) -> list[tf.Tensor]:
  """Computes the gradient, by phi, of the mean of -q(S_t, pi(S_t, phi), psi) (section 3.2).

  By the chain rule it is dq/da times dpi/dphi. Each dq/da is clipped to [-1, 1], element by
  element (appendix D). The paper clips "the gradient used to update the actor network", and does
  not say whether that is dq/da or the product.

  Args:
    networks: phi and psi.
    observation_t: By name, `[K, ...]`.
    max_action_gradient: The limit of the clipping; 0: none, as in DDPG.

  Returns:
    Gradients to descend, in the order of the policy's `trainable_variables`.
  """
  with tf.GradientTape() as tape:
    actions = networks.policy(observation_t)  # [K, A]
  # The second tape watches actions only, so that nothing flows back into phi before clipping.
  with tf.GradientTape(watch_accessed_variables=False) as action_tape:
    action_tape.watch(actions)
    q_values = networks.critic(observation_t, actions)
  dq_da = action_tape.gradient(q_values, actions)  # [K, A]
  if max_action_gradient:
    dq_da = tf.clip_by_value(dq_da, -max_action_gradient, max_action_gradient)

  # The sign turns the optimizer's descent into ascent of q.
  batch_size = tf.cast(tf.shape(actions)[0], tf.float32)
  return tape.gradient(actions, networks.policy.trainable_variables, -dq_da / batch_size)


def half_squares(network: snt.Module) -> tf.Tensor:
  """0.5 times the sum of the squares of a network's weights, without its biases: float32 `[]`."""
  weights = [variable for variable in network.trainable_variables if variable.shape.rank > 1]
  return tf.add_n([tf.nn.l2_loss(weight) for weight in weights])


class Agent(tf.Module):
  """Policy and critic, their target networks and optimizers; see `apex.agent.Agent`."""

  def __init__(self, config: configs.Config, suite: suites.Suite):
    super().__init__(name='dpg')
    self._config = config
    self.networks = make_networks(config, suite)
    self._target_networks = make_networks(config, suite, self.networks.normalizer)
    self._policy_optimizer = optimizers.Adam(
      self.networks.policy.trainable_variables, config.learning_rate
    )
    self._critic_optimizer = optimizers.Adam(
      self.networks.critic.trainable_variables,
      config.critic_learning_rate or config.learning_rate,
    )
    self.copy_to_target()

  def step(self, sample: structures.Sample) -> agents.Step:
    """Computes both networks' gradients, of means over a sample.

    Importance weights apply to the critic alone, as does the limit on the gradient's norm.
    """
    config = self._config
    variables = self.networks.critic.trainable_variables
    with tf.GradientTape() as tape:
      td = critic_losses(self.networks, self._target_networks, sample)
      loss = tf.reduce_mean(sample.weight * td.losses)
      total = loss
      if config.critic_l2:
        total += config.critic_l2 * half_squares(self.networks.critic)

    by_critic, critic_norm = optimizers.clip_by_global_norm(
      tape.gradient(total, variables), config.max_gradient_norm
    )
    observation_t = agents.network_observation(sample.observation, sample.frame_start)
    by_policy = policy_gradients(self.networks, observation_t, config.max_action_gradient)
    statistics = {
      'loss': loss,
      'gradient_norm': critic_norm,
      'policy_gradient_norm': tf.linalg.global_norm(by_policy),
      'q_value': tf.reduce_mean(td.q_values),
    }
    return agents.Step(statistics, td.td_errors, Gradients(policy=by_policy, critic=by_critic))

  def apply(self, gradients: Gradients) -> None:
    """Takes one step of Adam for each network."""
    self._policy_optimizer.apply(gradients.policy, self.networks.policy.trainable_variables)
    self._critic_optimizer.apply(gradients.critic, self.networks.critic.trainable_variables)

  def copy_to_target(self, share: float = 1.0) -> None:
    """phi^- <- (1 - share) phi^- + share phi, and psi^- likewise."""
    agents.copy(self.networks, self._target_networks, share)


class Policy:
  """Behaviour policy: pi plus noise, with the critic's values for initial priorities."""

  def __init__(
    self,
    networks: Networks,
    suite: suites.Suite,
    source: parameters.Source,
    noise: noises.Noise,
  ):
    """Copies the latest parameters.

    Args:
      networks: This actor's own copy.
      suite: The environments it acts in.
      source: Where it copies parameters from.
      noise: What is added to actions.
    """
    self._action_size = _action_size(suite)
    self._decide = agents.traced(
      lambda observation, noise: _decide(networks, observation, noise),
      suite,
      tf.TensorSpec([None, self._action_size], tf.float32),
    )
    self._networks = networks
    self._copy = parameters.ParameterCopy(parameters.published(networks), source)
    self._noise = noise

  def refresh(self) -> int:
    """Copies the latest parameters; returns their version."""
    with tf.device('/cpu:0'):
      return self._copy.refresh()

  def __call__(self, observation: suites.Observation, start: np.ndarray) -> agents.Decision:
    """Chooses noisy actions; see `agents.Policy`."""
    return self._run(observation, self._noise(start))

  def bootstrap_value(self, observation: suites.Observation) -> np.ndarray:
    """q(S, pi(S)), float32 `[M]`, for observations by name, `[M, ...]`."""
    no_noise = np.zeros([len(observation['observation']), self._action_size], np.float32)
    return self._run(observation, no_noise).bootstrap_value

  def rewards(self, rewards: np.ndarray) -> np.ndarray:
    """Rewards, or sums of them, in units of the critic's values."""
    with tf.device('/cpu:0'):
      return np.asarray(agents.in_units_of_values(self._networks, rewards))

  def _run(self, observation: suites.Observation, noise: np.ndarray) -> agents.Decision:
    with tf.device('/cpu:0'):
      decision = self._decide(observation, noise)
    return agents.Decision(*(part.numpy() for part in decision))


def _decide(
  networks: Networks, observation: Mapping[str, tf.Tensor], noise: tf.Tensor
) -> agents.Decision:
  """Acts with noise, clips to the actions' bounds, and values actions with noise and without."""
  preferred = networks.policy(observation)  # [N, A]
  actions = tf.clip_by_value(preferred + noise, -1.0, 1.0)

  # One pass of the critic for both, [2 N], whose observations are encoded once.
  features = networks.critic.encode(observation)
  q_values = networks.critic.value(
    tf.concat([features, features], 0), tf.concat([actions, preferred], 0)
  )
  q_taken, bootstrap_value = tf.split(q_values, 2)
  return agents.Decision(actions=actions, q_taken=q_taken, bootstrap_value=bootstrap_value)


def make_agent(config: configs.Config, suite: suites.Suite) -> Agent:
  """The learner's agent."""
  return Agent(config, suite)


def make_networks(
  config: configs.Config,
  suite: suites.Suite,
  normalizer: normalization.Normalizer | None = None,
) -> Networks:
  """Newly initialised networks for a suite; `dpg_layers` come after the encoder.

  They may share others' statistics.
  """
  normalizer = normalizer or normalization.make(config, suite)
  return Networks(
    _encoder(config, suite, normalizer),
    _encoder(config, suite, normalizer),
    _action_size(suite),
    _LAYERS[config.dpg_layers],
  )


def _encoder(
  config: configs.Config, suite: suites.Suite, normalizer: normalization.Normalizer | None
) -> encoders.ObservationEncoder:
  """Reads images with a torso, and leaves vectors to the paper's layers."""
  return encoders.ObservationEncoder(
    suites.network_space(suite),
    config.torso_for(suite),
    vector_sizes=(),
    instruction_size=config.instruction_size,
    normalizer=normalizer,
  )


def make_policy(
  config: configs.Config,
  suite: suites.Suite,
  source: parameters.Source,
  actor: int,
  seed: int,
  frames: Callable[[], int],
) -> Policy:
  """An actor's policy, on the CPU; all actors explore alike."""
  del actor, frames
  noise = noises.make(config, _action_size(suite), seed)
  with tf.device('/cpu:0'):
    return Policy(make_networks(config, suite), suite, source, noise)


def make_player(
  networks: Networks, config: configs.Config, suite: suites.Suite, seed: int
) -> Callable[[str, int], evaluation.Player]:
  """Makes players that act without noise."""
  del config, seed
  act = agents.traced(networks.policy, suite)

  def make(task: str, count: int) -> evaluation.Player:
    del task, count
    return lambda observations, rewards, done: act(dict(observations)).numpy()

  return make


def shown_environments(config: configs.Config) -> np.ndarray:
  """Selects all environments, bool `[N]`, as all explore alike."""
  return np.ones(config.num_environments, bool)


def _action_size(suite: suites.Suite) -> int:
  """A, the length of an action."""
  (size,) = suite.action_space.shape or ()
  return size
