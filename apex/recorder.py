"""The statistics of an Ape-X run: replay, ages of samples and parameters, greedy episodes."""

import pathlib
from collections.abc import Mapping

import numpy as np

from apex import algorithms, transitions
from apex import config as configs
from apex import learner as learners
from common import environments
from common.replay import pacing, prioritized, structures
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
  'dropped_batches',
  'td_error',
  'weight',
  'return_of_all',
)


class Recorder:
  """Collects the statistics of the writer and the learner.

  `sample_age` counts transitions inserted since the sample was; `parameter_age` counts learner
  updates since an actor's parameters were published.

  Attributes:
    base: Reports the statistics.
  """

  def __init__(
    self,
    config: configs.Config,
    suite: environments.Suite,
    folder: pathlib.Path,
    learner: learners.Learner,
    replay: prioritized.PrioritizedReplay,
    ratio: pacing.ReplayRatio,
    supply: recorders.Supply,
  ):
    """Opens the files.

    Args:
      config: The run's settings.
      suite: The environment, which has one task.
      folder: The run's folder.
      learner: Holds the counters.
      replay: The replay, whose size is reported.
      ratio: Tells whether learning has started.
      supply: The queue and the actors.
    """
    self._config = config
    self._task = suite.tasks[0]
    self._learner = learner
    self._replay = replay
    self._ratio = ratio
    self._supply = supply
    self._dropped = 0
    algorithm = algorithms.module(config)
    # bool by environment: returns of exploring environments would hide what was learned.
    self._is_shown = algorithm.shown_environments(config)
    columns = [*_COLUMNS, *algorithm.STATISTICS, *supply.host.columns]
    self.base = recorders.Recorder(
      config, suite, folder, learner, columns, self._gauges, self._note
    )

  def record_arrival(self, shipment: transitions.Shipment, inserted: int) -> None:
    """Adds the statistics of shipments that were inserted, and of their episodes.

    Args:
      shipment: Shipments `[M, ...]`, stacked.
      inserted: The number of transitions added to the replay, including copies.
    """
    # The first data: filling the replay counts as training time.
    self.base.start_clock()
    age = int(self._learner.updates) - np.asarray(shipment.parameter_version)
    self.base.record(
      distributions={'parameter_age': age.tolist()},
      totals={'transitions_in_per_second': inserted},
    )

    lengths = np.asarray(shipment.episode_length)  # [M, block_length]
    returns = np.asarray(shipment.episode_return)
    environment = np.asarray(shipment.environment)
    for block, step in np.argwhere(lengths > 0):
      episode_return = float(returns[block, step])
      # Over all environments, however much they explore. A sum may have overflowed.
      if np.isfinite(episode_return):
        self.base.record(means={'return_of_all': episode_return})
      if self._is_shown[environment[block]]:
        self.base.add_episode(self._task, episode_return, int(lengths[block, step]))

  def record_update(self, sample: structures.Sample, update: learners.Update) -> None:
    """Adds the statistics of an update.

    Args:
      sample: The update's batch, `[K, ...]`.
      update: The update's result.
    """
    # Samples whose losses are infinite or NaN are dropped, not recorded.
    statistics = {k: float(v) for k, v in update.statistics.items() if k != 'finite'}
    self.base.record(
      means=statistics,
      distributions={
        'sample_age': sample.age.numpy().tolist(),
        'sampled_priority': sample.priority.numpy().tolist(),
      },
      totals={
        'transitions_out_per_second': len(sample.age),
        'updates_per_second': 1,
      },
    )

  def record_late(self, late: int) -> None:
    """Counts new priorities whose transitions had left the replay."""
    self.base.record(totals={'late_priorities_per_second': late})

  def record_refusal(self) -> None:
    """Counts a block that was refused."""
    self.base.record(totals={'refused_blocks_per_second': 1})

  def record_drop(self) -> None:
    """Counts a sample that was dropped."""
    self._dropped += 1

  def _gauges(self, row: Mapping[str, float]) -> dict[str, float]:
    gauges: dict[str, float] = {
      'replay_size': self._replay.size(),
      'dropped_batches': self._dropped,
      **self._supply.gauges(),
    }
    # Both rates are per second of the same interval, so the seconds cancel.
    inserted = row.get('transitions_in_per_second', 0.0)
    if inserted:
      gauges['replay_ratio'] = row.get('transitions_out_per_second', 0.0) / inserted
      gauges['updates_per_inserted_transition'] = row.get('updates_per_second', 0.0) / inserted
    return gauges

  def _note(self, row: Mapping[str, float]) -> str:
    size = f'{int(row["replay_size"]):,}'
    # Until there are updates, other numbers mean nothing.
    if not self._ratio.is_filled():
      return f'filling the replay: {size} of {self._config.min_replay:,}'
    updates = row.get('updates_per_second', 0.0)
    ratio = row.get('replay_ratio', 0.0)
    return f'{updates:.1f} updates/s  replay {size}, ratio {ratio:.2f}{recorders.faults(row)}'
