"""The architectures that the paper compares (Figure 2, Table 1), and what each asks of settings.

    impala                actors never wait for the learner: V-trace corrects what they do meanwhile
    a2c_sync_step         batched A2C: all actors' environments step together, as one actor's, and
                          wait for the slowest at every step
    a2c_sync_trajectory   batched A2C: each actor unrolls by itself; all wait at the unroll's end
    a2c_dynamic_batching  the same, with the policy evaluated in batches over actors
    a3c                   workers send gradients, which the learner applies one by one

A2C is synchronous: an update is made of one unroll of every environment, and the next unroll begins
with its parameters, so that nothing needs a correction. IMPALA with a `policy_lag` is synchronous
too. All have the same network, loss, environments and evaluation.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection
from typing import TYPE_CHECKING, Protocol

from common import errors

if TYPE_CHECKING:
  from common.distributed import cluster

NAMES = ('impala', 'a2c_sync_step', 'a2c_sync_trajectory', 'a2c_dynamic_batching', 'a3c')


class Settings(Protocol):
  """The settings of `impala.config.Config` that depend on each other by the architecture."""

  architecture: str
  policy_lag: int
  correction: str
  num_actors: int
  envs_per_actor: int
  batch_size: int
  queue_capacity: int
  replay_fraction: float
  dynamic_batching: bool
  dynamic_batch_size: int
  learner_devices: int
  popart: bool
  population: bool

  def expect(self, name: str, holds: bool, expected: str) -> None: ...

  def expect_one_of(self, name: str, allowed: Collection[str]) -> None: ...


def is_a2c(config: Settings) -> bool:
  """Whether this is batched A2C."""
  return config.architecture.startswith('a2c')


def is_synchronous(config: Settings) -> bool:
  """Whether actors wait for each update."""
  return is_a2c(config) or config.policy_lag >= 0


def check(config: Settings) -> None:
  """Refuses settings that contradict the architecture.

  Raises:
    UserError: Names the setting, its value and what is expected.
  """
  name = config.architecture
  config.expect_one_of('architecture', NAMES)
  config.expect('policy_lag', config.policy_lag >= -1, '-1 for whatever lag there is, or 0 or more')
  config.expect(
    'population',
    not config.population or (name == 'impala' and config.policy_lag < 0),
    'false: the members of a population are impala without a policy_lag',
  )
  if name == 'impala':
    config.expect(
      'dynamic_batching',
      not (config.dynamic_batching and config.policy_lag > 0),
      'false with a policy_lag: the batched policy has the parameters of the latest update',
    )
    return

  config.expect('policy_lag', config.policy_lag < 0, f'-1 for {name}: it chooses no lag')
  config.expect('replay_fraction', not config.replay_fraction, f'0 for {name}, which is on-policy')
  config.expect(
    'dynamic_batching',
    not config.dynamic_batching or name == 'a2c_dynamic_batching',
    f'false for {name}; the architectures with batched policies are impala and '
    'a2c_dynamic_batching',
  )
  if name == 'a3c':
    config.expect('learner_devices', config.learner_devices == 1, '1 for a3c: its workers learn')
    # Their statistics are those of batches.
    for field in ('popart', 'normalize_observations', 'normalize_rewards'):
      config.expect(
        field, not getattr(config, field), 'false for a3c, whose workers send gradients alone'
      )


def settle(config: Settings) -> None:
  """Sets what follows from the architecture, once the numbers of actors are known.

  Raises:
    UserError: If a synchronous run's batch is not one unroll of every environment.
  """
  if config.architecture != 'impala':
    config.correction = 'none'
  total = config.num_actors * config.envs_per_actor
  if config.architecture == 'a2c_dynamic_batching':
    config.dynamic_batching = True
    # A batch that all environments together cannot fill would wait for its timeout at every step.
    half = max(config.envs_per_actor, total // 2)
    config.dynamic_batch_size = min(config.dynamic_batch_size, half)
  if config.architecture == 'a3c':
    # A gradient is that of one worker's unroll. One that waits in the queue grows stale.
    config.batch_size = config.envs_per_actor
    config.queue_capacity = 1
  if is_synchronous(config):
    whole = _whole_batch(config, total)
    config.batch_size = config.batch_size or whole
    config.expect(
      'batch_size',
      config.batch_size == whole,
      f'{whole}, or 0 for that: an update takes one unroll of each of the {config.num_actors} x '
      f'{config.envs_per_actor} environments (num_actors x envs_per_actor), and what is replayed',
    )


def _whole_batch(config: Settings, total: int) -> int:
  """The smallest batch with `total` new trajectories, beside the share that is replayed."""
  sizes = itertools.count(total)
  return next(size for size in sizes if size - round(config.replay_fraction * size) == total)


def check_place(config: Settings, who: cluster.Cluster) -> None:
  """Refuses processes that the architecture cannot use.

  Raises:
    UserError: If a synchronous run has actors elsewhere, as only threads wait for updates; or if
      A3C has several learners.
  """
  if config.architecture == 'a3c' and who.learners:
    raise errors.UserError(
      f'a3c has one learner, which applies all gradients, and the cluster names {len(who.learners)}'
    )
  if is_synchronous(config) and not who.has_threads:
    what = config.architecture if is_a2c(config) else 'a run with a policy_lag'
    raise errors.UserError(
      f'the actors of {what} are threads of the learner, which wait for its updates: leave out '
      '--actor_processes and --role. (Heavy environments step in processes of their own anyway.)'
    )
