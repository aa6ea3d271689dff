"""A chosen policy lag (Figure E.1): actors act with the parameters of K updates ago."""

import collections

from common import errors
from common.distributed import parameters
from common.machine import memory


class LaggedStore:
  """Holds the snapshots of the last updates; a `parameters.Source` of the oldest.

  Not thread-safe by itself: in a synchronous run nobody reads while the learner publishes.
  """

  def __init__(self, first: parameters.Snapshot, lag: int):
    """Starts with the parameters that the batches of the first `lag` updates are acted with.

    Args:
      first: The initial parameters; of a resumed run, those of the checkpoint.
      lag: K, in updates.
    """
    self._snapshots = collections.deque([first], maxlen=lag + 1)

  def publish(self, snapshot: parameters.Snapshot) -> None:
    """Adds the newest snapshot; forgets that of more than K updates ago."""
    self._snapshots.append(snapshot)

  def latest(self) -> parameters.Snapshot:
    """The snapshot of K updates ago, the latest that actors may have."""
    return self._snapshots[0]


def check_memory(lag: int, num_parameters: int) -> None:
  """Refuses a lag of more snapshots than memory can hold.

  Args:
    lag: K, in updates.
    num_parameters: Of the network, float32.

  Raises:
    UserError: Names both sizes.
  """
  needed = (lag + 1) * num_parameters * 4
  free = memory.available()
  if needed > free:
    raise errors.UserError(
      f'policy_lag is {lag}: the parameters of {lag + 1} updates take {needed / 2**30:.1f} GiB '
      f'and {free / 2**30:.1f} GiB are free. Set a smaller one with --config.policy_lag=VALUE'
    )
