"""From the steps of environments to blocks of n-step transitions with initial priorities (Ape-X, appendix F)."""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from apex import config as configs
from common.environments import suite as suites
from common.replay import structures


class Shipment(NamedTuple):
  """What an actor sends: a block, and what is told about its making."""

  block: structures.TransitionBlock
  environment: Any  # int32 []: among all environments of all actors.
  parameter_version: Any  # int64 []: learner updates that the newest parameters used had seen.
  episode_return: (
    Any  # float32 [B]: where a game ended, the sum of its rewards as the environment gave them.
  )
  episode_length: Any  # int32 [B]: likewise, its agent steps; 0 elsewhere.


class Records(NamedTuple):
  """Arrays `[N]` of one step of N environments: an observation, what was done there, and what came of it."""

  observation: Any  # The newest frame uint8 [N, H, W], or the vector or image.
  start: Any  # bool: the observation is the first of a game.
  action: Any
  q_taken: Any  # float32: q of the action.
  bootstrap_value: Any  # float32: what transitions that end here bootstrap from.
  reward: Any  # float32, clipped if rewards are.
  discount: Any  # float32: gamma, or 0 where the episode ended.
  final: (
    Any  # bool: the last observation of an episode that a time limit ended; nothing was done there.
  )
  episode_return: Any
  episode_length: Any


def specification(suite: suites.Suite, length: int, n: int) -> Shipment:
  """The `tf.TensorSpec`s of one shipment of `length` transitions of n steps."""
  space = suite.observation_space['observation']
  shape = space.shape[1:] if suite.frame_stack > 1 else space.shape
  entries = suite.frame_stack - 1 + length + n
  per_transition = lambda dtype: tf.TensorSpec([length], dtype)
  block = structures.TransitionBlock(
    observation=tf.TensorSpec([entries, *shape], tf.as_dtype(space.dtype)),
    frame_start=tf.TensorSpec([entries], tf.bool),
    action=_action(suite, length),
    n_step_return=per_transition(tf.float32),
    discount=per_transition(tf.float32),
    end=per_transition(tf.int32),
    valid=per_transition(tf.bool),
    priority=per_transition(tf.float32),
  )
  return Shipment(
    block,
    tf.TensorSpec([], tf.int32),
    tf.TensorSpec([], tf.int64),
    per_transition(tf.float32),
    per_transition(tf.int32),
  )


def bounds(config: configs.Config, suite: suites.Suite) -> dict[str, tuple[float, float]]:
  """The lowest and highest values of a shipment's fields, for `wire.Codec`."""
  any_number = (0, np.iinfo(np.int64).max)
  limits = {
    **{
      f'block.{name}': pair
      for name, pair in suites.integer_bounds(suite).items()
      if name == 'observation'
    },
    'block.end': (0, config.block_length + config.n_step - 1),
    'block.discount': (0, 1),
    'block.priority': (0, np.inf),
    'environment': (0, config.num_environments - 1),
    'parameter_version': any_number,
    'episode_length': any_number,
  }
  if suite.is_discrete:
    limits['block.action'] = (0, suite.num_actions - 1)
  return limits


def _action(suite: suites.Suite, length: int) -> tf.TensorSpec:
  if suite.is_discrete:
    return tf.TensorSpec([length], tf.int32)
  return tf.TensorSpec([length, *suite.action_space.shape], tf.float32)


def single_specification(suite: suites.Suite) -> structures.TransitionBlock:
  """The `tf.TensorSpec`s of what `separate` makes of a suite's blocks."""
  return specification(suite, length=1, n=1).block


def separate(blocks: structures.TransitionBlock) -> structures.TransitionBlock:
  """Transitions of blocks `[M, ...]` each by itself, as blocks `[K, ...]` of one and its two observations.

  So any of them can leave the replay alone. Observations, which must be vectors, are then kept twice.
  """
  blocks = structures.TransitionBlock(*(np.asarray(part) for part in blocks))
  block, start = np.nonzero(blocks.valid)
  entries = np.stack([start, blocks.end[block, start]], axis=1)
  per_transition = {
    name: getattr(blocks, name)[block, start][:, np.newaxis]
    for name in ('action', 'n_step_return', 'discount', 'valid', 'priority')
  }
  return structures.TransitionBlock(
    blocks.observation[block[:, np.newaxis], entries],
    blocks.frame_start[block[:, np.newaxis], entries],
    end=np.ones([len(block), 1], np.int32),
    **per_transition,
  )


def n_step(reward: np.ndarray, discount: np.ndarray, final: np.ndarray, n: int):
  """Returns and discounts over up to n steps, for all steps but the last n (section 3.1 and appendix F).

  G_t = R_{t+1} + gamma_{t+1} R_{t+2} + ... before the bootstrap value. After an episode's end, the discount is 0, so
  that neither later rewards nor the bootstrap value count. At a time limit the sum stops, and bootstraps from there.

  Args:
    reward: float32 `[N, T + n]`, at t for the action at t.
    discount: float32 `[N, T + n]`, at t: gamma, or 0 if the episode ended after the action at t.
    final: bool `[N, T + n]`: no action was taken at t.
    n: at most so many steps.

  Returns:
    The returns float32 `[N, T]`, the discounts of the bootstrap values float32 `[N, T]`, and at which steps these
    stand, int32 `[N, T]`.
  """
  length = reward.shape[1] - n
  returns, discounts = np.zeros_like(reward[:, :length]), np.ones_like(reward[:, :length])
  end = np.broadcast_to(np.arange(length, dtype=np.int32), returns.shape).copy()
  goes_on = np.ones(returns.shape, bool)
  for k in range(n):
    later = slice(k, k + length)
    goes_on &= ~final[:, later]
    returns += np.where(goes_on, discounts * reward[:, later], 0.0)
    discounts *= np.where(goes_on, discount[:, later], 1.0)
    end += goes_on
  return returns, discounts, end


class Accumulator:
  """Gathers the steps of N environments, and gives out a block of an environment whenever it has enough.

  An environment's block takes B + n records: the last n are the first of the next block, which needs them too.
  """

  def __init__(self, suite: suites.Suite, first_environment: int, count: int, length: int, n: int):
    """`first_environment`: the number of the first of these `count` ones among all. `length`: B, in transitions."""
    self._spec = specification(suite, length, n)
    self._older, self._length, self._n = suite.frame_stack - 1, length, n
    self._environment = first_environment + np.arange(count, dtype=np.int32)
    records = Records(
      self._spec.block.observation,
      self._spec.block.frame_start,
      _action(suite, length + n),
      *[tf.TensorSpec([length + n], tf.float32)] * 4,
      tf.TensorSpec([length + n], tf.bool),
      tf.TensorSpec([length + n], tf.float32),
      tf.TensorSpec([length + n], tf.int32),
    )
    self._records = Records(*(np.zeros((count, *s.shape), s.dtype.as_numpy_dtype) for s in records))
    self._filled = np.zeros(count, int)

  def restart(self) -> None:
    """Drops what was gathered. What comes next must be the first observation of a game, in every environment.

    The environments' first blocks begin with places that hold no transition, in the first environment none, in the last
    almost all: so blocks are complete one after the other from then on, not all in the same step.
    """
    count = len(self._filled)
    self._filled[:] = np.arange(count) * self._length // count
    self._records.final[:] = np.arange(self._length + self._n) < self._filled[:, np.newaxis]
    self._records.start[:] = False
    self._records.episode_return[:], self._records.episode_length[:] = 0.0, 0

  def add(self, which: np.ndarray, records: Records, parameter_version: int) -> Shipment | None:
    """Adds a record to some environments.

    Args:
      which: int `[M]`, their numbers among these N, without repetition.
      records: arrays `[M]`.
      parameter_version: of the parameters in use.

    Returns:
      The shipments `[K, ...]` of the K environments that now have enough; None if none has.
    """
    at = self._filled[which]
    for name, kept, new in zip(Records._fields, self._records, records):
      kept[which, at + (self._older if name in ('observation', 'start') else 0)] = new
    self._filled[which] += 1
    full = np.flatnonzero(self._filled == self._length + self._n)
    return self._ship(full, parameter_version) if len(full) else None

  def _ship(self, full: np.ndarray, parameter_version: int) -> Shipment:
    window = Records(*(kept[full] for kept in self._records))
    own = slice(0, self._length)
    n_step_return, discount, end = n_step(window.reward, window.discount, window.final, self._n)
    bootstrap = np.take_along_axis(window.bootstrap_value, end, axis=1)
    valid = ~window.final[:, own]
    # Actors have no target networks: theirs both chooses and values what comes after (appendix F).
    td_error = n_step_return + discount * bootstrap - window.q_taken[:, own]
    block = structures.TransitionBlock(
      window.observation,
      window.start,
      window.action[:, own],
      n_step_return,
      discount,
      end,
      valid,
      np.where(valid, np.abs(td_error), 0.0).astype(np.float32),
    )
    shipment = Shipment(
      block,
      self._environment[full],
      np.full(len(full), parameter_version, np.int64),
      window.episode_return[:, own],
      window.episode_length[:, own],
    )
    for kept in self._records:
      keep = kept.shape[1] - self._length
      kept[full, :keep] = kept[full, self._length :]
    self._filled[full] = self._n
    return shipment
