"""What tests of prioritized replays share: blocks of known content, statistics, threads."""

import functools
import threading
from typing import Any, Callable, Iterable, NamedTuple, Sequence

import numpy as np
import scipy.stats
import tensorflow as tf

from common.replay import prioritized, structures

DEADLINE = 60.0
# A correct implementation fails a chi-squared test at this level for one seed in a thousand. The
# seeds here are fixed.
SIGNIFICANCE = 1e-3
LOWEST = prioritized.MIN_PRIORITY
HIGHEST = prioritized.MAX_PRIORITY
PRIORITIES = np.array(
  [0.7, 6.8, 1.1, 4.7, 0.6, 1.4, 0.6, 0.4, 1.5, 2.2, 5.0, 0.3, 2.7, 2.6, 5.5], np.float32
)
EXTREME = np.array(
  [0.0, 1e-45, 1e-30, 1e-7, 1e-6, 1e-5, 1.0, 2.0, 1e8, 9e8, 1e9, 2e9, 1e10, 1e30, 3e38], np.float32
)


def specification(
  stack: int,
  shape: tuple[int, ...],
  dtype: Any,
  action_shape: tuple[int, ...] = (),
  action_dtype: Any = np.int32,
  length: int = 5,
  n: int = 3,
) -> structures.TransitionBlock:
  """The specification of blocks of `length` transitions of up to n steps."""
  entries = stack - 1 + length + n
  return structures.TransitionBlock(
    observation=tf.TensorSpec([entries, *shape], dtype),
    frame_start=tf.TensorSpec([entries], tf.bool),
    action=tf.TensorSpec([length, *action_shape], action_dtype),
    n_step_return=tf.TensorSpec([length], tf.float32),
    discount=tf.TensorSpec([length], tf.float32),
    end=tf.TensorSpec([length], tf.int32),
    valid=tf.TensorSpec([length], tf.bool),
    priority=tf.TensorSpec([length], tf.float32),
  )


class Kind(NamedTuple):
  """A kind of replay, for tests that hold for all of them."""

  stack: int
  spec: structures.TransitionBlock
  alpha_evict: float | None = None

  @property
  def length(self) -> int:
    """Transitions per block."""
    return self.spec.priority.shape[0]

  @property
  def n(self) -> int:
    """Steps per transition, at most."""
    return self.spec.frame_start.shape[0] - self.length - (self.stack - 1)

  def make(
    self, capacity: int, alpha: float = 0.6, beta: float = 0.4, stratified: bool = True
  ) -> prioritized.PrioritizedReplay:
    """An empty replay of this kind."""
    return prioritized.PrioritizedReplay(
      self.spec, capacity, self.stack, alpha, beta, stratified, self.alpha_evict
    )


KINDS = {
  'vectors, oldest first': Kind(1, specification(1, (3,), np.float32, (2,), np.float32)),
  'images, oldest first': Kind(4, specification(4, (2, 3), np.uint8)),
  'vectors, by priority': Kind(
    1, specification(1, (3,), np.float32, (2,), np.float32, length=1, n=1), alpha_evict=-0.4
  ),
}


@functools.cache
def block(kind: Kind, number: int) -> structures.TransitionBlock:
  """A valid block of priority 1, with random content seeded by its number.

  The n-step returns number the transitions of all blocks, to identify them in samples.
  """
  rng = np.random.default_rng(number)
  offsets = np.arange(kind.length)

  def content(spec: tf.TensorSpec) -> np.ndarray:
    integers = spec.dtype.is_integer
    values = rng.integers(256, size=spec.shape) if integers else rng.random(spec.shape)
    return values.astype(spec.dtype.as_numpy_dtype)

  return structures.TransitionBlock(
    observation=content(kind.spec.observation),
    frame_start=rng.random(kind.spec.frame_start.shape) < 0.4,
    action=content(kind.spec.action),
    n_step_return=(number * kind.length + offsets).astype(np.float32),
    discount=content(kind.spec.discount),
    end=(offsets + rng.integers(kind.n + 1, size=kind.length)).astype(np.int32),
    valid=np.ones(kind.length, bool),
    priority=np.ones(kind.length, np.float32),
  )


def blocks(kind: Kind, numbers: Iterable[int], **changes: np.ndarray) -> structures.TransitionBlock:
  """The blocks of these numbers, `[M, ...]`; `changes` replace their fields."""
  parts = zip(*(block(kind, int(number)) for number in numbers), strict=True)
  return structures.TransitionBlock(*map(np.stack, parts))._replace(**changes)


def identities(sample: structures.Sample) -> np.ndarray:
  """The numbers of sampled transitions, int `[K]`."""
  return sample.n_step_return.numpy().astype(int)


def assert_whole(sample: structures.Sample, kept: structures.TransitionBlock, stack: int) -> None:
  """Every field of each transition is as in the block that its return identifies.

  Args:
    sample: K transitions.
    kept: All blocks that may have been sampled from, `[number, ...]`.
    stack: Frames per observation.
  """
  number, offset = np.divmod(identities(sample), kept.n_step_return.shape[1])
  end = kept.end[number, offset]

  def stack_at(entry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return number[:, np.newaxis], entry[:, np.newaxis] + np.arange(stack)

  expected_parts = {
    'observation': kept.observation[stack_at(offset)],
    'frame_start': kept.frame_start[stack_at(offset)],
    'next_observation': kept.observation[stack_at(end)],
    'next_frame_start': kept.frame_start[stack_at(end)],
    'action': kept.action[number, offset],
    'discount': kept.discount[number, offset],
    'n_step_return': kept.n_step_return[number, offset],
  }
  for name, expected in expected_parts.items():
    part = getattr(sample, name)
    np.testing.assert_array_equal(part, expected, err_msg=name)
    assert part.dtype == expected.dtype


def probabilities(priorities: np.ndarray, alpha: float, valid: Any = True) -> np.ndarray:
  """P(k) = p_k^alpha / sum_j p_j^alpha, with priorities clipped to the range that counts."""
  values = np.clip(np.asarray(priorities, np.float64), LOWEST, HIGHEST) ** alpha * valid
  return values / values.sum()


def assert_in_proportion(counts: np.ndarray, probability: np.ndarray) -> None:
  """A chi-squared test.

  Args:
    counts: How often each was drawn, `[K]`, or `[M, K]` of M series of draws.
    probability: Of the same shape.
  """
  expected = probability * counts.sum(axis=-1, keepdims=True)
  possible = expected > 0
  assert not counts[~possible].any()
  assert expected[possible].min() >= 5  # Otherwise the statistic does not have its distribution.
  statistic = np.sum((counts - expected)[possible] ** 2 / expected[possible])
  degrees = np.sum(np.sum(possible, axis=-1) - 1)
  assert scipy.stats.chi2.sf(statistic, degrees) > SIGNIFICANCE


def state(replay: prioritized.PrioritizedReplay) -> list[np.ndarray]:
  """The values of all variables."""
  return [variable.numpy() for variable in replay.variables]


def assert_state(replay: prioritized.PrioritizedReplay, expected: list[np.ndarray]) -> None:
  for now, before in zip(state(replay), expected, strict=True):
    np.testing.assert_array_equal(now, before)


class ReplayInUse:
  """A replay for a `Saver`, which gets more blocks before every read."""

  def __init__(self, replay: prioritized.PrioritizedReplay, add: Callable[[], Any]):
    self.spec = replay.spec
    self.slots = replay.slots
    self.stamps = replay.stamps
    self.priorities = replay.priorities
    self._replay = replay
    self._add = add

  def read(self, slots: np.ndarray) -> Any:
    self._add()
    return self._replay.read(slots)


class Worker(threading.Thread):
  """A call in a thread, and what it raised."""

  def __init__(self, function: Callable[..., Any], *arguments: Any):
    super().__init__(daemon=True)
    self.error: BaseException | None = None
    self._function = function
    self._arguments = arguments
    self.start()

  def run(self) -> None:
    try:
      self._function(*self._arguments)
    except BaseException as error:
      self.error = error


def join(workers: Sequence[Worker]) -> None:
  """Waits for all workers; they must end within the deadline, without errors."""
  for worker in workers:
    worker.join(DEADLINE)
  assert not any(worker.is_alive() for worker in workers)
  assert [worker.error for worker in workers] == [None] * len(workers)
