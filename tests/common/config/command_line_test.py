"""The command line: where settings come from, and a clear message for every mistake."""

import dataclasses
import json
import pathlib
import subprocess
import sys

import pytest

import common
from common import errors
from common.config import command_line, run_folder
from impala import config as configs
from tests import other_user

ROOT = pathlib.Path(__file__).resolve().parents[3]

DESCRIPTION = 'Trains something.'


def parse(*arguments):
  return command_line.parse(['train.py', *arguments], DESCRIPTION, configs.PRESETS)


@pytest.fixture
def run_dir(tmp_path):
  """The folder of a run whose config differs from its preset."""
  path = tmp_path / 'run'
  run_folder.create(path, dataclasses.replace(configs.PRESETS.preset('gym'), batch_size=3, seed=11))
  return path


def test_the_default_preset_is_babyai():
  config, options = parse()
  assert config == configs.PRESETS.preset('babyai')
  assert not options.resume
  assert options.run_dir.parent == pathlib.Path('runs') and options.run_dir.name.startswith(
    'babyai-'
  )


@pytest.mark.parametrize('name', configs.PRESETS.rows)
def test_presets(name):
  assert parse(f'--preset={name}')[0] == configs.PRESETS.preset(name)


@pytest.mark.parametrize(
  'env, preset',
  [('doom:basic', 'doom'), ('atari:breakout', 'atari_shallow'), ('gym:Acrobot-v1', 'gym')],
)
def test_an_environment_without_a_preset_gets_its_own(env, preset):
  config, options = parse(f'--env={env}')
  assert config == dataclasses.replace(configs.PRESETS.preset(preset), env=env)
  assert options.run_dir.name.startswith(env.replace(':', '-'))


def test_flags_override_the_preset():
  config, _ = parse(
    '--preset=gym',
    '--env=gym:Acrobot-v1',
    '--total_frames=1234',
    '--seed=7',
    '--config.lstm=false',
    '--config.learning_rate=1e-3',
    '--config.batch_size',
    '5',
    '--config.correction=one_step',
  )
  assert config == dataclasses.replace(
    configs.PRESETS.preset('gym'),
    env='gym:Acrobot-v1',
    total_frames=1234,
    seed=7,
    lstm=False,
    learning_rate=1e-3,
    batch_size=5,
    correction='one_step',
  )


def test_values_have_the_types_of_their_fields():
  config, _ = parse(
    '--config.learning_rate=1', '--config.batch_size=5', '--config.torso=deep', '--config.lstm=0'
  )
  assert [
    type(x) for x in (config.learning_rate, config.batch_size, config.torso, config.lstm)
  ] == [float, int, str, bool]


@pytest.mark.parametrize('field, value', [('seed', 5), ('total_frames', 99)])
def test_a_short_flag_overrides_the_long_one(field, value):
  config, _ = parse(f'--config.{field}=3', f'--{field}={value}')
  assert getattr(config, field) == value


def test_presets_are_not_changed_by_flags():
  before = configs.PRESETS.preset('doom')
  parse('--config.batch_size=999')
  assert configs.PRESETS.preset('doom') == before


def test_a_folder_may_be_chosen():
  assert parse('--run_dir=some/where')[1].run_dir == pathlib.Path('some/where')


def test_resume_uses_the_runs_own_config(run_dir):
  config, options = parse('--resume', f'--run_dir={run_dir}')
  assert config == dataclasses.replace(configs.PRESETS.preset('gym'), batch_size=3, seed=11)
  assert options == command_line.Options(run_dir, True)


def test_flags_override_the_resumed_config(run_dir):
  config, _ = parse(
    '--resume', f'--run_dir={run_dir}', '--total_frames=77', '--config.learning_rate=0.5'
  )
  assert config == dataclasses.replace(
    configs.PRESETS.preset('gym'), batch_size=3, seed=11, total_frames=77, learning_rate=0.5
  )


def test_resume_of_a_run_of_an_older_version(run_dir):
  """New settings get their defaults; removed ones are ignored."""
  values = json.loads((run_dir / 'config.json').read_text())
  del values['log_epsilon']
  (run_dir / 'config.json').write_text(json.dumps({**values, 'gone': 3}))
  assert parse('--resume', f'--run_dir={run_dir}')[0] == dataclasses.replace(
    configs.PRESETS.preset('gym'), batch_size=3, seed=11
  )


@pytest.mark.parametrize(
  'argument, words',
  [
    ('--sed=7', 'unknown flag --sed. Did you mean --seed'),
    ('--frobnicate', 'unknown flag --frobnicate. See --help'),
    ('--preset=gim', "unknown preset 'gim'. Did you mean gym"),
    ('--preset=zzz', "unknown preset 'zzz'. Known: .*doom, .*gym"),
    ('--config.batch_sise=3', "unknown config field 'batch_sise'. Did you mean batch_size"),
    ('--noconfig.lst', 'lst'),
    ('--config.batch_size=3.5', '--config.batch_size=3.5'),
    ('--config.batch_size=many', '--config.batch_size=many'),
    ('--config.learning_rate=fast', '--config.learning_rate=fast'),
    ('--config.lstm=maybe', '--config.lstm=maybe'),
    ('--config.batch_size', '--config.batch_size'),
    ('--config=3', '--config'),
    ('--total_frames=abc', '--total_frames=abc'),
    ('--total_frames=1e6', '--total_frames=1e6'),
    ('--seed=one', '--seed=one'),
    ('--resume=maybe', '--resume=maybe'),
    ('--env', '--env'),
    ('doom', "unexpected argument 'doom': flags are written --NAME=VALUE"),
    (
      '--config.batch_size=0',
      'batch_size is 0, expected more than 0, .* Set it with --config.batch_size=VALUE',
    ),
    ('--total_frames=-1', 'total_frames is -1, expected more than 0'),
    ('--seed=-1', 'seed is -1, expected 0 or more'),
    ('--config.discount=1.5', 'discount is 1.5, expected between 0 and 1'),
    ('--config.learning_rate=nan', 'learning_rate is nan'),
    (
      '--config.correction=vtrac',
      "correction is 'vtrac', expected one of vtrace, one_step, epsilon, none",
    ),
    ('--config.torso=resnet', "torso is 'resnet', expected one of auto, shallow, deep, nature"),
  ],
)
def test_mistakes_have_clear_messages(argument, words):
  with pytest.raises(errors.UserError, match=words):
    parse(argument)


def test_resume_needs_a_folder():
  with pytest.raises(
    errors.UserError, match='--resume needs the folder of the run .*--run_dir=DIR'
  ):
    parse('--resume')


def test_resume_needs_a_run(tmp_path):
  with pytest.raises(errors.UserError, match=f'{tmp_path} is not the folder of a run'):
    parse('--resume', f'--run_dir={tmp_path}')


@pytest.mark.parametrize(
  'change', [{'batch_size': 'many'}, {'lstm': None}, {'env': 3}, {'learning_rate': [1]}], ids=str
)
def test_resume_refuses_a_config_with_wrong_types(run_dir, change):
  values = json.loads((run_dir / 'config.json').read_text())
  (run_dir / 'config.json').write_text(json.dumps({**values, **change}))
  with pytest.raises(errors.UserError, match=next(iter(change))):
    parse('--resume', f'--run_dir={run_dir}')


def test_resume_and_a_preset_exclude_each_other(run_dir):
  with pytest.raises(errors.UserError, match='--preset'):
    parse('--resume', f'--run_dir={run_dir}', '--preset=doom')


@pytest.mark.parametrize('flag', ['--help', '-h'])
def test_help(capsys, flag):
  with pytest.raises(SystemExit) as caught:
    parse(flag)
  shown = capsys.readouterr().out
  assert caught.value.code == 0
  assert shown.startswith(DESCRIPTION)
  for name in (
    '--preset',
    '--env',
    '--run_dir',
    '--total_frames',
    '--seed',
    '--[no]resume',
    '--config.FIELD',
    'batch_size=',
  ):
    assert name in shown
  assert ', '.join(configs.PRESETS.rows) in ' '.join(shown.split())


def run_script(body, reader='', arguments='first second', user=()):
  """Runs `command_line.run` with a main function of this body; pipes its output to `reader`."""
  script = f"""
import logging, sys
from common import errors
from common.config import command_line
def main(argv):
  {body}
command_line.run(main)
"""
  command = f'set -o pipefail; "$0" -c "$1" {arguments} {reader}'
  return subprocess.run(
    [*user, 'bash', '-c', command, sys.executable, script],
    capture_output=True,
    text=True,
    timeout=60,
    cwd=ROOT,
  )


def test_a_users_mistake_is_one_message_without_a_stack_trace():
  done = run_script('raise errors.UserError("there is no such game")')
  assert (done.returncode, done.stdout, done.stderr) == (2, '', 'error: there is no such game\n')


def test_a_file_that_cannot_be_written_is_one_message(tmp_path):
  path = other_user.protect(tmp_path) / 'a.png'
  done = run_script(
    'import pathlib; from common.machine import files; '
    f'files.replacing(pathlib.Path({str(path)!r})).__enter__()',
    user=other_user.command(),
  )
  message = f'error: {path} cannot be used: Permission denied\n'
  assert (done.returncode, done.stdout, done.stderr) == (2, '', message)


# As where /tmp is full, or all file systems are mounted for reading only.
_NO_TEMPORARY_FOLDER = """
import sys, tempfile
if 'pass' not in sys.argv:
  tempfile._candidate_tempdir_list = lambda: ['/nowhere']
  tempfile.tempdir = None
"""


def test_without_a_temporary_folder_there_is_one_message(monkeypatch, tmp_path):
  (tmp_path / 'sitecustomize.py').write_text(_NO_TEMPORARY_FOLDER)
  monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:.')
  done = run_script('print("done")')
  assert (done.returncode, done.stdout) == (2, '')
  assert done.stderr.startswith('error: there is no folder where temporary files can be written')
  assert '/nowhere' in done.stderr and done.stderr.count('\n') == 1
  # Help needs none.
  assert run_script('print("done")', arguments='--help').stdout == 'done\n'


@pytest.mark.parametrize('version', [(3, 10), (3, 14)])
def test_another_python_is_refused_with_those_that_work(version):
  program = f'import sys; sys.version_info = {(*version, 1, "final", 0)}; import common'
  done = subprocess.run([sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True)
  message = f'error: this is Python {version[0]}.{version[1]}, expected one of 3.11, 3.12, 3.13\n'
  assert (done.returncode, done.stdout, done.stderr) == (2, '', message)


_SCRIPTS = sorted(
  str(path) for path in (ROOT / 'scripts').glob('*.py') if '\nif __name__ ==' in path.read_text()
)


@pytest.mark.parametrize(
  'program', ['-mimpala.train', '-mimpala.population', '-mapex.train', *_SCRIPTS]
)
def test_a_python_without_the_packages_is_refused(program):
  done = subprocess.run([sys.executable, '-S', program], cwd=ROOT, capture_output=True, text=True)
  assert done.returncode == 2 and done.stderr.count('\n') == 1
  assert 'has no packages of requirements.txt: use .venv/bin/python' in done.stderr


def test_the_versions_of_python_that_work_are_the_same_everywhere():
  versions = [f'{major}.{minor}' for major, minor in common._SUPPORTED]
  setup = (ROOT / 'scripts' / 'setup.sh').read_text()
  assert f'supported_versions=({" ".join(versions)})\n' in setup
  readme = (ROOT / 'README.md').read_text()
  assert f'Python {", ".join(versions[:-1])} or {versions[-1]}' in readme


def test_a_bug_has_a_stack_trace():
  done = run_script('raise KeyError("oops")')
  assert done.returncode == 1
  assert 'Traceback' in done.stderr and 'oops' in done.stderr


@pytest.mark.parametrize(
  'body, status',
  [('return 0', 0), ('return None', 0), ('return 7', 7), ('raise KeyboardInterrupt', 130)],
)
def test_exit_status(body, status):
  done = run_script(body)
  assert (done.returncode, done.stderr) == (status, '')


def test_main_gets_the_arguments_and_logs_plainly():
  done = run_script('logging.info("%s", argv[1:])')
  assert (done.returncode, done.stdout, done.stderr) == (0, "['first', 'second']\n", '')


@pytest.mark.parametrize('say', ['print("word" * 500, flush=True)', 'logging.info("word" * 500)'])
def test_a_closed_pipe_ends_the_program_quietly(say):
  """The output is larger than a pipe's buffer, so the pipe breaks during a write."""
  done = run_script(f'for _ in range(500): {say}', reader='| head -c 4')
  assert (done.returncode, done.stdout, done.stderr) == (1, 'word', '')


def test_mistakes_are_found_without_importing_tensorflow():
  done = run_script(
    'import impala.config, common.config.run_folder; return int("tensorflow" in sys.modules)'
  )
  assert (done.returncode, done.stderr) == (0, '')


def test_tensorflow_is_imported_without_its_messages():
  done = run_script(
    'command_line.import_tensorflow(); print("after", file=sys.stderr); '
    'return 7 if "tensorflow" in sys.modules else 1'
  )
  assert (done.returncode, done.stdout, done.stderr) == (7, '', 'after\n')


def test_the_messages_are_shown_if_tensorflow_cannot_be_imported(tmp_path, monkeypatch):
  (tmp_path / 'tensorflow.py').write_text(
    'import os\nos.write(2, b"a note from C++")\nraise ImportError("no libc")\n'
  )
  monkeypatch.setenv('PYTHONPATH', f'{tmp_path}:.')
  done = run_script('command_line.import_tensorflow()')
  assert done.returncode == 1
  assert 'a note from C++' in done.stderr and 'ImportError: no libc' in done.stderr
