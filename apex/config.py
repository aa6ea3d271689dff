"""Every setting of an Ape-X run, and the presets: the paper's, and those of its studies."""

import dataclasses
from typing import Any

from common import errors, settings
from common.environments import suite as suites


@dataclasses.dataclass
class Config(settings.Settings):
  """Settings of Ape-X DQN; the defaults are the paper's (section 4.1 and appendix C)."""
  env: str = 'atari:pong'
  total_frames: int = 22_800_000_000

  # Actors: threads, and environments that each steps together. The paper has 360 environments, each a process.
  num_actors: int = 12
  envs_per_actor: int = 30
  # Rungs of the ladder of epsilons; 0 for one for each environment (Figure 7 compares with 6).
  distinct_epsilons: int = 0
  n_step: int = 3
  discount: float = 0.99
  # To [-1, 1].
  clip_rewards: bool = True
  # Atari episodes are cut here in training, in environment frames; 108,000 in evaluation.
  max_episode_frames: int = 50_000
  # Transitions to a block, and how many an environment may hold before its actor waits: in the block that it fills and
  # in those on their way.
  block_length: int = 50
  local_buffer: int = 100
  # Environment frames, of each environment, between two pulls of the parameters.
  parameter_pull_frames: int = 400

  # Replay: capacity and minimum before learning starts in transitions.
  replay_capacity: int = 2_000_000
  min_replay: int = 50_000
  # Exponents of the priorities (0: uniform) and of the importance weights.
  alpha: float = 0.6
  beta: float = 0.4
  # Draw the samples of a batch from equal parts of the total priority, or independently.
  stratified: bool = True
  # Copies of each transition that are added (Figure 6).
  replicas: int = 1
  # Samples learned from per inserted transition, held by letting actors or learner wait; 0 lets them run freely.
  replay_ratio: float = 0.0
  # Updates between two removals of what exceeds the capacity.
  remove_period: int = 100
  checkpoint_replay: bool = False

  # Network.
  torso: str = 'nature'
  hidden_size: int = 512

  # Learner.
  batch_size: int = 512
  # Batches drawn ahead; one more is in the hands of the thread that draws.
  prefetch: int = 16
  target_period: int = 2_500
  learning_rate: float = 0.00025 / 4
  rmsprop_decay: float = 0.95
  rmsprop_epsilon: float = 1.5e-7
  max_gradient_norm: float = 40.0

  # Of the evaluator (van Hasselt et al. 2016); training's curves are of the greediest eighth of the environments.
  evaluation_epsilon: float = 0.001

  @property
  def num_environments(self) -> int:
    return self.num_actors * self.envs_per_actor

  @property
  def queue_capacity(self) -> int:
    """Blocks on their way, such that no environment holds more than `local_buffer` transitions by and large."""
    return self.num_environments * (self.local_buffer // self.block_length - 1)

  def check(self) -> None:
    super().check()
    self.expect_positive(
        'num_actors', 'envs_per_actor', 'n_step', 'max_episode_frames', 'block_length', 'parameter_pull_frames',
        'replay_capacity', 'min_replay', 'replicas', 'remove_period', 'hidden_size', 'batch_size', 'prefetch',
        'target_period', 'learning_rate', 'rmsprop_epsilon')
    self.expect_at_least_zero('distinct_epsilons', 'alpha', 'replay_ratio', 'max_gradient_norm')
    self.expect_fraction('discount', 'beta', 'rmsprop_decay', 'evaluation_epsilon')
    self.expect_one_of('torso', settings.TORSOS)
    self.expect('local_buffer', self.local_buffer >= 2 * self.block_length, f'at least two blocks of '
                f'{self.block_length} transitions (block_length): one that is filled, one on its way')
    self.expect('distinct_epsilons', self.distinct_epsilons <= self.num_environments,
                f'at most one for each of the {self.num_environments} environments')
    self.expect('min_replay', self.min_replay <= self.replay_capacity,
                f'at most replay_capacity, {self.replay_capacity}')
    self.expect('replay_capacity', self.replay_capacity >= 20 * self.block_length,
                f'at least 20 blocks of {self.block_length} transitions (block_length)')

  def check_environment(self, suite: suites.Suite) -> None:
    """Refuses an environment of several tasks, and a torso that cannot read what the environment shows.

    Raises:
      UserError: naming both.
    """
    if len(suite.tasks) > 1:
      raise errors.UserError(f'{suite.name} has {len(suite.tasks)} tasks and Ape-X learns one: name it, for example '
                             f'--env={suite.name}:{suite.tasks[0]}')
    self.check_torso(suite)


_STUDY = dict(total_frames=4_700_000_000)  # 35 hours at 37,000 frames/s (Figures 4 and 5).


def _actors(count: int) -> dict[str, int]:
  """As many environments, in threads of up to 32."""
  return dict(num_actors=max(1, count // 32), envs_per_actor=min(32, count))


_ROWS: dict[str, dict[str, Any]] = {
    'paper': {},
    # Made to learn on 2 cores: not in the paper. The README says what it reaches.
    'atari': dict(
        num_actors=2, envs_per_actor=16, total_frames=6_000_000, parameter_pull_frames=80, replay_capacity=200_000,
        min_replay=10_000, replay_ratio=4.0, torso='shallow', hidden_size=256, batch_size=64, prefetch=2,
        target_period=500, learning_rate=0.00025),
    # Vectors, for one's own environments and for tests: not in the paper.
    'gym': dict(
        env='gym:CartPole-v1', torso='vector', hidden_size=64, num_actors=2, envs_per_actor=4, block_length=10,
        local_buffer=20, parameter_pull_frames=20, replay_capacity=20_000, min_replay=1_000, replay_ratio=8.0,
        batch_size=64, prefetch=2, target_period=100, learning_rate=0.0005, clip_rewards=False, total_frames=60_000),
    # Figure 4: the number of actors, with a replay of one million.
    **{f'figure_4_{count}_actors': dict(_actors(count), replay_capacity=1_000_000, **_STUDY)
       for count in (8, 16, 32, 64, 128, 256)},
    # Figure 5: the replay's capacity. The text names 250,000; the others are our choice.
    **{f'figure_5_{name}': dict(_actors(256), replay_capacity=capacity, **_STUDY)
       for name, capacity in (('250k', 250_000), ('500k', 500_000), ('1m', 1_000_000), ('2m', 2_000_000))},
    # Figure 6: fewer actors whose data are added several times.
    'figure_6_32_actors': dict(_actors(32), replay_capacity=1_000_000, **_STUDY),
    'figure_6_32_actors_8_copies': dict(_actors(32), replicas=8, replay_capacity=1_000_000, **_STUDY),
    'figure_6_256_actors': dict(_actors(256), replay_capacity=1_000_000, **_STUDY),
    # Figure 7: six epsilons; the evaluator has 0.4^7.
    'figure_7_six_epsilons': dict(distinct_epsilons=6, evaluation_epsilon=0.00164, **_STUDY),
    'figure_7_full_range': dict(evaluation_epsilon=0.00164, **_STUDY),
    # Figure 12: no prioritization, with the learning rate that suits it best.
    'figure_12_uniform': dict(_actors(256), alpha=0.0, learning_rate=0.00025, **_STUDY),
    'figure_12_prioritized': dict(_actors(256), **_STUDY),
}

PRESETS = settings.Presets(Config, _ROWS, {'atari': 'atari', 'gym': 'gym'}, default='atari')
