"""What an Ape-X run tells: the replay's state, the ages of what is used, the episodes of those that explore least."""

import pathlib
from typing import Mapping, Sequence

import numpy as np

from apex import actor as actors
from apex import algorithms, transitions
from apex import config as configs
from apex import learner as learners
from common import environments
from common.distributed import queues
from common.replay import pacing, prioritized, structures
from common.runs import hosting
from common.runs import recorder as recorders

_COLUMNS = (
  'transitions_in_per_second',
  'transitions_out_per_second',
  'updates_per_second',
  'replay_ratio',
  'updates_per_inserted_transition',
  'replay_size',
  'sample_age_mean',
  'sample_age_max',
  'sampled_priority_mean',
  'sampled_priority_max',
  'parameter_age_mean',
  'parameter_age_max',
  'learner_wait_share',
  'late_priorities_per_second',
  'refused_blocks_per_second',
  'queue_length',
  'crashes',
  'td_error',
  'weight',
  'return_of_all',
)


class Recorder:
  """Gathers what the writer and the learner say; see `common.runs.recorder` for when it is reported.

  `sample_age` is in transitions inserted since, `parameter_age` in learner updates.
  """

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: learners.Learner,
    replay: prioritized.PrioritizedReplay,
    ratio: pacing.ReplayRatio,
    queue: queues.StructureQueue,
    actors_: Sequence[actors.Actor],
    host: hosting.Host,
  ):
    """`actors_` are those of this process, `host` has the others."""
    self._config, self._task, self._learner, self._replay = config, suite.tasks[0], learner, replay
    self._ratio, self._queue, self._actors, self._host = ratio, queue, actors_, host
    algorithm = algorithms.module(config)
    self._shown = algorithm.shown_environments(config)
    self.base = recorders.Recorder(
      config,
      suite,
      folder,
      learner,
      [*_COLUMNS, *algorithm.STATISTICS, *host.columns],
      self._gauges,
      self._note,
    )

  def record_arrival(self, shipment: transitions.Shipment, inserted: int) -> None:
    """Takes in shipments `[M, ...]`, of which so many transitions were inserted, copies among them."""
    self.base.start_clock()
    age = int(self._learner.updates) - np.asarray(shipment.parameter_version)
    self.base.record(
      distributions={'parameter_age': age.tolist()}, totals={'transitions_in_per_second': inserted}
    )
    lengths, returns = np.asarray(shipment.episode_length), np.asarray(shipment.episode_return)
    environment = np.asarray(shipment.environment)
    for block, step in np.argwhere(lengths > 0):
      self.base.record({'return_of_all': returns[block, step]})
      if self._shown[environment[block]]:
        self.base.add_episode(self._task, float(returns[block, step]), int(lengths[block, step]))

  def record_update(
    self, sample: structures.Sample, update: learners.Update, waited: float, late: int
  ) -> None:
    """Takes in one update, for whose sample the learner waited so many seconds and so many priorities came too late."""
    self.base.record(
      {name: float(value) for name, value in update.statistics.items() if name != 'finite'},
      {
        'sample_age': sample.age.numpy().tolist(),
        'sampled_priority': sample.priority.numpy().tolist(),
      },
      {
        'transitions_out_per_second': len(sample.age),
        'updates_per_second': 1,
        'learner_wait_share': waited,
        'late_priorities_per_second': late,
      },
    )

  def record_refusal(self) -> None:
    """Counts a block that was refused."""
    self.base.record(totals={'refused_blocks_per_second': 1})

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    gauges = {
      'replay_size': self._replay.size(),
      'queue_length': self._queue.size(),
      **recorders.actor_gauges(self._actors, self._host),
    }
    inserted = row.get('transitions_in_per_second', 0.0)
    if inserted:
      gauges['replay_ratio'] = row.get('transitions_out_per_second', 0.0) / inserted
      gauges['updates_per_inserted_transition'] = row.get('updates_per_second', 0.0) / inserted
    return gauges

  def _note(self, row: Mapping[str, float]) -> str:
    if not self._ratio.is_filled():
      return f'filling the replay: {int(row["replay_size"]):,} of {self._config.min_replay:,}'
    return (
      f'{row.get("updates_per_second", 0.0):.1f} updates/s  replay {int(row["replay_size"]):,}, '
      f'ratio {row.get("replay_ratio", 0.0):.2f}{recorders.faults(row)}'
    )
