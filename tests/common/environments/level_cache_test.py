"""The cache of maps: maps are whole in spite of other writers, deaths and evictions.

A failure is a miss, which costs only time.
"""

import functools
import hashlib
import logging
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

from common import errors
from common.environments import dmlab, level_cache
from common.machine import workers
from scripts import processes

ROOT = pathlib.Path(__file__).parents[3]
KEY = 'explore_maze_noaas_807bdf61459942cd2f7b4f92f2d18b62'
OTHER = 'lasertag_maze_aas_0f7bdf61459942cd2f7b4f92f2d18b62'
MANY = 10**12
MAZE = 'contributed/dmlab30/explore_goal_locations_small'

# The beginning of the programs of other processes.
HEAD = """
import os, pathlib, sys, time
from common.environments import level_cache
folder, limit, *arguments = sys.argv[1:]
cache = level_cache.LevelCache(pathlib.Path(folder), float(limit))
"""


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
  """The cache's, which does not exist yet."""
  return tmp_path / 'some' / 'maps'


@pytest.fixture
def engine(tmp_path) -> pathlib.Path:
  """The folder of an engine, for maps that it has compiled or wants."""
  path = tmp_path / 'engine'
  path.mkdir()
  return path


def contents(key: str, size: int = 60_000) -> bytes:
  return (hashlib.sha256(key.encode()).digest() * (size // 32 + 1))[:size]


def write(cache, engine, key, size=60_000) -> None:
  path = engine / 'compiled.pk3'
  path.write_bytes(contents(key, size))
  cache.write(key, str(path))
  path.unlink()


def fetch(cache, engine, key, size=60_000) -> bool:
  """Whether the map was found. If so, asserts that it is whole, else that nothing is there."""
  path = engine / 'fetched.pk3'
  found = cache.fetch(key, str(path))
  assert os.listdir(engine) == (['fetched.pk3'] if found else [])
  assert not found or path.read_bytes() == contents(key, size)
  path.unlink(missing_ok=True)
  return bool(found)


def maps(folder) -> list[pathlib.Path]:
  """The files of maps in a cache: not its lock, nor files being written."""
  kinds = ('explore', 'lasertag', 'map')
  return sorted(path for path in folder.iterdir() if path.name.split('_')[0] in kinds)


def others(folder) -> set[str]:
  """The names of the other files in a cache."""
  return {path.name for path in folder.iterdir()} - {path.name for path in maps(folder)}


def start(program: str, *arguments) -> subprocess.Popen:
  """Runs a program in another process.

  It has the variables `cache` and `arguments`, texts; the first two arguments here, the cache's
  folder and limit, are not among the latter.
  """
  return subprocess.Popen(
    [sys.executable, '-c', HEAD + program, *map(str, arguments)],
    cwd=ROOT,
    text=True,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
  )


def finish(process: subprocess.Popen) -> tuple[str, str]:
  """Waits for a program; returns its stdout and stderr."""
  output, said = process.communicate(timeout=60)
  assert process.returncode == 0, said
  return output, said


# Hits and misses.


def test_a_written_map_is_fetched(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  write(cache, engine, KEY)
  assert fetch(cache, engine, KEY)
  of_another_process = level_cache.LevelCache(folder, MANY)
  assert fetch(of_another_process, engine, KEY)
  assert not fetch(cache, engine, OTHER)


def test_keys_tell_maps_apart(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  for key in (KEY, OTHER):
    write(cache, engine, key)
  assert fetch(cache, engine, KEY) and fetch(cache, engine, OTHER)
  assert len(maps(folder)) == 2


def test_a_map_may_be_written_again(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  write(cache, engine, KEY)
  write(cache, engine, KEY, 50_000)
  assert fetch(cache, engine, KEY, 50_000) and len(maps(folder)) == 1


def test_the_map_before_is_not_mistaken_for_a_missing_one(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  # All mazes of a level have one path in the engine's folder.
  path = engine / 'explore_maze.pk3'
  path.write_bytes(contents(OTHER))
  assert not cache.fetch(KEY, str(path))
  write(cache, engine, KEY)
  assert cache.fetch(KEY, str(path)) and path.read_bytes() == contents(KEY)


def test_the_copies_are_independent(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  path = engine / 'explore_maze.pk3'
  path.write_bytes(contents(KEY))
  cache.write(KEY, str(path))
  path.write_bytes(b'another map')  # The engine compiles the next one to the same path.
  assert cache.fetch(KEY, str(path)) and path.read_bytes() == contents(KEY)
  with path.open('r+b') as file:
    file.write(b'changed by the engine')
  assert cache.fetch(KEY, str(path)) and path.read_bytes() == contents(KEY)


def test_a_reader_has_a_whole_map_even_if_it_is_rewritten_or_evicted(folder, engine):
  cache = level_cache.LevelCache(folder, 100_000)
  write(cache, engine, KEY)
  with maps(folder)[0].open('rb') as first:
    write(cache, engine, KEY, 50_000)
    assert first.read() == contents(KEY)
  with maps(folder)[0].open('rb') as second:
    age(folder, **{KEY: 100})
    write(cache, engine, OTHER)
    assert [path.name for path in maps(folder)] == [OTHER]
    assert second.read() == contents(KEY, 50_000)


def test_an_empty_cache_is_only_a_folder(folder):
  level_cache.LevelCache(folder, MANY)
  assert folder.is_dir() and not maps(folder)


# The limit.


def age(folder, **seconds) -> None:
  """Backdates the last use of maps: the clock of files is too coarse to tell two writes apart."""
  for key, ago in seconds.items():
    os.utime(folder / key, (time.time() - ago,) * 2)


def test_maps_that_were_unused_for_longest_are_evicted(folder, engine):
  cache = level_cache.LevelCache(folder, 2500)
  for key in ('map_a', 'map_b'):
    write(cache, engine, key, 1000)
  assert [path.name for path in maps(folder)] == ['map_a', 'map_b']
  age(folder, map_a=200, map_b=100)
  assert fetch(cache, engine, 'map_a', 1000)  # Now it is the one that was used last.
  write(cache, engine, 'map_c', 1000)
  assert [path.name for path in maps(folder)] == ['map_a', 'map_c']
  assert not fetch(cache, engine, 'map_b', 1000)
  age(folder, map_a=200, map_c=100)
  write(cache, engine, 'map_d', 2400)  # Evicts both.
  assert [path.name for path in maps(folder)] == ['map_d']


def test_maps_may_fill_the_limit_exactly(folder, engine):
  cache = level_cache.LevelCache(folder, 3000)
  for key in ('map_a', 'map_b', 'map_c'):
    write(cache, engine, key, 1000)
  assert len(maps(folder)) == 3


def test_a_smaller_limit_holds_from_the_next_write(folder, engine):
  for key in ('map_a', 'map_b', 'map_c'):
    write(level_cache.LevelCache(folder, MANY), engine, key, 1000)
  age(folder, map_a=300, map_b=200, map_c=100)
  write(level_cache.LevelCache(folder, 1000), engine, 'map_d', 1000)
  assert [path.name for path in maps(folder)] == ['map_d']


def test_the_limit_holds_when_several_write(folder, tmp_path):
  program = """
name, size = arguments[0], 100_000
source = pathlib.Path(arguments[1], name)
for i in range(12):
  source.write_bytes(b'x' * size)
  cache.write(f'map_{name}_{i}', str(source))
"""
  started = [start(program, folder, 250_000, name, tmp_path) for name in 'abc']
  for process in started:
    _, said = finish(process)
    assert not said  # No complaint that another process had removed a map.
  sizes = [path.stat().st_size for path in maps(folder)]
  assert sizes == [100_000] * 2
  assert others(folder) <= {'.level_cache'}


# Several processes at once.


def test_no_process_sees_a_part_of_a_map(folder, tmp_path):
  # 300 KB are copied in several pieces, and there is room for three of the five maps.
  program = """
import hashlib, random
name, what, base = arguments
engine, stop = pathlib.Path(base, name), pathlib.Path(base, 'stop')
engine.mkdir()
path = engine / 'maze.pk3'
def contents(key):
  return hashlib.sha256(key.encode()).digest() * 10_000
hits = misses = 0
chance = random.Random(name)
while not stop.exists() if what == 'read' else hits + misses < 300:
  key = chance.choice(['map_a', 'map_b', 'map_c', 'map_d', 'map_e'])
  if cache.fetch(key, str(path)):
    assert path.read_bytes() == contents(key), key
    assert os.listdir(engine) == ['maze.pk3']
    hits += 1
  else:
    assert not path.exists()
    misses += 1
    if what == 'write':
      path.write_bytes(contents(key))
      cache.write(key, str(path))
  path.unlink(missing_ok=True)
print(hits, misses)
"""
  roles = ['write', 'write', 'read']
  started = [start(program, folder, 1_000_000, i, role, tmp_path) for i, role in enumerate(roles)]
  counts = []
  for process in started:
    output, said = finish(process)
    assert not said
    counts.append([int(word) for word in output.split()])
    if len(counts) == 2:
      (tmp_path / 'stop').touch()  # The reader reads for as long as the others write.
  # Each has seen hits and misses: otherwise the test would say little.
  assert all(min(hits_and_misses) > 0 for hits_and_misses in counts)
  assert sum(path.stat().st_size for path in maps(folder)) <= 1_000_000


def feed(path: pathlib.Path, size: int) -> int:
  """Opens a pipe in place of a file, whose reader gets `size` bytes and has to wait for more."""
  pipe = os.open(path, os.O_RDWR)  # Does not wait for the reader.
  sent = 0
  os.set_blocking(pipe, False)

  def send() -> bool:
    nonlocal sent
    try:
      sent += os.write(pipe, bytes(min(size - sent, 65536)))
    except BlockingIOError:
      pass
    return sent == size

  assert processes.becomes_true(send)
  return pipe


def killed_writer(folder, tmp_path, key) -> None:
  """Kills a process while it copies a map to the cache."""
  source = tmp_path / f'{key}.pipe'
  os.mkfifo(source)
  before = set(folder.iterdir()) if folder.exists() else set()
  process = start('print(flush=True)\ncache.write(*arguments)', folder, MANY, key, source)
  process.stdout.readline()
  pipe = feed(source, 300_000)

  def is_copying() -> bool:
    return any(path.stat().st_size for path in set(folder.iterdir()) - before)

  assert processes.becomes_true(is_copying)
  process.kill()
  process.communicate()
  os.close(pipe)


def test_a_killed_writer_leaves_no_broken_map(folder, engine, tmp_path):
  killed_writer(folder, tmp_path, KEY)
  cache = level_cache.LevelCache(folder, MANY)
  assert not fetch(cache, engine, KEY) and not maps(folder)
  # A part of the map is left until the next write, which need not wait for the dead process.
  assert len(list(folder.iterdir())) > 1
  write(cache, engine, OTHER)
  assert {path.name for path in folder.iterdir()} - {OTHER} <= {'.level_cache'}
  write(cache, engine, KEY)
  assert fetch(cache, engine, KEY) and fetch(cache, engine, OTHER)


def test_a_killed_writer_does_not_break_the_map_that_was_there(folder, engine, tmp_path):
  cache = level_cache.LevelCache(folder, MANY)
  write(cache, engine, KEY)
  killed_writer(folder, tmp_path, KEY)
  assert fetch(cache, engine, KEY)


def test_leftovers_of_killed_writers_evict_no_maps(folder, engine, tmp_path):
  killed_writer(folder, tmp_path, 'map_a')
  cache = level_cache.LevelCache(folder, 2500)
  for key in ('map_b', 'map_c'):
    write(cache, engine, key, 1000)
  assert [path.name for path in maps(folder)] == ['map_b', 'map_c']


def test_a_map_is_at_its_path_only_when_it_is_whole(folder, engine):
  # The path may hold the map before, so a part of the new one must never be there.
  cache = level_cache.LevelCache(folder, MANY)
  write(cache, engine, KEY)
  (kept,) = maps(folder)
  kept.unlink()
  os.mkfifo(kept)
  path = engine / 'explore_maze.pk3'
  process = start('print(cache.fetch(*arguments))', folder, MANY, KEY, path)
  pipe = feed(kept, 300_000)
  assert processes.becomes_true(lambda: any(file.stat().st_size for file in engine.iterdir()))
  assert not path.exists()
  os.close(pipe)
  assert finish(process)[0].strip() == 'True'
  assert path.stat().st_size == 300_000


# Failures.


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
  (tmp_path / 'file').touch()
  for path in (tmp_path / 'file', tmp_path / 'file' / 'maps'):
    with pytest.raises(errors.UserError, match='dmlab_level_cache') as refused:
      level_cache.LevelCache(path, MANY)
    assert str(path) in str(refused.value)


# A write of more than 100,000 bytes fails halfway, as on a full disk.
FULL = 'import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n'


def test_a_folder_with_other_files_is_refused_as_they_would_be_removed(tmp_path):
  thesis = tmp_path / 'thesis.tex'
  thesis.touch()
  with pytest.raises(errors.UserError, match='holds other files.*--config.dmlab_level_cache=DIR'):
    level_cache.LevelCache(tmp_path, 1000)
  assert list(tmp_path.iterdir()) == [thesis]


def test_a_map_beyond_the_limit_is_not_kept_and_evicts_none(folder, engine):
  cache = level_cache.LevelCache(folder, 2500)
  write(cache, engine, 'map_a', 1000)
  write(cache, engine, 'map_b', 2600)
  assert [path.name for path in maps(folder)] == ['map_a']


def test_a_full_disk_is_a_warning_when_a_map_is_written(folder, engine):
  source = engine / 'compiled.pk3'
  source.write_bytes(contents(KEY, 150_000))
  program = f'{FULL}cache.write(*arguments)\nprint("goes on")'
  output, said = finish(start(program, folder, MANY, KEY, source))
  assert output.strip() == 'goes on'
  assert str(folder) in said and 'Traceback' not in said
  assert {path.name for path in folder.iterdir()} <= {'.level_cache'}  # No part of it is left.


def test_a_full_disk_is_a_miss_when_a_map_is_fetched(folder, engine):
  cache = level_cache.LevelCache(folder, MANY)
  write(cache, engine, KEY, 150_000)
  path = engine / 'explore_maze.pk3'
  program = f'{FULL}print(bool(cache.fetch(*arguments)))'
  output, said = finish(start(program, folder, MANY, KEY, path))
  assert output.strip() == 'False'
  assert str(folder) in said and 'Traceback' not in said
  assert not list(engine.iterdir())
  assert fetch(cache, engine, KEY, 150_000)  # With room again.


def test_a_folder_that_becomes_unusable_is_a_warning_and_a_miss(folder, engine, caplog):
  cache = level_cache.LevelCache(folder, MANY)
  for path in folder.iterdir():
    path.unlink()
  folder.rmdir()
  with caplog.at_level(logging.WARNING):
    assert not fetch(cache, engine, KEY)
    write(cache, engine, KEY)
    assert str(folder) in caplog.text
    folder.touch()  # Now it is a file.
    assert not fetch(cache, engine, KEY)
    write(cache, engine, KEY)
  # Once only: every reset to come would say the same.
  assert [record.levelname for record in caplog.records] == ['WARNING']


def test_a_map_that_cannot_be_read_is_a_warning_and_a_miss(folder, engine, caplog):
  cache = level_cache.LevelCache(folder, MANY)
  (folder / KEY).mkdir()  # Not even root can read that as a file.
  with caplog.at_level(logging.WARNING):
    assert not fetch(cache, engine, KEY)
  assert str(folder) in caplog.text


def test_writing_a_missing_map_is_a_warning(folder, engine, caplog):
  cache = level_cache.LevelCache(folder, MANY)
  with caplog.at_level(logging.WARNING):
    cache.write(KEY, str(engine / 'nothing.pk3'))
  assert caplog.records and not maps(folder)


# With the engine.


class Timed:
  """An environment that measures its first reset."""

  def __init__(self, cache: str):
    level = dmlab.Level(
      path=MAZE,
      config={'width': '96', 'height': '72'},
      renderer='software',
      cache=cache,
      cache_bytes=1e9,
      episode_seeds=0,
    )
    self._environment = dmlab.DmLabEnv(level)
    self.close = self._environment.close

  def reset(self, seed: int) -> tuple[float, np.ndarray]:
    """Seconds that the reset took, and the first frame."""
    begin = time.monotonic()
    observation, _ = self._environment.reset(seed=seed)
    return time.monotonic() - begin, observation['observation']


def first_reset(cache: str, seed: int) -> tuple[float, np.ndarray]:
  """Seconds of the first reset in another process, and the frame it shows."""
  worker = workers.Worker(functools.partial(Timed, cache))
  worker.receive()
  try:
    return worker.call('reset', seed=seed)
  finally:
    worker.close()


def test_a_maze_is_compiled_once_for_all_processes(folder, tmp_path, monkeypatch):
  monkeypatch.syspath_prepend(str(ROOT / 'tests' / 'stand_ins'))
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  for name in ('STAND_IN_DIE_AT', 'STAND_IN_DIE_ONCE_FLAG'):
    monkeypatch.delenv(name, raising=False)
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '0.5')
  cold, frames = first_reset(str(folder), 1)
  assert cold >= 0.5 and len(maps(folder)) == 1
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '8')
  warm, again = first_reset(str(folder), 1)
  assert warm < 6.0 and len(maps(folder)) == 1
  np.testing.assert_array_equal(again, frames)
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '0.5')
  other, _ = first_reset(str(folder), 2)
  without, frames_without = first_reset('', 1)
  assert other >= 0.5 and without >= 0.5 and len(maps(folder)) == 2
  np.testing.assert_array_equal(frames_without, frames)
