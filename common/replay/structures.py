"""What enters and leaves a prioritized replay: blocks of transitions, and samples."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf


class TransitionBlock(NamedTuple):
  """B consecutive transitions of one environment; a batch of M blocks has a leading axis.

  A block stores every observation once, as E = stack - 1 + B + n single entries: from the oldest
  frame of its first stack to the last state that it bootstraps from. Transition b's newest frame is
  entry stack - 1 + b; it bootstraps from the stack whose newest frame is entry stack - 1 + end[b].
  """

  # [E, ...], or a dict of these by name: single frames uint8, vectors float32 and so on.
  observation: Any
  # bool [E]: the entry is the first of a game, so no stack reaches back beyond it.
  frame_start: Any
  # int32 [B], or float32 [B, A].
  action: Any
  # float32 [B]: the discounted sum of up to n rewards, cut at the episode's end.
  n_step_return: Any
  # float32 [B]: multiplies the bootstrap value; 0 where the episode ended.
  discount: Any
  # int32 [B]: the offset of the state to bootstrap from.
  end: Any
  # bool [B]: False where there is no transition, e.g. at the last observation before a time limit.
  valid: Any
  # float32 [B]: the absolute TD error.
  priority: Any


class Sample(NamedTuple):
  """K transitions.

  Observations are `[K, stack, ...]`, or a dict of these by name, the newest entry last;
  `frames.stacks` turns single frames into network inputs.
  """

  leaf: tf.Tensor  # int64 [K]: the transition's leaf in the sum tree.
  stamp: tf.Tensor  # int64 [K]: the serial number of its block, to notice when it has been evicted.
  observation: Any  # [K, stack, ...].
  frame_start: tf.Tensor  # bool [K, stack].
  action: tf.Tensor  # int32 [K], or float32 [K, A].
  n_step_return: tf.Tensor  # float32 [K].
  discount: tf.Tensor  # float32 [K].
  next_observation: Any  # [K, stack, ...]: the state to bootstrap from.
  next_frame_start: tf.Tensor  # bool [K, stack].
  weight: tf.Tensor  # float32 [K]: importance weights, at most 1.
  priority: tf.Tensor  # float32 [K]: the priority it was drawn by; 1 where alpha is 0.
  age: tf.Tensor  # int64 [K]: transitions added since, counted in whole blocks.


class Priorities(NamedTuple):
  """New priorities of sampled transitions."""

  leaf: tf.Tensor  # int64 [K], from a sample.
  stamp: tf.Tensor  # int64 [K], from the same sample.
  priority: tf.Tensor  # float32 [K], finite.


class RefusedBlock(ValueError):
  """A block has a number that is not finite, or a negative priority."""


def refused(blocks: TransitionBlock) -> np.ndarray:
  """Finds the blocks that would poison learning.

  Args:
    blocks: M blocks, `[M, ...]`.

  Returns:
    bool `[M]`, True where a block has a NaN or infinite number, or a negative priority.
  """
  bad = np.any(np.asarray(blocks.priority) < 0, axis=1)
  # Observations are checked too: TensorFlow's fused ReLU turns NaN into 0 on CPUs, so neither
  # priorities nor losses would show it.
  for part in map(np.asarray, tf.nest.flatten(blocks)):
    if np.issubdtype(part.dtype, np.floating):
      inner_axes = tuple(range(1, part.ndim))
      bad |= ~np.isfinite(part).all(axis=inner_axes)
  return bad


def not_finite(blocks: TransitionBlock) -> list[str]:
  """The names of fields with numbers that are NaN or infinite, in blocks of any count."""
  arrays = {name: np.asarray(part) for name, part in named(blocks).items()}
  return [
    name
    for name, part in arrays.items()
    if np.issubdtype(part.dtype, np.floating) and not np.isfinite(part).all()
  ]


def named(block: TransitionBlock) -> dict[str, Any]:
  """The arrays of a block, or their specifications, by field; `observation.NAME` in a dict."""
  parts: dict[str, Any] = {}
  for field, part in block._asdict().items():
    if isinstance(part, Mapping):
      parts |= {f'{field}.{name}': part[name] for name in sorted(part)}
    else:
      parts[field] = part
  return parts


def block_bytes(spec: TransitionBlock) -> int:
  """Bytes stored for one block, without its priorities, which live in the sum tree.

  Args:
    spec: `tf.TensorSpec`s of one block.
  """
  stored = spec._replace(priority=())
  return sum(s.shape.num_elements() * s.dtype.size for s in tf.nest.flatten(stored))
