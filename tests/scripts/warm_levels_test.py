"""Maps that are compiled in advance: training compiles none afterwards, and a dying engine costs one map alone."""

import os
import pathlib
import subprocess
import sys

import pytest

from common import environments, errors
from scripts import processes

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAND_INS = str(ROOT / 'tests' / 'stand_ins')
MAZE, OTHER_MAZE, NO_MAZE = (
  'explore_goal_locations_small',
  'skymaze_irreversible_path_hard',
  'rooms_watermaze',
)
MARK = '.level_cache'  # Of a folder that is a cache.
SEEDS = 3


def warm(cache, *flags, **variables):
  return subprocess.run(
    [
      sys.executable,
      'scripts/warm_levels.py',
      '--env=dmlab30',
      f'--seeds={SEEDS}',
      '--processes=2',
      f'--dmlab_level_cache={cache}',
      *flags,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120,
    env={**os.environ, 'PYTHONPATH': f'{STAND_INS}', **variables},
  )


def maps(cache):
  return {path.name for path in cache.iterdir() if path.name != MARK}


def train(cache, task, resets, seeds):
  """Begins so many episodes in each of two environments of training."""
  suite = environments.load(
    f'dmlab:{task}', environments.Options(dmlab_level_cache=str(cache), dmlab_episode_seeds=seeds)
  )
  environment = suite.make([task, task], True)
  try:
    shown = set()
    for seed in range(resets):
      observations, _ = environment.reset(seed=2 * seed)
      shown.update(frame.tobytes() for frame in observations['observation'])
    return shown
  finally:
    environment.close()


@pytest.fixture(autouse=True)
def module(monkeypatch):
  monkeypatch.syspath_prepend(STAND_INS)
  before = processes.descendants()
  yield
  assert processes.becomes_true(
    lambda: not any(map(processes.is_alive, processes.descendants() - before))
  )


@pytest.fixture(scope='module')
def warmed(tmp_path_factory):
  """The cache after two levels with mazes, and one without, and what was told."""
  cache = tmp_path_factory.mktemp('cache')
  done = warm(cache, f'--tasks={MAZE},{OTHER_MAZE},{NO_MAZE}')
  assert done.returncode == 0, done.stderr
  return cache, done.stdout


def test_every_seed_of_every_maze_is_in_the_cache(warmed):
  cache, _ = warmed
  assert len(maps(cache)) == 2 * SEEDS


def test_progress_and_how_to_train_are_told(warmed):
  _, told = warmed
  for task in (MAZE, OTHER_MAZE, NO_MAZE):
    assert told.count(f'{task}: {SEEDS} episodes') == 1
  assert '1 of 3 levels' in told and '3 of 3 levels' in told and told.count('levels') == 3
  assert f'--config.dmlab_episode_seeds={SEEDS}' in told


def test_training_with_these_seeds_compiles_nothing_more(warmed):
  cache, _ = warmed
  before = {name: (cache / name).stat().st_ino for name in maps(cache)}
  shown = train(cache, MAZE, resets=12, seeds=SEEDS)
  assert {name: (cache / name).stat().st_ino for name in maps(cache)} == before
  assert len(shown) == SEEDS  # All of them, of which there are no others.


def test_training_with_more_seeds_compiles_more(warmed, tmp_path):
  """Else the test before would say nothing."""
  cache, _ = warmed
  for name in maps(cache) | {MARK}:
    (tmp_path / name).write_bytes((cache / name).read_bytes())
  before = maps(tmp_path)
  train(tmp_path, MAZE, resets=4, seeds=0)
  assert before < maps(tmp_path)


def test_warming_again_compiles_only_what_is_missing(warmed, tmp_path):
  cache, _ = warmed
  gone = min(name for name in maps(cache))
  for name in maps(cache) - {gone} | {MARK}:
    (tmp_path / name).write_bytes((cache / name).read_bytes())
  before = {name: (tmp_path / name).stat().st_ino for name in maps(tmp_path)}
  assert warm(tmp_path, f'--tasks={MAZE},{OTHER_MAZE}').returncode == 0
  assert maps(tmp_path) == maps(cache)
  assert {name: (tmp_path / name).stat().st_ino for name in before} == before


@pytest.mark.parametrize('once', [True, False])
def test_an_engine_that_dies_is_told_and_the_rest_is_warmed(tmp_path, once):
  cache = tmp_path / 'cache'
  variables = {
    'STAND_IN_DIE_AT': f'{MAZE}:0',
    **({'STAND_IN_DIE_ONCE_FLAG': str(tmp_path / 'flag')} if once else {}),
  }
  done = warm(cache, f'--tasks={MAZE},{OTHER_MAZE}', **variables)
  assert done.returncode == 0, done.stderr
  told = done.stdout + done.stderr
  assert 'Traceback' not in told
  assert told.count(f'{MAZE}, seed 0: ') == 1 and 'out of memory' in told
  for seed in range(1, SEEDS):
    assert told.count(f'{MAZE}, seed {seed}: ') == (not once)
  # What the engine has compiled before it dies is kept, too.
  assert {
    name for name in maps(cache) if name.startswith('explore') or name.startswith('skymaze')
  } == maps(cache)
  assert len([name for name in maps(cache) if name.startswith('skymaze')]) == SEEDS
  if once:
    assert len(maps(cache)) >= 2 * SEEDS - 1


def test_a_level_that_there_is_not_is_refused(tmp_path):
  done = warm(tmp_path, '--tasks=explore_goal_location_small')
  assert (
    done.returncode == 2
    and f'Did you mean {MAZE}' in done.stderr
    and 'Traceback' not in done.stderr
  )


@pytest.mark.parametrize(
  'flags',
  [['--env=doom'], ['--env=atari57'], ['--env=dmlab30', 'more'], ['--env=dmlab30', '--seeds=0']],
)
def test_what_cannot_be_warmed_is_refused(flags):
  from scripts import warm_levels

  with pytest.raises(errors.UserError):
    warm_levels.main(['warm_levels.py', *flags])
