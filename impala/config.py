"""The settings of an IMPALA run; `impala.presets` has the values of each preset."""

import dataclasses
from typing import ClassVar

from common import environments, errors
from common.config import presets, settings
from common.environments import grids
from common.environments import suite as suites
from impala import architectures, hyperparameters
from impala import presets as rows

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


def _envpool_preset(env: str, options: environments.Options) -> str:
  """The preset for one of EnvPool's ids: those of MiniGrid observe symbols."""
  del options
  return 'minigrid' if grids.is_grid(env) else 'envpool'


PRESETS = presets.Presets(
  config=Config,
  rows=rows.ROWS,
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
  default='babyai',
  draws=hyperparameters.DRAWS,
  draw=hyperparameters.draw,
)
