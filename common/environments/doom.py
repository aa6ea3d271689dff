"""VizDoom's ten classic scenarios as one multi-task suite that looks to an agent exactly as DeepMind Lab does.

72x96 RGB, the paper's nine actions on every task (IMPALA, Table D.2), action repeat 4, and an instruction in words.
VizDoom runs every game in a process of its own, so that a crash of one reaches us as an exception.
"""

import functools
import os
import pathlib
from typing import Any, Sequence

import gymnasium
import numpy as np
import vizdoom

from common.environments import process, suite

HEIGHT, WIDTH, ACTION_REPEAT = 72, 96, 4
_TIME_LIMIT = (
  2100  # Tics; for the two scenarios without a limit of their own, that most others have.
)

# What the agent is told, by task. The names are those of VizDoom's scenario files.
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

# The scenarios pay in different units: per tic alive (up to 2,100 an episode) or map unit walked, or per monster. One
# learner for all of them needs rewards of like size: clipping alone makes a tic alive worth as much as a monster.
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
# Forward, backward, strafe left, strafe right, look left, look right, the two looks with forward, fire.
_ACTIONS = [
  [button in pressed for button in range(len(_BUTTONS))]
  for pressed in ((0,), (1,), (2,), (3,), (4,), (5,), (0, 4), (0, 5), (6,))
]


# VizDoom's smallest screen of this shape is 160x120. Sampling it by nearest neighbour is what rendering at 96x72 would
# do, and one `take` of bytes costs a tenth of an area average.
_SCREEN_HEIGHT, _SCREEN_WIDTH = 120, 160
_ROWS = (2 * np.arange(HEIGHT) + 1) * _SCREEN_HEIGHT // (2 * HEIGHT)
_COLUMNS = (2 * np.arange(WIDTH) + 1) * _SCREEN_WIDTH // (2 * WIDTH)
_SAMPLED_BYTES = (_ROWS[:, None, None] * _SCREEN_WIDTH + _COLUMNS[:, None]) * 3 + np.arange(3)

_CRASHES = (
  vizdoom.ViZDoomErrorException,
  vizdoom.ViZDoomIsNotRunningException,
  vizdoom.ViZDoomUnexpectedExitException,
)

os.environ['VIZDOOM_ENGINE'] = str(pathlib.Path(vizdoom.__file__).parent / 'vizdoom')
_ENGINE = pathlib.Path(__file__).with_name('doom_engine.sh')


class DoomEnv(gymnasium.Env):
  """One scenario. Observations are dicts, see `suite.pixels_and_instruction`; rewards are the scenario's own."""

  metadata = {'render_modes': []}
  observation_space = suite.pixels_and_instruction(HEIGHT, WIDTH)
  action_space = gymnasium.spaces.Discrete(len(_ACTIONS))

  def __init__(self, task: str):
    self._task = task
    self._instruction = suite.hash_words(INSTRUCTIONS[task])
    self._game = None

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    super().reset(seed=seed)
    if self._game is None or not self._game.is_running():
      self._start()
    if seed is not None:
      self._game.set_seed(seed % 2**31)
    try:
      self._game.new_episode()
    except _CRASHES as error:
      raise self._crashed() from error
    return self._observation(), {}

  def step(self, action: int):
    try:
      reward = self._game.make_action(_ACTIONS[action], ACTION_REPEAT)
      terminated = self._game.is_episode_finished()
    except _CRASHES as error:
      raise self._crashed() from error
    truncated = (
      terminated and self._game.is_episode_timeout_reached() and not self._game.is_player_dead()
    )
    # VizDoom has no observation after the last step: the one before it stands in.
    observation = self._last if terminated else self._observation()
    return observation, reward, terminated and not truncated, truncated, {}

  def close(self):
    if self._game is not None:
      self._game.close()
      self._game = None

  def _start(self) -> None:
    self.close()
    self._game = game = vizdoom.DoomGame()
    game.load_config(str(pathlib.Path(vizdoom.scenarios_path, f'{self._task}.cfg')))
    game.set_vizdoom_path(str(_ENGINE))
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

  def _observation(self) -> dict[str, np.ndarray]:
    pixels = np.take(self._game.get_state().screen_buffer, _SAMPLED_BYTES)
    self._last = {'instruction': self._instruction, 'observation': pixels}
    return self._last

  def _crashed(self) -> suite.EnvironmentCrashed:
    self.close()
    return suite.EnvironmentCrashed(f'the game of doom:{self._task} ended by itself')


def load(name: str, tasks: Sequence[str]) -> suite.Suite:
  """The suite over the named scenarios (all ten by default, see `INSTRUCTIONS`)."""
  return suite.Suite(
    name,
    tuple(tasks),
    DoomEnv.observation_space,
    DoomEnv.action_space,
    ACTION_REPEAT,
    _make,
    steps_per_second=vizdoom.DEFAULT_TICRATE / ACTION_REPEAT,
    reward_scales=_REWARD_SCALES,
  )


def together(tasks: Sequence[str]) -> gymnasium.vector.VectorEnv:
  """Games of tasks, stepped one after the other by this process."""
  return gymnasium.vector.SyncVectorEnv(
    [lambda task=task: DoomEnv(task) for task in tasks],
    copy=False,
    autoreset_mode=gymnasium.vector.AutoresetMode.SAME_STEP,
  )


def _make(tasks: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
  del training  # The games are the same in evaluation.
  return process.ProcessVectorEnv(functools.partial(together, tuple(tasks)))
