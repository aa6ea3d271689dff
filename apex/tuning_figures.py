"""The Ape-X paper's appendix E, what was tuned and how, and its fault tests (appendix F)."""

from typing import Any

from apex import figure_scales
from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Rising, Scale, Variant

_GAMES = ('breakout', 'pong', 'seaquest')
_PENDULUM = definitions.Task('Pendulum', 'gym:Pendulum-v1', low=-1300.0, high=-150.0)
_SWINGUP = definitions.Task('cartpole-swingup', 'control:cartpole-swingup', low=20.0, high=900.0)
_SMOKE: dict[str, Any] = dict(
  total_frames=1_200,
  log_every_seconds=0.1,
  min_replay=600,
  replay_capacity=2_000,
  replay_ratio=1.0,
  num_actors=1,
  envs_per_actor=4,
  **tasks.QUIET,
)


def _atari_scales(small_changes: str) -> dict[str, Scale]:
  """The scales of what was tuned on Atari."""
  return {
    'paper': Scale(
      preset='paper',
      tasks=tuple(map(tasks.game, _GAMES)),
      changes='Three games of our choice; 4.7 billion frames.',
      frames_per_second=37_000,
      settings=dict(total_frames=4_700_000_000, num_actors=8, envs_per_actor=32, **tasks.QUIET),
      needs=Needs(cores=280, gpus=1, gigabytes=64),
    ),
    'medium': Scale(
      preset='paper',
      tasks=tuple(map(tasks.game, _GAMES[:2])),
      changes='Two games, 40 million frames, a replay of 500,000.',
      frames_per_second=10_000,
      settings=figure_scales.MEDIUM,
      seeds=2,
      needs=Needs(cores=8, gpus=1, gigabytes=32),
    ),
    'small': Scale(
      preset='gym',
      tasks=(tasks.CARTPOLE, tasks.ACROBOT),
      changes=f'CartPole and Acrobot in place of Atari, a network of 64 units, 5 seeds. '
      f'{small_changes}',
      frames_per_second=1_200,
      settings=dict(total_frames=60_000, log_every_seconds=1.0, **tasks.QUIET),
      seeds=5,
    ),
    'smoke': Scale(
      preset='gym',
      tasks=(tasks.CARTPOLE,),
      changes='CartPole for 1,200 frames: only that it runs.',
      frames_per_second=600,
      settings=_SMOKE,
    ),
  }


_BATCHES = (32, 128, 256, 512, 1024)
_BATCH_SIZE = definitions.Experiment(
  id='apex.batch_size',
  title='The batch size (appendix E)',
  claims=(
    Claim(
      'Larger batches are better, up to 512.',
      'appendix E',
      (Rising(tuple(f'batch {n}' for n in _BATCHES[:4])),),
    ),
  ),
  variants=tuple(
    Variant(
      f'batch {n}',
      dict(batch_size=n),
      # As many updates for each: the ratio counts samples.
      at={'small': dict(batch_size=n // 4, replay_ratio=n / 32)},
      number=n,
    )
    for n in _BATCHES
  ),
  scales=_atari_scales('Batches are a quarter of the size; all have as many updates.'),
  pictures=('curves', 'hours'),
)
_RATES = {'0.00025': 0.00025, '0.00025 / 4': 0.00025 / 4, '0.00025 / 8': 0.00025 / 8}
_LEARNING_RATE = definitions.Experiment(
  id='apex.learning_rate',
  title='The learning rate (appendix E)',
  claims=(
    Claim(
      'A quarter of the usual learning rate is at least as good as all of it, which makes some '
      'games unstable with large batches.',
      'appendix E',
      (Better('0.00025 / 4', '0.00025'),),
    ),
  ),
  variants=tuple(
    # The small preset's network learns at eight times the rate.
    Variant(name, dict(learning_rate=rate), at={'small': dict(learning_rate=8 * rate)})
    for name, rate in _RATES.items()
  ),
  scales=_atari_scales('Learning rates are eight times as large.'),
)
_ALPHAS = (0.0, 0.3, 0.5, 0.6, 0.7, 1.0)
_ALPHA = definitions.Experiment(
  id='apex.alpha',
  title='The exponent of the priorities, continuous control (appendix E)',
  claims=(
    Claim(
      'From 0.3 to 0.7 results hardly differ; beyond, some runs diverge.',
      'appendix E',
      (Better('alpha 0.6', 'alpha 1.0'),),
    ),
  ),
  variants=tuple(
    Variant(f'alpha {a:g}' if a != 1 else 'alpha 1.0', dict(alpha=a)) for a in _ALPHAS
  ),
  scales={
    'paper': Scale(
      preset='figure_3_humanoid_walk',
      tasks=tuple(
        definitions.Task(t, f'control:{t}', low=0.0, high=1000.0)
        for t in ('humanoid-stand', 'humanoid-walk')
      ),
      changes='Tasks are our choice.',
      frames_per_second=14_000,
      settings=tasks.QUIET,
      needs=Needs(cores=72, gpus=1, gigabytes=16),
    ),
    'small': Scale(
      preset='control',
      tasks=(_SWINGUP,),
      changes='One light task for 60,000 frames, 5 seeds.',
      frames_per_second=900,
      settings=dict(total_frames=60_000, log_every_seconds=1.0, **tasks.QUIET),
      seeds=5,
    ),
    'smoke': Scale(
      preset='gym_continuous',
      tasks=(_PENDULUM,),
      changes='Pendulum for 1,200 frames: only that it runs.',
      frames_per_second=600,
      settings=dict(batch_size=16, **_SMOKE),
    ),
  },
)
_FAULTS = definitions.Experiment(
  id='apex.faults',
  title='Actors, replay or learner are lost (appendix F)',
  claims=(
    Claim(
      'After the loss of actors learning goes on; a learner that was killed resumes, with the '
      'saved replay or by filling it again.',
      'appendix F',
      (),
    ),
  ),
  command=(
    *('-m', 'pytest', '-m', 'long or not long'),
    'tests/common/runs/faults_test.py',
    'tests/common/replay/saving_test.py',
  ),
  minutes=5,
)
EXPERIMENTS = (_BATCH_SIZE, _LEARNING_RATE, _ALPHA, _FAULTS)
