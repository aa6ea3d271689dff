"""Human-normalised scores of Atari-57 and DMLab-30, by the conventions that give the papers' own numbers.

References are those of the papers' tables: IMPALA, tables B.1 and C.1; Ape-X, table 2. Games start with up to 30 no-ops
unless `human_starts` says otherwise.
"""

import functools
import json
import pathlib
from typing import Mapping

import numpy as np

_FOLDER = pathlib.Path(__file__).parent / 'references'
# The columns of the papers that results are shown beside, by reference.
PAPER_COLUMNS = {
  'atari57': {
    'IMPALA multi-task': 'impala_deep_multi_task',
    'IMPALA deep': 'impala_deep',
    'Ape-X': 'apex',
  },
  'dmlab30': {'IMPALA deep PBT': 'impala_deep_pbt', 'experts': 'experts_deep'},
}


@functools.cache
def references(name: str) -> dict[str, dict[str, float]]:
  """By task, published scores: `random`, `human` and those of the papers' agents; `name`: `atari57` or `dmlab30`."""
  return json.loads((_FOLDER / f'{name}.json').read_text())


def human_normalised(score: float, random: float, human: float) -> float:
  """0 for random play, 100 for a human. Over |human - random|: in Video Pinball from human starts, random is better."""
  return 100.0 * (score - random) / abs(human - random)


def normalised(name: str, scores: Mapping[str, float], prefix: str = '') -> dict[str, float]:
  """Human-normalised scores by task; `prefix`: of the random and human references, e.g. `human_starts_`."""
  known = references(name)
  return {
    task: human_normalised(score, known[task][f'{prefix}random'], known[task][f'{prefix}human'])
    for task, score in scores.items()
  }


def summary(name: str, scores: Mapping[str, float], human_starts: bool = False) -> dict[str, float]:
  """What papers report of the tasks that `scores` has, in percent.

  Atari-57: median and mean. The IMPALA paper's means count the random score of Video Pinball as 0, which is a column of
  its own. DMLab-30: the mean of scores capped at 100 with the released code's constants; the same with those of table
  B.1, which pairs constants and levels of lasertag otherwise; and the mean without a cap.

  Args:
    name: `atari57` or `dmlab30`.
    scores: by task, mean returns.
    human_starts: whether Atari games were started from humans' play.
  """
  if name == 'dmlab30':
    own, table = (list(normalised(name, scores, prefix).values()) for prefix in ('', 'table_b1_'))
    return {
      'mean_capped': float(np.mean(np.minimum(own, 100.0))),
      'mean_capped_table_b1': float(np.mean(np.minimum(table, 100.0))),
      'mean': float(np.mean(own)),
    }
  by_task = normalised(name, scores, 'human_starts_' if human_starts else '')
  result = {
    'median': float(np.median(list(by_task.values()))),
    'mean': float(np.mean(list(by_task.values()))),
  }
  if 'video_pinball' in scores and not human_starts:
    pinball = references(name)['video_pinball']
    without = by_task | {
      'video_pinball': human_normalised(scores['video_pinball'], 0.0, pinball['human'])
    }
    result['mean_video_pinball_from_0'] = float(np.mean(list(without.values())))
  return result
