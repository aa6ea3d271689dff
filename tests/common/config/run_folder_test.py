"""A run's folder: no run overwrites another, and mistakes have clear messages."""

import concurrent.futures
import dataclasses
import json
import pathlib
import re
import socket
import subprocess
import sys

import pytest

from common import errors
from common.config import run_folder
from impala import config as configs


def test_create_writes_the_resolved_config(tmp_path):
  config = dataclasses.replace(configs.PRESETS.preset('gym'), seed=77)
  run_folder.create(tmp_path / 'deep' / 'run', config)
  loaded = run_folder.load_config(tmp_path / 'deep' / 'run')
  assert loaded == {'system': 'impala', **dataclasses.asdict(config)}
  assert configs.PRESETS.from_json(loaded) == config


def test_an_existing_folder_without_a_run_is_used(tmp_path):
  (tmp_path / 'notes.txt').write_text('mine')
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  assert (tmp_path / 'notes.txt').read_text() == 'mine'
  assert run_folder.load_config(tmp_path)['env'] == 'gym:CartPole-v1'


def test_a_run_is_not_overwritten(tmp_path):
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  message = f'{tmp_path} holds a run already.*--run_dir={tmp_path} --resume'
  with pytest.raises(errors.UserError, match=message):
    run_folder.create(tmp_path, configs.PRESETS.preset('doom'))
  assert run_folder.load_config(tmp_path)['env'] == 'gym:CartPole-v1'


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
  (tmp_path / 'file').write_text('')
  for path in (tmp_path / 'file', tmp_path / 'file' / 'run'):
    with pytest.raises(errors.UserError, match=f'{path} cannot be written.*Give another --run_dir'):
      run_folder.create(path, configs.PRESETS.preset('gym'))


def test_a_config_is_replaced(tmp_path):
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  changed = dataclasses.replace(configs.PRESETS.preset('gym'), total_frames=5)
  run_folder.save_config(tmp_path, changed)
  assert run_folder.load_config(tmp_path)['total_frames'] == 5
  assert {path.name for path in tmp_path.iterdir()} == {'config.json', 'lock'}


def test_a_folder_without_a_run_is_refused(tmp_path):
  for path in (tmp_path, tmp_path / 'none'):
    with pytest.raises(errors.UserError, match=f'{path} is not the folder of a run'):
      run_folder.load_config(path)


def test_a_run_of_another_system_is_refused(tmp_path):
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  assert run_folder.load_config(tmp_path, 'impala')['env'] == 'gym:CartPole-v1'
  message = f'{tmp_path} is a run of impala, not of apex: use python -m impala.train'
  with pytest.raises(errors.UserError, match=message):
    run_folder.load_config(tmp_path, 'apex')


def test_a_run_that_does_not_say_its_system_is_any_s(tmp_path):
  """As runs of version 0.1.0."""
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  values = json.loads((tmp_path / 'config.json').read_text())
  del values['system']
  (tmp_path / 'config.json').write_text(json.dumps(values))
  assert run_folder.load_config(tmp_path, 'apex') == values


def holder(folder):
  """A process that locks a folder until its standard input is closed."""
  program = (
    'import pathlib, sys\nfrom common.config import run_folder\n'
    f'lock = run_folder.Lock(pathlib.Path({str(folder)!r}))\nprint("locked", flush=True)\ninput()'
  )
  root = pathlib.Path(__file__).parents[3]
  process = subprocess.Popen(
    [sys.executable, '-c', program], cwd=root, stdin=subprocess.PIPE, stdout=subprocess.PIPE
  )
  assert process.stdout.readline() == b'locked\n'
  return process


def test_a_folder_in_use_is_refused_and_its_user_named(tmp_path):
  with holder(tmp_path) as process:
    with pytest.raises(errors.UserError) as refused:
      run_folder.Lock(tmp_path)
    user = f'process {process.pid} on {socket.gethostname()}'
    assert f'{tmp_path} is in use by {user}' in str(refused.value)
    # However the holder ends, its lock ends with it.
    process.kill()
    process.wait()
    run_folder.Lock(tmp_path).release()


def test_a_released_folder_can_be_used_again(tmp_path):
  lock = run_folder.Lock(tmp_path)
  with pytest.raises(errors.UserError, match='is in use by process'):
    run_folder.Lock(tmp_path)
  lock.release()
  run_folder.Lock(tmp_path).release()


def test_runs_of_the_same_second_get_folders_of_their_own(tmp_path):
  path = tmp_path / 'runs' / 'doom-20261121-120000'
  config = configs.PRESETS.preset('gym')
  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    made = list(pool.map(lambda _: run_folder.create(path, config, is_named=False), range(30)))
  names = {folder.name for folder, _ in made}
  assert names == {path.name, *(f'{path.name}-{number}' for number in range(2, 31))}


def test_of_two_runs_that_name_one_folder_at_once_one_is_refused(tmp_path):
  config = configs.PRESETS.preset('gym')

  def make(_):
    try:
      return run_folder.create(tmp_path / 'run', config)
    except errors.UserError as error:
      return str(error)

  with concurrent.futures.ThreadPoolExecutor(8) as pool:
    results = list(pool.map(make, range(30)))
  refusals = [result for result in results if isinstance(result, str)]
  assert len(refusals) == 29
  assert all('in use by' in refusal or 'holds a run already' in refusal for refusal in refusals)


@pytest.mark.parametrize('text', ['', '{"env": ', '[1, 2]', '"doom"', 'null'])
def test_a_damaged_config_is_refused(tmp_path, text):
  (tmp_path / 'config.json').write_text(text)
  with pytest.raises(errors.UserError, match='config.json is damaged'):
    run_folder.load_config(tmp_path)


def test_a_config_that_is_not_text_is_refused(tmp_path):
  (tmp_path / 'config.json').write_bytes(b'\xff\xfe{}')
  with pytest.raises(errors.UserError, match='config.json is damaged'):
    run_folder.load_config(tmp_path)


@pytest.mark.parametrize(
  'env, start',
  [
    ('doom', 'doom'),
    ('atari:pong', 'atari-pong'),
    ('gym:module:ALE/Pong-v5', 'gym-module-ALE-Pong-v5'),
  ],
)
def test_default_path_is_one_folder_in_runs(env, start):
  path = run_folder.default_path(env)
  assert path.parent == pathlib.Path('runs')
  assert re.fullmatch(start + r'-\d{8}-\d{6}', path.name)


def test_the_file_has_a_line_for_each_setting(tmp_path):
  run_folder.create(tmp_path, configs.PRESETS.preset('gym'))
  text = (tmp_path / 'config.json').read_text()
  assert len(text.splitlines()) == len(json.loads(text)) + 2
