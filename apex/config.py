"""The settings of an Ape-X run; `apex.presets` has the values of each preset."""

import dataclasses
from typing import ClassVar

from apex import presets as rows
from common import environments, errors
from common.config import presets, settings
from common.environments import grids
from common.environments import suite as suites


@dataclasses.dataclass
class Config(settings.Settings):
  """Settings of Ape-X. The defaults are the paper's Ape-X DQN (section 4.1 and appendix C)."""

  SYSTEM: ClassVar[str] = 'apex'

  # dqn, for discrete actions, or dpg, for continuous ones.
  algorithm: str = 'dqn'
  env: str = 'atari:pong'
  total_frames: int = 22_800_000_000

  # Actors, and environments that each steps as one batch. The paper has 360 actors with one
  # environment each.
  num_actors: int = 12
  envs_per_actor: int = 30
  # DQN: number of distinct epsilons; 0: one for each environment (Figure 7 compares with 6).
  distinct_epsilons: int = 0
  # DQN without the paper's ladder: frames of all environments in which every epsilon falls linearly
  # from 1 to `final_epsilon`; 0: the ladder.
  epsilon_frames: int = 0
  final_epsilon: float = 0.1
  # DPG: the noise added to actions, which are in [-1, 1]: gaussian, or ornstein_uhlenbeck, which is
  # correlated in time. Sigma is the standard deviation of its draws; theta, of the second one, the
  # share of the noise that fades in a step.
  noise: str = 'gaussian'
  noise_sigma: float = 0.3
  noise_theta: float = 0.15
  n_step: int = 3
  # Clip rewards to [-1, 1].
  clip_rewards: bool = True
  # Environment frames after which an Atari episode is cut in training; in evaluation, 108,000.
  max_episode_frames: int = 50_000
  # Transitions in a block; and how many of one environment may be outside the replay, in the block
  # being filled and in blocks on their way, before its actor waits.
  block_length: int = 50
  local_buffer: int = 100
  # Frames of each environment between two parameter updates of its actor.
  parameter_pull_frames: int = 400

  # Replay, in transitions: its capacity, and the size at which learning starts.
  replay_capacity: int = 2_000_000
  min_replay: int = 50_000
  # Exponents of the priorities (0: uniform) and of the importance weights.
  alpha: float = 0.6
  beta: float = 0.4
  # Sample one transition from each of `batch_size` equal parts of the total priority, rather than
  # all independently.
  stratified: bool = True
  # How often each transition is added (Figure 6).
  replicas: int = 1
  # Samples learned from per inserted transition; the side that is ahead waits. 0: neither waits.
  replay_ratio: float = 0.0
  # What a full replay removes: the `oldest`, with a soft capacity; or `by_priority`, sampled in
  # proportion to priority^alpha_evict, with a fixed capacity.
  eviction: str = 'oldest'
  alpha_evict: float = -0.4
  # Updates between removals of what exceeds the soft capacity.
  remove_period: int = 100
  # Save the replay with each checkpoint.
  checkpoint_replay: bool = False

  # What reads images. Vectors are read by DQN's `vector_sizes` or by DPG's own layers.
  torso: str = 'nature'
  # DQN's hidden layers; whether it has the dueling network's two streams.
  hidden_size: int = 512
  dueling: bool = True
  # DPG's layers: those of Ape-X (apex), or of Lillicrap et al. 2016 (ddpg).
  dpg_layers: str = 'apex'

  # Learner.
  batch_size: int = 512
  # Batches sampled ahead of the learner; the sampler holds one more.
  prefetch: int = 16
  # Updates between those of the target network, which then moves by the share `target_tau` of the
  # way to the network; 1: all of it.
  target_period: int = 2_500
  target_tau: float = 1.0
  # DQN: whether targets are double Q-learning's.
  double: bool = True
  # DQN: an error in the loss counts linearly beyond this; 0: all count by their squares.
  max_td_error: float = 0.0
  learning_rate: float = 0.00025 / 4
  # DPG's critic; 0: `learning_rate`, as its policy.
  critic_learning_rate: float = 0.0
  # DPG: the critic's loss has this times half the squares of its weights, biases excepted.
  critic_l2: float = 0.0
  # DPG: elements of dq/da are clipped to this magnitude; 0: not at all.
  max_action_gradient: float = 1.0
  # DQN's optimizer; DPG's is Adam.
  rmsprop_decay: float = 0.95
  rmsprop_epsilon: float = 1.5e-7
  # Gradients of DQN's network, or of DPG's critic, are clipped to this global norm; 0: not at all.
  max_gradient_norm: float = 40.0

  # DQN's epsilon in evaluation (van Hasselt et al. 2016). DPG is evaluated without noise.
  evaluation_epsilon: float = 0.001
  # Frames between rounds of evaluation in the learner's process while it trains; 0: none. Their
  # transitions are not learned from (Figure 7).
  evaluator_frames: int = 0

  @property
  def num_environments(self) -> int:
    """The number of environments of all actors."""
    return self.num_actors * self.envs_per_actor

  @property
  def queue_capacity(self) -> int:
    """The most blocks in the queue: `local_buffer` for each environment, less the one it fills."""
    return self.num_environments * (self.local_buffer // self.block_length - 1)

  @property
  def evicts_by_priority(self) -> bool:
    return self.eviction == 'by_priority'

  def torso_for(self, suite: suites.Suite) -> str:
    # Whatever the torso for images is, so that every preset runs on every environment.
    if len(suites.observed_shape(suite)) == 1:
      return 'vector'
    return super().torso_for(suite)

  def max_training_frames(self) -> int:
    return self.max_episode_frames

  def check(self) -> None:
    super().check()
    self._check_actors()
    self._check_replay()
    self._check_learner()

  def _check_actors(self) -> None:
    self.expect_one_of('algorithm', ('dqn', 'dpg'))
    self.expect_positive(
      'num_actors',
      'envs_per_actor',
      'n_step',
      'max_episode_frames',
      'block_length',
      'parameter_pull_frames',
    )
    self.expect(
      'clip_rewards',
      not (self.clip_rewards and self.normalize_rewards),
      'false with normalize_rewards: actors clip single rewards, before the learner normalises the '
      'sums that they send',
    )
    self.expect_one_of('noise', ('gaussian', 'ornstein_uhlenbeck'))
    self.expect_at_least_zero(
      'distinct_epsilons', 'epsilon_frames', 'noise_sigma', 'evaluator_frames'
    )
    self.expect_fraction('evaluation_epsilon', 'final_epsilon', 'noise_theta')
    # With a single block, actors would wait for the writer after every block.
    self.expect(
      'local_buffer',
      self.local_buffer >= 2 * self.block_length,
      f'at least two blocks of {self.block_length} transitions (block_length): one being filled, '
      'one on its way',
    )
    self.expect(
      'epsilon_frames',
      not (self.epsilon_frames and self.distinct_epsilons),
      '0 with distinct_epsilons: epsilons form a ladder or fall',
    )
    self.expect(
      'distinct_epsilons',
      self.distinct_epsilons <= self.num_environments,
      f'at most one for each of the {self.num_environments} environments',
    )

  def _check_replay(self) -> None:
    self.expect_positive('replay_capacity', 'min_replay', 'replicas', 'remove_period')
    self.expect_at_least_zero('alpha', 'replay_ratio')
    self.expect_fraction('beta')
    self.expect_one_of('eviction', ('oldest', 'by_priority'))
    self.expect(
      'alpha_evict',
      -float('inf') < self.alpha_evict <= 0,
      '0 or less: low priorities are removed first',
    )
    self.expect(
      'min_replay',
      self.min_replay <= self.replay_capacity,
      f'at most replay_capacity, {self.replay_capacity}',
    )
    # Whole blocks are removed; with few of them, the replay's size would vary too much.
    self.expect(
      'replay_capacity',
      self.replay_capacity >= 20 * self.block_length,
      f'at least 20 blocks of {self.block_length} transitions (block_length)',
    )

  def _check_learner(self) -> None:
    self.expect_positive(
      'hidden_size',
      'batch_size',
      'prefetch',
      'target_period',
      'learning_rate',
      'rmsprop_epsilon',
    )
    self.expect_at_least_zero(
      'max_gradient_norm',
      'max_td_error',
      'critic_learning_rate',
      'critic_l2',
      'max_action_gradient',
    )
    self.expect_fraction('rmsprop_decay', 'target_tau')
    self.expect('target_tau', self.target_tau > 0, 'more than 0: targets would never move')
    self.expect_one_of('dpg_layers', ('apex', 'ddpg'))

  def check_environment(self, suite: suites.Suite, actors: int | None = None) -> None:
    """Refuses suites of several tasks, and settings that do not fit the suite or this machine.

    Args:
      suite: The environments.
      actors: How many of the run's actors work in this process; None for all.

    Raises:
      UserError: Names the setting, its value and what is expected.
    """
    if len(suite.tasks) > 1:
      raise errors.UserError(
        f'{suite.name} has {len(suite.tasks)} tasks, but Ape-X learns one. Choose it, for example: '
        f'--env={suite.name} --tasks={suite.tasks[0]}'
      )
    self.check_shares(suite, actors)
    self._refuse_several_actions(suite)

    shows_vectors = len(suites.observed_shape(suite)) == 1
    preset = PRESETS.preset_for(suite.name, self.environment_options())
    # DQN takes the maximum over actions, DPG the gradient with respect to them.
    fitting, kind = ('dqn', 'discrete') if suite.is_discrete else ('dpg', 'continuous')
    self.expect(
      'algorithm',
      self.algorithm == fitting,
      f'{fitting}, as {suite.name} has {kind} actions; --preset={preset} is made for it',
    )
    self.expect(
      'eviction',
      shows_vectors or not self.evicts_by_priority,
      f"'oldest', as {suite.name} shows images, which blocks of many transitions share",
    )
    self.check_torso(suite)
    self.check_normalization(suite)

  def _refuse_several_actions(self, suite: suites.Suite) -> None:
    """Refuses suites in which several discrete actions are taken at once."""
    if not (suite.is_discrete or suite.is_continuous):
      raise errors.UserError(
        f'{suite.name} takes several discrete actions at once, {suite.action_space}, but Ape-X DQN '
        f'chooses one. IMPALA takes them: {self.training_command("impala")}'
      )


def _gym_preset(env: str, options: environments.Options) -> str:
  """The preset for a gymnasium environment, which only loading it can tell."""
  suite = environments.load(env, options)
  if not suite.is_continuous:
    return 'gym'
  shows_vectors = len(suites.observed_shape(suite)) == 1
  return 'gym_continuous' if shows_vectors else 'gym_continuous_images'


def _envpool_preset(env: str, options: environments.Options) -> str:
  """The preset for one of EnvPool's ids."""
  return 'minigrid' if grids.is_grid(env) else _gym_preset(env, options)


PRESETS = presets.Presets(
  config=Config,
  rows=rows.ROWS,
  families={
    'atari': 'atari',
    'control': 'control',
    'gym': _gym_preset,
    'envpool': _envpool_preset,
    'babyai': 'minigrid',
    'minigrid': 'minigrid',
  },
  default='atari',
)
