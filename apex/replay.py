"""The replay of a run, in the form that its eviction needs."""

from apex import config as configs
from apex import transitions
from common import environments
from common.machine import memory
from common.replay import prioritized, structures


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
  blocks: structures.TransitionBlock,
) -> int:
  """Adds actors' blocks `[M, ...]`, split into single transitions if the eviction needs that.

  Returns:
    The number of transitions added.
  """
  if config.evicts_by_priority:
    blocks = transitions.separate(blocks)
  return replay.add(blocks)
