"""The run's replay, and how actors' blocks go into it."""

from apex import config as configs
from apex import transitions
from common import environments
from common.machine import memory
from common.replay import prioritized, structures


def make(config: configs.Config, suite: environments.Suite) -> prioritized.PrioritizedReplay:
  """An empty replay.

  Raises:
    UserError: If the machine's memory cannot hold it when it is full.
  """
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
  """Adds actors' blocks `[M, ...]` in the form that the replay keeps.

  Returns:
    The number of transitions added.
  """
  # Eviction by priority takes out single transitions, so each becomes a block of its own.
  return replay.add(transitions.separate(blocks) if config.evicts_by_priority else blocks)
