"""From environment steps to blocks of n-step transitions with initial priorities (appendix F)."""

from typing import Any, Callable, NamedTuple

import numpy as np
import tensorflow as tf

from apex import config as configs
from common.distributed import wire
from common.environments import suite as suites
from common.replay import structures


class Shipment(NamedTuple):
  """What an actor sends: one block of B transitions, with its origin and finished games.

  Attributes:
    block: The transitions.
    environment: int32 `[]`, the environment's number among those of all actors.
    parameter_version: int64 `[]`, learner updates behind the newest parameters used.
    episode_return: float32 `[B]`, where a game ended the sum of its unclipped, unscaled rewards.
    episode_length: int32 `[B]`, where a game ended its length in agent steps; 0 elsewhere.
    discounted_return: float32 `[B]`, see `games.Step`; () unless the suite has a `return_discount`.
  """

  block: structures.TransitionBlock
  environment: Any
  parameter_version: Any
  episode_return: Any
  episode_length: Any
  discounted_return: Any = ()


class Records(NamedTuple):
  """One agent step in N environments: what was seen, what was done, what came of it. Arrays `[N]`.

  Attributes:
    observation: By name; of a stack the newest frame, uint8 `[N, H, W]`.
    start: bool, the observation is the first of a game.
    action: int32 `[N]`, or float32 `[N, A]`.
    q_taken: float32, q(S_t, A_t).
    bootstrap_value: float32, the value that transitions ending here bootstrap from.
    reward: float32, scaled, and clipped if the config says so; not normalised.
    discount: float32, gamma, or 0 where the episode ended after this action.
    final: bool, a time limit ended the episode, and no action followed its last observation.
    episode_return: float32, as in `Shipment`.
    episode_length: int32, as in `Shipment`.
    discounted_return: float32, as in `Shipment`.
  """

  observation: Any
  start: Any
  action: Any
  q_taken: Any
  bootstrap_value: Any
  reward: Any
  discount: Any
  final: Any
  episode_return: Any
  episode_length: Any
  discounted_return: Any = 0.0


# The records' fields without a place for older frames.
_PLAIN = tuple(name for name in Records._fields if name not in ('observation', 'start'))


def specification(suite: suites.Suite, length: int, n: int) -> Shipment:
  """The `tf.TensorSpec`s of one shipment of `length` n-step transitions."""
  # The stack of the first transition reaches back, the last one bootstraps n steps ahead.
  entries = suite.frame_stack - 1 + length + n

  def per_transition(dtype: tf.DType) -> tf.TensorSpec:
    return tf.TensorSpec([length], dtype)

  block = structures.TransitionBlock(
    observation=_observation(suite, entries),
    frame_start=tf.TensorSpec([entries], tf.bool),
    action=_action(suite, length),
    n_step_return=per_transition(tf.float32),
    discount=per_transition(tf.float32),
    end=per_transition(tf.int32),
    valid=per_transition(tf.bool),
    priority=per_transition(tf.float32),
  )
  return Shipment(
    block=block,
    environment=tf.TensorSpec([], tf.int32),
    parameter_version=tf.TensorSpec([], tf.int64),
    episode_return=per_transition(tf.float32),
    episode_length=per_transition(tf.int32),
    discounted_return=() if suite.return_discount is None else per_transition(tf.float32),
  )


def bounds(config: configs.Config, suite: suites.Suite, version: Callable[[], int]) -> wire.Bounds:
  """The lowest and highest values of a shipment's fields, for `wire.Codec`.

  Args:
    config: The run's settings.
    suite: The environments.
    version: The learner's updates so far. No parameters can be newer.
  """
  sums = (-wire.LARGEST_SUM, wire.LARGEST_SUM)
  limits = wire.magnitudes(specification(suite, config.block_length, config.n_step))
  limits |= {
    'block.n_step_return': sums,
    'block.end': (0, config.block_length + config.n_step - 1),
    'block.discount': (0, 1),
    'block.priority': (0, wire.LARGEST_SUM),
    'environment': (0, config.num_environments - 1),
    'parameter_version': (0, version),
    'episode_return': sums,
    'episode_length': (0, np.iinfo(np.int32).max),
  }
  if suite.return_discount is not None:
    limits['discounted_return'] = sums
  for name, limit in suites.integer_bounds(suite).items():
    limits[f'block.observation.{name}'] = limit
  # Policies clip continuous actions to the suites' range.
  limits['block.action'] = (0, suite.num_actions - 1) if suite.is_discrete else (-1, 1)
  return limits


def single_specification(suite: suites.Suite) -> structures.TransitionBlock:
  """The `tf.TensorSpec`s of one block that `separate` returns for a suite."""
  return specification(suite, length=1, n=1).block


def separate(
  blocks: structures.TransitionBlock,
) -> tuple[structures.TransitionBlock, np.ndarray]:
  """Splits blocks into one block per transition, so that each can leave the replay alone.

  Each new block has two entries, the transition's two observations. Almost every observation is
  thus kept twice.

  Args:
    blocks: Arrays `[M, ...]`. Observations must not be stacks, which would need more entries.

  Returns:
    Arrays `[K, ...]`, a block for each of the K valid transitions; and the index of the block that
    it was in, int `[K]`.
  """
  blocks = tf.nest.map_structure(np.asarray, blocks)
  block, start = np.nonzero(blocks.valid)  # [K] each.
  entries = np.stack([start, blocks.end[block, start]], axis=1)  # [K, 2]

  def per_transition(part: np.ndarray) -> np.ndarray:
    return part[block, start][:, np.newaxis]  # [K, 1, ...]

  separated = structures.TransitionBlock(
    observation=tf.nest.map_structure(
      lambda part: part[block[:, np.newaxis], entries], blocks.observation
    ),
    frame_start=blocks.frame_start[block[:, np.newaxis], entries],
    action=per_transition(blocks.action),
    n_step_return=per_transition(blocks.n_step_return),
    discount=per_transition(blocks.discount),
    end=np.ones([len(block), 1], np.int32),
    valid=per_transition(blocks.valid),
    priority=per_transition(blocks.priority),
  )
  return separated, block


def n_step(
  reward: np.ndarray, discount: np.ndarray, final: np.ndarray, n: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Sums rewards over up to n steps, for all steps but the last n (section 3.1, appendix F).

  R_{t+1} + gamma_{t+1} R_{t+2} + ..., which is G_t without its bootstrap value. At an episode's end
  the discount becomes 0, which removes later rewards and the bootstrap value. At a time limit the
  sum stops, and bootstraps from the last observation.

  Args:
    reward: float32 `[N, T + n]`, at t for the action at t.
    discount: float32 `[N, T + n]`, at t gamma, or 0 if the episode ended after the action at t.
    final: bool `[N, T + n]`, at t no action was taken, because a time limit had ended the episode.
    n: The largest number of steps.

  Returns:
    The returns float32 `[N, T]`, the discounts of their bootstrap values float32 `[N, T]`, and the
    steps to bootstrap from int32 `[N, T]`.
  """
  if not reward.shape == discount.shape == final.shape or reward.ndim != 2:
    raise ValueError(
      f'reward, discount and final have shapes {reward.shape}, {discount.shape} and {final.shape}, '
      'expected [N, T + n] for each'
    )
  length = reward.shape[1] - n
  returns = np.zeros_like(reward[:, :length])
  discounts = np.ones_like(returns)
  end = np.broadcast_to(np.arange(length, dtype=np.int32), returns.shape).copy()
  goes_on = np.ones(returns.shape, bool)

  for k in range(n):
    # For all steps t at once: what happened k steps later.
    later = slice(k, k + length)
    goes_on &= ~final[:, later]
    returns += np.where(goes_on, discounts * reward[:, later], 0.0)
    discounts *= np.where(goes_on, discount[:, later], 1.0)
    end += goes_on
  return returns, discounts, end


class Accumulator:
  """Gathers the steps of N environments into blocks; hands out each block once it is full.

  A block of B transitions takes B + n records of its environment. The next block starts right
  after this one's last transition, so it begins with the last n of these records:

      block 1:  |  B transitions  | n |
      block 2:                    |  B transitions  | n |
  """

  def __init__(
    self,
    suite: suites.Suite,
    first_environment: int,
    count: int,
    length: int,
    n: int,
    in_units_of_values: Callable[[np.ndarray], np.ndarray] | None = None,
  ):
    """Allocates the buffers; call `restart` before the first `add`.

    Args:
      suite: The environments' suite.
      first_environment: The number of the first environment among those of all actors.
      count: N.
      length: B.
      n: The number of steps of a transition.
      in_units_of_values: Normalises sums of rewards for initial priorities; None if values are not
        of normalised rewards.
    """
    self._older = suite.frame_stack - 1
    self._length = length
    self._n = n
    self._in_units_of_values = in_units_of_values
    self._ships_returns = suite.return_discount is not None
    self._environment = first_environment + np.arange(count, dtype=np.int32)
    self._records = _empty_records(suite, count, length, n)
    self._filled = np.zeros(count, int)

  def restart(self) -> None:
    """Drops all records. The next ones must be the first of a game in every environment.

    First blocks begin with places that hold no transition: none in the first environment, almost
    all in the last. From then on blocks fill up one after the other instead of all in one step.
    """
    count = len(self._filled)
    self._filled[:] = np.arange(count) * self._length // count

    records = self._records
    # A final record is no transition's start.
    records.final[:] = np.arange(self._length + self._n) < self._filled[:, np.newaxis]
    records.start[:] = False
    records.episode_return[:] = 0.0
    records.episode_length[:] = 0

  def add(self, which: np.ndarray, records: Records, parameter_version: int) -> Shipment | None:
    """Adds one record to some environments.

    Args:
      which: int `[M]`, distinct indices of environments, from 0 to N - 1.
      records: Arrays `[M]`, or scalars that stand for all M.
      parameter_version: The version of the parameters in use.

    Returns:
      Shipments `[K, ...]` of the K environments whose block is now full; None if there are none.
    """
    at = self._filled[which]
    # Observations and starts have room in front for the first stack's older frames.
    for name, kept in self._records.observation.items():
      kept[which, at + self._older] = records.observation[name]
    self._records.start[which, at + self._older] = records.start
    for name in _PLAIN:
      getattr(self._records, name)[which, at] = getattr(records, name)
    self._filled[which] += 1

    full = np.flatnonzero(self._filled == self._length + self._n)
    return self._ship(full, parameter_version) if len(full) else None

  def _ship(self, full: np.ndarray, parameter_version: int) -> Shipment:
    window = tf.nest.map_structure(lambda kept: kept[full], self._records)  # [K, B + n, ...].
    own = slice(0, self._length)
    shipment = Shipment(
      block=self._block(window),
      environment=self._environment[full],
      parameter_version=np.full(len(full), parameter_version, np.int64),
      episode_return=window.episode_return[:, own],
      episode_length=window.episode_length[:, own],
      discounted_return=window.discounted_return[:, own] if self._ships_returns else (),
    )
    self._keep_last(full)
    return shipment

  def _block(self, window: Records) -> structures.TransitionBlock:
    own = slice(0, self._length)
    n_step_return, discount, end = n_step(window.reward, window.discount, window.final, self._n)
    # Actors have no target network: their one network both chooses and values the action at
    # S_{t+n} (appendix F).
    bootstrap_value = np.take_along_axis(window.bootstrap_value, end, axis=1)
    normalise = self._in_units_of_values
    returns = normalise(n_step_return) if normalise else n_step_return
    td_error = returns + discount * bootstrap_value - window.q_taken[:, own]
    valid = ~window.final[:, own]
    return structures.TransitionBlock(
      observation=window.observation,
      frame_start=window.start,
      action=window.action[:, own],
      n_step_return=n_step_return,
      discount=discount,
      end=end,
      valid=valid,
      priority=np.where(valid, np.abs(td_error), 0.0).astype(np.float32),
    )

  def _keep_last(self, full: np.ndarray) -> None:
    """Moves the last n records, and their stacks' older frames, to the front for the next block."""
    for kept in tf.nest.flatten(self._records):
      keep = kept.shape[1] - self._length
      kept[full, :keep] = kept[full, self._length :]
    self._filled[full] = self._n


def _empty_records(suite: suites.Suite, count: int, length: int, n: int) -> Records:
  """Buffers of zeros for `count` environments: `[count, length + n, ...]`, observations more."""
  block = specification(suite, length, n).block
  scalars = tf.TensorSpec([length + n], tf.float32)
  specs = Records(
    observation=block.observation,
    start=block.frame_start,
    action=_action(suite, length + n),
    q_taken=scalars,
    bootstrap_value=scalars,
    reward=scalars,
    discount=scalars,
    final=tf.TensorSpec([length + n], tf.bool),
    episode_return=scalars,
    episode_length=tf.TensorSpec([length + n], tf.int32),
    discounted_return=scalars,
  )
  return tf.nest.map_structure(lambda s: np.zeros((count, *s.shape), s.dtype.as_numpy_dtype), specs)


def _observation(suite: suites.Suite, entries: int) -> dict[str, tf.TensorSpec]:
  """The entries of a block by name; one of `observation` is a single frame of its stack."""
  specs = {}
  for name, space in suite.observation_space.spaces.items():
    assert space.shape is not None  # Suites observe boxes.
    is_stack = name == 'observation' and suite.frame_stack > 1
    shape = space.shape[1:] if is_stack else space.shape
    specs[name] = tf.TensorSpec([entries, *shape], tf.as_dtype(space.dtype))
  return specs


def _action(suite: suites.Suite, length: int) -> tf.TensorSpec:
  """Actions of `length` steps."""
  if suite.is_discrete:
    return tf.TensorSpec([length], tf.int32)
  assert suite.action_space.shape is not None
  return tf.TensorSpec([length, *suite.action_space.shape], tf.float32)
