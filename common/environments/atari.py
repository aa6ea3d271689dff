"""Atari 2600 games, one or many: `atari:GAME` and `atari57`.

ale-py's vector environment does all preprocessing in C++ (IMPALA, Table G.1 and appendix G): 84x84
grey frames, each the maximum over the last two raw frames, 4 of them stacked, action repeat 4, no
sticky actions, up to 30 no-ops at the start. In training a lost life ends the episode for the
learner, yet the game goes on from there: `info['game_over']` tells the two apart.
"""

import functools
import itertools
from typing import Any, Callable, Sequence

import ale_py
import gymnasium
import numpy as np
from ale_py import roms

from common import errors
from common.environments import concatenated, suite
from common.environments import options as option_sets
from common.machine import cores

ACTION_REPEAT = 4
STACK = 4
# Environment frames: 30 minutes, the convention of the papers that IMPALA and Ape-X compare with.
MAX_FRAMES = 108_000
_SCREEN = {'img_height': 210, 'img_width': 160}  # Of nearly all games; others are resized.
_ALL_ACTIONS = len(ale_py.Action.__members__)

ATARI_57 = (
  'alien',
  'amidar',
  'assault',
  'asterix',
  'asteroids',
  'atlantis',
  'bank_heist',
  'battle_zone',
  'beam_rider',
  'berzerk',
  'bowling',
  'boxing',
  'breakout',
  'centipede',
  'chopper_command',
  'crazy_climber',
  'defender',
  'demon_attack',
  'double_dunk',
  'enduro',
  'fishing_derby',
  'freeway',
  'frostbite',
  'gopher',
  'gravitar',
  'hero',
  'ice_hockey',
  'jamesbond',
  'kangaroo',
  'krull',
  'kung_fu_master',
  'montezuma_revenge',
  'ms_pacman',
  'name_this_game',
  'phoenix',
  'pitfall',
  'pong',
  'private_eye',
  'qbert',
  'riverraid',
  'road_runner',
  'robotank',
  'seaquest',
  'skiing',
  'solaris',
  'space_invaders',
  'star_gunner',
  'surround',
  'tennis',
  'time_pilot',
  'tutankham',
  'up_n_down',
  'venture',
  'video_pinball',
  'wizard_of_wor',
  'yars_revenge',
  'zaxxon',
)


def names() -> list[str]:
  """The values of `--env` of this family."""
  return ['atari57', *(f'atari:{game}' for game in games())]


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """`atari:GAME` or `atari57`; see `suite.Family.load`.

  A single game has its own set of actions (the experts of IMPALA's Table 4); in the suite of 57
  each game has all 18 (the multi-task agent of Table 4).
  """
  if name.partition(':')[0] == 'atari57':
    suite.refuse_member(name, member, 'atari:GAME')
    tasks = suite.select_tasks(name, ATARI_57, options)
    return _suite(name, tasks, _make_many, options, 'atari57')

  if member not in games():
    raise errors.unknown('Atari game', member, games(), 'Write it as in atari:pong.')
  tasks = suite.select_tasks(name, (member,), options)
  references = 'atari57' if member in ATARI_57 else ''
  return _suite(name, tasks, functools.partial(_make_one, member), options, references)


def games() -> list[str]:
  """The games whose ROMs come with ale-py, in snake case."""
  return sorted(roms.get_all_rom_ids())


class AtariVectorEnv(gymnasium.vector.VectorWrapper):
  """N copies of one game, stepped by the engine's threads.

  Observations: `observation`, uint8 `[N, 4, 84, 84]`, the newest frame last; frames before a game's
  start are zero. They are views of the engine's buffer, which the next step overwrites.

  A step may be split into `send` and `receive` (`concatenated.Part`).
  """

  def __init__(
    self,
    game: str,
    num_envs: int,
    training: bool,
    max_frames: int = MAX_FRAMES,
    full_action_space: bool = False,
    num_threads: int = 0,
    pictures: bool = False,
  ):
    """Starts the engine.

    Args:
      game: In snake case, see `games`.
      num_envs: N.
      training: Whether a lost life terminates the episode.
      max_frames: Environment frames after which a game is truncated.
      full_action_space: Whether to offer all 18 actions, not only the game's own. An action that
        the game does not know (Skiing has no fire button) is a no-op then.
      num_threads: Of the engine; 0 for one per core that this process may use.
      pictures: Whether to play environment 0 a second time, in colour, for people.
    """
    # No banner per game on the terminal.
    ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
    start = functools.partial(
      ale_py.AtariVectorEnv,
      game,
      autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
      noop_max=30,
      frameskip=ACTION_REPEAT,
      max_num_frames_per_episode=max_frames,
      life_loss_info=training,
      reward_clipping=False,
      use_fire_reset=False,
      full_action_space=full_action_space,
    )
    # Its own choice would be all cores of the machine, even in a container with few.
    threads = num_threads or min(num_envs, cores.count())
    self._engine = start(num_envs=num_envs, stack_num=STACK, num_threads=threads)
    # Seeds and actions determine a game: this one is the same as the first.
    self._start_screen: Callable[[], ale_py.AtariVectorEnv] | None = None
    self._screen: ale_py.AtariVectorEnv | None = None
    self._picture: np.ndarray | None = None
    if pictures:
      self._start_screen = functools.partial(
        start, num_envs=1, stack_num=1, num_threads=1, grayscale=False, **_SCREEN
      )
    super().__init__(self._engine)
    frames = self._engine.single_observation_space
    self.single_observation_space = gymnasium.spaces.Dict({'observation': frames})
    self.observation_space = gymnasium.vector.utils.batch_space(
      self.single_observation_space, num_envs
    )
    # The engine's numbers of our actions, int [18]; None if they are the same.
    self._engine_actions: np.ndarray | None = None
    if full_action_space:
      self._engine_actions = _numbers_in_engine(self._engine)
      self.single_action_space = gymnasium.spaces.Discrete(_ALL_ACTIONS)
      self.action_space = gymnasium.vector.utils.batch_space(self.single_action_space, num_envs)
    # Each environment's frame number after the last step, int [N].
    self._game_frame: np.ndarray | None = None

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    frames, info = self._engine.reset(seed=seed, options=options)
    self._game_frame = info['episode_frame_number'].copy()
    if self._start_screen:
      self._screen = self._screen or self._start_screen()
      self._picture = self._screen.reset(seed=seed, options=options)[0][0, 0]
    return {'observation': frames}, info

  def step(self, actions: np.ndarray) -> suite.VectorStep:
    self.send(actions)
    return self.receive()

  def send(self, actions: np.ndarray) -> None:
    """Begins a step in the engine's threads; `receive` ends it."""
    actions = np.asarray(actions, np.int64)
    if self._engine_actions is not None:
      actions = self._engine_actions[actions]
    self._engine.send(actions)
    if self._screen:
      self._screen.send(actions[:1])

  def receive(self) -> suite.VectorStep:
    """Waits for the step that `send` has begun; returns what `step` returns."""
    frames, rewards, terminated, truncated, info = self._engine.recv()
    if self._screen:
      self._picture = self._screen.recv()[0][0, 0]
    # Within a game the frame number only grows; at the start of another it falls back.
    restarted = info['episode_frame_number'] <= self._game_frame
    info['game_over'] = (terminated | truncated) & restarted
    self._game_frame = info['episode_frame_number'].copy()

    # The engine's `final_obs` is an array of frames; gymnasium's form is an array of dicts. They
    # are made only where somebody reads them: a lost life, which is frequent, is no truncation.
    final = info.pop('final_obs', None)
    if truncated.any():
      info['final_obs'] = np.array([{'observation': stack} for stack in final], object)
    return {'observation': frames}, rewards, terminated, truncated, info

  def picture(self) -> np.ndarray | None:
    """See `suite.picture`."""
    return self._picture

  def close(self, **kwargs: Any) -> None:
    super().close(**kwargs)
    if self._screen:
      self._screen.close()


def _numbers_in_engine(engine: ale_py.AtariVectorEnv) -> np.ndarray:
  """The engine's number of each of the 18 actions, int `[18]`; the no-op's where it has none."""
  # With an action that its game does not know, the engine would wait without end.
  own_actions = engine.ale.get_action_set()
  known = {action.value: index for index, action in enumerate(own_actions)}
  return np.array([known.get(action, known[0]) for action in range(_ALL_ACTIONS)])


def _make_one(game: str, options: option_sets.Options) -> suite.MakeVectorEnv:
  def make(tasks: Sequence[str], training: bool) -> AtariVectorEnv:
    max_frames = _frame_limit(training, options.max_training_frames)
    return AtariVectorEnv(game, len(tasks), training, max_frames, pictures=options.pictures)

  return make


def _make_many(options: option_sets.Options) -> suite.MakeVectorEnv:
  def make(tasks: Sequence[str], training: bool) -> concatenated.ConcatenatedVectorEnv:
    max_frames = _frame_limit(training, options.max_training_frames)
    # One engine for each run of equal tasks. They work at the same time: one thread each.
    parts = [
      AtariVectorEnv(
        game,
        len(list(same)),
        training,
        max_frames,
        full_action_space=True,
        num_threads=1,
        pictures=options.pictures,
      )
      for game, same in itertools.groupby(tasks)
    ]
    return concatenated.ConcatenatedVectorEnv(parts)

  return make


def _frame_limit(training: bool, max_training_frames: int | None) -> int:
  """Environment frames after which a game is truncated; evaluation follows the convention."""
  return (max_training_frames if training else None) or MAX_FRAMES


def _suite(
  name: str,
  tasks: tuple[str, ...],
  make_with: Callable[[option_sets.Options], suite.MakeVectorEnv],
  options: option_sets.Options,
  references: str,
) -> suite.Suite:
  make = make_with(options)
  probe = make(tasks[:1], True)
  observation_space = probe.single_observation_space
  action_space = probe.single_action_space
  probe.close()
  assert isinstance(observation_space, gymnasium.spaces.Dict)
  assert isinstance(action_space, gymnasium.spaces.Discrete)
  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=observation_space,
    action_space=action_space,
    action_repeat=ACTION_REPEAT,
    make=make,
    frame_stack=STACK,
    references=references,
    max_episode_steps=_frame_limit(True, options.max_training_frames) // ACTION_REPEAT,
  )
