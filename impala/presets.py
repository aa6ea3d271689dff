"""The presets of IMPALA by name: values of `impala.config.Config` that differ from its defaults.

One for each row of the paper's tables, and some for small machines.
"""

from collections.abc import Mapping
from typing import Any

from impala import hyperparameters


def _rows(base: Mapping[str, Any], **rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  """Presets that share the values of `base`."""
  return {name: {**base, **row} for name, row in rows.items()}


# Tables D.1 to D.3; where they give a range, the released code's values for a single level.
_DMLAB = dict(
  unroll_length=100,
  batch_size=32,
  discount=0.99,
  baseline_cost=0.5,
  reward_clipping='abs_one',
  learning_rate=0.00048,
  entropy_cost=0.00025,
  rmsprop_epsilon=0.1,
  rmsprop_decay=0.99,
  rmsprop_momentum=0.0,
  max_gradient_norm=0.0,
  lstm=True,
  feedback=True,
  total_frames=1_000_000_000,
  # Not in the paper: environments for 2 cores, and patience while maps are compiled.
  num_actors=4,
  envs_per_actor=10,
  stall_seconds=300.0,
)
_DMLAB_30 = _DMLAB | dict(
  env='dmlab30',
  learning_rate=0.00031866995608948655,
  entropy_cost=0.0033391318945337044,
  reward_clipping='soft_asymmetric',
  total_frames=10_000_000_000,
)
# Section 5.3.1: 210 actors for the shallow network, 150 for the deep one. Here one actor steps all
# environments of a level.
_210_ACTORS = dict(num_actors=0, envs_per_actor=7)
_150_ACTORS = dict(num_actors=0, envs_per_actor=5)
# Table 1's single machine, with one environment for each thread; and a batch of as many for a small
# one.
_32_ACTORS = dict(num_actors=32, envs_per_actor=1)
_32_AT_ONCE = dict(num_actors=4, envs_per_actor=8)
# Table G.1. It does not list the number of environments; RMSProp's decay is the released code's.
_ATARI = dict(
  env='atari:pong',
  unroll_length=20,
  batch_size=32,
  queue_capacity=32,
  discount=0.99,
  baseline_cost=0.5,
  entropy_cost=0.01,
  learning_rate=0.0006,
  rmsprop_epsilon=0.01,
  rmsprop_decay=0.99,
  rmsprop_momentum=0.0,
  max_gradient_norm=40.0,
  reward_clipping='abs_one',
  lstm=False,
  feedback=False,
  total_frames=200_000_000,
)
# For your own environments and for tests; not in the paper.
_GYM: dict[str, Any] = dict(
  env='gym:CartPole-v1',
  torso='auto',
  unroll_length=20,
  batch_size=8,
  queue_capacity=8,
  num_actors=2,
  envs_per_actor=4,
  discount=0.98,
  learning_rate=0.002,
  entropy_cost=0.003,
  rmsprop_epsilon=0.01,
  max_gradient_norm=40.0,
  reward_clipping='none',
  total_frames=200_000,
)
# For MiniGrid and BabyAI, a network as small as their views; not in the paper.
_GRIDS: dict[str, Any] = dict(
  torso='grid',
  core_size=64,
  instruction_size=32,
  unroll_length=20,
  batch_size=64,
  queue_capacity=64,
  num_actors=2,
  envs_per_actor=80,
  # Small products are slower if threads share them.
  intra_op_threads=1,
  discount=0.99,
  learning_rate=0.001,
  entropy_cost=0.003,
  rmsprop_epsilon=0.01,
  max_gradient_norm=40.0,
  reward_clipping='none',
)
_REPLAY = dict(replay_fraction=0.5, replay_capacity=10_000)

# The doom suite looks like DMLab to the agent: every DMLab row runs on it with --env=doom.
ROWS: dict[str, dict[str, Any]] = {
  # For ten minutes on 2 cores; not in the paper.
  'doom': dict(
    env='doom',
    unroll_length=20,
    batch_size=16,
    queue_capacity=20,
    num_actors=2,
    envs_per_actor=10,
    learning_rate=0.0006,
    entropy_cost=0.003,
    rmsprop_epsilon=0.01,
    max_gradient_norm=40.0,
    total_frames=4_000_000,
  ),
  'gym': _GYM,
  'envpool': _GYM | dict(env='envpool:CartPole-v1'),
  **_rows(
    _GRIDS,
    minigrid=dict(env='minigrid', total_frames=5_000_000),
    # The default: 20 levels in twelve minutes on 2 cores. Engines, one a level, are fast if they
    # have many environments.
    babyai=dict(
      env='babyai',
      envs_per_actor=160,
      total_frames=8_000_000,
      evaluation_episodes=50,
      evaluation_films=True,
    ),
  ),
  **_rows(
    _DMLAB,
    dmlab={},  # Tables D.1 to D.3.
    # The five levels of section 5.2 together, one actor each. The paper trains one at a time.
    dmlab5=dict(env='dmlab5', num_actors=0, envs_per_actor=8),
    # Table 1: the single-machine rows. Half of the environments make a full dynamic batch.
    table_1_48_actors=dict(num_actors=48, envs_per_actor=1),
    table_1_48_actors_dynamic_batching=dict(
      num_actors=48, envs_per_actor=1, dynamic_batching=True, dynamic_batch_size=24
    ),
    # Table 1 and Figure 4: batched A2C, whose 32 environments make a batch, and A3C on one machine
    # and on many.
    a2c_sync_step=dict(architecture='a2c_sync_step', **_32_ACTORS),
    a2c_sync_trajectory=dict(architecture='a2c_sync_trajectory', **_32_ACTORS),
    a2c_dynamic_batching=dict(
      architecture='a2c_dynamic_batching', dynamic_batch_size=16, **_32_ACTORS
    ),
    a3c=dict(architecture='a3c', **_32_ACTORS),
    a3c_distributed=dict(architecture='a3c', num_actors=200, envs_per_actor=1),
    # Table 1 on a small machine, see scripts/benchmark.py. Not in the paper.
    table_1=dict(**_32_AT_ONCE),
    # Table 1: actors on many machines.
    table_1_150_actors=dict(num_actors=150, envs_per_actor=1),
    table_1_375_actors=dict(num_actors=375, envs_per_actor=1),
    table_1_batch_128=dict(num_actors=500, envs_per_actor=1, batch_size=128, queue_capacity=128),
    # Figure 4's IMPALA. The number of actors is not in the text.
    figure_4_impala=dict(num_actors=200, envs_per_actor=1),
    # Figure E.1: updates between the actors' parameters and the learner's. Which, the text does not
    # say.
    **{f'figure_e1_lag_{k}': dict(policy_lag=k, **_32_AT_ONCE) for k in (0, 1, 10, 50, 100, 500)},
    # Section 5.2.2: rho-bar.
    rho_1={},
    rho_10=dict(clip_rho_threshold=10.0, clip_pg_rho_threshold=10.0),
    rho_100=dict(clip_rho_threshold=100.0, clip_pg_rho_threshold=100.0),
    # Table 2 and Figures E.1, E.2.
    table_2_vtrace=dict(correction='vtrace'),
    table_2_one_step=dict(correction='one_step'),
    table_2_epsilon=dict(correction='epsilon'),
    table_2_none=dict(correction='none'),
    table_2_vtrace_replay=dict(correction='vtrace', **_REPLAY),
    table_2_one_step_replay=dict(correction='one_step', **_REPLAY),
    table_2_epsilon_replay=dict(correction='epsilon', **_REPLAY),
    table_2_none_replay=dict(correction='none', **_REPLAY),
    # Figures E.3 and E.4.
    figure_e3_vs=dict(pg_bootstrap='vs'),
    figure_e3_values=dict(pg_bootstrap='values'),
  ),
  **_rows(
    _DMLAB_30,
    # One environment of each level, for a small machine; not in the paper.
    dmlab30=dict(torso='shallow', num_actors=0, envs_per_actor=1),
    # Table 3: the multi-task agents; the initial settings of the population's members; the experts,
    # one level a run. We understand Figure 5 to give all experts together as many frames as one
    # multi-task agent.
    table_3_shallow=dict(torso='shallow', **_210_ACTORS),
    table_3_deep=dict(torso='deep', **_150_ACTORS),
    table_3_deep_pbt=dict(torso='deep', **_150_ACTORS, **hyperparameters.draw(0)),
    # A3C, deep: seven workers for each level.
    table_3_a3c=dict(torso='deep', architecture='a3c', num_actors=210, envs_per_actor=1),
    table_3_experts=dict(
      torso='deep', env='dmlab:rooms_watermaze', total_frames=10_000_000_000 // 30
    ),
  ),
  # Table 4: the experts, one game a run; the multi-task agent, trained on 57 times as many frames.
  **_rows(
    _ATARI,
    atari_shallow=dict(torso='shallow'),
    atari_deep=dict(torso='deep'),
    table_4_multi_task=dict(
      env='atari57', torso='deep', num_actors=2, envs_per_actor=0, total_frames=57 * 200_000_000
    ),
  ),
}
