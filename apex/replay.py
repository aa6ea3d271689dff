"""The replay of a run, in the form that its eviction needs."""

import numpy as np

from apex import config as configs
from apex import transitions
from common import environments
from common.machine import memory
from common.replay import prioritized


def make(config: configs.Config, suite: environments.Suite) -> prioritized.PrioritizedReplay:
  """Makes an empty replay.

  Raises:
    UserError: If the machine's memory cannot hold the replay when it is full.
  """
  # Eviction by priority removes single transitions. Eviction of the oldest removes whole blocks,
  # which store every observation only once.
  if config.evicts_by_priority:
    spec = transitions.single_specification(suite)
    alpha_evict = config.alpha_evict
  else:
    spec = transitions.specification(suite, config.block_length, config.n_step).block
    alpha_evict = None

  def size(capacity: int) -> int:
    return prioritized.PrioritizedReplay.size_in_bytes(spec, capacity, alpha_evict)

  memory.check(size, config.replay_capacity, 'transitions')
  return prioritized.PrioritizedReplay(
    spec,
    config.replay_capacity,
    suite.frame_stack,
    config.alpha,
    config.beta,
    config.stratified,
    alpha_evict,
  )


def insert(
  config: configs.Config,
  replay: prioritized.PrioritizedReplay,
  shipments: transitions.Shipment,
) -> int:
  """Adds actors' blocks, split into single transitions if the eviction needs that.

  Args:
    config: The run's settings.
    replay: Where to add them. It keeps the numbers of their environments as their origins.
    shipments: `[M, ...]`, stacked.

  Returns:
    The number of transitions added.
  """
  blocks = shipments.block
  origins = np.asarray(shipments.environment)
  if config.evicts_by_priority:
    blocks, block = transitions.separate(blocks)
    origins = origins[block]
  return replay.add(blocks, origins)
