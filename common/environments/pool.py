"""N environments of one of EnvPool's ids, in the form that suites promise: `PoolVectorEnv`."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium
import numpy as np
from gymnasium.spaces import utils

from common import errors
from common.environments import actions as action_forms
from common.environments import engines, masks, suite

_MISSION = 'mission'  # MiniGrid's and BabyAI's words, in bytes.
_CHANNELS = (1, 3, 4)
_MOST_DRAWS = 10_000
_WITH_FRAME_SKIP = ('atari', 'vizdoom')


class Form(NamedTuple):
  """What one of EnvPool's ids observes and does.

  Attributes:
    entries: The spaces of the engine's observations by name; '' where there is but one.
    image: The entry that is an image; None for none.
    mask: The entry that is a mask of actions; None for none.
    engine_actions: The engine's action space.
    observation_space: As suites promise it.
    action_space: As suites promise it.
    action_repeat: Environment frames in an agent step.
    max_episode_steps: The time limit; None if the engine does not tell.
  """

  entries: dict[str, gymnasium.Space]
  image: str | None
  mask: str | None
  engine_actions: suite.ActionSpace
  observation_space: gymnasium.spaces.Dict
  action_space: suite.ActionSpace
  action_repeat: int
  max_episode_steps: int | None


@functools.lru_cache(maxsize=256)
def form(task: str) -> Form:
  """The form of an id, without starting its engine.

  Raises:
    UserError: If this code cannot read its observations or actions, or a package or library is
      missing.
  """
  spec = engines.spec(task)
  if getattr(spec.config, 'max_num_players', 1) > 1:
    raise errors.UserError(f'envpool:{task} is for several players, expected one')

  try:
    entries = _entries(spec.observation_space)
    actions = _numbered(spec.action_space)
    converter = action_forms.converter(actions)
    image = _image(entries)
  except errors.UserError as error:
    raise errors.UserError(f'envpool:{task} {error}') from error
  mask = _mask(entries, converter.size)
  return Form(
    entries=entries,
    image=image,
    mask=mask,
    engine_actions=actions,
    observation_space=_observation_space(entries, image, mask),
    action_space=converter.space,
    action_repeat=spec.config.frame_skip if engines.part(task) in _WITH_FRAME_SKIP else 1,
    max_episode_steps=getattr(spec.config, 'max_episode_steps', 0) or None,
  )


class PoolVectorEnv(gymnasium.vector.VectorEnv):
  """N copies of one environment, stepped by threads of the engine without Python's lock.

  Observations: fresh arrays `[N, ...]`. An image is `observation`, and all numbers beside it are
  flattened into `vector`; without an image they are `observation`. A mission is `instruction`, a
  mask of actions `action_mask`.

  A step may be split into `send` and `receive` (`concatenated.Part`).
  """

  metadata = {'autoreset_mode': gymnasium.vector.AutoresetMode.SAME_STEP, 'render_modes': []}

  def __init__(
    self,
    task: str,
    num_envs: int,
    num_threads: int,
    is_played: Callable[[str], bool] | None = None,
    pictures: bool = False,
  ):
    """Only notes the task: the engine starts in `reset`, which knows the seed.

    Args:
      task: One of EnvPool's ids.
      num_envs: N.
      num_threads: Of the engine.
      is_played: Whether a mission is played: an episode of another one is drawn anew. None for all.
      pictures: Whether people will look, see `suite.picture`.
    """
    self._task = task
    self._form = form(task)
    self._is_played = is_played
    # MiniGrid and BabyAI pay only for what ends an episode: success, or hitting an obstacle.
    self._pays_at_the_end = engines.part(task) == 'minigrid'
    self._pictures = pictures
    self._num_threads = num_threads
    self._engine: Any = None
    self.num_envs = num_envs
    self.single_observation_space = self._form.observation_space
    self.single_action_space = self._form.action_space
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, num_envs
    )
    self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    super().reset(seed=seed)
    if seed is not None or self._engine is None:
      self._start(seed)
    return self._begin(np.arange(self.num_envs)), {}

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    self.send(actions)
    return self.receive()

  def send(self, actions: np.ndarray) -> None:
    """Begins a step in the engine's threads; `receive` ends it."""
    if self._engine is None:
      raise gymnasium.error.ResetNeeded(f'envpool:{self._task} has no engine: call reset first')
    self._engine.send(self._converted(np.asarray(actions)))

  def receive(self) -> suite.VectorStep:
    """Waits for the step that `send` has begun; returns what `step` returns."""
    raw, rewards, terminated, truncated, _ = self._engine.recv(reset=False, return_info=True)
    observations = self._read(raw)
    if not np.isfinite(rewards).all():
      raise errors.UserError(f'envpool:{self._task}: the rewards are {rewards}')

    if self._pays_at_the_end:
      # In the last step of the time limit too, which the engine calls truncated.
      terminated = terminated | (truncated & (rewards != 0))
      truncated = truncated & ~terminated

    info: dict[str, Any] = {}
    ended = np.flatnonzero(terminated | truncated)
    if truncated.any():
      info['final_obs'] = _rows(observations, np.flatnonzero(truncated), self.num_envs)
    if len(ended):
      # By itself the engine would begin the next episode in the next step, whose action is lost.
      _put(observations, ended, self._begin(ended))
    return observations, np.array(rewards), np.array(terminated), np.array(truncated), info

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    if not self._pictures or self._engine is None:
      return None
    return np.array(self._engine.render(np.zeros(1, np.int32))[0])

  def close_extras(self, **kwargs: Any) -> None:
    if self._engine is not None:
      self._engine.close()
      self._engine = None  # Its threads end with it.

  def _start(self, seed: int | None) -> None:
    """Makes the engine, which takes seeds at no other time."""
    self.close_extras()
    first = int(self.np_random.integers(2**31)) if seed is None else seed
    self._engine = engines.envpool.make_gymnasium(
      self._task,
      num_envs=self.num_envs,
      num_threads=self._num_threads,
      seed=[(first + i) % 2**31 for i in range(self.num_envs)],
      render_mode='rgb_array' if self._pictures else None,
    )

  def _begin(self, which: np.ndarray) -> suite.Observation:
    """Begins episodes in the environments `which`; their first observations `[M, ...]`."""
    raw, _ = self._engine.reset(which.astype(np.int32))
    first = self._read(raw)
    wrong = self._not_played(raw)  # Places in `which`.
    for _ in range(_MOST_DRAWS):
      if not len(wrong):
        return first
      raw, _ = self._engine.reset(which[wrong].astype(np.int32))
      _put(first, wrong, self._read(raw))
      wrong = wrong[self._not_played(raw)]
    raise errors.UserError(f'envpool:{self._task} has no mission that may be played')

  def _not_played(self, raw: Any) -> np.ndarray:
    """Which of some environments have missions that are not played; int."""
    if self._is_played is None:
      return np.arange(0)
    missions = [_words(row.tobytes()) for row in raw[_MISSION]]
    return np.flatnonzero([not self._is_played(mission) for mission in missions])

  def _converted(self, actions: np.ndarray) -> np.ndarray:
    """The engine's actions for those of the agent, `[N, ...]`."""
    space = self._form.engine_actions
    if not isinstance(space, gymnasium.spaces.Box):
      counts = space.n if isinstance(space, gymnasium.spaces.Discrete) else space.nvec
      # The engine does not check: it would read whatever lies beyond its tables.
      if not np.all((actions >= 0) & (actions < counts)):
        raise errors.UserError(
          f'envpool:{self._task}: the agent chose the actions {actions} of {counts}'
        )
      return actions + space.start
    if not np.isfinite(actions).all():
      raise errors.UserError(f'envpool:{self._task}: the agent chose the actions {actions}')
    shaped = actions.reshape(self.num_envs, *space.shape)
    low, high = (bound.astype(np.float64) for bound in (space.low, space.high))
    within = action_forms.rescaled(shaped, low, high).astype(space.dtype)
    return np.clip(within, space.low, space.high)

  def _read(self, raw: Any) -> suite.Observation:
    """Converts the engine's observations of M environments."""
    values = _flat(raw)
    read: suite.Observation = {}
    numbers = []
    for name, space in self._form.entries.items():
      if name == self._form.image:
        read['observation'] = np.array(_channels_last(values[name]))
      elif name == self._form.mask:
        read[masks.NAME] = values[name].reshape(len(values[name]), -1).astype(np.uint8)
      elif name == _MISSION:
        read['instruction'] = np.stack([_hashed(row.tobytes()) for row in values[name]])
      else:
        numbers.append(_numbers(space, values[name]))
    if numbers:
      vector = np.concatenate(numbers, axis=1)
      if not np.isfinite(vector).all():
        raise errors.UserError(f'envpool:{self._task} observes numbers that are not finite')
      read['observation' if self._form.image is None else 'vector'] = vector
    return read


def _numbered(space: Any) -> suite.ActionSpace:
  """The engine's action space, where several whole numbers are several discrete actions."""
  is_box = isinstance(space, gymnasium.spaces.Box) and len(space.shape) == 1
  if not is_box or not np.issubdtype(space.dtype, np.integer):
    return space
  low = space.low.astype(np.int64)
  return gymnasium.spaces.MultiDiscrete(space.high.astype(np.int64) - low + 1, start=low)


def _entries(space: Any, path: str = '') -> dict[str, gymnasium.Space]:
  """The spaces of an observation by name, those of Dicts in Dicts by `NAME.NAME`."""
  if isinstance(space, gymnasium.spaces.Dict):
    found: dict[str, gymnasium.Space] = {}
    for name, part in space.spaces.items():
      found |= _entries(part, f'{path}.{name}' if path else name)
    return found
  if not isinstance(space, gymnasium.spaces.Box | gymnasium.spaces.Discrete):
    if not isinstance(space, gymnasium.spaces.MultiBinary):
      raise errors.UserError(f'observes {space}: expected Box, Discrete, MultiBinary, or a Dict')
  return {path: space}


def _flat(raw: Any, path: str = '') -> dict[str, np.ndarray]:
  """The arrays of an observation, by the names of `_entries`."""
  if not isinstance(raw, dict):
    return {path: raw}
  found: dict[str, np.ndarray] = {}
  for name, part in raw.items():
    found |= _flat(part, f'{path}.{name}' if path else name)
  return found


def _image(entries: dict[str, gymnasium.Space]) -> str | None:
  images = [
    name for name, space in entries.items() if len(space.shape or ()) == 3 and space.dtype == 'u1'
  ]
  if len(images) > 1:
    raise errors.UserError(f'observes several images, {" and ".join(images)}: expected one')
  return images[0] if images else None


def _mask(entries: dict[str, gymnasium.Space], num_actions: int) -> str | None:
  """The entry that says which actions are legal; None for none."""
  for name, space in entries.items():
    is_named = name.rpartition('.')[2] == masks.NAME
    if is_named and num_actions and int(np.prod(space.shape or ())) == num_actions:
      return name
  return None


def _observation_space(
  entries: dict[str, gymnasium.Space], image: str | None, mask: str | None
) -> gymnasium.spaces.Dict:
  spaces: dict[str, gymnasium.Space] = {}
  size = 0
  for name, space in entries.items():
    if name == image:
      assert isinstance(space, gymnasium.spaces.Box)
      bounds = (_channels_last(bound[None])[0] for bound in (space.low, space.high))
      spaces['observation'] = gymnasium.spaces.Box(*bounds, dtype=np.uint8)
    elif name == mask:
      spaces[masks.NAME] = gymnasium.spaces.Box(0, 1, space.shape, np.uint8)
    elif name == _MISSION:
      spaces['instruction'] = suite.instruction_space()
    else:
      size += utils.flatdim(space)
  if size:
    vector = gymnasium.spaces.Box(-np.inf, np.inf, (size,), np.float32)
    spaces['observation' if image is None else 'vector'] = vector
  return gymnasium.spaces.Dict(spaces)


def _channels_last(images: np.ndarray) -> np.ndarray:
  """Images `[N, H, W, C]`, of which the engine's may be `[N, C, H, W]`; a view."""
  is_first = images.shape[1] in _CHANNELS and images.shape[3] not in _CHANNELS
  return np.moveaxis(images, 1, 3) if is_first else images


def _numbers(space: gymnasium.Space, values: np.ndarray) -> np.ndarray:
  """One entry of M environments, float32 `[M, D]`; a number of a Discrete is one-hot."""
  values = values.reshape(len(values), -1)
  if isinstance(space, gymnasium.spaces.Discrete):
    return (values == np.arange(space.start, space.start + space.n)).astype(np.float32)
  return values.astype(np.float32)


def _rows(observations: suite.Observation, which: np.ndarray, num_envs: int) -> np.ndarray:
  """Copies of some environments' observations, as `final_obs` has them."""
  rows = np.full(num_envs, None, object)
  for i in which:
    rows[i] = {name: values[i].copy() for name, values in observations.items()}
  return rows


def _words(mission: bytes) -> str:
  return mission.partition(b'\0')[0].decode()


@functools.lru_cache(maxsize=10_000)
def _hashed(mission: bytes) -> np.ndarray:
  # Missions are few, and the same throughout an episode.
  return suite.hash_words(_words(mission))


def _put(observations: suite.Observation, which: np.ndarray, rows: suite.Observation) -> None:
  """Replaces some environments' observations."""
  for name, values in rows.items():
    observations[name][which] = values
