"""The settings of an IMPALA run, and its presets: one for each row of the paper's tables."""

import dataclasses
from collections.abc import Mapping
from typing import Any, ClassVar

from common import environments, errors
from common.config import presets, settings
from common.environments import grids
from common.environments import suite as suites
from impala import architectures, hyperparameters

# The names of `impala.rewards.FORMS`, repeated here for the reason given at `settings.TORSOS`.
REWARD_CLIPPINGS = ('none', 'abs_one', 'asymmetric', 'soft_asymmetric')
CORRECTIONS = ('vtrace', 'one_step', 'epsilon', 'none')


@dataclasses.dataclass
class Config(settings.Settings):
  """Settings of IMPALA. Where the paper has one value for all experiments, it is the default."""

  SYSTEM: ClassVar[str] = 'impala'

  env: str = 'doom'

  # Who waits for whom, and what actors send: see `impala.architectures`.
  architecture: str = 'impala'
  # Learner updates between actors' parameters and the learner's, exactly, in a synchronous run
  # (Figure E.1); -1: actors do not wait, and the lag is what comes of it.
  policy_lag: int = -1

  # Actors, and environments that each steps as one batch; 0: one actor for each task, or one
  # environment of each task. Measured on 2 cores with scripts/benchmark.py: large batches make the
  # policy cheap, and more actors than cores keep the cores busy while some actors wait.
  num_actors: int = 4
  envs_per_actor: int = 32
  # Steps of a trajectory, T, in agent steps.
  unroll_length: int = 100
  # Evaluate the policy for all actors together, on the learner's parameters ("dyn. batch" in
  # Table 1).
  dynamic_batching: bool = False
  # Environments in a full batch, and how long an incomplete batch waits for more.
  dynamic_batch_size: int = 32
  dynamic_batch_timeout_ms: float = 10.0

  # Network (section 3 and Figure 3).
  torso: str = 'shallow'
  lstm: bool = True
  core_size: int = 256
  # Feed the last action and the last reward into the core.
  feedback: bool = True

  # Learner. Trajectories of a batch; 0, in a synchronous run: one of each environment. A3C has
  # none: a gradient is that of one worker's environments.
  batch_size: int = 32
  # GPUs of each learner's machine to train on; each takes an equal part of the batch.
  learner_devices: int = 1
  # The most trajectories that wait for the learner. A longer queue means more policy lag.
  queue_capacity: int = 32
  # Off-policy correction: vtrace, or from the ablation (section 5.2.2) one_step, epsilon, none.
  correction: str = 'vtrace'
  clip_rho_threshold: float = 1.0
  clip_c_threshold: float = 1.0
  clip_pg_rho_threshold: float = 1.0
  lambda_: float = 1.0
  # q_s from 'vs' (v_{s+1}) or 'values' (V(x_{s+1})), appendix E.3.
  pg_bootstrap: str = 'vs'
  # Added to pi(a) inside the log by the epsilon correction.
  log_epsilon: float = 1e-6
  # none, abs_one, asymmetric (Figure D.1), soft_asymmetric (released code).
  reward_clipping: str = 'abs_one'
  # Learn each task's values on a scale of its own (PopArt, arXiv 1809.04474), for many tasks with
  # rewards of different size. Goes with reward_clipping none. Not in the paper.
  popart: bool = False
  # How far one update moves the statistics of its tasks.
  popart_step_size: float = 3e-4
  baseline_cost: float = 0.5
  entropy_cost: float = 0.01
  # The initial learning rate, annealed linearly to 0 over `total_frames`.
  learning_rate: float = 0.0006
  rmsprop_decay: float = 0.99
  rmsprop_epsilon: float = 0.1
  rmsprop_momentum: float = 0.0
  # Gradients are clipped to this global norm; 0: no clipping.
  max_gradient_norm: float = 0.0

  # Whether the run is a member of a population, whose folder holds the run's; set by
  # `impala.population`.
  population: bool = False

  # Uniform replay (section 5.2.2): the share of replayed trajectories in a batch, and the replay's
  # capacity in trajectories.
  replay_fraction: float = 0.0
  replay_capacity: int = 10_000

  @property
  def replayed_per_batch(self) -> int:
    """The number of replayed trajectories in a batch."""
    return round(self.replay_fraction * self.batch_size)

  def check(self) -> None:
    super().check()
    self.expect_positive(
      'unroll_length',
      'queue_capacity',
      'replay_capacity',
      'learning_rate',
      'rmsprop_epsilon',
      'dynamic_batch_size',
      'learner_devices',
      'core_size',
    )
    self.expect_fraction('rmsprop_decay', 'rmsprop_momentum', 'lambda_', 'popart_step_size')
    self.expect_at_least_zero(
      'batch_size',
      'num_actors',
      'envs_per_actor',
      'max_gradient_norm',
      'entropy_cost',
      'baseline_cost',
    )
    architectures.check(self)
    self.expect(
      'batch_size',
      self.batch_size > 0 or architectures.is_synchronous(self),
      'more than 0, or 0 in a synchronous run: A2C or one with a policy_lag',
    )
    self.expect_one_of('correction', CORRECTIONS)
    self.expect_one_of('reward_clipping', REWARD_CLIPPINGS)
    self.expect(
      'normalize_rewards',
      not (self.normalize_rewards and self.popart),
      "false with popart, which learns a scale for each task's values",
    )
    self.expect_one_of('pg_bootstrap', ('vs', 'values'))
    # Without fresh trajectories, frames would not advance and training would not end.
    self.expect('replay_fraction', 0.0 <= self.replay_fraction < 1.0, 'at least 0 and less than 1')
    self.expect(
      'clip_c_threshold',
      self.clip_c_threshold <= self.clip_rho_threshold,
      f'at most clip_rho_threshold, {self.clip_rho_threshold} (section 4.1)',
    )

  def fit(self, suite: suites.Suite, actors: int | None = None) -> None:
    """Sets actors and environments that are 0 from the number of tasks; checks them all.

    Also sets what follows from the architecture, see `impala.architectures.settle`. Arguments and
    errors are those of `check_environment`.
    """
    self.num_actors = self.num_actors or len(suite.tasks)
    self.envs_per_actor = self.envs_per_actor or len(suite.tasks)
    architectures.settle(self)
    self.check_environment(suite, actors)

  def check_environment(self, suite: suites.Suite, actors: int | None = None) -> None:
    """Refuses continuous actions, and settings that do not fit the suite or this machine.

    Args:
      suite: The environments.
      actors: How many of the run's actors work in this process; None for all.

    Raises:
      UserError: Names the setting, its value and what is expected.
    """
    if suite.is_continuous:
      # It takes every observation, but one task.
      one_task = dataclasses.replace(self, tasks=suite.tasks[0] if len(suite.tasks) > 1 else '')
      raise errors.UserError(
        f'{suite.name} has continuous actions, but IMPALA needs discrete ones. Use Ape-X DPG: '
        f'{one_task.training_command("apex")}'
      )
    self.check_torso(suite)
    self.check_normalization(suite)
    self.check_shares(suite, actors)


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
  envs_per_actor=64,
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
_PRESET_ROWS: dict[str, dict[str, Any]] = {
  # The default, tuned to learn within ten minutes on 2 cores; not in the paper.
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
    babyai=dict(env='babyai', total_frames=20_000_000),
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


def _envpool_preset(env: str, options: environments.Options) -> str:
  """The preset for one of EnvPool's ids: those of MiniGrid observe symbols."""
  del options
  return 'minigrid' if grids.is_grid(env) else 'envpool'


PRESETS = presets.Presets(
  config=Config,
  rows=_PRESET_ROWS,
  families={
    'doom': 'doom',
    'atari': 'atari_shallow',
    'atari57': 'table_4_multi_task',
    'gym': 'gym',
    'envpool': _envpool_preset,
    'minigrid': 'minigrid',
    'babyai': 'babyai',
    'dmlab': 'dmlab',
    'dmlab5': 'dmlab5',
    'dmlab30': 'dmlab30',
  },
  default='doom',
  draws=hyperparameters.DRAWS,
  draw=hyperparameters.draw,
)
