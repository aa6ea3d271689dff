"""The IMPALA paper's experiments on suites: DMLab-30, Atari-57, populations; and theory."""

from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Published, Scale, Variant
from common.reporting import scores
from impala import hyperparameters

_LAB = scores.references('dmlab30')
_LAB_NEEDS = Needs(cores=160, gpus=1, gigabytes=200, packages=('deepmind_lab',))
_PUBLISHED_LAB = (
  Published('IMPALA deep PBT', 'dmlab30', 'impala_deep_pbt', 'mean_capped_table_b1', 49.4, 0.1),
  Published('experts, deep', 'dmlab30', 'experts_deep', 'mean_capped_table_b1', 44.5, 0.1),
)


def _percent(env: str, name: str, references: str) -> definitions.Task:
  """A suite whose score is in percent of a human's."""
  return definitions.Task(name, env, high=100.0, references=references)


_DMLAB_30 = (_percent('dmlab30', 'DMLab-30', 'dmlab30'),)
_ATARI_57 = (_percent('atari57', 'Atari-57', 'atari57'),)
_LEVELS = tuple(
  definitions.Task(
    name, f'dmlab:{name}', row['random'], row['human'], dict(total_frames=10_000_000_000 // 30)
  )
  for name, row in _LAB.items()
)
_GAMES = tuple(map(tasks.game, tasks.GAMES))
_SCENARIOS = ('health_gathering', 'defend_the_line', 'deadly_corridor')
_DOOM = (definitions.Task('three scenarios of Doom', 'doom', high=500.0),)
_ONE_DOOM = tuple(
  definitions.Task(name, f'doom:{name}', high=500.0, settings=dict(tasks='')) for name in _SCENARIOS
)
_SMOKE_GAMES = (tasks.CARTPOLE,)
_SMOKE = Scale(
  preset='gym',
  tasks=_SMOKE_GAMES,
  changes='CartPole for 1,600 frames, one combination, no suite: only that it runs.',
  frames_per_second=1_000,
  settings=dict(
    total_frames=1_600, log_every_seconds=0.1, num_actors=2, envs_per_actor=4, **tasks.QUIET
  ),
  draws=1,
)
_EXPERT_TASKS = {'paper': _LEVELS, 'medium': _ONE_DOOM, 'small': _ONE_DOOM}
# As many members as there are combinations.
_MEMBERS = {
  'paper': ('--population=24',),
  'medium': ('--population=6',),
  'small': ('--population=3',),
  'smoke': ('--population=2',),
}
_TORSO_AT_SMOKE = {'smoke': dict(torso='auto')}


def _suites_of_levels(small_frames: int) -> dict[str, Scale]:
  """The scales of section 5.3.1; Doom's scenarios stand for DMLab-30."""
  doom = dict(tasks=','.join(_SCENARIOS), num_actors=3, **tasks.QUIET)
  return {
    'paper': Scale(
      preset='table_3_deep',
      tasks=_DMLAB_30,
      changes='The best score in training in place of a test of 500 episodes for each level.',
      frames_per_second=30_000,
      settings=tasks.QUIET,
      draws=hyperparameters.DRAWS,
      needs=_LAB_NEEDS,
    ),
    'medium': Scale(
      preset='doom',
      tasks=_DOOM,
      changes='Three scenarios of Doom in place of DMLab-30, 30 million frames in place of ten '
      'billion, 6 of the 24 combinations.',
      frames_per_second=15_000,
      settings=dict(total_frames=30_000_000, envs_per_actor=10, **doom),
      draws=6,
      needs=Needs(cores=8, gpus=1, gigabytes=32),
    ),
    'small': Scale(
      preset='doom',
      tasks=_DOOM,
      changes=f'Three scenarios of Doom in place of DMLab-30, {small_frames:,} frames in place of '
      'ten billion, 3 of the 24 combinations.',
      frames_per_second=2_500,
      settings=dict(total_frames=small_frames, envs_per_actor=6, **doom),
      draws=3,
      needs=Needs(cores=2, gigabytes=5),
    ),
    'smoke': _SMOKE,
  }


_TABLE_3 = definitions.Experiment(
  id='impala.table_3',
  title='Multi-task agents, experts and populations on DMLab-30 (Table 3, Figures 5 and 6)',
  claims=(
    Claim(
      'IMPALA is ahead of A3C with the same deep network.',
      'section 5.3.1, Table 3',
      (Better('IMPALA, deep', 'A3C, deep'),),
      aggregate='best3',
    ),
    Claim(
      'The deep network is ahead of the shallow one.',
      'section 5.3.1, Table 3',
      (Better('IMPALA, deep', 'IMPALA, shallow'),),
      aggregate='best3',
    ),
    Claim(
      'One agent for all tasks is ahead of an expert for each: tasks help each other.',
      'section 5.3.1, Table 3',
      (Better('IMPALA, deep', 'experts, deep'),),
      aggregate='best3',
    ),
    Claim(
      'A population is ahead of a sweep.',
      'section 5.3.1, Table 3',
      (Better('IMPALA, deep, PBT', 'IMPALA, deep'),),
      aggregate='best3',
    ),
  ),
  variants=(
    Variant(
      'A3C, deep',
      dict(torso='deep', architecture='a3c'),
      at={'paper': dict(num_actors=210, envs_per_actor=1), **_TORSO_AT_SMOKE},
    ),
    Variant(
      'IMPALA, shallow',
      dict(torso='shallow'),
      at={'paper': dict(num_actors=0, envs_per_actor=7), **_TORSO_AT_SMOKE},
    ),
    Variant('experts, deep', dict(torso='deep'), at=_TORSO_AT_SMOKE, tasks=_EXPERT_TASKS),
    Variant('IMPALA, deep', dict(torso='deep'), at=_TORSO_AT_SMOKE),
    Variant(
      'IMPALA, deep, PBT',
      dict(torso='deep'),
      program='population',
      flags=_MEMBERS,
      at=_TORSO_AT_SMOKE,
    ),
    Variant(
      'IMPALA, deep, PBT, 8 learners',
      dict(torso='deep', learner_devices=8),
      program='population',
      flags=_MEMBERS,
      at=_TORSO_AT_SMOKE,
    ),
  ),
  scales=_suites_of_levels(300_000),
  pictures=('curves', 'hours', 'bars'),
  also=('impala.figure_5', 'impala.figure_6'),
  published=_PUBLISHED_LAB,
)
_TABLE_B1 = definitions.Experiment(
  id='impala.table_b1',
  title='Experts and the population, level by level (Table B.1 and Figure B.1)',
  claims=(
    Claim(
      'The population of multi-task agents is ahead of the experts.',
      'appendix B, Table B.1',
      (Better('IMPALA, deep, PBT', 'experts, deep'),),
      aggregate='best3',
    ),
  ),
  variants=(
    Variant('experts, deep', dict(torso='deep'), at=_TORSO_AT_SMOKE, tasks=_EXPERT_TASKS),
    Variant(
      'IMPALA, deep, PBT',
      dict(torso='deep'),
      program='population',
      flags=_MEMBERS,
      at=_TORSO_AT_SMOKE,
    ),
  ),
  scales=_suites_of_levels(300_000),
  pictures=('bars',),
  also=('impala.figure_b1',),
  published=_PUBLISHED_LAB,
)
_FIGURE_F1 = definitions.Experiment(
  id='impala.figure_f1',
  title='The learning rate that a population finds, and the best linear annealing (Figure F.1)',
  claims=(
    Claim(
      'With the schedule that it finds, a population is ahead of the best linear annealing.',
      'appendix F, Figure F.1',
      (Better('population', 'linear annealing'),),
      aggregate='best3',
    ),
  ),
  variants=(
    Variant(
      'population', dict(torso='deep'), program='population', flags=_MEMBERS, at=_TORSO_AT_SMOKE
    ),
    Variant('linear annealing', dict(torso='deep'), at=_TORSO_AT_SMOKE),
  ),
  scales=_suites_of_levels(300_000),
  pictures=('schedule', 'curves'),
)

_TWO_GAMES = tuple(map(tasks.game, ('pong', 'breakout')))
_TABLE_4_SCALES = {
  'paper': Scale(
    preset='atari_shallow',
    tasks=_GAMES,
    changes='Final training returns, in which a lost life ends no game, in place of 200 episodes '
    'of evaluation.',
    frames_per_second=50_000,
    settings=tasks.QUIET,
    needs=Needs(cores=32, gpus=1, gigabytes=64),
  ),
  'medium': Scale(
    preset='atari_shallow',
    tasks=_TWO_GAMES,
    changes='Two games in place of 57, 50 million frames in place of 200 million.',
    frames_per_second=30_000,
    settings=dict(total_frames=50_000_000, **tasks.QUIET),
    seeds=3,
    needs=Needs(cores=8, gpus=1, gigabytes=32),
  ),
  'small': Scale(
    preset='atari_shallow',
    tasks=_TWO_GAMES,
    changes='Two games in place of 57, 2 million frames in place of 200 million.',
    frames_per_second=5_000,
    settings=dict(total_frames=2_000_000, num_actors=2, envs_per_actor=32, **tasks.QUIET),
    seeds=2,
    needs=Needs(cores=2, gigabytes=4),
  ),
  'smoke': _SMOKE,
}
_TABLE_4 = definitions.Experiment(
  id='impala.table_4',
  title='Experts and a multi-task agent on Atari-57 (Tables 4 and C.1)',
  claims=(
    Claim(
      'IMPALA is ahead of A3C, with the shallow and with the deep network.',
      'section 5.3.2, Table 4',
      (
        Better('IMPALA, shallow, experts', 'A3C, shallow, experts'),
        Better('IMPALA, deep, experts', 'A3C, deep, experts'),
      ),
    ),
    Claim(
      'The deep network is ahead of the shallow one.',
      'section 5.3.2, Table 4',
      (Better('IMPALA, deep, experts', 'IMPALA, shallow, experts'),),
    ),
  ),
  variants=(
    Variant('A3C, shallow, experts', dict(torso='shallow', architecture='a3c'), at=_TORSO_AT_SMOKE),
    Variant('A3C, deep, experts', dict(torso='deep', architecture='a3c'), at=_TORSO_AT_SMOKE),
    Variant('IMPALA, shallow, experts', dict(torso='shallow'), at=_TORSO_AT_SMOKE),
    Variant('IMPALA, deep, experts', dict(torso='deep'), at=_TORSO_AT_SMOKE),
    Variant(
      'IMPALA, deep, multi-task',
      dict(torso='deep'),
      at={
        'paper': dict(total_frames=57 * 200_000_000, num_actors=2, envs_per_actor=0),
        'medium': dict(tasks='pong,breakout', total_frames=100_000_000),
        'small': dict(tasks='pong,breakout', total_frames=4_000_000),
        **_TORSO_AT_SMOKE,
      },
      program='population',
      flags=_MEMBERS,
      tasks={'paper': _ATARI_57, 'medium': _ATARI_57, 'small': _ATARI_57},
    ),
  ),
  scales=_TABLE_4_SCALES,
  pictures=('curves', 'bars'),
  also=('impala.table_c1',),
  published=(
    Published('IMPALA deep experts, median', 'atari57', 'impala_deep', 'median', 191.8, 0.05),
    Published('IMPALA shallow experts, median', 'atari57', 'impala_shallow', 'median', 93.2, 0.05),
    Published(
      'IMPALA deep multi-task, median', 'atari57', 'impala_deep_multi_task', 'median', 59.7, 0.05
    ),
    # The paper's means take Video Pinball's random score as 0, and differ a little even so.
    *(
      Published(f'{title}, mean', 'atari57', column, 'mean_video_pinball_from_0', printed, 0.4)
      for title, column, printed in (
        ('IMPALA deep experts', 'impala_deep', 957.6),
        ('IMPALA shallow experts', 'impala_shallow', 466.4),
        ('IMPALA deep multi-task', 'impala_deep_multi_task', 176.9),
      )
    ),
  ),
)
_THEORY = definitions.Experiment(
  id='impala.theory',
  title='The fixed point of V-trace and its rate of contraction, on a small MDP (section 4)',
  claims=(
    Claim(
      'V-trace converges to the value of a policy that rho-bar chooses; c-bar changes only the '
      'speed.',
      'section 4, Theorem 1',
      (),
    ),
  ),
  command=('-m', 'pytest', 'tests/impala/vtrace_theory_test.py'),
  minutes=1,
)
EXPERIMENTS = (_TABLE_3, _TABLE_B1, _FIGURE_F1, _TABLE_4, _THEORY)
