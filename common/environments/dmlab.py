"""DeepMind Lab: `dmlab:LEVEL`, `dmlab5` (IMPALA, section 5.2) and `dmlab30` (DMLab-30).

The module `deepmind_lab` is on no package index: its users build a wheel. Frames are 72x96 RGB at
60 a second, the action is held for four of them, and the nine actions are those of Table D.2. Every
level runs in a child process: an engine that fails ends its process, and it holds Python's lock
while it steps.
"""

import contextlib
import dataclasses
import functools
import importlib.util
import logging
import os
import pathlib
from typing import Any, Callable, Mapping, Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import level_cache, levels, parallel, suite
from common.environments import options as option_sets

HEIGHT = 72
WIDTH = 96
ACTION_REPEAT = 4
# Columns: look left or right (pixels), look down or up, strafe, move, fire, jump, crouch.
# Rows: forward, backward, strafe left, strafe right, look left, look right, the two looks with
# forward, fire.
ACTIONS = np.array(
  [
    (0, 0, 0, 1, 0, 0, 0),
    (0, 0, 0, -1, 0, 0, 0),
    (0, 0, -1, 0, 0, 0, 0),
    (0, 0, 1, 0, 0, 0, 0),
    (-20, 0, 0, 0, 0, 0, 0),
    (20, 0, 0, 0, 0, 0, 0),
    (-20, 0, 0, 1, 0, 0, 0),
    (20, 0, 0, 1, 0, 0, 0),
    (0, 0, 0, 0, 1, 0, 0),
  ],
  np.intc,
)
# What N environments take is N times this. Memory that processes share is counted once (PSS): 30
# levels together took 4.1 GB, one of them 123 MB in the median and 305 MB at most. This is the
# median and a fifth of it. Peaks while a level loads, up to 409 MB, do not coincide.
BYTES_PER_ENVIRONMENT = 150 * 10**6
# Seconds for engines to end. One that compiles a map (4 to 43 s) cannot be interrupted, and if it
# were killed it would leave its temporary folder behind.
_PATIENCE = 60.0
# For those that must be killed then, and what they leave.
_CLEANING_SECONDS = 5.0
_STDERR = 2  # Its file descriptor, to which C code writes.
_SHOWN_BYTES = 1000
_TEST_MIXER_SEED = 0x600D5EED  # The released code's, for evaluation.

MISSING = """\
{name} needs the module deepmind_lab, which is on no package index: build its wheel as upstream
explains (https://github.com/google-deepmind/lab/blob/master/docs/users/build.md, and
python/pip_package/README.md there), then install it: .venv/bin/pip install
deepmind_lab-1.0-py3-none-any.whl. Meanwhile `--env=doom` has observations, actions and instructions
of the same form, and any preset of DMLab runs on it."""
_HOW_TO_GET_DATA = (
  '--config.dmlab_dataset_path=DIR names the folder of the images of Brady et al. (2008); DeepMind '
  "Lab's data/brady_konkle_oliva2008/README.md explains how to get them. With "
  f'{levels.DUMMY!r} in place of DIR the levels show dummy images'
)


def names() -> list[str]:
  """The values of `--env` of this family, but for levels outside DMLab-30."""
  return [*levels.SETS, *(f'dmlab:{level}' for level in levels.DMLAB_30)]


def load(name: str, member: str, options: option_sets.Options) -> suite.Suite:
  """One level or a set of levels; see `suite.Family.load`.

  Raises:
    UserError: If there is no such level or task, if the module is missing, or if no task is left
      because all need a data set that is not there.
  """
  tasks = suite.select_tasks(name, _tasks(name, member), options)
  if importlib.util.find_spec('deepmind_lab') is None:
    raise errors.UserError(MISSING.format(name=name))
  options = dataclasses.replace(options, dmlab_dataset_path=_absolute(options.dmlab_dataset_path))
  tasks, note = _with_their_data(name, tasks, options.dmlab_dataset_path)
  engine_settings(options.dmlab_engine)  # Refuses bad settings now, not when actors start.

  def make(names: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    makes = [functools.partial(DmLabEnv, level(task, training, options)) for task in names]
    return parallel.ParallelVectorEnv(
      makes,
      names,
      DmLabEnv.observation_space,
      DmLabEnv.action_space,
      options.environment_timeout_seconds,
      patience=_PATIENCE,
    )

  return suite.Suite(
    name=name,
    tasks=tasks,
    observation_space=DmLabEnv.observation_space,
    action_space=DmLabEnv.action_space,
    action_repeat=ACTION_REPEAT,
    make=make,
    references='dmlab30' if set(tasks) <= set(levels.DMLAB_30) else '',
    note=note,
    bytes_per_environment=BYTES_PER_ENVIRONMENT,
    closing_seconds=_PATIENCE + _CLEANING_SECONDS,
  )


@dataclasses.dataclass(frozen=True)
class Level:
  """The settings of one environment; pickled to its process.

  Attributes:
    path: The level's name in `deepmind_lab`.
    config: The engine's and the level's settings, all of them text.
    renderer: `software` or `hardware`.
    cache: Folder of the level cache, or ''.
    cache_bytes: The most that it may hold.
    episode_seeds: Episodes are drawn from the seeds 0 to N-1; 0 for all seeds.
  """

  path: str
  config: Mapping[str, str]
  renderer: str
  cache: str
  cache_bytes: float
  episode_seeds: int


class DmLabEnv(gymnasium.Env):
  """One level, with one engine for all of its episodes.

  Observations: see `suite.pixels_and_instruction`. Episodes end by the level's own clock, which
  terminates them like any other end, as in the released code.
  """

  metadata = {'render_modes': []}
  observation_space: gymnasium.spaces.Dict = suite.pixels_and_instruction(HEIGHT, WIDTH)
  action_space: gymnasium.spaces.Discrete = gymnasium.spaces.Discrete(len(ACTIONS))

  def __init__(self, level: Level):
    """Starts the engine.

    Raises:
      UserError: If there is no such level, or it refuses its settings.
    """
    # By default the software renderer has five threads for each level.
    os.environ.setdefault('LP_NUM_THREADS', '1')
    try:
      import deepmind_lab
    except (ImportError, OSError) as error:
      raise errors.UserError(
        f'the module deepmind_lab is installed, but cannot be imported: {error}'
      ) from error
    self._level = level
    self._last: suite.Observation = {}
    cache = None
    if level.cache:
      cache = level_cache.LevelCache(pathlib.Path(level.cache), level.cache_bytes)
    make = functools.partial(
      deepmind_lab.Lab,
      config=dict(level.config),
      renderer=level.renderer,
      level_cache=cache,
    )
    written_before = os.fstat(_STDERR).st_size
    try:
      self._lab = _lab(make, level.path)
    except (RuntimeError, ValueError) as error:
      # Why the renderer's library cannot be loaded, the engine only writes.
      reason = f'{_message(error)} {_written_since(written_before)}'.rstrip()
      raise errors.UserError(
        f'DeepMind Lab cannot make the level {level.path}: {reason}'
      ) from error

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> suite.Reset:
    """Begins an episode; `options` is not used.

    Raises:
      EnvironmentCrashed: With the level's own message.
    """
    super().reset(seed=seed)
    self.begin(int(self.np_random.integers(self._level.episode_seeds or 2**31)))
    return self._observe(), {}

  def begin(self, seed: int) -> None:
    """Begins the episode of a seed.

    Its map comes from the level cache, or is compiled and stored there.

    Args:
      seed: From 0 to 2**31 - 1.

    Raises:
      EnvironmentCrashed: With the level's own message.
    """
    self._call(self._lab.reset, seed=seed)

  def step(self, action: int) -> suite.Step:
    # The engine reads memory as if it were contiguous, without a check; a row of ACTIONS is.
    reward = self._call(self._lab.step, ACTIONS[action], num_steps=ACTION_REPEAT)
    terminated = not self._lab.is_running()
    # There is no observation after the last step: the one before it stands in.
    observation = self._last if terminated else self._observe()
    return observation, reward, terminated, False, {}

  def render(self) -> Any:
    """The last frame, uint8 `[HEIGHT, WIDTH, 3]`."""
    return self._last['observation']

  def close(self) -> None:
    self._lab.close()

  def _observe(self) -> suite.Observation:
    seen = self._call(self._lab.observations)
    self._last = {
      'instruction': suite.hash_words(seen.get('INSTR', '')),
      'observation': seen['RGB_INTERLEAVED'],
    }
    return self._last

  def _call(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
    try:
      return function(*arguments, **named)
    # A level's script that fails within a step is a ValueError.
    except (RuntimeError, ValueError) as error:
      raise suite.EnvironmentCrashed(_message(error)) from error


def _lab(make: Callable[..., Any], path: str) -> Any:
  """A level's engine, which observes its instructions if it has any."""
  try:
    return make(path, ['RGB_INTERLEAVED', 'INSTR'])
  except ValueError:
    # It has no such observation. To ask `observation_spec` first would take a second engine in
    # every process, for which the module copies its whole library to /tmp and loads it again.
    return make(path, ['RGB_INTERLEAVED'])


def _message(error: Exception) -> str:
  """An engine's message in one line, without the stack trace of the level's script."""
  text = ' '.join(str(error).partition('stack traceback:')[0].split())
  # The engine quotes what the script says; the closing quote came after the stack trace.
  return text + '"' * (text.count('"') % 2)


def _written_since(position: int) -> str:
  """What this process has written to stderr since then, in one line.

  Args:
    position: The size of stderr before. It is a file in the processes that host environments; if it
      is none, whoever sees it has seen all, and the result is ''.
  """
  with contextlib.suppress(OSError):
    return ' '.join(os.pread(_STDERR, _SHOWN_BYTES, position).decode(errors='replace').split())
  return ''


def level(task: str, training: bool, options: option_sets.Options) -> Level:
  """The settings of a task's environment."""
  config = {'width': str(WIDTH), 'height': str(HEIGHT)}
  # Levels refuse settings that they do not know; those outside DMLab-30 do not know all of these.
  if levels.is_of_dmlab_30(task):
    config['logLevel'] = 'WARN'
    if not training:
      config |= {'allowHoldOutLevels': 'true', 'mixerSeed': str(_TEST_MIXER_SEED)}
  if levels.is_held_out(task):
    config['allowHoldOutLevels'] = 'true'
  if levels.is_psychlab(task) and options.dmlab_dataset_path:
    config['datasetPath'] = options.dmlab_dataset_path
  return Level(
    path=levels.path(task if training else levels.test_variant(task)),
    config={**config, **engine_settings(options.dmlab_engine)},
    renderer=options.dmlab_renderer,
    cache=os.path.expanduser(options.dmlab_level_cache),
    cache_bytes=options.dmlab_level_cache_gb * 1e9,
    episode_seeds=options.dmlab_episode_seeds if training else 0,
  )


def engine_settings(text: str) -> dict[str, str]:
  """Parses `KEY=VALUE,KEY=VALUE`.

  Raises:
    UserError: If the text has another form, or sets the size of the frames.
  """
  settings = {}
  for pair in filter(None, text.split(',')):
    key, equals, value = pair.partition('=')
    if not equals or key in ('width', 'height'):
      raise errors.UserError(
        f'dmlab_engine has {pair!r}, expected KEY=VALUE,KEY=VALUE with keys of the engine or the '
        'level such as minimalUI=true; width and height are those of the paper'
      )
    settings[key] = value
  return settings


def _tasks(name: str, member: str) -> tuple[str, ...]:
  """All tasks of a suite of this family."""
  if name in levels.SETS:
    return levels.SETS[name]
  if not name.startswith('dmlab:'):
    suite.refuse_member(name, member, 'dmlab:LEVEL')
  if not member:
    hint = 'Write a level as in dmlab:rooms_watermaze.'
    raise errors.unknown('environment', name, names(), hint)
  return (levels.known(member),)


def _absolute(dataset: str) -> str:
  """The path for the level's process, whose working directory may be another."""
  if not dataset or dataset == levels.DUMMY:
    return dataset
  return os.path.abspath(os.path.expanduser(dataset))


def _check_dataset(folder: pathlib.Path, with_photographs: bool) -> None:
  """Raises UserError if there is no such folder, or if it lacks photographs that levels will show.

  Levels would only notice when they show the first one, some time after their episode began.
  """
  first = '0001.png'
  if not folder.is_dir() or (with_photographs and not (folder / first).is_file()):
    raise errors.UserError(
      f"dmlab_dataset_path is '{folder}', which is no folder or has no {first}: expected the "
      f"folder of the images {first}, 0002.png and so on, or {levels.DUMMY!r} for the levels' own "
      'dummy images'
    )


def _with_their_data(
  name: str, tasks: tuple[str, ...], dataset: str
) -> tuple[tuple[str, ...], str]:
  """Leaves out the tasks whose data set is not there.

  Returns:
    The tasks that can run, and the remark that reports of their scores must carry.

  Raises:
    UserError: If no task is left, or `dataset` does not have what they show.
  """
  affected = [task for task in tasks if levels.needs_photographs(task)]
  if dataset == levels.DUMMY:
    note = f'{", ".join(affected)}: with dummy images in place of the data set.'
    return tasks, note if affected else ''

  if dataset:
    _check_dataset(pathlib.Path(dataset), bool(affected))
  if dataset or not affected:
    return tasks, ''

  rest = tuple(task for task in tasks if task not in affected)
  if not rest:
    raise errors.UserError(f'{name} needs a data set. {_HOW_TO_GET_DATA}.')
  missing = ' and '.join(affected)
  logging.warning('%s LEFT OUT: they need a data set. %s.', missing, _HOW_TO_GET_DATA)
  return rest, f'Without {missing}, whose data set is not there.'
