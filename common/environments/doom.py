"""VizDoom: `doom`, ten classic scenarios as one multi-task suite, and `doom:SCENARIO`.

It looks to an agent as DeepMind Lab does: 72x96 RGB, the paper's nine actions on every task
(IMPALA, Table D.2), action repeat 4, and an instruction in words. VizDoom runs every game in a
process of its own, so a crash of the engine reaches us as an exception.
"""

import functools
import os
import pathlib
from typing import Any, Sequence

import gymnasium
import numpy as np
import vizdoom

from common import errors
from common.environments import options as option_sets
from common.environments import process, suite

HEIGHT = 72
WIDTH = 96
ACTION_REPEAT = 4
# Environment frames; for the two scenarios that have no limit. Most others have this one.
_TIME_LIMIT = 2100

# The instruction of each task. The names are those of VizDoom's scenario files.
INSTRUCTIONS = {
  'basic': 'shoot the monster',
  'deadly_corridor': 'run to the armor at the end of the corridor',
  'defend_the_center': 'stay in the center and shoot the monsters around you',
  'defend_the_line': 'shoot the monsters in front of you',
  'health_gathering': 'collect medical kits to stay alive',
  'health_gathering_supreme': 'collect medical kits in the maze and avoid poison',
  'my_way_home': 'find the green armor in the rooms',
  'predict_position': 'aim ahead of the monster and fire the rocket',
  'take_cover': 'avoid the fireballs',
  'deathmatch': 'collect weapons and kill everyone',
}

# The scenarios pay in different units: per tic alive (up to 2,100 an episode), per map unit walked,
# or per monster. One learner for all of them needs rewards of similar size: clipping alone would
# make a tic alive worth as much as a monster.
_REWARD_SCALES = {
  'basic': 0.01,
  'deadly_corridor': 0.01,
  'health_gathering': 0.01,
  'health_gathering_supreme': 0.01,
  'take_cover': 0.01,
  'deathmatch': 0.1,
}

_BUTTONS = [
  vizdoom.Button.MOVE_FORWARD,
  vizdoom.Button.MOVE_BACKWARD,
  vizdoom.Button.MOVE_LEFT,
  vizdoom.Button.MOVE_RIGHT,
  vizdoom.Button.TURN_LEFT,
  vizdoom.Button.TURN_RIGHT,
  vizdoom.Button.ATTACK,
]
# By rows: forward, backward, strafe left, strafe right, look left, look right, the two looks with
# forward, fire. As in DeepMind Lab.
_PRESSED = ((0,), (1,), (2,), (3,), (4,), (5,), (0, 4), (0, 5), (6,))
_ACTIONS = [[button in pressed for button in range(len(_BUTTONS))] for pressed in _PRESSED]

# VizDoom's smallest screen of this shape is 160x120. Sampling it by nearest neighbour is what
# rendering at 96x72 would do, and one `take` of bytes costs a tenth of an area average.
_SCREEN_HEIGHT = 120
_SCREEN_WIDTH = 160
_ROWS = (2 * np.arange(HEIGHT) + 1) * _SCREEN_HEIGHT // (2 * HEIGHT)
_COLUMNS = (2 * np.arange(WIDTH) + 1) * _SCREEN_WIDTH // (2 * WIDTH)
# Indices into the flat screen, [HEIGHT, WIDTH, 3].
_SAMPLED_BYTES = (_ROWS[:, None, None] * _SCREEN_WIDTH + _COLUMNS[:, None]) * 3 + np.arange(3)

_CRASHES = (
  vizdoom.ViZDoomErrorException,
  vizdoom.ViZDoomIsNotRunningException,
  vizdoom.ViZDoomUnexpectedExitException,
)

# Games start through a script, which finds VizDoom's own program here.
os.environ['VIZDOOM_ENGINE'] = str(pathlib.Path(vizdoom.__file__).parent / 'vizdoom')
_LAUNCHER = pathlib.Path(__file__).with_name('doom_engine.sh')


def names() -> list[str]:
  """The values of `--env` of this family."""
  return ['doom', *(f'doom:{task}' for task in INSTRUCTIONS)]


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """The suite of one scenario, or of all ten; see `suite.Family.load`."""
  if member and member not in INSTRUCTIONS:
    raise errors.unknown('doom scenario', member, INSTRUCTIONS)
  tasks = (member,) if member else tuple(INSTRUCTIONS)

  def make(names: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    del training  # The games are the same in evaluation.
    return process.ProcessVectorEnv(
      functools.partial(together, tuple(names)), options.environment_timeout_seconds
    )

  return suite.Suite(
    name=name,
    tasks=suite.select_tasks(name, tasks, options),
    observation_space=DoomEnv.observation_space,
    action_space=DoomEnv.action_space,
    action_repeat=ACTION_REPEAT,
    make=make,
    steps_per_second=vizdoom.DEFAULT_TICRATE / ACTION_REPEAT,
    reward_scales=_REWARD_SCALES,
  )


class DoomEnv(gymnasium.Env):
  """One scenario, with its own rewards.

  Observations: see `suite.pixels_and_instruction`; fresh arrays.
  """

  metadata = {'render_modes': []}
  observation_space: gymnasium.spaces.Dict = suite.pixels_and_instruction(HEIGHT, WIDTH)
  action_space: gymnasium.spaces.Discrete = gymnasium.spaces.Discrete(len(_ACTIONS))

  def __init__(self, task: str):
    """Only notes the task: the engine starts in `reset`, and again after a crash."""
    self._task = task
    self._instruction = suite.hash_words(INSTRUCTIONS[task])
    self._game: vizdoom.DoomGame | None = None
    self._last: suite.Observation = {}

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    super().reset(seed=seed)
    game = self._game
    if game is None or not game.is_running():
      game = self._start()
    if seed is not None:
      game.set_seed(seed % 2**31)
    try:
      game.new_episode()
    except _CRASHES as error:
      raise self._crashed() from error
    return self._observe(game), {}

  def step(self, action: int) -> suite.Step:
    game = self._game
    if game is None:
      raise gymnasium.error.ResetNeeded(f'doom:{self._task} has no game: call reset first')
    try:
      reward = game.make_action(_ACTIONS[action], ACTION_REPEAT)
      ended = game.is_episode_finished()
    except _CRASHES as error:
      raise self._crashed() from error

    truncated = ended and game.is_episode_timeout_reached() and not game.is_player_dead()
    terminated = ended and not truncated
    # VizDoom has no observation after the last step: the one before it stands in.
    observation = self._last if ended else self._observe(game)
    return observation, reward, terminated, truncated, {}

  def render(self) -> Any:
    """The whole screen, uint8 `[120, 160, 3]`."""
    state = self._game and self._game.get_state()
    return np.array(state.screen_buffer) if state else None

  def close(self) -> None:
    if self._game is not None:
      self._game.close()
      self._game = None

  def _start(self) -> vizdoom.DoomGame:
    """Starts the engine.

    Raises:
      EnvironmentCrashed: If it dies.
    """
    self.close()
    game = self._game = vizdoom.DoomGame()
    game.load_config(str(pathlib.Path(vizdoom.scenarios_path, f'{self._task}.cfg')))
    game.set_vizdoom_path(str(_LAUNCHER))
    game.set_mode(vizdoom.Mode.PLAYER)
    game.set_window_visible(False)
    game.set_screen_resolution(vizdoom.ScreenResolution.RES_160X120)
    game.set_screen_format(vizdoom.ScreenFormat.RGB24)
    game.set_available_buttons(_BUTTONS)
    game.set_available_game_variables([])
    if not game.get_episode_timeout():
      game.set_episode_timeout(_TIME_LIMIT)
    game.set_seed(int(self.np_random.integers(2**31)))
    try:
      game.init()
    except _CRASHES as error:
      raise self._crashed() from error
    return game

  def _observe(self, game: vizdoom.DoomGame) -> suite.Observation:
    pixels = np.take(game.get_state().screen_buffer, _SAMPLED_BYTES)  # [HEIGHT, WIDTH, 3]
    self._last = {'instruction': self._instruction, 'observation': pixels}
    return self._last

  def _crashed(self) -> suite.EnvironmentCrashed:
    self.close()
    return suite.EnvironmentCrashed(f'the game of doom:{self._task} ended by itself')


def together(tasks: Sequence[str]) -> gymnasium.vector.VectorEnv:
  """Games of tasks, stepped one after the other by this process."""
  return process.one_by_one([functools.partial(DoomEnv, task) for task in tasks], tasks)
