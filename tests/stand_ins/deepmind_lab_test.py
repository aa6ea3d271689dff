"""The stand-in for `deepmind_lab` behaves as the real module, which is tested too if installed."""

import functools
import importlib
import importlib.machinery
import os
import pathlib
import pickle
import subprocess
import sys
import time
import zipfile
from typing import Any

import numpy as np
import pytest

FOLDER = str(pathlib.Path(__file__).parent)
STAND_IN = 'stand-in'
REAL = 'real'
PATHS = {STAND_IN: [FOLDER, *sys.path], REAL: [path for path in sys.path if path != FOLDER]}
INSTALLED = importlib.machinery.PathFinder.find_spec('deepmind_lab', PATHS[REAL]) is not None
# The module that the running test is for, see `module`.
deepmind_lab: Any = None
# For tests of the stand-in's own game and of what makes it fail.
of_the_stand_in = pytest.mark.parametrize('module', [STAND_IN], indirect=True)

WATERMAZE = 'contributed/dmlab30/rooms_watermaze'
EXPLORE = 'contributed/dmlab30/explore_goal_locations_small'
LOCATED = 'contributed/dmlab30/language_select_located_object'
CONFIG = {'width': '96', 'height': '72', 'logLevel': 'NEVER'}
NOTHING = [0] * 7
FORWARD = [0, 0, 0, 1, 0, 0, 0]
RIGHT = [20, 0, 0, 0, 0, 0, 0]
FIRE = [0, 0, 0, 0, 1, 0, 0]
BACK = [0, 0, 0, -1, 0, 0, 0]
DEFAULT_OBSERVATIONS = ('RGB_INTERLEAVED', 'DEBUG.POS.TRANS', 'DEBUG.POS.ROT', 'INSTR')


@functools.cache
def load(kind):
  """Imports the stand-in or the real module: both have one name, so one hides the other."""
  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(sys, 'path', PATHS[kind])
    patch.delitem(sys.modules, 'deepmind_lab', raising=False)
    loaded = importlib.import_module('deepmind_lab')
    del sys.modules['deepmind_lab']
    return loaded


@pytest.fixture(autouse=True, params=[STAND_IN, *([REAL] if INSTALLED else [])])
def module(request, monkeypatch):
  monkeypatch.setattr(sys.modules[__name__], 'deepmind_lab', load(request.param))
  return request.param


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
  """The folder where engines make their temporary folders."""
  monkeypatch.setenv('TMPDIR', str(tmp_path))
  return tmp_path


def make(level=WATERMAZE, observations=DEFAULT_OBSERVATIONS, cache=None, **config):
  return deepmind_lab.Lab(level, list(observations), CONFIG | config, level_cache=cache)


def reset(level=WATERMAZE, seed=1, **arguments):
  lab = make(level, **arguments)
  lab.reset(seed=seed)
  return lab


def act(lab, action, num_steps=1):
  return lab.step(np.array(action, np.intc), num_steps=num_steps)


def frame(lab):
  return lab.observations()['RGB_INTERLEAVED']


def run_python(code, kind=STAND_IN, **environment):
  return subprocess.run(
    [sys.executable, '-c', f'import sys; sys.path[:] = {PATHS[kind]!r}\n{code}'],
    env=os.environ | environment,
    capture_output=True,
    text=True,
    timeout=60,
  )


class Cache:
  """A level cache in memory, with a log of its calls."""

  def __init__(self):
    self.files = {}
    self.calls = []

  def fetch(self, key, pk3_path):
    self.calls.append(('fetch', key))
    if key in self.files:
      pathlib.Path(pk3_path).write_bytes(self.files[key])
    return key in self.files

  def write(self, key, pk3_path):
    self.calls.append(('write', key))
    self.files[key] = pathlib.Path(pk3_path).read_bytes()


def test_the_module_has_its_functions_and_constants():
  assert deepmind_lab.version() == '1.0' and os.path.isdir(deepmind_lab.runfiles_path())
  names = ('READABLE', 'WRITABLE', 'READ_WRITABLE', 'LISTABLE')
  assert len({getattr(deepmind_lab, name) for name in names}) == 4
  assert not hasattr(deepmind_lab, 'LevelCache') and not hasattr(deepmind_lab.Lab, 'fps')


@pytest.mark.parametrize(
  'arguments, message',
  [
    ((WATERMAZE, ('RGB',)), 'argument 2 must be list, not tuple'),
    ((WATERMAZE, [], None), 'argument 3 must be dict, not None'),
    ((WATERMAZE, [], {'width': 96}), 'bad argument type for built-in operation'),
    ((WATERMAZE, [], {}, None), 'argument 4 must be str, not None'),
    ((None, []), 'argument 1 must be str, not None'),
  ],
)
def test_wrong_types_are_refused(arguments, message):
  with pytest.raises(TypeError, match=message):
    deepmind_lab.Lab(*arguments)


@pytest.mark.parametrize(
  'config, message',
  [
    ({'width': '98'}, "'width' must be a positive multiple of 4"),
    ({'height': '0'}, "'height' must be a positive multiple of 4"),
    ({'width': '96.5'}, 'Invalid int setting 96.5'),
    ({'zzz': '1'}, 'Invalid setting: "zzz" = "1"'),
    ({'logLevel': 'loud'}, 'logLevel'),
    ({'mixerSeed': str(2**32)}, 'mixerSeed'),
    ({'mixerSeed': '-1'}, 'mixerSeed'),
  ],
)
def test_a_bad_setting_is_refused(config, message):
  with pytest.raises(RuntimeError, match=message):
    make(**config)


def test_settings_that_every_level_knows_are_accepted(tmp_path):
  make(
    allowHoldOutLevels='true',
    datasetPath=str(tmp_path),
    mixerSeed='0x600D5EED',
    width='64',
    height='64',
  )


def test_an_unknown_level_is_refused():
  message = 'Failed to init environment - "Level not found: Failed to open .*nope.lua'
  with pytest.raises(RuntimeError, match=message):
    make('contributed/dmlab30/nope')
  with pytest.raises(RuntimeError, match='Level not found'):
    make('rooms_watermaze')


def test_an_unknown_observation_and_renderer_are_refused():
  with pytest.raises(ValueError, match="Unknown observation 'NOPE'."):
    make(observations=['NOPE'])
  with pytest.raises(RuntimeError, match='renderer'):
    deepmind_lab.Lab(WATERMAZE, [], CONFIG, renderer='metal')


def test_held_out_levels_must_be_allowed():
  level = 'contributed/dmlab30/rooms_collect_good_objects_test'
  message = 'must only be used during evaluation.*"allowHoldOutLevels" = "true"'
  with pytest.raises(RuntimeError, match=message):
    make(level)
  assert make(level, allowHoldOutLevels='true').reset(seed=1) is True


def test_two_levels_need_their_data_set_at_the_reset():
  level = 'contributed/dmlab30/psychlab_continuous_recognition'
  lab = make(level)
  with pytest.raises(RuntimeError) as error:
    lab.reset(seed=1)
  first, *lines = str(error.value).splitlines()
  assert first.startswith('Failed to start environment - "')
  assert 'and update DATASET_PATH' in ''.join(lines) and 'stack traceback:' in lines
  assert not lab.is_running()
  assert make(level, datasetPath='dummy').reset(seed=1)


@of_the_stand_in
def test_a_data_set_without_images_is_noticed_when_the_first_is_shown(tmp_path):
  lab = reset('contributed/dmlab30/psychlab_continuous_recognition', datasetPath=str(tmp_path))
  act(lab, NOTHING, 59)
  with pytest.raises(ValueError, match='(?s)Failed to advance environment ".*0001.png.*stack trac'):
    act(lab, NOTHING)
  assert not lab.is_running()
  with pytest.raises(RuntimeError, match='wrong status'):
    act(lab, NOTHING)
  (tmp_path / '0001.png').touch()
  lab.reset(seed=1)
  act(lab, NOTHING, 60)
  assert lab.is_running()


@of_the_stand_in
def test_a_renderer_that_cannot_be_loaded_is_only_written_about(monkeypatch, capfd):
  monkeypatch.setenv('STAND_IN_NO_RENDERER', '1')
  with pytest.raises(RuntimeError, match='^Failed to connect RL API$'):
    make()
  assert 'Failed to open library! - ' in capfd.readouterr().err


def test_a_level_may_lack_instructions():
  with pytest.raises(ValueError, match="Unknown observation 'INSTR'."):
    make('tests/demo_map', ['RGB_INTERLEAVED', 'INSTR'])
  lab = make('tests/demo_map', ['RGB_INTERLEAVED'])
  assert 'INSTR' not in {spec['name'] for spec in lab.observation_spec()}
  assert 'INSTR' in {spec['name'] for spec in make().observation_spec()}


def test_the_observation_spec_is_known_before_the_reset(capfd):
  specs = {spec['name']: (spec['shape'], spec['dtype']) for spec in make().observation_spec()}
  assert specs['RGB_INTERLEAVED'] == ((72, 96, 3), np.uint8)
  assert specs['RGBD_INTERLEAVED'] == ((72, 96, 4), np.uint8)
  assert specs['RGB'] == ((3, 72, 96), np.uint8) and specs['RGBD'] == ((4, 72, 96), np.uint8)
  assert specs['INSTR'] == ((), str) and specs['TEAM.SCORE'] == ((2,), np.float64)
  assert specs['VEL.TRANS'] == specs['DEBUG.POS.ROT'] == ((3,), np.float64)
  assert capfd.readouterr().err.count('deprecated') == 2


def test_observations_are_those_asked_for_and_fit_their_specs():
  specs = make().observation_spec()
  lab = reset(observations=[spec['name'] for spec in specs])
  observations = lab.observations()
  assert set(observations) == {spec['name'] for spec in specs}
  for spec in specs:
    value = observations[spec['name']]
    if spec['dtype'] is str:
      assert type(value) is str
    else:
      assert (value.shape, value.dtype) == (spec['shape'], spec['dtype'])
  assert list(reset(observations=['INSTR']).observations()) == ['INSTR']


@pytest.mark.parametrize('name', ['RGB_INTERLEAVED', 'BGR_INTERLEAVED', 'RGB', 'VEL.ROT'])
def test_observations_are_fresh_copies(name):
  lab = reset(observations=[name])
  observation = lab.observations()[name]
  kept = observation.copy()
  act(lab, FORWARD, 8)
  assert (observation == kept).all() and observation is not lab.observations()[name]
  flags = observation.flags
  assert flags.owndata and flags.writeable and flags.c_contiguous


def test_only_language_levels_instruct():
  instruction = reset(LOCATED).observations()['INSTR']
  assert type(instruction) is str and instruction
  assert reset(EXPLORE).observations()['INSTR'] == ''


def test_the_actions_are_seven():
  specs = make().action_spec()
  names = [spec['name'].split('_')[0] for spec in specs]
  assert names == ['LOOK', 'LOOK', 'STRAFE', 'MOVE', 'FIRE', 'JUMP', 'CROUCH']
  bounds = [(spec['min'], spec['max']) for spec in specs]
  assert bounds == [(-512, 512)] * 2 + [(-1, 1)] * 2 + [(0, 1)] * 3


@pytest.mark.parametrize(
  'action, error, message',
  [
    ([0] * 7, TypeError, 'must be numpy.ndarray, not list'),
    (np.zeros(7, np.int64), ValueError, 'action must have dtype np.intc'),
    (np.zeros(7, np.float32), ValueError, 'action must have dtype np.intc'),
    (np.zeros(6, np.intc), ValueError, r'action must have shape \(7\)'),
    (np.zeros((1, 7), np.intc), ValueError, r'action must have shape \(7\)'),
  ],
)
def test_a_wrong_action_is_refused(action, error, message):
  with pytest.raises(error, match=message):
    reset().step(action)


def test_actions_that_are_not_contiguous_are_misread():
  table = np.zeros((7, 7), np.intc)
  table[:, 0] = FORWARD
  table[0, :2] = 0
  strided = reset()
  plain = reset()
  strided.step(table[:, 0], num_steps=20)
  act(plain, table[0], 20)
  assert (frame(strided) == frame(plain)).all()
  plain.step(np.ascontiguousarray(table[:, 0]), num_steps=20)
  assert (frame(strided) != frame(plain)).any()


def test_looking_turns_and_moving_moves():
  lab = reset()
  before = lab.observations()
  act(lab, RIGHT, 40)
  assert (
    before['DEBUG.POS.ROT'][1] - lab.observations()['DEBUG.POS.ROT'][1]
  ) % 360 == pytest.approx(84.5)
  act(lab, FORWARD, 20)
  walked = lab.observations()['DEBUG.POS.TRANS'] - before['DEBUG.POS.TRANS']
  assert np.linalg.norm(walked) > 50


def test_one_step_of_four_frames_is_four_steps_of_one():
  fours = reset()
  ones = reset()
  rewards = []
  for action in (FORWARD, RIGHT, BACK) * 12:
    rewards.append((act(fours, action, 4), sum(act(ones, action) for _ in range(4))))
  assert (frame(fours) == frame(ones)).all() and fours.num_steps() == ones.num_steps() == 144
  assert all(four == one and type(four) is float for four, one in rewards)


@of_the_stand_in
def test_the_game_pays_once_a_second_for_fire_and_for_moving_back():
  lab = reset()
  assert [act(lab, action, 120) for action in (FIRE, BACK, FORWARD)] == [2.0, -2.0, 0.0]


def test_seekavoid_arena_01_lasts_for_300_agent_steps():
  lab = reset('seekavoid_arena_01')
  act(lab, NOTHING, 299 * 4)
  assert lab.is_running()
  act(lab, NOTHING, 4)
  assert not lab.is_running()


def places_after_a_second(level, action):
  """Where the player is in two fresh engines, after the same seed and actions."""
  labs = [reset(level), reset(level)]
  for lab in labs:
    act(lab, action, 60)
  return [lab.observations()['DEBUG.POS.TRANS'] for lab in labs]


def test_a_seed_repeats_an_episode():
  first, second = places_after_a_second(WATERMAZE, FORWARD)
  assert (first == second).all()


@of_the_stand_in
@pytest.mark.parametrize(
  'level, action', [(WATERMAZE, FIRE), ('contributed/dmlab30/lasertag_one_opponent_small', FORWARD)]
)
def test_a_seed_does_not_quite_repeat_an_episode_with_shots_or_bots(level, action):
  first, second = places_after_a_second(level, action)
  assert 0.0 < np.abs(first - second).max() < 12.0


def test_a_step_of_no_frames_is_accepted():
  lab = reset()
  before = frame(lab)
  assert (act(lab, NOTHING, 0), act(lab, NOTHING, -2)) == (0.0, 0.0)
  assert lab.num_steps() == -2 and (frame(lab) == before).all()


def test_an_episode_ends_inside_a_step_and_shows_no_last_observation():
  lab = reset(episodeLengthSeconds='1')
  act(lab, NOTHING, 58)
  assert lab.is_running()
  act(lab, NOTHING, 10)
  assert not lab.is_running() and lab.num_steps() == 68
  message = r'Environment in wrong status for call to observations\(\)'
  with pytest.raises(RuntimeError, match=message):
    lab.observations()
  with pytest.raises(RuntimeError, match='Environment in wrong status to advance.'):
    act(lab, NOTHING)
  assert lab.events() == []
  assert lab.reset(seed=1) and lab.is_running() and lab.num_steps() == 0


def test_an_episode_takes_its_level_s_time():
  lab = reset('contributed/dmlab30/rooms_select_nonmatching_object')
  for _ in range(179):
    act(lab, NOTHING, 4)
  assert lab.is_running()
  act(lab, NOTHING, 4)
  assert not lab.is_running()


def test_nothing_runs_before_the_reset():
  lab = make()
  assert not lab.is_running() and lab.num_steps() == 0
  for call in (lab.observations, lab.events, lambda: act(lab, NOTHING)):
    with pytest.raises(RuntimeError, match='wrong status'):
      call()


@pytest.mark.parametrize(
  'seed, error, message',
  [
    (np.int64(3), ValueError, "'seed' must be int or None, was 'numpy.int64'"),
    (1.0, ValueError, "was 'float'"),
    (2**63, OverflowError, 'too large'),
  ],
)
def test_a_seed_that_is_not_a_c_integer_is_refused(seed, error, message):
  with pytest.raises(error, match=message):
    make().reset(seed=seed)


def test_seeds_are_cut_to_31_bits():
  zero, *same, one = (frame(reset(seed=seed)) for seed in (0, 2**31, -(2**31), 2**32, 1))
  assert len(same) == 3 and all((zero == other).all() for other in same)
  assert (zero != one).any()


def test_the_episode_is_the_first_argument():
  lab = make()
  lab.reset(7, 1)
  assert (frame(lab) == frame(reset(seed=1))).all()


def test_a_fresh_lab_repeats_itself_and_differs_slightly_from_a_later_episode():
  def play(lab):
    lab.reset(seed=5)
    first = frame(lab)
    act(lab, FORWARD, 500)
    return first, lab.observations()['DEBUG.POS.TRANS']

  lab = make()
  fresh, place = play(lab)
  other, other_place = play(make())
  later, later_place = play(lab)
  _, latest_place = play(lab)
  assert (fresh == other).all() and (fresh == later).all() and (place == other_place).all()
  assert 5 <= np.linalg.norm(later_place - place) <= 8 and (later_place == latest_place).all()


def test_the_mixer_seed_changes_the_level_unless_it_is_zero():
  plain = frame(reset())
  zero = frame(reset(mixerSeed='0'))
  mixed = frame(reset(mixerSeed='0x600D5EED'))
  assert (plain == zero).all() and (plain != mixed).any()
  assert (mixed == frame(reset(mixerSeed=str(0x600D5EED)))).all()


def test_a_closed_lab_says_so():
  lab = reset()
  act(lab, NOTHING, 3)
  assert (lab.close(), lab.close()) == (True, False)
  assert not lab.is_running() and lab.num_steps() == 3
  with pytest.raises(RuntimeError, match='wrong status'):
    act(lab, NOTHING)


def test_a_lab_takes_no_attributes_and_no_pickle():
  lab = make()
  with pytest.raises(AttributeError):
    lab.width = 96
  with pytest.raises(TypeError, match='cannot pickle'):
    pickle.dumps(lab)


def test_the_temporary_folder_goes_with_close_and_with_the_lab(temporary):
  lab = reset(EXPLORE)
  assert [path.name.startswith('dmlab_temp_folder_') for path in temporary.iterdir()] == [True]
  lab.close()
  assert not list(temporary.iterdir())
  lab = reset(EXPLORE)
  del lab
  assert not list(temporary.iterdir())


def test_the_temporary_folder_stays_if_the_process_ends_before_close(temporary, module):
  code = f'import deepmind_lab\nlab = deepmind_lab.Lab({EXPLORE!r}, [])\nlab.reset()'
  assert run_python(code, module).returncode == 0
  assert len(list(temporary.glob('dmlab_temp_folder_*'))) == 1


def test_a_temporary_folder_given_is_used_and_kept(temporary):
  (temporary / 'mine').mkdir()
  lab = deepmind_lab.Lab(EXPLORE, [], CONFIG, temp_folder=str(temporary / 'mine'))
  lab.reset()
  lab.close()
  assert (temporary / 'mine/baselab/explore_maze.pk3').exists()
  assert len(list(temporary.iterdir())) == 1


def test_a_map_is_compiled_once_and_then_fetched():
  cache = Cache()
  lab = make(EXPLORE, cache=cache)
  assert not cache.calls
  lab.reset(seed=1)
  (method, key), written = cache.calls
  assert method == 'fetch' and written == ('write', key)
  assert key.startswith('explore_maze_noaas_') and len(key) == 51
  cached = reset(EXPLORE, cache=cache)
  assert cache.calls[2:] == [('fetch', key)] and (frame(cached) == frame(reset(EXPLORE))).all()


def test_maps_depend_on_the_seed_and_the_mixer():
  cache = Cache()
  for seed, mixer in ((1, '0'), (2, '0'), (1, '5')):
    reset(EXPLORE, seed, cache=cache, mixerSeed=mixer)
  assert len(cache.files) == 3


def test_a_level_without_a_text_maze_compiles_nothing():
  cache = Cache()
  reset(WATERMAZE, cache=cache)
  assert not cache.calls


@of_the_stand_in
def test_a_level_calls_the_cache_from_inside_a_step():
  cache = Cache()
  lab = reset(LOCATED, cache=cache)
  calls = len(cache.calls)
  before = frame(lab)
  act(lab, NOTHING, 600)
  assert len(cache.calls) == calls + 2 and (before != frame(lab)).any()


@pytest.mark.parametrize('method', ['fetch', 'write'])
def test_an_error_of_the_cache_is_raised_after_the_map_was_made(temporary, method):
  cache = Cache()

  def failing(key, path):
    raise KeyError('of the cache')

  setattr(cache, method, failing)
  lab = make(EXPLORE, cache=cache)
  with pytest.raises(KeyError, match='of the cache'):
    lab.reset(seed=1)
  [path] = temporary.rglob('explore_maze.pk3')
  assert zipfile.is_zipfile(path) and not lab.is_running()


def test_a_fetch_without_a_file_ends_the_process(module):
  done = run_python(
    f"""
import deepmind_lab
class Cache:
  def fetch(self, key, path):
    return True
try:
  deepmind_lab.Lab({EXPLORE!r}, [], level_cache=Cache()).reset()
finally:
  print('survived')""",
    module,
  )
  assert done.returncode == 1
  assert "Didn't find map 'explore_maze'" in done.stderr
  assert 'survived' not in done.stdout


@of_the_stand_in
def test_an_engine_dies_at_the_given_frame_and_once(tmp_path):
  code = f"""
import deepmind_lab, numpy as np
lab = deepmind_lab.Lab({WATERMAZE!r}, [])
lab.reset(seed=1)
lab.step(np.zeros(7, np.intc), num_steps=40)"""
  variables = {
    'STAND_IN_DIE_AT': 'rooms_watermaze:40',
    'STAND_IN_DIE_ONCE_FLAG': str(tmp_path / 'flag'),
  }
  first = run_python(code, **variables)
  assert first.returncode == 1 and 'Sys_Error: out of memory in rooms_watermaze' in first.stderr
  assert run_python(code, **variables).returncode == 0
  assert run_python(code, STAND_IN_DIE_AT='rooms_watermaze:41').returncode == 0
  assert run_python(code, STAND_IN_DIE_AT='rooms_watermaze:0').returncode == 1


@of_the_stand_in
def test_a_compilation_takes_its_time(monkeypatch):
  monkeypatch.setenv('STAND_IN_COMPILE_SECONDS', '0.4')
  times = []
  for level in (EXPLORE, WATERMAZE):
    begin = time.monotonic()
    reset(level)
    times.append(time.monotonic() - begin)
  assert times[0] >= 0.4 > times[1]


FORKED = """
import deepmind_lab, os
lab = deepmind_lab.Lab('seekavoid_arena_01', [])
{before}
child = os.fork()
if not child:
  deepmind_lab.Lab('seekavoid_arena_01', []).reset(seed=1)
  os._exit(0)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))"""


@of_the_stand_in
@pytest.mark.parametrize(
  'before, fine', [('lab.reset()', False), ('', True), ('lab.reset(); lab.close()', True)]
)
def test_a_fork_is_noticed_if_a_lab_ran(before, fine):
  assert (run_python(FORKED.format(before=before)).returncode == 0) == fine
