"""A run's folder: no run overwrites another, and mistakes have clear messages."""

import dataclasses
import json
import pathlib
import re

import pytest

from common import errors
from common.config import run_folder
from impala import config as configs


def test_create_writes_the_resolved_config(tmp_path):
  config = dataclasses.replace(configs.PRESETS.preset('gym'), seed=77)
  run_folder.create(tmp_path / 'deep' / 'run', config)
  loaded = run_folder.load_config(tmp_path / 'deep' / 'run')
  assert loaded == dataclasses.asdict(config)
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
  assert [path.name for path in tmp_path.iterdir()] == ['config.json']


def test_a_folder_without_a_run_is_refused(tmp_path):
  for path in (tmp_path, tmp_path / 'none'):
    with pytest.raises(errors.UserError, match=f'{path} is not the folder of a run'):
      run_folder.load_config(path)


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
