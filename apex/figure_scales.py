"""What the scales of several experiments of Ape-X DQN have in common."""

from typing import Any

from common.experiments import definitions, tasks

MEDIUM: dict[str, Any] = dict(
  total_frames=40_000_000,
  num_actors=2,
  envs_per_actor=32,
  replay_capacity=500_000,
  **tasks.QUIET,
)
SMOKE = definitions.Scale(
  preset='gym',
  tasks=(tasks.CARTPOLE,),
  changes='CartPole for 1,200 frames: only that it runs.',
  frames_per_second=600,
  settings=dict(
    total_frames=1_200,
    log_every_seconds=0.1,
    min_replay=200,
    replay_capacity=2_000,
    batch_size=16,
    replay_ratio=1.0,
    num_actors=1,
    envs_per_actor=4,
    **tasks.QUIET,
  ),
)
