"""The figures and tables of the Ape-X paper as experiments; here, the studies of Ape-X DQN.

The paper runs for a fixed time on machines where actors and learner do not slow each other down. On
one small machine they would. There, `_supply` gives every number of actors the same number of
updates: twice the actors bring twice the frames, and each transition is sampled half as often.
"""

from typing import Any

from apex import figure_scales, score_figures, tuning_figures
from common.experiments import definitions, tasks
from common.experiments.definitions import Better, Claim, Needs, Rising, Scale, Variant

# Our choice, but for wizard_of_wor: the paper's six games are in images only.
_SIX = ('beam_rider', 'breakout', 'pong', 'qbert', 'space_invaders', 'wizard_of_wor')


_SMALL: dict[str, Any] = dict(
  total_frames=60_000, log_every_seconds=1.0, checkpoint_every_seconds=30.0, **tasks.QUIET
)
_SMALL_CHANGES = (
  'CartPole and Acrobot in place of Atari, a network of 64 units, 5 seeds in place of one run; one '
  'core a run.'
)


def _studies(small_changes: str = '', seeds: int = 5, **small: Any) -> dict[str, Scale]:
  """The scales of the studies of Ape-X DQN.

  Args:
    small_changes: What scale small changes beside the usual.
    seeds: Runs of each variant at scale small.
    **small: Settings of scale small.
  """
  return {
    'paper': Scale(
      preset='paper',
      tasks=tuple(map(tasks.game, _SIX)),
      changes='Six games of our choice; 35 hours as 4.7 billion frames.',
      frames_per_second=37_000,
      settings=dict(total_frames=4_700_000_000, num_actors=8, envs_per_actor=32, **tasks.QUIET),
      needs=Needs(cores=280, gpus=1, gigabytes=64),
    ),
    'medium': Scale(
      preset='paper',
      tasks=tuple(map(tasks.game, ('breakout', 'pong'))),
      changes='Two games, 40 million frames, a replay of 500,000.',
      frames_per_second=10_000,
      settings=figure_scales.MEDIUM,
      seeds=2,
      needs=Needs(cores=8, gpus=1, gigabytes=32),
    ),
    'small': Scale(
      preset='gym',
      tasks=(tasks.CARTPOLE, tasks.ACROBOT),
      changes=f'{_SMALL_CHANGES} {small_changes}'.rstrip(),
      frames_per_second=1_200,
      settings={**_SMALL, **small},
      seeds=seeds,
    ),
    'smoke': figure_scales.SMOKE,
  }


# Samples for each transition at 8 actors, and frames, of the studies over actors at scale small.
_RATIO = 16.0
_FRAMES = 16_000


def _supply(actors: int, of: int = 8) -> dict[str, dict[str, Any]]:
  """Settings of a number of actors; at scale small, with the same number of updates for each."""
  paper = dict(num_actors=max(1, actors // 32), envs_per_actor=min(32, actors))
  times = actors / of
  small = dict(
    num_actors=1,
    envs_per_actor=actors,
    total_frames=int(_FRAMES * times),
    replay_ratio=_RATIO / times,
  )
  return {'paper': paper, 'medium': paper, 'small': small, 'smoke': dict(envs_per_actor=4)}


_MORE_ACTORS = (
  'More actors bring more frames for the same number of updates, 8 actors 16,000: the paper gives '
  'them the same time.'
)
_FIGURE_4 = definitions.Experiment(
  id='apex.figure_4',
  title='The number of actors (Figure 4)',
  claims=(
    Claim(
      'The more actors, the better, for the same learner.',
      'section 4.1, Figure 4',
      (Rising(tuple(f'{n} actors' for n in (8, 16, 32, 64))),),
    ),
  ),
  variants=tuple(
    Variant(
      f'{n} actors',
      at={
        scale: {**values, **({'replay_capacity': 1_000_000} if scale == 'paper' else {})}
        for scale, values in _supply(n).items()
      },
      number=n,
    )
    for n in (8, 16, 32, 64, 128, 256)
  ),
  scales=_studies(_MORE_ACTORS),
  pictures=('hours', 'curves'),
)
_CAPACITIES = {'250k': 250_000, '500k': 500_000, '1m': 1_000_000, '2m': 2_000_000}
_FIGURE_5 = definitions.Experiment(
  id='apex.figure_5',
  title='The capacity of the replay (Figure 5)',
  claims=(
    Claim(
      'A larger replay is slightly better.',
      'section 5, Figure 5',
      (Rising(tuple(f'replay {name}' for name in _CAPACITIES)),),
    ),
  ),
  variants=tuple(
    Variant(
      f'replay {name}',
      dict(replay_capacity=capacity),
      at={
        'medium': dict(replay_capacity=capacity // 4),
        # One hundredth: runs are that much shorter, or more.
        'small': dict(replay_capacity=capacity // 100),
        'smoke': dict(replay_capacity=capacity // 250),
      },
      number=capacity,
    )
    for name, capacity in _CAPACITIES.items()
  ),
  scales=_studies('Replays are a hundredth of the size.'),
  pictures=('hours', 'curves'),
)


def _copies(actors: int, copies: int) -> Variant:
  """Fewer actors, each of whose transitions is added several times (Figure 6)."""
  at = {
    scale: {**values, 'replicas': copies} for scale, values in _supply(actors // 16, of=2).items()
  }
  paper = _supply(actors)['paper']
  at |= {
    'paper': {**paper, 'replicas': copies, 'replay_capacity': 1_000_000},
    'medium': {**paper, 'replicas': copies},
  }
  # A transition that is added k times counts k times in the ratio.
  at['small'] |= {'replay_ratio': at['small']['replay_ratio'] / copies}
  return Variant(f'{actors} actors, {copies} copies', at=at)


_FIGURE_6 = definitions.Experiment(
  id='apex.figure_6',
  title='Fewer actors whose transitions are added several times (Figure 6)',
  claims=(
    Claim(
      '32 actors with 8 copies of each transition renew the replay as fast as 256, but learn less '
      'well: it is the variety of data that helps, not its recency.',
      'section 5, Figure 6',
      (Better('256 actors, 1 copies', '32 actors, 8 copies'),),
    ),
    Claim(
      'More actors are better than few.',
      'section 5, Figure 6',
      (Better('256 actors, 1 copies', '32 actors, 1 copies'),),
    ),
  ),
  variants=(_copies(32, 1), _copies(32, 8), _copies(256, 1)),
  scales=_studies(
    '2 and 16 actors stand for 32 and 256; more actors bring more frames for the same number of '
    'updates.'
  ),
  pictures=('hours', 'curves'),
)
_FIGURE_7 = definitions.Experiment(
  id='apex.figure_7',
  title='Six epsilons or the full range (Figure 7)',
  claims=(
    Claim(
      'The full range of epsilons is slightly better than six of them.',
      'section 5, Figure 7',
      (Better('full range', 'six epsilons'),),
    ),
  ),
  variants=(
    Variant(
      'six epsilons',
      dict(distinct_epsilons=6, evaluation_epsilon=0.00164),
      at={'smoke': dict(distinct_epsilons=2)},
    ),
    Variant('full range', dict(evaluation_epsilon=0.00164)),
  ),
  scales=_studies('32 environments.', num_actors=2, envs_per_actor=16, replay_ratio=2.0),
  pictures=('hours', 'curves'),
)
_PRIORITIZED = {
  (True, n): f'prioritized, {n} actors' for n in (32, 128, 256)
} | {(False, n): f'uniform, {n} actors' for n in (32, 128, 256)}  # fmt: skip
_FIGURE_12 = definitions.Experiment(
  id='apex.figure_12',
  title='Prioritized and uniform replay, over actors (Figure 12)',
  claims=(
    Claim(
      'Prioritized replay is at least as good as uniform replay.',
      'appendix A, Figure 12',
      (Better('prioritized, 256 actors', 'uniform, 256 actors'),),
    ),
    Claim(
      'Both gain from more actors.',
      'appendix A, Figure 12',
      (
        Rising(tuple(f'prioritized, {n} actors' for n in (32, 128, 256))),
        Rising(tuple(f'uniform, {n} actors' for n in (32, 128, 256))),
      ),
    ),
  ),
  variants=tuple(
    Variant(
      name,
      {} if is_prioritized else dict(alpha=0.0, learning_rate=0.00025),
      at={
        scale: {
          **values,
          **({} if is_prioritized or scale in ('paper', 'medium') else {'learning_rate': 0.0005}),
        }
        for scale, values in {**_supply(n // 16, of=2), 'paper': _supply(n)['paper']}.items()
      },
      number=n,
    )
    for (is_prioritized, n), name in _PRIORITIZED.items()
  ),
  scales=_studies('2, 8 and 16 actors stand for 32, 128 and 256. ' + _MORE_ACTORS),
  pictures=('hours', 'curves'),
)


def _rate(actors: int) -> Variant:
  return Variant(
    f'{actors} actors',
    at={
      'paper': dict(num_actors=actors, envs_per_actor=1),
      'medium': dict(num_actors=max(1, actors // 8), envs_per_actor=1),
      'small': dict(num_actors=1, envs_per_actor=max(1, actors // 8)),
      'smoke': dict(num_actors=1, envs_per_actor=max(1, actors // 64)),
    },
    number=actors,
  )


_ACTORS = (8, 16, 32, 64, 128, 256)
_FIGURE_11 = definitions.Experiment(
  id='apex.figure_11',
  title='Data rate over the number of actors (Figure 11)',
  claims=(
    Claim(
      'The data rate grows in proportion to the number of actors.',
      'appendix F, Figure 11',
      # Twice the actors; 0.69 would be exactly twice the rate.
      (Rising(tuple(f'{n} actors' for n in _ACTORS), by=0.5),),
      metric='frames_per_second',
      aggregate='mean',
    ),
  ),
  variants=tuple(map(_rate, _ACTORS)),
  scales=_studies(
    'Environments of one actor in place of actors with a core each: an eighth as many.',
    seeds=2,
    replay_ratio=0.5,
    total_frames=40_000,
  ),
  pictures=('rates',),
)
EXPERIMENTS = (
  *score_figures.EXPERIMENTS,
  _FIGURE_4,
  _FIGURE_5,
  _FIGURE_6,
  _FIGURE_7,
  _FIGURE_11,
  _FIGURE_12,
  *tuning_figures.EXPERIMENTS,
)
