"""DeepMind Lab: single levels, the five of IMPALA's section 5.2, and DMLab-30 as one multi-task suite.

The module `deepmind_lab` is on no package index: its users build a wheel. Frames are 72x96 RGB at 60 a second, the
action is held for four of them, and the nine actions are those of Table D.2. Every level runs in a process of its own:
an engine that fails ends its process, and it holds Python's lock while it steps.
"""

import dataclasses
import functools
import importlib.util
import logging
import os
import pathlib
from typing import Any, Mapping, Sequence

import gymnasium
import numpy as np

from common import errors
from common.environments import level_cache, levels, parallel, suite
from common.environments import options as option_sets

HEIGHT, WIDTH, ACTION_REPEAT = 72, 96, 4
# Look left or right, look down or up (pixels), strafe, move, fire, jump, crouch: forward, backward, strafe left, strafe
# right, look left, look right, the two looks with forward, fire.
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
BYTES_PER_ENVIRONMENT = (
  250 * 10**6
)  # Measured: 105 to 115 MB in the lightest level, peaks of 211 to 340 while loading.
_TEST_MIXER_SEED = 0x600D5EED  # The released code's, for evaluation.

MISSING = """{name} needs the module deepmind_lab, which is on no package index: build its wheel as upstream explains
(https://github.com/google-deepmind/lab/blob/master/docs/users/build.md, and python/pip_package/README.md there),
then install it: .venv/bin/pip install deepmind_lab-1.0-py3-none-any.whl. Meanwhile `--env=doom` has observations,
actions and instructions of the same form, and any preset of DMLab runs on it."""


@dataclasses.dataclass(frozen=True)
class Level:
  """What one environment is made of; it is pickled to its process.

  Attributes:
    path: as `deepmind_lab` names it.
    config: the engine's and the level's settings, all of them text.
    renderer: `software` or `hardware`.
    cache: folder of the level cache, or ''.
    cache_bytes: the most that it may hold.
    episode_seeds: how many different episodes there are; 0 for all.
  """

  path: str
  config: Mapping[str, str]
  renderer: str
  cache: str
  cache_bytes: float
  episode_seeds: int


class DmLabEnv(gymnasium.Env):
  """One level; one Lab for all of its episodes. Observations as of `suite.pixels_and_instruction`.

  Episodes end by the level's own clock, which counts as an end like any other, as in the released code.
  """

  metadata = {'render_modes': []}
  observation_space = suite.pixels_and_instruction(HEIGHT, WIDTH)
  action_space = gymnasium.spaces.Discrete(len(ACTIONS))

  def __init__(self, level: Level):
    """Raises UserError if there is no such level, or it refuses its settings."""
    os.environ.setdefault(
      'LP_NUM_THREADS', '1'
    )  # Else the software renderer has five threads for each level.
    try:
      import deepmind_lab
    except (ImportError, OSError) as error:
      raise errors.UserError(
        f'the module deepmind_lab is there, but cannot be imported: {error}'
      ) from error
    self._level, self._last = level, None
    cache = (
      level_cache.LevelCache(pathlib.Path(level.cache), level.cache_bytes) if level.cache else None
    )
    try:
      self._lab = deepmind_lab.Lab(
        level.path,
        ['RGB_INTERLEAVED', 'INSTR'],
        config=dict(level.config),
        renderer=level.renderer,
        level_cache=cache,
      )
    except (RuntimeError, ValueError) as error:
      raise errors.UserError(f'DeepMind Lab cannot make the level {level.path}: {error}') from error

  def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
    """Begins an episode; `options` is not used. Raises EnvironmentCrashed with the level's own message."""
    super().reset(seed=seed)
    self.begin(int(self.np_random.integers(self._level.episode_seeds or 2**31)))
    return self._observe(), {}

  def begin(self, seed: int) -> None:
    """Begins the episode of a seed from 0 to 2**31 - 1; its map comes from the cache, or is compiled and goes there."""
    self._call(self._lab.reset, seed=seed)

  def step(self, action: int):
    # A row of ACTIONS is contiguous, as the engine needs it: it would read others as if they were.
    reward = self._call(self._lab.step, ACTIONS[action], num_steps=ACTION_REPEAT)
    terminated = not self._lab.is_running()
    # There is no observation after the last step: the one before it stands in.
    return self._last if terminated else self._observe(), reward, terminated, False, {}

  def close(self):
    self._lab.close()

  def _observe(self) -> dict[str, np.ndarray]:
    seen = self._lab.observations()
    self._last = {
      'instruction': suite.hash_words(seen['INSTR']),
      'observation': seen['RGB_INTERLEAVED'],
    }
    return self._last

  def _call(self, function, *arguments, **named):
    try:
      return function(*arguments, **named)
    except RuntimeError as error:
      raise suite.EnvironmentCrashed(str(error)) from error


def load(name: str, tasks: Sequence[str], options: option_sets.Options) -> suite.Suite:
  """The suite of some levels.

  Args:
    name: as on the command line.
    tasks: names of levels, see `levels`.
    options: what is asked of the engine, the data set and the cache.

  Raises:
    UserError: if the module is missing, or a level needs a data set that is not there.
  """
  if importlib.util.find_spec('deepmind_lab') is None:
    raise errors.UserError(MISSING.format(name=name))
  options = dataclasses.replace(options, dmlab_dataset_path=_absolute(options.dmlab_dataset_path))
  tasks, note = _with_their_data(name, tasks, options.dmlab_dataset_path)
  engine_settings(options.dmlab_engine)  # Refuses what cannot be read now, not when actors start.

  def make(names: Sequence[str], training: bool) -> gymnasium.vector.VectorEnv:
    made = [level(task, training, options) for task in names]
    return parallel.ParallelVectorEnv(
      [functools.partial(DmLabEnv, one) for one in made],
      names,
      DmLabEnv.observation_space,
      DmLabEnv.action_space,
    )

  return suite.Suite(
    name,
    tuple(tasks),
    DmLabEnv.observation_space,
    DmLabEnv.action_space,
    ACTION_REPEAT,
    make,
    references='dmlab30' if set(tasks) <= set(levels.DMLAB_30) else '',
    note=note,
    bytes_per_environment=BYTES_PER_ENVIRONMENT,
  )


def level(task: str, training: bool, options: option_sets.Options) -> Level:
  """What the environment of a task is made of."""
  config = {'width': str(WIDTH), 'height': str(HEIGHT)}
  if (
    task in levels.DMLAB_30
  ):  # Other levels do not know all of these settings, and refuse what they do not know.
    config |= {'logLevel': 'WARN'}
    if options.dmlab_dataset_path:
      config['datasetPath'] = options.dmlab_dataset_path
    if not training:
      config |= {'allowHoldOutLevels': 'true', 'mixerSeed': str(_TEST_MIXER_SEED)}
  return Level(
    path=levels.path(task if training else levels.test_variant(task)),
    config={**config, **engine_settings(options.dmlab_engine)},
    renderer=options.dmlab_renderer,
    cache=os.path.expanduser(options.dmlab_level_cache),
    cache_bytes=options.dmlab_level_cache_gb * 1e9,
    episode_seeds=options.dmlab_episode_seeds if training else 0,
  )


def _absolute(dataset: str) -> str:
  """The path as the level's process needs it, which may stand elsewhere."""
  return (
    dataset and dataset != levels.DUMMY and os.path.abspath(os.path.expanduser(dataset)) or dataset
  )


def _with_their_data(name: str, tasks: Sequence[str], dataset: str) -> tuple[list[str], str]:
  """The tasks that can run, and what is to be said of every score of them."""
  affected = [task for task in tasks if task in levels.NEED_DATASET]
  if dataset == levels.DUMMY:
    return list(
      tasks
    ), f'{", ".join(affected)}: with dummy images in place of the data set.' if affected else ''
  if dataset and not pathlib.Path(dataset).is_dir():
    raise errors.UserError(
      f'dmlab_dataset_path is {dataset!r}, expected the folder of the images 0001.png, 0002.png '
      f"and so on, or {levels.DUMMY!r} for the levels' own dummy images"
    )
  if dataset or not affected:
    return list(tasks), ''
  rest = [task for task in tasks if task not in affected]
  how = (
    f"--config.dmlab_dataset_path=DIR gives the images of Brady et al. (2008), which DeepMind Lab's "
    f'data/brady_konkle_oliva2008/README.md tells how to get; {levels.DUMMY!r} in place of DIR takes dummy images'
  )
  if not rest:
    raise errors.UserError(f'{name} needs a data set. {how}.')
  logging.warning('%s LEFT OUT: they need a data set. %s.', ' and '.join(affected), how)
  return rest, f'Without {" and ".join(affected)}, whose data set is not there.'


def engine_settings(text: str) -> dict[str, str]:
  """From `KEY=VALUE,KEY=VALUE`. Raises UserError."""
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
