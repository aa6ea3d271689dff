"""The command that resumes a run is the one that began it, with its flags."""

import pathlib
import shlex
import sys

import pytest

from common.config import invocation
from tests.common import programs

RUN = pathlib.Path('runs/a b')


def resuming(monkeypatch, program, *flags):
  monkeypatch.setattr(sys, 'orig_argv', [*program, *flags])
  monkeypatch.setattr(sys, 'argv', ['/somewhere/train.py', *flags])
  return invocation.resuming(RUN)


@pytest.fixture(autouse=True)
def no_wrapper(monkeypatch):
  monkeypatch.delenv('DISTRIBUTED_RL_PROGRAM', raising=False)


def test_python_is_called_as_it_was(monkeypatch):
  program = ['python3', '-u', '-m', 'impala.train']
  command = resuming(monkeypatch, program, '--env=doom', '--actor_processes=2', '--config.lstm=0')
  assert command == (
    'python3 -u -m impala.train --env=doom --actor_processes=2 --config.lstm=0 '
    "'--run_dir=runs/a b' --resume"
  )


def test_a_wrapper_that_names_itself_is_called(monkeypatch):
  monkeypatch.setenv('DISTRIBUTED_RL_PROGRAM', '../scripts/train')
  command = resuming(monkeypatch, ['/v/bin/python', '-m', 'impala.train'], '--env=doom')
  assert shlex.split(command) == [
    '../scripts/train',
    '--env=doom',
    '--run_dir=runs/a b',
    '--resume',
  ]


@pytest.mark.parametrize(
  'flags',
  [
    ['--preset=dmlab', '--run_dir=x', '--noresume'],
    ['--preset', 'dmlab', '-run_dir', 'x', '--resume'],
    ['--run_dir=x', '--resume=false'],
  ],
)
def test_flags_that_resuming_replaces_or_refuses_are_left_out(monkeypatch, flags):
  command = resuming(monkeypatch, ['python'], '--seed=3', *flags, '--tasks=a,b')
  assert shlex.split(command) == [
    'python',
    '--seed=3',
    '--tasks=a,b',
    '--run_dir=runs/a b',
    '--resume',
  ]


def test_the_training_script_names_itself():
  script = (pathlib.Path(__file__).parents[3] / 'scripts' / 'train').read_text()
  assert 'export DISTRIBUTED_RL_PROGRAM=$0' in script


def test_changed_flags_replace_those_that_were_given(monkeypatch):
  monkeypatch.setattr(sys, 'orig_argv', ['python', '--total_frames=5', '--seed=3'])
  monkeypatch.setattr(sys, 'argv', ['train.py', '--total_frames=5', '--seed=3'])
  command = invocation.resuming(RUN, {'total_frames': 10})
  assert shlex.split(command) == [
    *('python', '--seed=3', '--total_frames=10'),
    *('--run_dir=runs/a b', '--resume'),
  ]


def test_python_finds_the_modules_from_any_folder(monkeypatch, tmp_path):
  monkeypatch.setattr(sys, 'executable', str(programs.ROOT / 'bin' / 'python'))
  monkeypatch.chdir(programs.ROOT)
  assert invocation.python() == 'bin/python'
  monkeypatch.chdir(tmp_path)
  assert invocation.python() == f'PYTHONPATH={programs.ROOT} {programs.ROOT}/bin/python'
