"""The Ape-X paper's comparisons with other methods: Tables 1 and 2, Figures 2, 3, 9 and 10."""

from typing import Any

from apex import figure_scales
from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Published, Rising, Scale, Variant

# At the small scales, the double, dueling and prioritized learning of Ape-X, with DQN's one actor.
_LIKE_APEX: dict[str, Any] = dict(dueling=True, double=True, n_step=3)
_ONE: dict[str, dict[str, Any]] = {
  'medium': dict(total_frames=10_000_000, replay_capacity=500_000),
  'small': dict(total_frames=30_000, log_every_seconds=1.0),
  'smoke': dict(total_frames=600, min_replay=200, log_every_seconds=0.1),
}
_DQN = Variant(
  'DQN, one actor',
  tasks.QUIET,
  at=_ONE,
  presets=dict(paper='dqn', medium='dqn', small='gym_dqn', smoke='gym_dqn'),
)
_PRIORITIZED = Variant(
  'prioritized dueling, one actor',
  tasks.QUIET,
  at={
    **_ONE,
    'small': dict(alpha=0.6, **_LIKE_APEX, **_ONE['small']),
    'smoke': dict(alpha=0.6, **_LIKE_APEX, **_ONE['smoke']),
  },
  presets=dict(
    paper='dueling_prioritized_3_steps',
    medium='dueling_prioritized_3_steps',
    small='gym_dqn',
    smoke='gym_dqn',
  ),
)
_TWO_GAMES = tuple(map(tasks.game, ('breakout', 'pong')))
_A3C = Variant(
  'A3C',
  dict(architecture='a3c', log_every_seconds=1.0, **tasks.QUIET),
  at={
    'medium': dict(total_frames=40_000_000),
    'small': dict(total_frames=120_000, num_actors=16, envs_per_actor=1),
    'smoke': dict(total_frames=1_200, num_actors=2, envs_per_actor=1, log_every_seconds=0.1),
  },
  presets=dict(paper='atari_shallow', medium='atari_shallow', small='gym', smoke='gym'),
  system='impala',
)
_APEX = Variant('Ape-X DQN')
_SCALES = {
  'paper': Scale(
    preset='paper',
    tasks=tuple(map(tasks.game, tasks.GAMES)),
    changes='Final training returns of the greediest actors in place of evaluations from no-op and '
    'human starts; 200 million frames for the methods of one actor.',
    frames_per_second=50_000,
    settings=tasks.QUIET,
    needs=Needs(cores=376, gpus=1, gigabytes=128),
  ),
  'medium': Scale(
    preset='paper',
    tasks=_TWO_GAMES,
    changes='Two games in place of 57, 40 million frames, a replay of 500,000.',
    frames_per_second=10_000,
    settings=figure_scales.MEDIUM,
    seeds=2,
    needs=Needs(cores=8, gpus=1, gigabytes=32),
  ),
  'small': Scale(
    preset='gym',
    tasks=(tasks.CARTPOLE, tasks.ACROBOT),
    changes='CartPole and Acrobot in place of Atari, a network of 64 units, 30,000 frames for the '
    'methods of one actor and 120,000 for Ape-X with 16, which takes as many updates; 5 seeds.',
    frames_per_second=1_200,
    settings=dict(
      total_frames=120_000,
      num_actors=1,
      envs_per_actor=16,
      replay_ratio=4.0,
      log_every_seconds=1.0,
      **tasks.QUIET,
    ),
    seeds=5,
  ),
  'smoke': figure_scales.SMOKE,
}
_AHEAD = Claim(
  'With many actors, Ape-X is far ahead of the same learning with one.',
  'section 4.1, Table 1, Figure 2',
  (
    Better('Ape-X DQN', 'DQN, one actor'),
    Better('Ape-X DQN', 'prioritized dueling, one actor'),
  ),
)
_TABLE_1 = definitions.Experiment(
  id='apex.table_1',
  title='Ape-X DQN on Atari-57 (Tables 1 and 2, Figures 9 and 10)',
  claims=(_AHEAD,),
  variants=(_APEX, _DQN, _PRIORITIZED),
  scales=_SCALES,
  pictures=('curves', 'hours', 'bars'),
  also=('apex.table_2', 'apex.figure_9', 'apex.figure_10'),
  published=(
    Published('Ape-X from no-op starts, median', 'atari57', 'apex', 'median', 434.0, 0.5),
    Published(
      'Ape-X from human starts, median', 'atari57', 'human_starts_apex', 'median', 358.0, 0.5, True
    ),
  ),
)
_FIGURE_2 = definitions.Experiment(
  id='apex.figure_2',
  title='Scores over time of training, beside other methods (Figure 2)',
  claims=(_AHEAD,),
  variants=(_APEX, _A3C, _DQN, _PRIORITIZED),
  scales=_SCALES,
  pictures=('hours',),
)


def _humanoid(task: str) -> definitions.Task:
  return definitions.Task(task, f'control:{task}', low=0.0, high=1000.0)


_FIGURE_3 = definitions.Experiment(
  id='apex.figure_3',
  title='Ape-X DPG over the number of actors (Figure 3)',
  claims=(
    Claim(
      'The more actors, the better.',
      'section 4.2, Figure 3',
      (Rising(('8 actors', '16 actors', '32 actors', '64 actors')),),
    ),
    Claim(
      'Ape-X DPG is ahead of DDPG, which has one actor.',
      'section 4.2, Figure 3',
      (Better('64 actors', 'DDPG'),),
    ),
  ),
  variants=(
    *(
      Variant(
        f'{n} actors',
        at={
          'paper': dict(num_actors=max(1, n // 16), envs_per_actor=min(16, n)),
          'medium': dict(num_actors=max(1, n // 16), envs_per_actor=min(16, n)),
          # The same number of updates for each.
          'small': dict(envs_per_actor=n // 4, total_frames=2_500 * n, replay_ratio=256.0 / n),
          'smoke': dict(envs_per_actor=max(1, n // 16)),
        },
        number=n,
      )
      for n in (8, 16, 32, 64)
    ),
    Variant(
      'DDPG',
      tasks.QUIET,
      at={
        'paper': dict(total_frames=86_000_000),
        'small': dict(total_frames=20_000, log_every_seconds=1.0),
        'smoke': dict(total_frames=600, min_replay=200, log_every_seconds=0.1),
      },
      presets=dict.fromkeys(definitions.SCALES, 'ddpg'),
    ),
  ),
  scales={
    'paper': Scale(
      preset='figure_3_humanoid_run',
      tasks=tuple(
        map(
          _humanoid,
          ('humanoid-stand', 'humanoid-walk', 'humanoid-run', 'manipulator-bring_ball'),
        )
      ),
      changes='12 hours as 600 million frames, five days of DDPG as 86 million; numbers of actors '
      'below 64 are our choice.',
      frames_per_second=14_000,
      settings=tasks.QUIET,
      needs=Needs(cores=72, gpus=1, gigabytes=16),
    ),
    'medium': Scale(
      preset='figure_3_humanoid_run',
      tasks=(_humanoid('humanoid-stand'), _humanoid('humanoid-walk')),
      changes='Two of the four tasks, 15 million frames in place of 600 million.',
      frames_per_second=3_000,
      settings=dict(total_frames=15_000_000, **tasks.QUIET),
      seeds=2,
      needs=Needs(cores=8, gpus=1, gigabytes=8),
    ),
    'small': Scale(
      preset='control',
      tasks=(
        definitions.Task('cartpole-swingup', 'control:cartpole-swingup', low=20.0, high=900.0),
        definitions.Task('walker-walk', 'control:walker-walk', low=30.0, high=900.0),
      ),
      changes='Two lighter tasks; 2 to 16 environments in place of 8 to 64 actors, which bring '
      '20,000 to 160,000 frames for the same number of updates; 3 seeds.',
      frames_per_second=900,
      settings=dict(log_every_seconds=1.0, **tasks.QUIET),
      seeds=3,
    ),
    'smoke': Scale(
      preset='gym_continuous',
      tasks=(definitions.Task('Pendulum', 'gym:Pendulum-v1', low=-1300.0, high=-150.0),),
      changes='Pendulum for 1,200 frames: only that it runs.',
      frames_per_second=600,
      settings=figure_scales.SMOKE.settings,
    ),
  },
  pictures=('hours', 'curves'),
)
EXPERIMENTS = (_TABLE_1, _FIGURE_2, _FIGURE_3)
