"""The figures and tables of the IMPALA paper as experiments; here, those on single tasks.

Where the paper has a setting only in an image, or not at all, the choice is ours and `changes` or a
comment says so. See docs/reproduce.md for what the fields mean.
"""

from typing import Any

from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Scale, Variant
from common.reporting import scores
from impala import hyperparameters, speed_figures, suite_figures

_LAB = scores.references('dmlab30')


def _level(name: str) -> definitions.Task:
  """A level of DeepMind Lab; one that is not of DMLab-30 has no published human score."""
  known = _LAB.get(name, {'random': 0.0, 'human': 45.0})
  return definitions.Task(name, f'dmlab:{name}', low=known['random'], high=known['human'])


def _doom(scenario: str, low: float, high: float) -> definitions.Task:
  return definitions.Task(scenario, f'doom:{scenario}', low=low, high=high)


# Section 5.2's.
_FIVE = tuple(
  _level(name)
  for name in (
    'rooms_watermaze',
    'rooms_keys_doors_puzzle',
    'lasertag_three_opponents_small',
    'explore_goal_locations_small',
    'seekavoid_arena_01',
  )
)
# Returns of random play, and what ten minutes of training reach or a bit more: docs/impala.md.
_THREE_DOOMS = (
  _doom('health_gathering', 453.6, 1500.0),
  _doom('defend_the_line', 5.7, 25.0),
  _doom('deadly_corridor', -63.6, 800.0),
)

_LAB_NEEDS = Needs(cores=48, gpus=1, gigabytes=64, packages=('deepmind_lab',))
_SMOKE: dict[str, Any] = dict(
  total_frames=1_600, log_every_seconds=0.1, evaluation_episodes=0, num_actors=2, envs_per_actor=4
)
# One core: one vector of many environments, and few updates of many steps, are the fastest.
_SMALL: dict[str, Any] = dict(
  total_frames=200_000,
  log_every_seconds=1.0,
  checkpoint_every_seconds=30.0,
  evaluation_episodes=0,
  num_actors=2,
  envs_per_actor=16,
  batch_size=16,
  queue_capacity=16,
  core_size=64,
  intra_op_threads=1,
)
_SMALL_CHANGES = (
  'CartPole and Acrobot in place of five levels of DeepMind Lab, an LSTM of 64 and 200,000 frames '
  'in place of 256 and a billion, 12 of the 24 combinations, trajectories of 20 steps, one core a '
  'run.'
)


def _single_tasks(small_changes: str = '', **small: Any) -> dict[str, Scale]:
  """The scales of section 5.2: five single tasks, 24 combinations of hyperparameters.

  Args:
    small_changes: What scale small changes beside the usual.
    **small: Settings of scale small.
  """
  return {
    'paper': Scale(
      preset='dmlab',
      tasks=_FIVE,
      changes='Nothing that the paper states.',
      frames_per_second=20_000,
      settings=dict(num_actors=48, envs_per_actor=1, **tasks.QUIET),
      draws=hyperparameters.DRAWS,
      needs=_LAB_NEEDS,
    ),
    'medium': Scale(
      preset='dmlab',
      tasks=_THREE_DOOMS,
      changes='Three scenarios of Doom in place of five levels of DeepMind Lab, 12 million frames '
      'in place of a billion, 6 of the 24 combinations.',
      frames_per_second=20_000,
      settings=dict(total_frames=12_000_000, num_actors=4, envs_per_actor=16, **tasks.QUIET),
      draws=6,
      needs=Needs(cores=8, gpus=1, gigabytes=32),
    ),
    'small': Scale(
      preset='gym',
      tasks=(tasks.CARTPOLE, tasks.ACROBOT),
      changes=f'{_SMALL_CHANGES} {small_changes}'.rstrip(),
      frames_per_second=8_000,
      settings={**_SMALL, **small},
      draws=12,
    ),
    'smoke': Scale(
      preset='gym',
      tasks=(tasks.CARTPOLE,),
      changes='CartPole for 1,600 frames, one combination: only that it runs.',
      frames_per_second=1_000,
      settings=_SMOKE,
      draws=1,
    ),
  }


_REPLAYED: dict[str, Any] = dict(
  settings=dict(replay_fraction=0.5),
  # As large a share of all trajectories as the paper's 10,000 of 312,500.
  at={'small': dict(replay_capacity=320), 'smoke': dict(replay_capacity=16)},
)
_CORRECTIONS = {
  'V-trace': 'vtrace',
  '1-step': 'one_step',
  'epsilon-correction': 'epsilon',
  'no correction': 'none',
}


def _corrections(replay: bool) -> tuple[Variant, ...]:
  """The four corrections of section 5.2.2."""
  more = _REPLAYED if replay else {'settings': {}, 'at': {}}
  suffix = ', replay' if replay else ''
  return tuple(
    Variant(f'{name}{suffix}', dict(correction=correction, **more['settings']), at=more['at'])
    for name, correction in _CORRECTIONS.items()
  )


_TABLE_2 = definitions.Experiment(
  id='impala.table_2',
  title='Off-policy corrections, without and with replay (Table 2)',
  claims=(
    Claim(
      'With replay, V-trace is the best correction.',
      'section 5.2.2, Table 2',
      (
        Better('V-trace, replay', '1-step, replay'),
        Better('V-trace, replay', 'epsilon-correction, replay'),
        Better('V-trace, replay', 'no correction, replay'),
      ),
      aggregate='best3',
    ),
    Claim(
      'Without replay too, V-trace is better than no correction.',
      'section 5.2.2, Table 2',
      (Better('V-trace', 'no correction'),),
      aggregate='best3',
    ),
    Claim(
      'V-trace gains from replay.',
      'section 5.2.2, Table 2',
      (Better('V-trace, replay', 'V-trace'),),
      aggregate='best3',
    ),
  ),
  variants=(*_corrections(replay=False), *_corrections(replay=True)),
  scales=_single_tasks('Replay holds 320 trajectories.'),
  pictures=('curves', 'sorted'),
)
_FIGURE_E2 = definitions.Experiment(
  id='impala.figure_e2',
  title='Final returns of all combinations of hyperparameters, with replay (Figure E.2)',
  claims=(
    Claim(
      'With replay, V-trace is the most robust to hyperparameters.',
      'appendix E.2',
      tuple(Better('V-trace, replay', f'{name}, replay') for name in list(_CORRECTIONS)[1:]),
      aggregate='mean',
    ),
  ),
  variants=_corrections(replay=True),
  scales=_single_tasks('Replay holds 320 trajectories.'),
  pictures=('sorted',),
)
_LAGS = (0, 1, 10, 50, 100, 500)  # Our choice: the paper has them in an image only.
_FIGURE_E1 = definitions.Experiment(
  id='impala.figure_e1',
  title='Actors a fixed number of updates behind the learner (Figure E.1)',
  claims=(
    Claim(
      'V-trace is the most robust to policy lag: at 50 updates it is ahead of no correction and of '
      'epsilon-correction.',
      'appendix E.1',
      (
        Better('V-trace, lag 50', 'no correction, lag 50'),
        Better('V-trace, lag 50', 'epsilon-correction, lag 50'),
      ),
      metric='mean_return',
      aggregate='best3',
    ),
  ),
  variants=tuple(
    Variant(
      f'{name}, lag {lag}',
      # An update takes one unroll of every environment.
      dict(correction=correction, policy_lag=lag, batch_size=0),
      number=lag,
    )
    for name, correction in _CORRECTIONS.items()
    for lag in _LAGS
  ),
  scales=_single_tasks('Lags are our choice.'),
)
_RHO_BAR = definitions.Experiment(
  id='impala.rho_bar',
  title='The clipping threshold rho-bar (section 5.2.2)',
  claims=(
    Claim(
      'A threshold of 1 is best.',
      'section 5.2.2',
      (Better('rho-bar 1', 'rho-bar 10'), Better('rho-bar 1', 'rho-bar 100')),
      aggregate='best3',
    ),
  ),
  variants=tuple(
    Variant(
      f'rho-bar {value}', dict(clip_rho_threshold=float(value), clip_pg_rho_threshold=float(value))
    )
    for value in (1, 10, 100)
  ),
  scales=_single_tasks(),
  pictures=('curves', 'sorted'),
)
_FIGURE_E3 = definitions.Experiment(
  id='impala.figure_e3',
  title='q_s from v_{s+1} or from V(x_{s+1}) (Figures E.3 and E.4)',
  claims=(
    Claim(
      'q_s from v_{s+1} is better among the best three runs.',
      'appendix E.3',
      (Better('v_{s+1}', 'V(x_{s+1})'),),
      aggregate='best3',
    ),
    Claim(
      'And on average over all runs.',
      'appendix E.3, Figure E.4',
      (Better('v_{s+1}', 'V(x_{s+1})'),),
      aggregate='mean',
    ),
  ),
  variants=(
    Variant('v_{s+1}', dict(pg_bootstrap='vs')),
    Variant('V(x_{s+1})', dict(pg_bootstrap='values')),
  ),
  scales=_single_tasks(),
  also=('impala.figure_e4',),
)


def _workers(count: int) -> dict[str, Any]:
  return dict(num_actors=count, envs_per_actor=1)


_FIGURE_4 = definitions.Experiment(
  id='impala.figure_4',
  title='IMPALA, batched A2C and A3C on single tasks (Figure 4)',
  claims=(
    Claim(
      'IMPALA learns faster from its frames than A3C.',
      'section 5.2.1, Figure 4 top',
      (Better('IMPALA', 'A3C, single machine'), Better('IMPALA', 'A3C, distributed')),
      metric='mean_return',
      aggregate='best3',
    ),
    Claim(
      'IMPALA is more robust to hyperparameters than A3C.',
      'section 5.2.1, Figure 4 bottom',
      (Better('IMPALA', 'A3C, single machine'), Better('IMPALA', 'A3C, distributed')),
      aggregate='mean',
    ),
  ),
  variants=(
    Variant('IMPALA', at={'paper': _workers(200)}),
    Variant(
      'batched A2C',
      dict(architecture='a2c_sync_trajectory', batch_size=0),
      at={'paper': _workers(32)},
    ),
    Variant(
      'A3C, single machine',
      dict(architecture='a3c'),
      at={'paper': _workers(32), 'small': _workers(8)},
    ),
    Variant(
      'A3C, distributed',
      dict(architecture='a3c'),
      at={'paper': _workers(200), 'small': _workers(32), 'smoke': _workers(4)},
    ),
  ),
  scales=_single_tasks('A3C has 8 and 32 workers.'),
  pictures=('curves', 'sorted'),
)

_LAG_50: dict[str, Any] = dict(policy_lag=50, batch_size=0)
_SMALL_TASKS = definitions.Experiment(
  id='impala.small_tasks',
  title='Do the tasks of scale small tell a right variant from a broken one? (not in the paper)',
  claims=(
    Claim(
      'Under a lag of 50 updates, V-trace learns more than no correction.',
      'for the choice of tasks',
      (Better('V-trace, lag 50', 'no correction, lag 50', by=0.1),),
    ),
  ),
  variants=(
    Variant('V-trace, lag 50', _LAG_50),
    Variant('no correction, lag 50', dict(correction='none', **_LAG_50)),
    Variant('V-trace, no lag', dict(policy_lag=0, batch_size=0)),
  ),
  scales={
    'small': Scale(
      preset='gym',
      tasks=(
        tasks.CARTPOLE,
        tasks.ACROBOT,
        definitions.Task('FrozenLake', 'gym:FrozenLake-v1', low=0.015, high=0.74),
      ),
      changes="Candidates for scale small, with the preset's own hyperparameters.",
      frames_per_second=8_000,
      settings=_SMALL,
      seeds=5,
    ),
    'smoke': _single_tasks()['smoke'],
  },
)
EXPERIMENTS = (
  *speed_figures.EXPERIMENTS,
  _FIGURE_4,
  _RHO_BAR,
  _TABLE_2,
  _FIGURE_E1,
  _FIGURE_E2,
  _FIGURE_E3,
  _SMALL_TASKS,
  *suite_figures.EXPERIMENTS,
)
