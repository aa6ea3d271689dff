"""The presets of Ape-X by name: the values of `apex.config.Config` that differ from its defaults.

The paper's, its ablations', the baselines that it compares with, and small ones.
"""

from typing import Any

# 35 hours at 37,000 frames/s (Figures 4 and 5).
_STUDY = dict(total_frames=4_700_000_000)


_FIGURE_7 = dict(_STUDY, evaluation_epsilon=0.00164, evaluator_frames=10_000_000)


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

# One actor with one environment, which acts with the newest parameters. A batch of 32 is learned
# from for every four of its steps: in Atari's 16 frames four actions are chosen.
_SINGLE = dict(
  num_actors=1,
  envs_per_actor=1,
  total_frames=200_000_000,
  parameter_pull_frames=4,
  replay_capacity=1_000_000,
  batch_size=32,
  prefetch=2,
  replay_ratio=8.0,
  epsilon_frames=4_000_000,
  max_episode_frames=108_000,
)
# Mnih et al. 2015. A batch's loss is a mean here and was a sum there, hence the division.
_DQN = dict(
  _SINGLE,
  dueling=False,
  double=False,
  alpha=0.0,
  stratified=False,
  final_epsilon=0.1,
  evaluation_epsilon=0.05,
  learning_rate=0.00025,
  rmsprop_epsilon=0.01 / 32**2,
  max_td_error=1.0,
  max_gradient_norm=0.0,
)
# Wang et al. 2016, with the loss, the optimizer and the clipping of Ape-X: what differs from Ape-X
# is that there is one actor.
_DUELING = dict(_SINGLE, final_epsilon=0.01)
_UNIFORM = dict(_DUELING, alpha=0.0, stratified=False)
# Lillicrap et al. 2016: an update for every step of the one actor, without importance weights.
_DDPG = dict(
  algorithm='dpg',
  env='control:cartpole-swingup',
  torso='auto',
  num_actors=1,
  envs_per_actor=1,
  total_frames=1_000_000,
  clip_rewards=False,
  noise='ornstein_uhlenbeck',
  noise_theta=0.15,
  noise_sigma=0.2,
  n_step=1,
  parameter_pull_frames=1,
  block_length=10,
  local_buffer=20,
  alpha=0.0,
  stratified=False,
  replay_capacity=1_000_000,
  min_replay=1_000,
  batch_size=64,
  prefetch=2,
  replay_ratio=64.0,
  dpg_layers='ddpg',
  target_period=1,
  target_tau=0.001,
  learning_rate=0.0001,
  critic_learning_rate=0.001,
  critic_l2=0.01,
  max_action_gradient=0.0,
  max_gradient_norm=0.0,
  intra_op_threads=1,
)

# For your own environments and for tests; not in the paper.
_GYM = dict(
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
)

ROWS: dict[str, dict[str, Any]] = {
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
  'gym': _GYM,
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
  # Baselines with a single actor: those of Figures 2 and 9, and of Figure 3 (`ddpg`).
  'dqn': dict(_DQN, n_step=1),
  'dqn_3_steps': dict(_DQN, n_step=3),
  'dueling_uniform': dict(_UNIFORM, n_step=1),
  'dueling_uniform_3_steps': dict(_UNIFORM, n_step=3),
  'dueling_prioritized': dict(_DUELING, n_step=1),
  'dueling_prioritized_3_steps': dict(_DUELING, n_step=3),
  'ddpg': _DDPG,
  # `dqn` at the scale of CartPole; not in the paper.
  'gym_dqn': dict(
    _GYM,
    num_actors=1,
    envs_per_actor=1,
    parameter_pull_frames=1,
    n_step=1,
    alpha=0.0,
    stratified=False,
    dueling=False,
    double=False,
    max_td_error=1.0,
    epsilon_frames=10_000,
    final_epsilon=0.05,
    replay_ratio=32.0,
    total_frames=40_000,
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
  # Figure 7: six epsilons. Its curves are of a separate actor with 0.4^7; the period is our choice.
  'figure_7_six_epsilons': dict(_FIGURE_7, distinct_epsilons=6),
  'figure_7_full_range': _FIGURE_7,
  # Figure 12: no prioritization, with the learning rate that works best for it.
  'figure_12_uniform': dict(_actors(256), alpha=0.0, learning_rate=0.00025, **_STUDY),
  'figure_12_prioritized': dict(_actors(256), **_STUDY),
}
