"""Environments with a process each: the same as one by one, and one that dies restarts alone."""

import contextlib
import functools
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest

from common import environments, errors
from common.environments import dmlab, parallel, suite
from common.environments import options as option_sets
from common.machine import workers
from scripts import processes

ROOT = pathlib.Path(__file__).parents[3]
WATERMAZE = 'rooms_watermaze'
LANGUAGE = 'language_execute_random_task'
MAZE = 'explore_goal_locations_small'
LEVELS = (WATERMAZE, MAZE, LANGUAGE)
SECONDS = 'episodeLengthSeconds=2'
STEPS = 30  # Agent steps of such an episode.
# Actions of `Moody`.
GO_ON, END, TRUNCATE, CRASH, DIE, MISTAKE, TIRED, HANG, SLEEPY = range(9)


class Moody(gymnasium.Env):
  """Does what its action says.

  Observes its seed and its steps. Writes a dot to a file at each start, and to another at each end.
  """

  observation_space = gymnasium.spaces.Dict(
    {'observation': gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)}
  )
  action_space = gymnasium.spaces.Discrete(9)

  def __init__(self, name: str, folder: pathlib.Path):
    self._note(folder / f'{name}.born')
    self._closed = folder / f'{name}.closed'
    self._tired = False
    self._sleepy = False
    self._observation = np.zeros(2)

  def reset(self, *, seed=None, options=None):
    if self._tired:
      os._exit(9)
    time.sleep(self._sleepy * 1.5)
    self._observation = np.array([-1.0 if seed is None else seed, 0.0])
    return {'observation': self._observation}, {}

  def step(self, action):
    if action == CRASH:
      raise suite.EnvironmentCrashed('the engine refuses')
    if action == DIE:
      os.write(2, b'Sys_Error: out of memory')
      os._exit(7)
    if action == HANG:
      time.sleep(100.0)
    self._tired = action == TIRED  # It dies in the reset that follows.
    self._sleepy = action == SLEEPY  # And takes long in this one.
    self._observation = self._observation + [0.0, 1 // int(action != MISTAKE)]
    return (
      {'observation': self._observation},
      1.0,
      action in (END, TIRED, SLEEPY),
      action == TRUNCATE,
      {},
    )

  def close(self):
    self._note(self._closed)

  def _note(self, path):
    with open(path, 'a') as file:
      file.write('.')


class Slow(Moody):
  """Takes its time to close."""

  def close(self):
    time.sleep(1.0)
    super().close()


class Stuck(Moody):
  """Does not close."""

  def close(self):
    time.sleep(60.0)


@pytest.fixture(autouse=True)
def settings(monkeypatch, tmp_path):
  """Puts the stand-in for `deepmind_lab` on the path; each test has its own settings."""
  monkeypatch.syspath_prepend(str(ROOT / 'tests' / 'stand_ins'))
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  for name in (
    'STAND_IN_COMPILE_SECONDS',
    'STAND_IN_DIE_AT',
    'STAND_IN_DIE_ONCE_FLAG',
    'LP_NUM_THREADS',
  ):
    # First set, so that monkeypatch restores it even if the environment adapter sets it.
    monkeypatch.setenv(name, '')
    monkeypatch.delenv(name)


@pytest.fixture
def opened():
  """A list of environments to close, even if the test fails."""
  made = []
  yield made
  for environment in made:
    environment.close()


@pytest.fixture
def moody(opened, tmp_path):
  """A function that makes a vector environment of N `Moody`, named a, b, c."""

  def make(number):
    opened.append(moody_ones(Moody, tmp_path, 'abc'[:number]))
    return opened[-1]

  return make


def moody_ones(kind, folder, names='abc'):
  return parallel.ParallelVectorEnv(
    [functools.partial(kind, name, folder) for name in names],
    names,
    Moody.observation_space,
    Moody.action_space,
    timeout_seconds=600.0,
  )


@pytest.fixture
def patient(monkeypatch):
  """Steps may have short limits, without limits of a slow machine's starts."""
  monkeypatch.setattr(option_sets, 'RESET_FACTOR', 1000)


def load(names, engine=SECONDS):
  options = environments.Options(dmlab_engine=engine, dmlab_dataset_path='dummy')
  return environments.load('dmlab30', options).make(names, True)


def lives(folder, name='a') -> int:
  """How many times a `Moody` was started."""
  return len((folder / f'{name}.born').read_text())


def left(folder) -> list[pathlib.Path]:
  """Temporary folders of engines that did not clear up, or live."""
  return list(folder.glob('dmlab_temp_folder_*'))


def actions(steps=STEPS * 2 + 5, number=3) -> np.ndarray:
  # Without action 8, which fires: after a shot, engines with one seed differ. Action 1 moves back,
  # which is rewarded: it is drawn more often.
  return np.random.default_rng(0).choice([*range(8), 1, 1, 1], (steps, number))


class Seen(NamedTuple):
  """One environment's answer to one step."""

  observation: dict[str, np.ndarray]
  reward: float = 0.0
  terminated: bool = False
  truncated: bool = False
  final: dict[str, np.ndarray] | None = None  # The last observation of an episode that ended.


def alone(names, seed, played) -> list[list[Seen]]:
  """Plays levels without a vector environment; returns the answers of each, after the reset's."""
  return [play_alone(name, seed + i, played[:, i]) for i, name in enumerate(names)]


def play_alone(name, seed, actions) -> list[Seen]:
  level = dmlab.Level(
    path=f'contributed/dmlab30/{name}',
    config={'width': '96', 'height': '72', 'logLevel': 'WARN', 'episodeLengthSeconds': '2'},
    renderer='software',
    cache='',
    cache_bytes=1e9,
    episode_seeds=0,
  )
  with contextlib.closing(dmlab.DmLabEnv(level)) as environment:
    stream = [Seen(environment.reset(seed=seed)[0])]
    for action in actions:
      observation, reward, terminated, truncated, _ = environment.step(action)
      final = None
      if terminated or truncated:
        final = observation
        observation, _ = environment.reset()
      stream.append(Seen(observation, reward, terminated, truncated, final))
  return stream


def together(environment, seed, played) -> tuple[list[list[Seen]], list[dict]]:
  """Plays a vector environment; returns each environment's answers, and the crashes by step."""
  observation, info = environment.reset(seed=seed)
  assert info['crashes'] == {}
  streams = [[Seen(of(observation, i))] for i in range(environment.num_envs)]
  crashes = []
  for chosen in played:
    observation, reward, terminated, truncated, info = environment.step(chosen)
    crashes.append(info['crashes'])
    for i, stream in enumerate(streams):
      final = info['final_obs'][i]
      stream.append(Seen(of(observation, i), reward[i], terminated[i], truncated[i], final))
  return streams, crashes


def of(observation, i) -> dict[str, np.ndarray]:
  """A copy of one environment's part of a batch of observations."""
  return {key: value[i].copy() for key, value in observation.items()}


def assert_same(stream, expected) -> None:
  for seen, expected_seen in zip(stream, expected, strict=True):
    assert seen[1:4] == expected_seen[1:4]
    assert (seen.final is None) == (expected_seen.final is None)
    assert_equal(seen.observation, expected_seen.observation)
    assert_equal(seen.final or {}, expected_seen.final or {})


def assert_equal(observation, expected) -> None:
  assert observation.keys() == expected.keys()
  for key in observation:
    np.testing.assert_array_equal(observation[key], expected[key])


def differ(one, other) -> bool:
  return any((one[key] != other[key]).any() for key in one)


# The same as one by one.


def test_it_is_the_environments_one_by_one(opened):
  expected = alone(LEVELS, 11, actions())
  environment = load(LEVELS)
  opened.append(environment)
  assert environment.num_envs == 3
  assert environment.metadata['autoreset_mode'] == gymnasium.vector.AutoresetMode.SAME_STEP
  streams, crashes = together(environment, 11, actions())
  assert crashes == [{}] * len(actions())
  for stream, expected_stream in zip(streams, expected, strict=True):
    assert_same(stream, expected_stream)
    assert [i for i, seen in enumerate(stream) if seen.terminated] == [STEPS, 2 * STEPS]
    assert any(seen.reward for seen in stream)
  other, _ = environment.reset(seed=12)
  assert differ(of(other, 0), expected[0][0].observation)


def test_what_it_returns_has_the_declared_form(opened):
  environment = load([WATERMAZE, WATERMAZE])
  opened.append(environment)
  first, _ = environment.reset(seed=1)
  assert environment.observation_space.contains(first)
  assert first['observation'].shape == (2, 72, 96, 3)
  assert differ(of(first, 0), of(first, 1))  # Each has a seed of its own.
  environment.action_space.seed(1)
  sampled = environment.action_space.sample()
  observation, reward, terminated, truncated, info = environment.step(sampled)
  assert environment.observation_space.contains(observation)
  assert (reward.dtype, terminated.dtype, truncated.dtype) == (np.float64, bool, bool)
  assert reward.shape == terminated.shape == truncated.shape == (2,)
  assert len(info['final_obs']) == 2 and not any(info['final_obs'])
  environment.reset()  # Without a seed the episodes go on.


def test_termination_and_truncation_differ_and_keep_their_last_observations(moody):
  environment = moody(3)
  environment.reset(seed=5)
  environment.step([GO_ON] * 3)
  observation, reward, terminated, truncated, info = environment.step([END, TRUNCATE, GO_ON])
  assert list(terminated) == [True, False, False]
  assert list(truncated) == [False, True, False]
  assert list(reward) == [1.0] * 3
  np.testing.assert_array_equal(observation['observation'], [[-1, 0], [-1, 0], [7, 2]])
  final = suite.final_observations(info, np.array([0, 1]))
  np.testing.assert_array_equal(final['observation'], [[5, 2], [6, 2]])
  assert info['final_obs'][2] is None
  _, _, terminated, truncated, info = environment.step([GO_ON] * 3)
  assert not terminated.any() and not truncated.any() and not any(info['final_obs'])


def test_last_observations_are_not_changed_by_later_steps(moody):
  """Other observations are, as those of any environment may be."""
  environment = moody(1)
  environment.reset(seed=5)
  *_, info = environment.step([TRUNCATE])
  final = suite.final_observations(info, np.array([0]))
  environment.step([GO_ON])
  np.testing.assert_array_equal(final['observation'], [[5, 1]])


# Crashes.


def once(monkeypatch, tmp_path, where) -> pathlib.Path:
  """Has the engine die at `where`, `<level>:<frame>`, once; returns the flag that it has died."""
  monkeypatch.setenv('STAND_IN_DIE_AT', where)
  monkeypatch.setenv('STAND_IN_DIE_ONCE_FLAG', str(tmp_path / 'flag'))
  return tmp_path / 'flag'


def assert_reported(crashes, number=1, level=MAZE) -> None:
  assert list(crashes) == [number]
  assert 'status 1' in crashes[number] and f'Sys_Error: out of memory in {level}' in crashes[number]


def test_one_that_dies_in_a_step_restarts_alone(opened, monkeypatch, tmp_path):
  expected = alone(LEVELS, 11, actions())
  once(monkeypatch, tmp_path, f'{MAZE}:40')
  environment = load(LEVELS)
  opened.append(environment)
  before = processes.children()
  streams, crashes = together(environment, 11, actions())
  assert_reported(crashes[9])  # Ten steps are forty frames.
  assert sum(map(len, crashes)) == 1
  for i in (0, 2):
    assert_same(streams[i], expected[i])
  assert_same(streams[1][:10], expected[1][:10])
  restarted = streams[1][10]
  assert restarted[1:] == (0.0, False, False, None)
  assert (restarted.observation['observation'][-1] == 0).all()  # The clock of a new episode.
  # It has its full length, and is another episode: the same one would die again.
  assert [i for i, seen in enumerate(streams[1]) if seen.terminated] == [10 + STEPS]
  assert differ(restarted.observation, streams[1][0].observation)
  after = processes.children()
  assert len(after) == len(before) and len(after - before) == 1


def test_one_that_dies_in_a_reset_restarts(opened, monkeypatch, tmp_path):
  flag = once(monkeypatch, tmp_path, f'{MAZE}:0')
  environment = load([WATERMAZE, MAZE])
  opened.append(environment)
  observation, info = environment.reset(seed=3)
  assert_reported(info['crashes'])
  assert flag.exists() and environment.observation_space.contains(observation)
  assert (observation['observation'][:, -1] == 0).all()
  flag.unlink()  # Now it dies in the reset that follows the episode's end.
  for step in range(1, STEPS + 1):
    observation, reward, terminated, truncated, info = environment.step([8, 8])
    assert info['crashes'] == {} or step == STEPS
  assert_reported(info['crashes'])
  # The episode that ended before keeps its end.
  assert list(terminated) == [True, True] and not truncated.any()
  assert info['final_obs'][0] is not None and info['final_obs'][1] is not None
  assert (observation['observation'][:, -1] == 0).all()
  for step in range(1, STEPS + 1):
    *_, terminated, _, info = environment.step([8, 8])
    assert terminated.all() == (step == STEPS) and info['crashes'] == {}


def test_one_that_always_dies_ends_the_run_with_its_last_words(opened, monkeypatch, tmp_path):
  monkeypatch.setenv('STAND_IN_DIE_AT', f'{MAZE}:4')
  environment = load([WATERMAZE, MAZE])
  opened.append(environment)
  environment.reset(seed=3)
  for _ in range(4):
    assert_reported(environment.step([0, 0])[-1]['crashes'])
  with pytest.raises(errors.UserError) as refused:
    environment.step([0, 0])
  said = str(refused.value)
  assert MAZE in said and WATERMAZE not in said
  assert '5' in said and 'Sys_Error: out of memory' in said
  assert 'Traceback' not in said
  assert len(left(tmp_path)) == 5 + 1  # The five dead did not clear up, and the other one lives.


def test_one_that_dies_in_every_reset_ends_the_run(opened, monkeypatch, tmp_path):
  monkeypatch.setenv('STAND_IN_DIE_AT', f'{MAZE}:0')
  environment = load([MAZE])
  opened.append(environment)
  with pytest.raises(errors.UserError, match=f'(?s){MAZE}.*5.*Sys_Error: out of memory'):
    environment.reset(seed=3)
  assert len(left(tmp_path)) == 5


def test_an_error_of_the_engine_is_a_crash_like_a_death(moody, tmp_path):
  before = processes.children()
  environment = moody(2)
  environment.reset(seed=5)
  environment.step([GO_ON, GO_ON])
  observation, reward, terminated, truncated, info = environment.step([GO_ON, CRASH])
  assert list(info['crashes']) == [1] and 'the engine refuses' in info['crashes'][1]
  assert list(reward) == [1.0, 0.0] and not terminated.any() and not truncated.any()
  np.testing.assert_array_equal(observation['observation'][:, 1], [2, 0])
  assert len(processes.children() - before) == 2
  # A new process, as the state of the engine is unknown.
  assert lives(tmp_path, 'b') == 2
  with pytest.raises(errors.UserError, match='(?s)b.*the engine refuses'):
    for _ in range(4):
      environment.step([GO_ON, CRASH])
  assert (lives(tmp_path, 'a'), lives(tmp_path, 'b')) == (1, 5)


def test_deaths_with_finished_episodes_between_do_not_add_up(moody, tmp_path):
  environment = moody(2)
  environment.reset(seed=5)
  for _ in range(5):
    assert environment.step([DIE, DIE])[-1]['crashes'].keys() == {0, 1}
    assert environment.step([END, TRUNCATE])[-1]['crashes'] == {}
  assert lives(tmp_path, 'a') == lives(tmp_path, 'b') == 6


def test_deaths_after_finished_episodes_do_not_add_up(moody, tmp_path):
  # An engine that leaks dies in a reset after an episode: it may do so any number of times.
  environment = moody(1)
  environment.reset(seed=5)
  for _ in range(5):
    environment.step([GO_ON])
    environment.step([TIRED])
  assert lives(tmp_path) == 6


def test_deaths_are_counted_by_environment(moody, tmp_path):
  environment = moody(2)
  environment.reset(seed=5)
  for _ in range(3):  # Six deaths together, more than one environment may have.
    assert environment.step([DIE, DIE])[-1]['crashes'].keys() == {0, 1}
  assert lives(tmp_path, 'a') == lives(tmp_path, 'b') == 4
  *_, info = environment.step([GO_ON, DIE])
  assert info['crashes'].keys() == {1} and 'status 7' in info['crashes'][1]


def test_a_process_that_is_killed_restarts(moody, tmp_path):
  before = processes.children()
  environment = moody(2)
  environment.reset(seed=5)
  killed = max(processes.children() - before)
  os.kill(killed, signal.SIGKILL)
  assert processes.becomes_true(lambda: not processes.is_alive(killed))
  observation, reward, terminated, truncated, info = environment.step([GO_ON, GO_ON])
  (number,) = info['crashes']
  assert 'SIGKILL' in info['crashes'][number]
  assert reward[number] == 0.0 and reward[1 - number] == 1.0
  assert not terminated.any() and not truncated.any()
  assert list(observation['observation'][[number, 1 - number], 1]) == [0, 1]
  killed = max(processes.children() - before)
  os.kill(killed, signal.SIGKILL)
  _, info = environment.reset(seed=5)
  assert len(info['crashes']) == 1
  *_, info = environment.step([GO_ON, GO_ON])
  assert info['crashes'] == {}


def test_those_that_hang_are_named_ended_and_restarted(moody, patient, tmp_path):
  environment = moody(3)
  environment.reset(seed=5)
  environment._timeout = 0.5
  began = threading.Event()
  said = []

  def ask():
    began.wait()
    asked = 'step of environment 0 (a), environment 2 (c)'
    said.append(processes.becomes_true(lambda: suite.awaited(environment) == asked))

  asking = threading.Thread(target=ask)
  asking.start()
  began.set()
  begin = time.monotonic()
  _, reward, _, _, info = environment.step([HANG, GO_ON, HANG])
  asking.join()
  assert said == [True] and suite.awaited(environment) == ''
  # Both had their time at once; they were restarted like those that die.
  assert time.monotonic() - begin < 15.0 and info['crashes'].keys() == {0, 2}
  assert all('not answered for 0.5 s' in reason for reason in info['crashes'].values())
  assert list(reward) == [0.0, 1.0, 0.0] and lives(tmp_path, 'a') == 2 and lives(tmp_path, 'b') == 1


def test_one_that_hangs_again_and_again_ends_the_run(moody, patient):
  environment = moody(1)
  environment.reset(seed=5)
  environment._timeout = 0.1
  for _ in range(4):
    assert environment.step([HANG])[-1]['crashes'].keys() == {0}
  with pytest.raises(errors.UserError, match='(?s)a died 5 times in a row.*not answered for 0.1 s'):
    environment.step([HANG])


def test_a_reset_may_take_longer_than_a_step(moody):
  environment = moody(2)
  environment.reset(seed=5)
  environment._timeout = 1.0
  assert environment.step([SLEEPY, GO_ON])[-1]['crashes'] == {}


def test_a_bug_is_raised_with_its_stack_trace(moody):
  environment = moody(2)
  environment.reset(seed=5)
  with pytest.raises(RuntimeError, match='(?s)in step.*ZeroDivisionError'):
    environment.step([MISTAKE, GO_ON])


# Time, and the end.


def test_slow_maps_are_compiled_at_the_same_time_and_only_slow_down_a_step(opened, monkeypatch):
  slow = 'language_select_located_object'  # It compiles a map for each of its trials, of 150 steps.
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '2')
  environment = load([slow, slow], engine='')
  opened.append(environment)
  begin = time.monotonic()
  environment.reset(seed=1)
  assert 2.0 <= time.monotonic() - begin < 4.0
  times = []
  for _ in range(150):
    begin = time.monotonic()
    *_, info = environment.step([0, 1])
    times.append(time.monotonic() - begin)
    assert info['crashes'] == {}
  assert times[-1] >= 2.0 and max(times[:-1]) < 2.0


def test_closing_ends_all_processes_and_may_be_repeated(opened, tmp_path):
  before = processes.children()
  environment = load([WATERMAZE, MAZE])
  opened.append(environment)
  environment.reset(seed=1)
  environment.step([0, 0])
  assert len(processes.children() - before) == 2 and len(left(tmp_path)) == 2
  environment.close()
  assert processes.children() == before
  assert not left(tmp_path)
  environment.close()


def test_engines_that_compile_maps_are_waited_for(opened, monkeypatch, tmp_path):
  """Ctrl-C during a reset of 2 s: engines that are killed would leave their folders behind."""
  monkeypatch.setattr(workers, 'PATIENCE', 0.1)
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '2')
  before = processes.children()
  environment = load([MAZE, MAZE])
  opened.append(environment)

  def interrupt(*_):
    raise KeyboardInterrupt

  handler = signal.signal(signal.SIGALRM, interrupt)
  signal.setitimer(signal.ITIMER_REAL, 0.5)
  try:
    with pytest.raises(KeyboardInterrupt):
      environment.reset(seed=1)
  finally:
    signal.signal(signal.SIGALRM, handler)
  assert len(left(tmp_path)) == 2
  environment.close()
  assert processes.children() == before and not left(tmp_path)


def test_processes_that_do_not_close_share_one_deadline(tmp_path, monkeypatch):
  before = processes.children()
  environment = moody_ones(Stuck, tmp_path)
  monkeypatch.setattr(workers, 'PATIENCE', 1.5)
  begin = time.monotonic()
  environment.close()
  assert time.monotonic() - begin < 4.0
  assert processes.children() == before


def test_all_close_at_the_same_time(tmp_path):
  environment = moody_ones(Slow, tmp_path)
  begin = time.monotonic()
  environment.close()
  assert time.monotonic() - begin < 2.9  # One after the other takes three seconds.
  assert len(list(tmp_path.glob('*.closed'))) == 3  # They were waited for.


def test_what_a_process_is_sent_does_not_grow_with_the_number_of_environments(tmp_path):
  """Each would keep the bounds of all observations."""
  environment = moody_ones(Moody, tmp_path)
  environment.close()
  sizes = [len(pickle.dumps(make)) for make in environment._makes]
  assert max(sizes) < 1000


def test_environments_that_cannot_be_made_leave_nothing(tmp_path):
  before = processes.children()
  with pytest.raises(errors.UserError, match='Invalid setting'):
    load([WATERMAZE, MAZE], engine='zzz=1')
  with pytest.raises(RuntimeError, match='FileNotFoundError'):
    parallel.ParallelVectorEnv(
      [
        functools.partial(Moody, 'a', tmp_path),
        functools.partial(Moody, 'b', tmp_path / 'missing'),
      ],
      'ab',
      Moody.observation_space,
      Moody.action_space,
      timeout_seconds=600.0,
    )
  assert processes.children() == before
  assert lives(tmp_path) == 1 and (tmp_path / 'a.closed').exists()


def test_it_ends_with_a_process_that_is_killed(tmp_path):
  program = """
import sys
from common import environments
from scripts import processes
suite = environments.load('dmlab5', environments.Options())
made = suite.make(['rooms_watermaze'] * 2, True)
made.reset(seed=1)
made.step([0, 0])
print(*processes.children(), flush=True)
sys.stdin.read()
"""
  path = os.environ | {'PYTHONPATH': str(ROOT / 'tests' / 'stand_ins')}
  with subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    env=path,
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    text=True,
  ) as parent:
    pids = [int(word) for word in parent.stdout.readline().split()]
    assert len(pids) == 2 and all(map(processes.is_alive, pids)) and len(left(tmp_path)) == 2
    parent.kill()
  assert processes.becomes_true(lambda: not any(map(processes.is_alive, pids)))
  assert not left(tmp_path)


def test_a_run_killed_while_maps_are_compiled_leaves_nothing(tmp_path):
  program = """
from common import environments
from common.machine import janitor
with janitor.attend() as folder:
  print(folder, flush=True)
  suite = environments.load('dmlab5', environments.Options())
  suite.make(['explore_goal_locations_small'] * 2, True).reset(seed=1)
"""
  stand_in = {
    'PYTHONPATH': str(ROOT / 'tests' / 'stand_ins'),
    'STAND_IN_COMPILE_SECONDS': '100',
  }
  with subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    env=os.environ | stand_in,
    stdout=subprocess.PIPE,
    text=True,
  ) as run:
    folder = pathlib.Path(run.stdout.readline().strip())
    # The janitor, two engines and, for each, the process that compiles its map.
    assert processes.becomes_true(lambda: len(processes.descendants(run.pid)) == 5, 30.0)
    started = processes.descendants(run.pid)
    assert len(left(folder)) == 2
    run.kill()
  assert processes.becomes_true(
    lambda: not folder.exists() and not any(map(processes.is_alive, started))
  )
