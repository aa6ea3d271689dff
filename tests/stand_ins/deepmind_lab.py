"""A stand-in for the `deepmind_lab` module: its interface is the real one's, its game is not.

Tests put this file's folder on `sys.path`. Types, errors, messages, the end of episodes, seeds, the
protocol of the level cache and the temporary folder follow measurements of the real module, so that
an adapter that passes here passes there. Tests can set these environment variables, which are read
at each call:

  STAND_IN_COMPILE_SECONDS  How long the compilation of a map takes; 0 by default.
  STAND_IN_DIE_AT           `<level>:<frame>`, such as `rooms_watermaze:40`: when an episode of that
                            level reaches that engine frame (0 is the reset) the process ends with
                            status 1, as after a fatal engine error.
  STAND_IN_DIE_ONCE_FLAG    A path: the process dies only if there is no such file, and creates it
                            first.
  STAND_IN_NO_RENDERER      If set, the renderer's library cannot be loaded.

The game is an endless plane. On every 60th engine frame of an episode the reward is +1 if FIRE is
held, else -1 if the player moves back, else 0. The four language levels begin a new trial, with a
new instruction, every 600 frames. A frame shows the level, the seed, the maze, the trial, the
player's place and angles, and the seconds played. One seed repeats all of it, but for levels with
bots and after a shot: the player's place is then a little different each time.

Left out: that the real step() and reset() hold the GIL, its threads (LP_NUM_THREADS), its leaks,
its properties (`read_property` and the like), `fps` other than 60, bounds of actions, and walls.
"""

import cmath
import ctypes
import functools
import hashlib
import operator
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from typing import Any, Callable, NoReturn

import numpy as np

READABLE, WRITABLE, READ_WRITABLE, LISTABLE = 1, 2, 3, 4

# Agent steps of an episode, of four engine frames each -> levels of DMLab-30.
_DMLAB30 = {
  180: """
    rooms_select_nonmatching_object
  """,
  900: """
    rooms_collect_good_objects_train rooms_collect_good_objects_test
    rooms_exploit_deferred_effects_train rooms_exploit_deferred_effects_test
    rooms_keys_doors_puzzle
    language_select_described_object language_answer_quantitative_question
    skymaze_irreversible_path_hard skymaze_irreversible_path_varied
  """,
  1350: """
    explore_object_locations_small explore_obstructed_goals_small explore_goal_locations_small
    explore_object_rewards_few
  """,
  1800: """
    rooms_watermaze
    language_select_located_object language_execute_random_task
    natlab_fixed_large_map natlab_varying_map_regrowth natlab_varying_map_randomized
    explore_object_locations_large explore_obstructed_goals_large explore_goal_locations_large
    explore_object_rewards_many
  """,
  2250: """
    psychlab_visual_search
  """,
  3600: """
    lasertag_one_opponent_small lasertag_three_opponents_small
    lasertag_one_opponent_large lasertag_three_opponents_large
  """,
  4500: """
    psychlab_arbitrary_visuomotor_mapping psychlab_continuous_recognition
    psychlab_sequential_comparison
  """,
}
_LEVELS = {
  f'contributed/dmlab30/{name}': steps
  for steps, names in _DMLAB30.items()
  for name in names.split()
}
_LEVELS['seekavoid_arena_01'] = 300
# The lengths of these were not measured.
_LEVELS['contributed/psychlab/harlow'] = 900
_LEVELS['contributed/psychlab/visual_search'] = 900
_LEVELS['tests/demo_map'] = 900
# Its script has none of the observations that others share.
_WITHOUT_INSTRUCTIONS = 'demo_map'
_NEEDS_DATASET = (
  'psychlab_arbitrary_visuomotor_mapping',
  'psychlab_continuous_recognition',
  'harlow',
)
_FIRST_IMAGE_FRAME = 60  # When a level shows an image for the first time.
_WITH_BOTS = 'lasertag_'
_COMPILED_AT_RESET = (
  'explore_',
  'lasertag_',
  'skymaze_',
  'rooms_keys_doors_puzzle',
  'language_select_located_object',
)
_INSTRUCTIONS = {
  'language_select_described_object': '{} saxophone',
  'language_select_located_object': 'Pick the {} object in the cyan room',
  'language_execute_random_task': '{} car',
  'language_answer_quantitative_question': 'Are all suitcase objects {}?',
}
_COLOURS = ('red', 'green', 'blue', 'cyan', 'magenta', 'yellow', 'black', 'white')

# The settings that the engine knows, by type.
_INTEGERS = {
  'width',
  'height',
  'mixerSeed',
  'maxAltCameraWidth',
  'maxAltCameraHeight',
  'gpuDeviceIndex',
  'port',
}
_BOOLEANS = {
  'logToStdErr',
  'minimalUI',
  'reducedUI',
  'hasAltCameras',
  'localLevelCache',
  'globalLevelCache',
  'server',
  'client',
  'use_pbos',
  'allowHoldOutLevels',
}
_TEXTS = {
  'fps',
  'levelDirectory',
  'appendCommand',
  'vmMode',
  'record',
  'demo',
  'video',
  'playerName',
  'episodeLengthSeconds',
  'datasetPath',
  'logLevel',
  'invocationMode',
  'randomSeed',
}
_DEFAULTS = {'width': '320', 'height': '240', 'mixerSeed': '0', 'datasetPath': ''}
_ACTIONS = (
  ('LOOK_LEFT_RIGHT_PIXELS_PER_FRAME', -512, 512),
  ('LOOK_DOWN_UP_PIXELS_PER_FRAME', -512, 512),
  ('STRAFE_LEFT_RIGHT', -1, 1),
  ('MOVE_BACK_FORWARD', -1, 1),
  ('FIRE', 0, 1),
  ('JUMP', 0, 1),
  ('CROUCH', 0, 1),
)
_NUMBER = re.compile(r'\d+(\.\d+)?')
_LOG_LEVEL = re.compile(r'(?i)info|warn|error|never|-?\d+')
_DEPRECATED = ('RGB_INTERLACED', 'RGBD_INTERLACED')
# The channels of the pictures, which are RGB and depth.
_CHANNELS = {'RGB': [0, 1, 2], 'RGBD': [0, 1, 2, 3], 'BGR': [2, 1, 0], 'BGRD': [2, 1, 0, 3]}

_DEGREES_PER_PIXEL = 84.5 / (20 * 40)  # Looking at +20 for 40 frames turns by 84.5 degrees.
_UNITS_PER_FRAME = 320 / 60
_DRIFT_PER_FRAME = 0.02
_MOST_DRIFT = 6.0
_SHAKE = 0.1  # Units per frame, either way, with bots and after a shot.
_TRIAL_FRAMES = 600

_runfiles = str(pathlib.Path(__file__).parent)
# The real one, too, is seeded with the second of its import.
_random = np.random.default_rng(int(time.time()))
_shakes = np.random.default_rng()
# The ids of the games that were reset and not closed, with the process that did it.
_running: set[tuple[int, int]] = set()


def version() -> str:
  return '1.0'


def runfiles_path() -> str:
  return _runfiles


def set_runfiles_path(path: str) -> bool:
  global _runfiles
  _check_type(1, path, str)
  _runfiles = path
  return True


def _print(line: str) -> None:
  """Writes to the file descriptor, as C does: replacing `sys.stderr` does not catch it."""
  os.write(2, f'{line}\n'.encode())


def _die(line: str) -> NoReturn:
  """Ends the process, as the engine does."""
  _print(line)
  os._exit(1)


def _type_name(kind: type) -> str:
  return kind.__name__ if kind.__module__ == 'builtins' else f'{kind.__module__}.{kind.__name__}'


def _check_type(position: int, value: Any, expected: type) -> None:
  if not isinstance(value, expected):
    found = 'None' if value is None else _type_name(type(value))
    raise TypeError(f'argument {position} must be {_type_name(expected)}, not {found}')


def _setting_problem(key: str, value: str) -> str:
  """The engine's objection to a setting of its own; '' if it has none."""
  if key in _BOOLEANS and value not in ('true', 'false'):
    return f'Invalid boolean arg must be either "true" or "false"; actual "{value}"'
  if key not in _INTEGERS:
    return ''
  if not re.fullmatch(r'[-+]?(0[xX][0-9a-fA-F]+|0|[1-9]\d*)', value):
    return f'Invalid int setting {value}'
  number = int(value, 0)
  if key in ('width', 'height') and (number < 4 or number % 4):
    return f"'{key}' must be a positive multiple of 4. Actual {number}"
  if key == 'mixerSeed' and not 0 <= number < 2**32:
    return f"Invalid mixerSeed value, must be a positive integer not greater than '{2**32 - 1}'."
  return ''


def _level_problem(level: str, config: dict[str, str]) -> str:
  """The objection of the level's script to its settings; '' if it has none."""
  if level not in _LEVELS:
    path = f'{_runfiles}/baselab/game_scripts/levels/{level}.lua'
    return f"Level not found: Failed to open file '{path}'"
  for key, value in config.items():
    is_known = key in _INTEGERS | _BOOLEANS | _TEXTS
    if not is_known or (key == 'episodeLengthSeconds' and not _NUMBER.fullmatch(value)):
      return f'Invalid setting: "{key}" = "{value}"'
  if not _LOG_LEVEL.fullmatch(config.get('logLevel', 'INFO')):
    return f'Invalid logLevel: {config["logLevel"]}'
  if level.endswith('_test') and config.get('allowHoldOutLevels') != 'true':
    return (
      'This level must only be used during evaluation. Else add the setting '
      '"allowHoldOutLevels" = "true".'
    )
  return ''


def _check_config(level: str, config: dict[str, str]) -> None:
  for key, value in config.items():
    if not isinstance(key, str) or not isinstance(value, str):
      raise TypeError('bad argument type for built-in operation')
    if problem := _setting_problem(key, value):
      raise RuntimeError(f'Failed to apply setting \'{key} = {value}\' - "{problem}"')
  if problem := _level_problem(level, config):
    raise RuntimeError(f'Failed to init environment - "{problem}"')


def _number(*parts: Any) -> int:
  """A number of 64 bits that depends only on the parts, in every process."""
  return int(hashlib.md5(repr(parts).encode()).hexdigest()[:16], 16)


class _Maps:
  """Compiles maps or has the level cache fetch them.

  What the cache raises is kept until the end of the call to the engine that led to it.
  """

  def __init__(self, cache: Any, temp_folder: str):
    self._cache = cache
    self._error: BaseException | None = None
    self._owned = not temp_folder
    self._folder = temp_folder or tempfile.mkdtemp(
      prefix='dmlab_temp_folder_', dir=os.environ.get('TMPDIR', '/tmp')
    )

  def load(self, name: str, contents: str) -> str:
    """The contents of the map's file, which differ from `contents` if the cache mixes maps up."""
    path = pathlib.Path(self._folder, 'baselab', f'{name}.pk3')
    path.parent.mkdir(parents=True, exist_ok=True)
    key = f'{name}_noaas_{hashlib.md5(contents.encode()).hexdigest()}'
    if not self._call_cache('fetch', key, str(path)):
      # As in the real module, another process compiles it.
      if seconds := os.environ.get('STAND_IN_COMPILE_SECONDS'):
        subprocess.run(['sleep', seconds], check=True)
      with zipfile.ZipFile(path, 'w') as archive:
        archive.writestr(zipfile.ZipInfo(f'maps/{name}.bsp'), contents)
      self._call_cache('write', key, str(path))
    try:
      with zipfile.ZipFile(path) as archive:
        return archive.read(f'maps/{name}.bsp').decode()
    except (OSError, KeyError, zipfile.BadZipFile):
      _die(f"Didn't find map '{name}'")

  def _call_cache(self, method: str, key: str, path: str) -> bool:
    if self._cache is None or self._error:
      return False
    try:
      return bool(getattr(self._cache, method)(key, path))
    except BaseException as error:
      self._error = error
      return False

  def raise_error(self) -> None:
    """Raises what the cache has raised, once."""
    error, self._error = self._error, None
    if error:
      raise error

  def close(self) -> None:
    if self._owned:
      shutil.rmtree(self._folder, ignore_errors=True)


class _Game:
  """One level as it is played."""

  def __init__(self, level: str, config: dict[str, str], maps: _Maps):
    self.name = level.split('/')[-1]
    self._config = _DEFAULTS | config
    self._width = int(self._config['width'], 0)
    self._height = int(self._config['height'], 0)
    self._mixer = int(self._config['mixerSeed'], 0)
    default_seconds = _LEVELS[level] * 4 / 60
    self._frames = round(60 * float(config.get('episodeLengthSeconds', default_seconds)))
    self._maps = maps
    self._seeds_played: set[int] = set()

  def start(self, seed: int) -> None:
    """Begins an episode."""
    if self.name in _NEEDS_DATASET and not self._config['datasetPath']:
      raise RuntimeError(
        f'Failed to start environment - "{_runfiles}/baselab/game_scripts/datasets/'
        'brady_konkle_oliva2008.lua:37: \n Follow instructions to download datasets here: \n '
        '"data/brady_konkle_oliva2008/README.md"\n and update DATASET_PATH to point the data '
        "folder.\nstack traceback:\n\t[C]: in function 'assert'\n\t"
        'brady_konkle_oliva2008.lua:37: in function <brady_konkle_oliva2008.lua:28>"'
      )
    self._seed = seed
    # In the real module, too, the first episode with a seed drifts away from the later ones.
    self._drift = 0.0 if seed in self._seeds_played else _DRIFT_PER_FRAME
    self._seeds_played.add(seed)

    chance = _number(self.name, seed, self._mixer)
    self._place = complex(chance % 3200, chance // 3200 % 3200)
    self._pitch = 0.0
    self._yaw = float(chance // 3200**2 % 360 - 180)
    self._action = (0,) * len(_ACTIONS)
    self._frame = 0
    self._shaken = self.name.startswith(_WITH_BOTS)
    self.frames_left = self._frames
    self._layout = ''
    self._begin_trial(compiled=self.name.startswith(_COMPILED_AT_RESET))
    self._die_if_due()

  def advance(self, action: tuple[int, ...], num_steps: int) -> float:
    """Plays engine frames; returns the sum of their rewards."""
    self._action = action
    reward = 0.0
    for _ in range(min(num_steps, self.frames_left)):
      self._move()
      self._frame += 1
      self.frames_left -= 1
      self._die_if_due()
      self._show_image()
      if self._frame % 60 == 0:
        reward += 1 if action[4] else -1 if action[3] < 0 else 0
      if self.name in _INSTRUCTIONS and self._frame % _TRIAL_FRAMES == 0 and self.frames_left:
        self._begin_trial(compiled=self.name == 'language_select_located_object')
    return reward

  def _begin_trial(self, compiled: bool) -> None:
    identity = (self.name, self._seed, self._mixer, self._frame // _TRIAL_FRAMES)
    if compiled:
      kind = self.name.split('_')[0]
      self._layout = self._maps.load(f'{kind}_maze', f'{_number("map", *identity):064b}')

    shape = (self._height, self._width, 4)
    generator = np.random.default_rng(_number(*identity, self._layout))
    self._scene = generator.integers(0, 256, shape, np.uint8)
    colour = _COLOURS[_number('colour', *identity) % len(_COLOURS)]
    self._instruction = _INSTRUCTIONS.get(self.name, '').format(colour)

  def _move(self) -> None:
    look_right, look_down, strafe_right, forward = self._action[:4]
    self._yaw = (self._yaw - look_right * _DEGREES_PER_PIXEL + 180) % 360 - 180
    self._pitch = min(max(self._pitch + look_down * _DEGREES_PER_PIXEL, -85), 85)
    walked = complex(forward, -strafe_right) * cmath.rect(_UNITS_PER_FRAME, np.radians(self._yaw))
    self._place += walked + (self._drift if self._frame * self._drift < _MOST_DRIFT else 0)
    self._shaken = self._shaken or self._action[4] > 0
    if self._shaken:
      self._place += _shakes.uniform(-_SHAKE, _SHAKE)

  def _show_image(self) -> None:
    """Fails if it is time for the data set's first image, and there is none."""
    dataset = self._config['datasetPath']
    path = os.path.join(dataset, '0001.png')
    if self.name not in _NEEDS_DATASET or self._frame != _FIRST_IMAGE_FRAME or dataset == 'dummy':
      return
    if not os.path.exists(path):
      raise ValueError(
        f"Failed to advance environment \"[load] - Failed to load '{path}'\nstack traceback:\n"
        "\t[C]: in function 'load'\n\treader.lua:39: in function 'getImage'\n\t"
        'point_and_click.lua:210: in function <point_and_click.lua:198>"'
      )

  def _die_if_due(self) -> None:
    """Ends the process if the environment variables say so."""
    if os.environ.get('STAND_IN_DIE_AT') != f'{self.name}:{self._frame}':
      return
    if flag := os.environ.get('STAND_IN_DIE_ONCE_FLAG'):
      try:
        pathlib.Path(flag).touch(exist_ok=False)
      except FileExistsError:
        return
    _die(f'Sys_Error: out of memory in {self.name}')

  def _picture(self) -> np.ndarray:
    """RGB and depth, `[height, width, 4]`.

    Turning and looking shift the picture, moving changes its colours, the last row is the clock.
    """
    picture = np.roll(self._scene, (round(self._pitch * 2), round(self._yaw * 2)), (0, 1))
    picture += np.uint8(round(self._place.real + 3 * self._place.imag) % 256)
    picture[-1] = self._frame // 60 % 256
    return picture

  def observation_table(self) -> dict[str, tuple[type, tuple[int, ...], Callable[[], Any]]]:
    """By name: the dtype, the shape, and a function that returns the value."""
    turn = 60 * _DEGREES_PER_PIXEL
    of_all = self._pictures() | {'MAP_FRAME_NUMBER': (np.float64, (1,), lambda: [self._frame])}
    if self.name == _WITHOUT_INSTRUCTIONS:
      return of_all
    return of_all | {
      'FRAMES_REMAINING_AT_60': (np.float64, (1,), lambda: [self.frames_left]),
      'TEAM.SCORE': (np.float64, (2,), lambda: [0, 0]),
      'VEL.TRANS': (np.float64, (3,), lambda: [320 * self._action[3], 320 * self._action[2], 0]),
      'VEL.ROT': (np.float64, (3,), lambda: [turn * self._action[1], -turn * self._action[0], 0]),
      'DEBUG.POS.TRANS': (np.float64, (3,), lambda: [self._place.real, self._place.imag, 0]),
      'DEBUG.POS.ROT': (np.float64, (3,), lambda: [self._pitch, self._yaw, 0]),
      'DEBUG.MAZE.LAYOUT': (str, (), lambda: self._layout),
      'INSTR': (str, (), lambda: self._instruction),
    }

  def _pictures(self) -> dict[str, tuple[type, tuple[int, ...], Callable[[], Any]]]:
    """The part of the table with pictures: interleaved, planar, and under their old names."""

    def interleaved(channels: list[int]) -> np.ndarray:
      return self._picture()[..., channels]

    def planar(channels: list[int]) -> np.ndarray:
      return self._picture()[..., channels].transpose(2, 0, 1)

    size = (self._height, self._width)
    table = {}
    for name, channels in _CHANNELS.items():
      shape = (*size, len(channels))
      read = functools.partial(interleaved, channels)
      table[f'{name}_INTERLEAVED'] = (np.uint8, shape, read)
      if name.startswith('RGB'):
        shape = (len(channels), *size)
        table[name] = (np.uint8, shape, functools.partial(planar, channels))
    for old in _DEPRECATED:
      table[old] = table[old.replace('INTERLACED', 'INTERLEAVED')]
    return table


class Lab:
  """The environment. As a C type in the real module, it has no attributes to set and no pickle."""

  __slots__ = ('_maps', '_game', '_table', '_asked', '_steps', '_status')

  def __init__(
    self,
    level: str,
    observations: list[str],
    config: dict[str, str] = {},  # noqa: B006  # The real one's default; it is never changed.
    renderer: str = 'software',
    level_cache: Any = None,
    temp_folder: str = '',
  ):
    self._maps = None
    self._game = None
    self._status = 'closed'
    self._steps = 0
    arguments = {
      1: (level, str),
      2: (observations, list),
      3: (config, dict),
      4: (renderer, str),
      6: (temp_folder, str),
    }
    for position, (value, expected) in arguments.items():
      _check_type(position, value, expected)
    if renderer not in ('', 'software', 'hardware'):
      raise RuntimeError(
        f'Failed to set renderer must be "hardware" or "software" actual "{renderer}"!'
      )

    if os.environ.get('STAND_IN_NO_RENDERER'):
      _print(f'Failed to open library! - {_runfiles}/libdmlab_headless_sw.so')
      _print('libOSMesa.so.8: cannot open shared object file: No such file or directory')
      raise RuntimeError('Failed to connect RL API')
    self._maps = _Maps(level_cache, temp_folder)
    self._status = 'constructed'
    _check_config(level, config)
    self._game = _Game(level, config, self._maps)
    self._table = self._game.observation_table()
    for name in observations:
      if not isinstance(name, str):
        raise TypeError('bad argument type for built-in operation')
      if name not in self._table:
        raise ValueError(f"Unknown observation '{name}'.")
    self._asked = {name: self._table[name] for name in observations}

  def __reduce_ex__(self, protocol: Any) -> NoReturn:
    raise TypeError("cannot pickle 'deepmind_lab.Lab' object")

  def __del__(self) -> None:
    # The real one leaves its folder behind at the end of the process.
    if hasattr(self, '_status') and not sys.is_finalizing():
      self.close()

  def observation_spec(self) -> list[dict[str, Any]]:
    for name in _DEPRECATED:
      _print(f"Using deprecated observation format: '{name}'")
    return [
      {'name': name, 'shape': shape, 'dtype': dtype}
      for name, (dtype, shape, _) in self._table.items()
    ]

  def action_spec(self) -> list[dict[str, Any]]:
    return [{'min': minimum, 'max': maximum, 'name': name} for name, minimum, maximum in _ACTIONS]

  def reset(self, episode: int = -1, seed: int | None = None) -> bool:
    operator.index(episode)  # Raises for other types, as C does. The number changes nothing.
    seed = int(_random.integers(2**31)) if seed is None else seed
    if not isinstance(seed, int):
      raise ValueError(f"'seed' must be int or None, was '{_type_name(type(seed))}'.")
    if not -(2**63) <= seed < 2**63:
      raise OverflowError('Python int too large to convert to C long')
    self._check_usable()
    # It is cut to 32 bits, then 2**31 is added to a negative number: 31 bits remain.
    self._game.start(seed % 2**31)
    _running.add((id(self._game), os.getpid()))
    self._maps.raise_error()
    self._steps = 0
    self._status = 'running'
    return True

  def _check_usable(self) -> None:
    """Fails the test where the real one would hang or crash."""
    unknown = 'the real module was measured only up to close(): make a new Lab'
    assert self._status != 'closed', unknown
    processes = {process for _, process in _running}
    assert processes <= {os.getpid()}, 'forked while a Lab ran: the real engine hangs here'

  def is_running(self) -> bool:
    return self._status == 'running'

  def num_steps(self) -> int:
    return self._steps

  def observations(self) -> dict[str, Any]:
    if not self.is_running():
      raise RuntimeError('Environment in wrong status for call to observations()')
    return {
      name: read() if dtype is str else np.array(read(), dtype, order='C')
      for name, (dtype, _, read) in self._asked.items()
    }

  def step(self, action: np.ndarray, num_steps: int = 1) -> float:
    _check_type(1, action, np.ndarray)
    num_steps = operator.index(num_steps)
    if not self.is_running():
      raise RuntimeError('Environment in wrong status to advance.')
    if action.shape != (len(_ACTIONS),):
      raise ValueError(f'action must have shape ({len(_ACTIONS)})')
    if action.dtype.num != np.dtype(np.intc).num:
      raise ValueError('action must have dtype np.intc')
    self._check_usable()
    # Strides are ignored: the action is what lies in memory from the first element on.
    values = tuple((ctypes.c_int * len(_ACTIONS)).from_address(action.ctypes.data))
    self._status = 'failed'
    self._steps += num_steps
    reward = self._game.advance(values, num_steps)
    self._status = 'running' if self._game.frames_left else 'over'
    self._maps.raise_error()
    return reward

  def events(self) -> list[Any]:
    if self._status not in ('running', 'over'):
      raise RuntimeError('Environment in wrong status for call to events()')
    return []

  def close(self) -> bool:
    if self._status == 'closed':
      return False
    self._status = 'closed'
    self._maps.close()
    _running.discard((id(self._game), os.getpid()))
    return True
