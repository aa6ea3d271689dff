"""Every setting of an IMPALA run, and the presets: one for each row of the paper's tables."""

import dataclasses
from typing import Any, Mapping

from common import errors
from common.config import presets, settings
from common.environments import suite as suites
from impala import hyperparameters

# The names of `impala.rewards.FORMS`, repeated here as `common.config.settings.TORSOS` is.
REWARD_CLIPPINGS = ('none', 'abs_one', 'asymmetric', 'soft_asymmetric')
CORRECTIONS = ('vtrace', 'one_step', 'epsilon', 'none')


@dataclasses.dataclass
class Config(settings.Settings):
  """Settings of IMPALA; the defaults are the paper's where it has one value for all."""

  env: str = 'doom'

  # Actors, and the environments that each steps together; 0 for an actor for each task, or for an
  # environment of each task. Measured on 2 cores with scripts/benchmark.py: few large batches make
  # the policy cheap, and more actors than cores keep the cores busy while others wait.
  num_actors: int = 4
  envs_per_actor: int = 32
  # T, in agent steps.
  unroll_length: int = 100
  # Evaluate the policy for all actors at once, on the learner's parameters (Table 1, "dyn. batch").
  dynamic_batching: bool = False
  # The number of environments in a full batch, and how long a batch waits to be full.
  dynamic_batch_size: int = 32
  dynamic_batch_timeout_ms: float = 10.0

  # Network (section 3 and Figure 3).
  torso: str = 'shallow'
  lstm: bool = True
  # Feed the last action and the last reward into the core.
  feedback: bool = True

  # Learner.
  batch_size: int = 32
  # GPUs of each machine that learn together: each gets an equal part of the batch.
  learner_devices: int = 1
  # The most trajectories that wait for the learner: a long queue is policy lag.
  queue_capacity: int = 32
  discount: float = 0.99
  # vtrace, or one of its ablation (section 5.2.2): one_step, epsilon, none.
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
  baseline_cost: float = 0.5
  entropy_cost: float = 0.01
  # Falls linearly to zero over `total_frames`.
  learning_rate: float = 0.0006
  rmsprop_decay: float = 0.99
  rmsprop_epsilon: float = 0.1
  rmsprop_momentum: float = 0.0
  # The most that the global norm of the gradients may be; 0 for no clipping.
  max_gradient_norm: float = 0.0

  # Uniform replay of trajectories (section 5.2.2): their share of a batch, and how many are kept.
  replay_fraction: float = 0.0
  replay_capacity: int = 10_000

  @property
  def replayed_per_batch(self) -> int:
    """How many of a batch's trajectories are replayed."""
    return round(self.replay_fraction * self.batch_size)

  def check(self) -> None:
    super().check()
    self.expect_positive(
      'unroll_length',
      'batch_size',
      'queue_capacity',
      'replay_capacity',
      'learning_rate',
      'rmsprop_epsilon',
      'dynamic_batch_size',
      'learner_devices',
    )
    self.expect_fraction('discount', 'rmsprop_decay', 'rmsprop_momentum', 'lambda_')
    self.expect_at_least_zero(
      'num_actors', 'envs_per_actor', 'max_gradient_norm', 'entropy_cost', 'baseline_cost'
    )
    self.expect_one_of('correction', CORRECTIONS)
    self.expect_one_of('reward_clipping', REWARD_CLIPPINGS)
    self.expect_one_of('pg_bootstrap', ('vs', 'values'))
    self.expect('replay_fraction', 0.0 <= self.replay_fraction < 1.0, 'at least 0 and less than 1')
    self.expect(
      'clip_c_threshold',
      self.clip_c_threshold <= self.clip_rho_threshold,
      f'at most clip_rho_threshold, {self.clip_rho_threshold} (section 4.1)',
    )

  def fit(self, suite: suites.Suite) -> None:
    """Resolves the settings that depend on the number of tasks, then checks all against the suite.

    Raises:
      UserError: As `check_environment`.
    """
    self.num_actors = self.num_actors or len(suite.tasks)
    self.envs_per_actor = self.envs_per_actor or len(suite.tasks)
    self.check_environment(suite)

  def check_environment(self, suite: suites.Suite) -> None:
    """Refuses continuous actions, and settings that do not fit the suite.

    Raises:
      UserError: Naming the setting, and what does not fit it.
    """
    if not suite.is_discrete:
      raise errors.UserError(
        f'{suite.name} has continuous actions, IMPALA chooses among discrete ones. Ape-X DPG is '
        f'made for them: python -m apex.train --env={suite.name}'
      )
    self.check_torso(suite)
    self.check_shares(suite)


def _rows(base: Mapping[str, Any], **rows: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
  return {name: {**base, **row} for name, row in rows.items()}


# Tables D.1 to D.3. Where they give a range to draw from: the released code's values for a level.
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
  # Not in the paper: enough environments for 2 cores, and patience with maps that compile slowly.
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
# Section 5.3.1: 210 actors for the shallow network, 150 for the deep one. Here all environments of
# a level are one actor's.
_210_ACTORS = dict(num_actors=0, envs_per_actor=7)
_150_ACTORS = dict(num_actors=0, envs_per_actor=5)
# Table G.1. It lists neither the number of environments, nor RMSProp's decay: the released code's.
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
_REPLAY = dict(replay_fraction=0.5, replay_capacity=10_000)

# The doom suite looks like DMLab to the agent: every DMLab row runs on it with --env=doom.
_PRESET_ROWS: dict[str, dict[str, Any]] = {
  # The main job, made to learn within ten minutes on 2 cores: not in the paper.
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
  # Vectors, for one's own environments and for tests: not in the paper.
  'gym': dict(
    env='gym:CartPole-v1',
    torso='vector',
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
  ),
  **_rows(
    _DMLAB,
    dmlab={},  # Tables D.1 to D.3.
    # The five levels of section 5.2 at once, an actor each. The paper trains them one at a time.
    dmlab5=dict(env='dmlab5', num_actors=0, envs_per_actor=8),
    # Table 1: the single-machine rows. A full dynamic batch has half of the actors' environments.
    table_1_48_actors=dict(num_actors=48, envs_per_actor=1),
    table_1_48_actors_dynamic_batching=dict(
      num_actors=48, envs_per_actor=1, dynamic_batching=True, dynamic_batch_size=24
    ),
    table_1_batch_128=dict(batch_size=128, queue_capacity=128),
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
    # An environment of each level, for a small machine: not in the paper.
    dmlab30=dict(torso='shallow', num_actors=0, envs_per_actor=1),
    # Table 3: the multi-task agents; where the members of the population start; the experts, one
    # level a run. We read Figure 5 so that all experts together have a multi-task agent's frames.
    table_3_shallow=dict(torso='shallow', **_210_ACTORS),
    table_3_deep=dict(torso='deep', **_150_ACTORS),
    table_3_deep_pbt=dict(torso='deep', **_150_ACTORS, **hyperparameters.draw(0)),
    table_3_experts=dict(
      torso='deep', env='dmlab:rooms_watermaze', total_frames=10_000_000_000 // 30
    ),
  ),
  # Table 4: the experts, one game a run; the multi-task agent, on 57 times as many frames.
  **_rows(
    _ATARI,
    atari_shallow=dict(torso='shallow'),
    atari_deep=dict(torso='deep'),
    table_4_multi_task=dict(
      env='atari57', torso='deep', num_actors=2, envs_per_actor=0, total_frames=57 * 200_000_000
    ),
  ),
}
PRESETS = presets.Presets(
  config=Config,
  rows=_PRESET_ROWS,
  families={
    'doom': 'doom',
    'atari': 'atari_shallow',
    'atari57': 'table_4_multi_task',
    'gym': 'gym',
    'dmlab': 'dmlab',
    'dmlab5': 'dmlab5',
    'dmlab30': 'dmlab30',
  },
  default='doom',
  draws=hyperparameters.DRAWS,
  draw=hyperparameters.draw,
)
