"""Human-normalised scores of Atari-57 and DMLab-30, computed as in the papers.

The reference scores are those of the papers' tables: IMPALA, tables B.1 and C.1; Ape-X, table 2.
Atari episodes start with up to 30 no-ops ("no-op starts"), unless an argument `human_starts` says
otherwise.
"""

import functools
import json
import pathlib
from typing import Mapping, Sequence

import numpy as np

_FOLDER = pathlib.Path(__file__).parent / 'references'

# By suite, titles of the papers' agents that results are shown beside, and their columns in
# `references`. The first is the one in charts.
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
  """Published scores by task: those of `random` play, of a `human`, and of the papers' agents.

  Args:
    name: `atari57` or `dmlab30`.
  """
  return json.loads((_FOLDER / f'{name}.json').read_text())


def human_normalised(score: float, random: float, human: float) -> float:
  """Rescales a score to percent: 0 for random play, 100 for a human.

  Divides by |human - random|, which gives Ape-X's published medians: in Video Pinball from human
  starts, random play beats the human, and with a negative divisor better play would score lower.
  """
  return 100.0 * (score - random) / abs(human - random)


def normalised(name: str, scores: Mapping[str, float], prefix: str = '') -> dict[str, float]:
  """Human-normalised scores by task, in percent.

  Args:
    name: `atari57` or `dmlab30`.
    scores: Mean returns by task.
    prefix: Prefix of the columns of random and human scores, e.g. `human_starts_`.
  """
  known = references(name)
  return {
    task: human_normalised(score, known[task][f'{prefix}random'], known[task][f'{prefix}human'])
    for task, score in scores.items()
  }


def summary(name: str, scores: Mapping[str, float], human_starts: bool = False) -> dict[str, float]:
  """The statistics that the papers report, over the tasks in `scores`, in percent.

  Args:
    name: `atari57` or `dmlab30`.
    scores: Mean returns by task.
    human_starts: Whether Atari episodes started from states of human play.

  Returns:
    Atari-57: `median` and `mean`; with Video Pinball among the tasks and without human starts also
    `mean_video_pinball_from_0`, which takes that game's random score as 0, as the IMPALA paper's
    means do.
    DMLab-30: `mean_capped`, the mean of scores capped at 100, with the released code's random and
    human scores; `mean_capped_table_b1`, the same with those of table B.1, which differ in which
    lasertag level has which scores; and `mean`, not capped.
  """
  if name == 'dmlab30':
    return _dmlab_summary(scores)
  return _atari_summary(scores, human_starts)


def _dmlab_summary(scores: Mapping[str, float]) -> dict[str, float]:
  code = list(normalised('dmlab30', scores).values())
  table = list(normalised('dmlab30', scores, 'table_b1_').values())
  return {
    'mean_capped': _mean(np.minimum(code, 100.0)),
    'mean_capped_table_b1': _mean(np.minimum(table, 100.0)),
    'mean': _mean(code),
  }


def _atari_summary(scores: Mapping[str, float], human_starts: bool) -> dict[str, float]:
  by_task = normalised('atari57', scores, 'human_starts_' if human_starts else '')
  result = {
    'median': float(np.median(list(by_task.values()))),
    'mean': _mean(list(by_task.values())),
  }
  if 'video_pinball' in scores and not human_starts:
    human = references('atari57')['video_pinball']['human']
    # Assigning keeps the task's place, and so the order in which the mean adds up.
    by_task['video_pinball'] = human_normalised(scores['video_pinball'], random=0.0, human=human)
    result['mean_video_pinball_from_0'] = _mean(list(by_task.values()))
  return result


def _mean(values: Sequence[float] | np.ndarray) -> float:
  # A plain number, which JSON takes.
  return float(np.mean(values))
