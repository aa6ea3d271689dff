"""The settings of an Ape-X run, and its presets: the paper's, its ablations', and small ones."""

import dataclasses
from typing import Any, ClassVar

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
  # DPG: standard deviation of the noise added to actions, which are in [-1, 1].
  noise_sigma: float = 0.3
  n_step: int = 3
  discount: float = 0.99
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

  # DQN's network. DPG has a torso for images only, and its layers have the paper's sizes.
  torso: str = 'nature'
  hidden_size: int = 512

  # Learner.
  batch_size: int = 512
  # Batches sampled ahead of the learner; the sampler holds one more.
  prefetch: int = 16
  # Updates between copies to the target network.
  target_period: int = 2_500
  learning_rate: float = 0.00025 / 4
  # DQN's optimizer; DPG's is Adam.
  rmsprop_decay: float = 0.95
  rmsprop_epsilon: float = 1.5e-7
  # Gradients of DQN's network, or of DPG's critic, are clipped to this global norm.
  max_gradient_norm: float = 40.0

  # DQN's epsilon in evaluation (van Hasselt et al. 2016). DPG is evaluated without noise.
  evaluation_epsilon: float = 0.001

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
    # DPG's own layers read vectors, whatever the torso for images is.
    if self.algorithm == 'dpg' and len(suites.observed_shape(suite)) == 1:
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
    self.expect_at_least_zero('distinct_epsilons', 'noise_sigma')
    self.expect_fraction('discount', 'evaluation_epsilon')
    # With a single block, actors would wait for the writer after every block.
    self.expect(
      'local_buffer',
      self.local_buffer >= 2 * self.block_length,
      f'at least two blocks of {self.block_length} transitions (block_length): one being filled, '
      'one on its way',
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
    self.expect_at_least_zero('max_gradient_norm')
    self.expect_fraction('rmsprop_decay')

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

  def _refuse_several_actions(self, suite: suites.Suite) -> None:
    """Refuses suites in which several discrete actions are taken at once."""
    if not (suite.is_discrete or suite.is_continuous):
      raise errors.UserError(
        f'{suite.name} takes several discrete actions at once, {suite.action_space}, but Ape-X DQN '
        f'chooses one. IMPALA takes them: {self.training_command("impala")}'
      )


# 35 hours at 37,000 frames/s (Figures 4 and 5).
_STUDY = dict(total_frames=4_700_000_000)


def _actors(count: int) -> dict[str, int]:
  """The paper's `count` actors, here environments in actors of up to 32."""
  return dict(num_actors=max(1, count // 32), envs_per_actor=min(32, count))


# Appendix D; other values are those of Ape-X DQN.
_DPG = dict(
  algorithm='dpg',
  torso='auto',
  clip_rewards=False,
  replay_capacity=1_000_000,
  eviction='by_priority',
  batch_size=256,
  target_period=100,
  learning_rate=0.0001,
  intra_op_threads=1,
)
# 64 actors for 12 hours at 14,000 frames/s, which beat DDPG after 5 days (section 4.2).
_FIGURE_3 = dict(_DPG, num_actors=4, envs_per_actor=16, total_frames=600_000_000)
# Tuned to learn on 2 cores; not in the paper. Results: docs/apex.md.
_SMALL_DPG = dict(
  _DPG,
  num_actors=1,
  envs_per_actor=8,
  parameter_pull_frames=20,
  block_length=20,
  local_buffer=40,
  replay_capacity=200_000,
  min_replay=1_000,
  replay_ratio=16.0,
  batch_size=128,
  prefetch=2,
  learning_rate=0.001,
)

_ROWS: dict[str, dict[str, Any]] = {
  'paper': {},
  # Tuned to learn on 2 cores; not in the paper. Results: docs/apex.md.
  'atari': dict(
    num_actors=2,
    envs_per_actor=16,
    total_frames=6_000_000,
    parameter_pull_frames=80,
    replay_capacity=200_000,
    min_replay=10_000,
    replay_ratio=4.0,
    torso='shallow',
    hidden_size=256,
    batch_size=64,
    prefetch=2,
    target_period=500,
    learning_rate=0.00025,
  ),
  # For your own environments and for tests; not in the paper.
  'gym': dict(
    env='gym:CartPole-v1',
    torso='auto',
    hidden_size=64,
    num_actors=2,
    envs_per_actor=4,
    block_length=10,
    local_buffer=20,
    parameter_pull_frames=20,
    replay_capacity=20_000,
    min_replay=1_000,
    replay_ratio=8.0,
    batch_size=64,
    prefetch=2,
    target_period=100,
    learning_rate=0.0005,
    clip_rewards=False,
    total_frames=60_000,
  ),
  # For one task of MiniGrid or BabyAI; not in the paper.
  'minigrid': dict(
    env='envpool:MiniGrid-DoorKey-5x5-v0',
    torso='grid',
    instruction_size=32,
    hidden_size=128,
    num_actors=2,
    envs_per_actor=16,
    block_length=20,
    local_buffer=40,
    parameter_pull_frames=80,
    replay_capacity=200_000,
    min_replay=10_000,
    replay_ratio=4.0,
    batch_size=64,
    prefetch=2,
    target_period=500,
    learning_rate=0.0005,
    clip_rewards=False,
    total_frames=1_000_000,
  ),
  'control': dict(_SMALL_DPG, env='control:cartpole-swingup', total_frames=300_000),
  'gym_continuous': dict(_SMALL_DPG, env='gym:Pendulum-v1', total_frames=60_000),
  # Blocks keep each image once, which eviction by priority cannot. Not in the paper.
  'gym_continuous_images': dict(
    _SMALL_DPG,
    env='gym:CarRacing-v3',
    total_frames=500_000,
    eviction='oldest',
    replay_capacity=30_000,
    replay_ratio=4.0,
    batch_size=64,
    learning_rate=0.0003,
  ),
  # Figure 3: Ape-X DPG.
  **{
    f'figure_3_{name}': dict(_FIGURE_3, env=f'control:{env}')
    for name, env in (
      ('humanoid_stand', 'humanoid-stand'),
      ('humanoid_walk', 'humanoid-walk'),
      ('humanoid_run', 'humanoid-run'),
      ('manipulator_bring_ball', 'manipulator-bring_ball'),
    )
  },
  # Figure 4: the number of actors, with a replay of one million.
  **{
    f'figure_4_{count}_actors': dict(_actors(count), replay_capacity=1_000_000, **_STUDY)
    for count in (8, 16, 32, 64, 128, 256)
  },
  # Figure 5: the replay's capacity. Only 250,000 is in the text; the others are our choice.
  **{
    f'figure_5_{name}': dict(_actors(256), replay_capacity=capacity, **_STUDY)
    for name, capacity in (
      ('250k', 250_000),
      ('500k', 500_000),
      ('1m', 1_000_000),
      ('2m', 2_000_000),
    )
  },
  # Figure 6: fewer actors, whose transitions are added several times.
  'figure_6_32_actors': dict(_actors(32), replay_capacity=1_000_000, **_STUDY),
  'figure_6_32_actors_8_copies': dict(_actors(32), replicas=8, replay_capacity=1_000_000, **_STUDY),
  'figure_6_256_actors': dict(_actors(256), replay_capacity=1_000_000, **_STUDY),
  # Figure 7: six epsilons; evaluation uses 0.4^7.
  'figure_7_six_epsilons': dict(distinct_epsilons=6, evaluation_epsilon=0.00164, **_STUDY),
  'figure_7_full_range': dict(evaluation_epsilon=0.00164, **_STUDY),
  # Figure 12: no prioritization, with the learning rate that works best for it.
  'figure_12_uniform': dict(_actors(256), alpha=0.0, learning_rate=0.00025, **_STUDY),
  'figure_12_prioritized': dict(_actors(256), **_STUDY),
}


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
  rows=_ROWS,
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
