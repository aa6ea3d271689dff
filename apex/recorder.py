"""What an Ape-X run tells: the replay's state, the ages of what is used, the greediest environments' episodes."""

import pathlib
import threading
from typing import Mapping, Sequence

import numpy as np

from apex import actor as actors, config as configs, exploration, learner as learners, transitions
from common import environments, recorder as recorders
from common.distributed import queues
from common.replay import pacing, prioritized

_COLUMNS = ('transitions_in_per_second', 'transitions_out_per_second', 'updates_per_second', 'replay_ratio',
            'updates_per_inserted_transition', 'replay_size', 'sample_age', 'sampled_priority', 'parameter_age',
            'learner_wait_share', 'late_priorities', 'refused_blocks', 'queue_length', 'crashes', 'loss',
            'gradient_norm', 'q_value', 'td_error', 'weight', 'return_of_all', 'episodes_of_all')


class Recorder:
  """Gathers what the writer and the learner say; see `common.recorder` for when it is reported.

  `parameter_age` is in learner updates, `sample_age` in inserted transitions.
  """

  def __init__(self, config: configs.Config, suite: environments.Suite, folder: pathlib.Path,
               learner: learners.Learner, replay: prioritized.PrioritizedReplay, ratio: pacing.ReplayRatio,
               queue: queues.StructureQueue, actors_: Sequence[actors.Actor], epsilons: np.ndarray):
    self._config, self._task, self._learner, self._replay = config, suite.tasks[0], learner, replay
    self._ratio, self._queue, self._actors, self._action_repeat = ratio, queue, actors_, suite.action_repeat
    self._greediest = exploration.greediest(epsilons)
    self._lock = threading.Lock()
    self._totals = dict.fromkeys(('inserted', 'sampled', 'waited', 'late', 'refused'), 0)
    self._returns = []
    self.base = recorders.Recorder(config, suite.tasks, folder, learner, _COLUMNS, self._gauges, self._note)

  def record_arrival(self, shipment: transitions.Shipment, inserted: int) -> None:
    """Takes in shipments `[M, ...]`, of which so many transitions were inserted, copies among them."""
    self.base.start_clock()
    self._count(inserted=inserted)
    age = int(self._learner.updates) - np.asarray(shipment.parameter_version)
    self.base.record({'parameter_age': age.mean()}, {'parameter_age': age.tolist()})
    lengths, returns = np.asarray(shipment.episode_length), np.asarray(shipment.episode_return)
    environment = np.asarray(shipment.environment)
    for block, step in np.argwhere(lengths > 0):
      with self._lock:
        self._returns.append(returns[block, step])
      if self._greediest[environment[block]]:
        self.base.add_episode(self._task, float(returns[block, step]), int(lengths[block, step]))

  def record_update(self, update: learners.Update, waited: float, late: int) -> None:
    """Takes in one update, for whose sample the learner waited so many seconds and so many priorities came too late."""
    self._count(sampled=self._config.batch_size, waited=waited, late=late)
    self.base.record({name: float(value) for name, value in update.statistics.items() if name != 'finite'}, {})

  def record_refusal(self) -> None:
    """Counts a block that was refused."""
    self._count(refused=1)

  def _count(self, **amounts: float) -> None:
    with self._lock:
      for name, amount in amounts.items():
        self._totals[name] += amount

  def _gauges(self, elapsed: float) -> dict[str, float]:
    with self._lock:
      totals, returns, self._returns = self._totals, self._returns, []
      self._totals = dict.fromkeys(totals, 0)
    row = {
        'transitions_in_per_second': totals['inserted'] / elapsed,
        'transitions_out_per_second': totals['sampled'] / elapsed,
        'updates_per_second': totals['sampled'] / self._config.batch_size / elapsed,
        'replay_size': self._replay.size(), 'learner_wait_share': totals['waited'] / elapsed,
        'late_priorities': totals['late'], 'refused_blocks': totals['refused'], 'queue_length': self._queue.size(),
        'crashes': sum(actor.games.crashes for actor in self._actors), 'episodes_of_all': len(returns)}
    if totals['inserted']:
      row['replay_ratio'] = totals['sampled'] / totals['inserted']
      row['updates_per_inserted_transition'] = row['replay_ratio'] / self._config.batch_size
    if returns:
      row['return_of_all'] = float(np.mean(returns))
    return row

  def _note(self, row: Mapping[str, float]) -> str:
    if not self._ratio.is_filled():
      return f'filling the replay: {int(row["replay_size"]):,} of {self._config.min_replay:,}'
    return (f'{row["updates_per_second"]:.1f} updates/s  replay {int(row["replay_size"]):,}, '
            f'ratio {row.get("replay_ratio", 0.0):.2f}')
