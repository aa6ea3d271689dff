"""The IMPALA paper's experiments about speed: Table 1, section 3.1, several learners."""

from typing import Any

from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Scale, Variant

_SMOKE: dict[str, Any] = dict(
  total_frames=1_600, log_every_seconds=0.1, num_actors=2, envs_per_actor=4, **tasks.QUIET
)


def _task(family: str, name: str) -> definitions.Task:
  """A task whose returns do not matter."""
  return definitions.Task(name, f'{family}:{name}')


def _workers(count: int) -> dict[str, Any]:
  return dict(num_actors=count, envs_per_actor=1)


_RATE_SMALL: dict[str, Any] = dict(
  total_frames=400_000, log_every_seconds=1.0, num_actors=8, envs_per_actor=1, **tasks.QUIET
)
_RATE_SCALES = {
  'paper': Scale(
    preset='dmlab',
    tasks=(_task('dmlab', 'seekavoid_arena_01'), _task('dmlab', 'rooms_keys_doors_puzzle')),
    changes='100 million frames, of which only the speed counts.',
    frames_per_second=20_000,
    settings=dict(total_frames=100_000_000, num_actors=48, envs_per_actor=1, **tasks.QUIET),
    needs=Needs(cores=48, gpus=1, gigabytes=64, packages=('deepmind_lab',)),
  ),
  'medium': Scale(
    preset='dmlab',
    tasks=(_task('doom', 'basic'), _task('doom', 'deadly_corridor')),
    changes='Two scenarios of Doom, 20 million frames.',
    frames_per_second=15_000,
    settings=dict(total_frames=20_000_000, num_actors=16, envs_per_actor=1, **tasks.QUIET),
    seeds=2,
    needs=Needs(cores=16, gpus=1, gigabytes=32),
  ),
  'small': Scale(
    preset='dmlab',
    tasks=(_task('doom', 'basic'), _task('doom', 'deadly_corridor')),
    changes='Two scenarios of Doom, whose episodes differ in length, 8 actors, 400,000 frames; no '
    'GPU.',
    frames_per_second=5_000,
    settings=_RATE_SMALL,
    seeds=3,
    needs=Needs(cores=2, gigabytes=4),
  ),
  'smoke': Scale(
    preset='gym',
    tasks=(definitions.Task('CartPole', 'gym:CartPole-v1'),),
    changes='CartPole for 1,600 frames: only that it runs.',
    frames_per_second=1_000,
    settings=_SMOKE,
  ),
}
_TABLE_1 = definitions.Experiment(
  id='impala.table_1',
  title='Throughput of architectures (Table 1)',
  claims=(
    Claim(
      'On one machine, IMPALA is faster than A3C and than every kind of batched A2C.',
      'section 5.1, Table 1',
      (
        Better('IMPALA, 48 actors', 'A3C, 32 workers'),
        Better('IMPALA, 48 actors', 'A2C, sync step'),
        Better('IMPALA, 48 actors', 'A2C, sync trajectory'),
      ),
      metric='frames_per_second',
      aggregate='mean',
    ),
    Claim(
      'Waiting at every step costs batched A2C more than waiting for trajectories.',
      'section 5.1, Table 1',
      (Better('A2C, sync trajectory', 'A2C, sync step'),),
      metric='frames_per_second',
      aggregate='mean',
    ),
  ),
  variants=(
    Variant('A3C, 32 workers', dict(architecture='a3c'), at={'paper': _workers(32)}),
    Variant('A2C, sync step', dict(architecture='a2c_sync_step', batch_size=0)),
    Variant('A2C, sync trajectory', dict(architecture='a2c_sync_trajectory', batch_size=0)),
    Variant('A2C, dynamic batching', dict(architecture='a2c_dynamic_batching', batch_size=0)),
    Variant('IMPALA, 48 actors'),
    Variant(
      'IMPALA, dynamic batching',
      dict(dynamic_batching=True),
      at={
        'paper': dict(dynamic_batch_size=24),
        'medium': dict(dynamic_batch_size=8),
        'small': dict(dynamic_batch_size=4),
        'smoke': dict(dynamic_batch_size=4),
      },
    ),
    Variant('A3C, 200 workers', dict(architecture='a3c'), at={'paper': _workers(200)}),
    Variant('IMPALA, 150 actors', at={'paper': _workers(150), 'small': _workers(16)}),
    Variant(
      'IMPALA, optimised, 500 actors, batch 128',
      at={
        'paper': dict(batch_size=128, queue_capacity=128, **_workers(500)),
        'medium': dict(batch_size=128, queue_capacity=128, num_actors=8, envs_per_actor=32),
        'small': dict(num_actors=2, envs_per_actor=32),
      },
    ),
  ),
  scales=_RATE_SCALES,
  pictures=('rates',),
)
_MULTI_LEARNER = definitions.Experiment(
  id='impala.multi_learner',
  title='Several synchronous learners (sections 3 and 5.3.1)',
  claims=(
    Claim(
      'Eight learners process more frames a second than one: seven times as many for the deep '
      'network.',
      'section 5.3.1',
      # The natural logarithm of 3: half of the paper's seven, and a bit less.
      (Better('8 learners', '1 learner', by=1.1),),
      metric='frames_per_second',
      aggregate='mean',
    ),
  ),
  variants=(
    Variant('1 learner', dict(learner_devices=1)),
    Variant('8 learners', dict(learner_devices=8), at={'smoke': dict(learner_devices=2)}),
  ),
  scales={
    'paper': Scale(
      preset='table_3_deep',
      tasks=(definitions.Task('DMLab-30', 'dmlab30', high=100.0, references='dmlab30'),),
      changes='8 GPUs of one machine in place of 8 machines; 100 million frames, of which only the '
      'speed counts.',
      frames_per_second=30_000,
      settings=dict(total_frames=100_000_000, batch_size=256, queue_capacity=256, **tasks.QUIET),
      needs=Needs(cores=160, gpus=8, gigabytes=200, packages=('deepmind_lab',)),
    ),
    'medium': Scale(
      preset='table_3_deep',
      tasks=(definitions.Task('ten scenarios of Doom', 'doom'),),
      changes='Doom in place of DMLab-30, 20 million frames; still 8 GPUs.',
      frames_per_second=30_000,
      settings=dict(total_frames=20_000_000, batch_size=256, queue_capacity=256, **tasks.QUIET),
      needs=Needs(cores=32, gpus=8, gigabytes=64),
    ),
    'smoke': _RATE_SCALES['smoke'],
  },
  pictures=('rates', 'curves'),
)
_OPTIMISATIONS = definitions.Experiment(
  id='impala.optimisations',
  title='What the optimisations of the learner gain (section 3.1)',
  claims=(
    Claim(
      'Folding time into the batch, and the other optimisations, make the learner faster.',
      'section 3.1',
      (),
      metric='frames_per_second',
    ),
  ),
  command=('scripts/benchmark_optimisations.py',),
  minutes=3,
)
EXPERIMENTS = (_TABLE_1, _OPTIMISATIONS, _MULTI_LEARNER)
