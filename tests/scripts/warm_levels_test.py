"""Maps are compiled in advance: training compiles none afterwards; a dying engine costs one map."""

import os
import pathlib
import subprocess
import sys

import pytest

from common import environments, errors
from scripts import processes, warm_levels

ROOT = pathlib.Path(__file__).resolve().parents[2]
STAND_INS = str(ROOT / 'tests' / 'stand_ins')
MAZE = 'explore_goal_locations_small'
OTHER_MAZE = 'skymaze_irreversible_path_hard'
NO_MAZE = 'rooms_watermaze'
MARK = '.level_cache'  # The file that marks a folder as a cache.
SEEDS = 3


def warm(cache, *flags, **variables):
  """Runs the script on two processes; `variables` are of its process environment."""
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
    env={**os.environ, 'PYTHONPATH': STAND_INS, **variables},
  )


def maps(cache):
  return {path.name for path in cache.iterdir() if path.name != MARK}


def train(cache, task, resets, seeds):
  """Begins `resets` episodes in each of two training environments; returns the distinct frames."""
  options = environments.Options(dmlab_level_cache=str(cache), dmlab_episode_seeds=seeds)
  suite = environments.load(f'dmlab:{task}', options)
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
def stand_in(monkeypatch):
  """Puts the stand-in for `deepmind_lab` on the path; no engine may outlive a test."""
  monkeypatch.syspath_prepend(STAND_INS)
  before = processes.descendants()
  yield
  assert processes.becomes_true(
    lambda: not any(map(processes.is_alive, processes.descendants() - before))
  )


@pytest.fixture(scope='module')
def warmed(tmp_path_factory):
  """A cache warmed for two levels with mazes and one without, and the script's output."""
  cache = tmp_path_factory.mktemp('cache')
  done = warm(cache, f'--tasks={MAZE},{OTHER_MAZE},{NO_MAZE}')
  assert done.returncode == 0, done.stderr
  return cache, done.stdout


def test_every_seed_of_every_maze_is_in_the_cache(warmed):
  cache, _ = warmed
  assert len(maps(cache)) == 2 * SEEDS  # A level without a maze has no map.


def test_it_reports_progress_and_how_to_train(warmed):
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
  assert len(shown) == SEEDS  # Every seed occurs, and no other.


def test_training_with_more_seeds_compiles_more(warmed, tmp_path):
  """Otherwise the test above would pass without a cache hit."""
  cache, _ = warmed
  for name in maps(cache) | {MARK}:
    (tmp_path / name).write_bytes((cache / name).read_bytes())
  before = maps(tmp_path)
  train(tmp_path, MAZE, resets=4, seeds=0)
  assert before < maps(tmp_path)


def test_warming_again_compiles_only_what_is_missing(warmed, tmp_path):
  cache, _ = warmed
  gone = min(maps(cache))
  for name in maps(cache) - {gone} | {MARK}:
    (tmp_path / name).write_bytes((cache / name).read_bytes())
  before = {name: (tmp_path / name).stat().st_ino for name in maps(tmp_path)}
  assert warm(tmp_path, f'--tasks={MAZE},{OTHER_MAZE}').returncode == 0
  assert maps(tmp_path) == maps(cache)
  assert {name: (tmp_path / name).stat().st_ino for name in before} == before


@pytest.mark.parametrize('once', [True, False])
def test_an_engine_that_dies_is_reported_and_the_rest_is_warmed(tmp_path, once):
  cache = tmp_path / 'cache'
  variables = {'STAND_IN_DIE_AT': f'{MAZE}:0'}
  if once:
    variables['STAND_IN_DIE_ONCE_FLAG'] = str(tmp_path / 'flag')
  done = warm(cache, f'--tasks={MAZE},{OTHER_MAZE}', **variables)
  assert done.returncode == 0, done.stderr
  told = done.stdout + done.stderr
  assert 'Traceback' not in told
  assert told.count(f'{MAZE}, seed 0: ') == 1 and 'out of memory' in told
  for seed in range(1, SEEDS):
    assert told.count(f'{MAZE}, seed {seed}: ') == (not once)
  # A map that the engine compiled before it died may be there too.
  assert all(name.startswith(('explore', 'skymaze')) for name in maps(cache))
  assert len([name for name in maps(cache) if name.startswith('skymaze')]) == SEEDS
  if once:
    assert len(maps(cache)) >= 2 * SEEDS - 1


def test_an_unknown_level_is_refused_with_the_nearest(tmp_path):
  done = warm(tmp_path, '--tasks=explore_goal_location_small')
  assert done.returncode == 2
  assert f'Did you mean {MAZE}' in done.stderr
  assert 'Traceback' not in done.stderr


@pytest.mark.parametrize(
  'flags',
  [['--env=doom'], ['--env=atari57'], ['--env=dmlab30', 'more'], ['--env=dmlab30', '--seeds=0']],
)
def test_other_environments_and_arguments_are_refused(flags):
  with pytest.raises(errors.UserError):
    warm_levels.main(['warm_levels.py', *flags])
