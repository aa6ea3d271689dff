"""However a run ends, it leaves nothing: no engine, no shared memory, no temporary file."""

import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import uuid
from typing import NamedTuple

import pytest

from common import environments
from common.machine import janitor
from scripts import processes

SECONDS = 10.0
ROOT = pathlib.Path(__file__).resolve().parents[3]

_RUN = """
import os, signal, sys, tempfile
# Ignored where the tests run in the background, or under nohup.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
from common import environments
from common.machine import janitor
with janitor.attend() as folder:
  environment = environments.load('doom:basic').make(['basic', 'basic'], True)
  environment.reset(seed=1)
  tempfile.NamedTemporaryFile(delete=False).close()
  print(folder, flush=True)
  {end}
print('went on', flush=True)
"""


class Run(NamedTuple):
  """A run in a process of its own, and what it may leave."""

  process: subprocess.Popen
  folder: pathlib.Path
  children: set[int]  # The engines, the process that steps them, and the janitor.
  engines: set[int]
  segments: set[pathlib.Path]

  def is_gone(self):
    return not (
      self.folder.exists()
      or any(map(processes.is_alive, self.children))
      or any(segment.exists() for segment in self.segments)
    )


def start(end='sys.stdin.read()'):
  """Starts a run in its own session, with two games and a temporary file.

  Args:
    end: The statement that the run ends with.
  """
  process = subprocess.Popen(
    [sys.executable, '-c', _RUN.format(end=end)],
    stdin=subprocess.PIPE,
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
    start_new_session=True,
    cwd=ROOT,
  )
  folder = process.stdout.readline().strip()
  assert folder, process.stderr.read()
  engines = processes.engines(process.pid)
  segments = set.union(*map(processes.shared_memory, engines))
  return Run(process, pathlib.Path(folder), processes.descendants(process.pid), engines, segments)


@pytest.fixture
def run():
  started = start()
  yield started
  with started.process as process:
    process.kill()
  if not processes.becomes_true(started.is_gone, SECONDS):
    # The test has failed; what it left must not stay.
    for segment in started.segments:
      segment.unlink(missing_ok=True)


def test_a_run_has_engines_shared_memory_and_a_temporary_folder(run):
  """Otherwise there would be nothing to clean up."""
  assert len(run.engines) == 2 and len(run.children) == 4
  assert all(map(processes.is_alive, run.children))
  names = [path.name for path in run.segments]
  assert len(names) >= 4 and all(name.startswith('ViZDoom') for name in names)
  assert len(list(run.folder.iterdir())) >= 2  # The engines' and the run's.


@pytest.mark.parametrize(
  'name', [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP], ids=lambda s: s.name
)
def test_a_killed_run_leaves_nothing(run, name):
  run.process.send_signal(name)
  assert run.process.wait(SECONDS) == -name
  assert processes.becomes_true(run.is_gone, SECONDS)


@pytest.mark.parametrize(
  'name', [signal.SIGKILL, signal.SIGHUP, signal.SIGINT], ids=lambda s: s.name
)
def test_a_run_killed_with_its_whole_process_group_leaves_nothing(run, name):
  """As a closing terminal (SIGHUP) and Ctrl-C do: the engines get the signal too."""
  os.killpg(run.process.pid, name)
  run.process.wait(SECONDS)
  assert processes.becomes_true(run.is_gone, SECONDS)


def test_a_clean_exit_leaves_nothing_and_spares_the_run(run):
  output, _ = run.process.communicate('', timeout=SECONDS)
  assert run.process.returncode == 0
  assert output == 'went on\n'
  assert processes.becomes_true(run.is_gone, SECONDS)


def test_everything_is_gone_when_the_block_ends():
  ended = start('raise SystemExit(3) if sys.stdin.readline() else None')
  ended.process.communicate('end\n', timeout=SECONDS)
  assert ended.process.returncode == 3
  assert ended.is_gone()


def test_shared_memory_of_an_engine_that_died_while_starting_is_removed(tmp_path):
  launcher = pathlib.Path(environments.__file__).parent / 'doom_engine.sh'
  name = tmp_path.name + 'AbCdEfGhIjKl'
  own = pathlib.Path('/dev/shm', f'ViZDoomMQCtr{name}')
  other = pathlib.Path('/dev/shm', f'ViZDoomMQCtr{name}Z')
  with janitor.attend():
    variables = {**os.environ, 'VIZDOOM_ENGINE': '/bin/true'}
    subprocess.run([launcher, '+viz_instance_id', name], check=True, env=variables)
    own.touch()
    other.touch()
  assert not own.exists() and other.exists()
  other.unlink()


def test_another_run_is_left_alone(run):
  other = start()
  other.process.kill()
  other.process.communicate()
  assert processes.becomes_true(other.is_gone, SECONDS)
  assert all(map(processes.is_alive, [run.process.pid, *run.children]))
  assert run.folder.exists() and all(segment.exists() for segment in run.segments)


def mark_of(pid):
  variables = pathlib.Path(f'/proc/{pid}/environ').read_bytes()
  return re.search(rb'DISTRIBUTED_RL_RUN=(\w+)', variables).group(1)


def test_the_engines_of_these_tests_are_attended():
  """They carry the mark, since `conftest.py` attends the whole session."""
  environment = environments.load('doom:basic').make(['basic', 'basic'], True)
  before = processes.engines()
  environment.reset(seed=1)
  started = processes.engines() - before
  marks = {mark_of(pid) for pid in started}
  environment.close()
  assert len(started) == 2
  assert marks == {os.environ['DISTRIBUTED_RL_RUN'].encode()}


def test_temporary_files_are_in_the_folder_and_afterwards_all_is_as_before():
  before = dict(os.environ), tempfile.gettempdir()
  with janitor.attend() as folder:
    assert tempfile.gettempdir() == os.environ['TMPDIR'] == str(folder)
    with tempfile.NamedTemporaryFile() as file:
      assert pathlib.Path(file.name).parent == folder
    (folder / 'left').mkdir()
    child = subprocess.run(['sh', '-c', 'echo $TMPDIR'], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == str(folder)
  assert not folder.exists()
  assert (dict(os.environ), tempfile.gettempdir()) == before


def test_an_error_inside_is_passed_on():
  with pytest.raises(ValueError, match='mine'):
    with janitor.attend() as folder:
      raise ValueError('mine')
  assert not folder.exists()


def test_processes_started_in_the_block_end_with_it():
  with janitor.attend():
    sleeper = subprocess.Popen(['sleep', '1000'])
    detached = subprocess.Popen(['sleep', '1000'], start_new_session=True)
  assert sleeper.wait(SECONDS) == detached.wait(SECONDS) == -signal.SIGKILL


_WRITER = """
import os, sys
i = 0
print('started', flush=True)
while True:
  os.makedirs(f'{sys.argv[1]}/{i % 9}', exist_ok=True)
  open(f'{sys.argv[1]}/{i % 9}/{i % 99}', 'w').close()
  i += 1
"""


def test_a_process_that_starts_while_others_are_killed_is_killed_too(tmp_path, monkeypatch):
  """As when a map is compiled: the folder would be filled again after it was removed."""
  folder = tmp_path / 'run'
  mark = uuid.uuid4().hex
  late = subprocess.Popen(
    [sys.executable, '-c', _WRITER, folder],
    stdout=subprocess.PIPE,
    env={**os.environ, 'DISTRIBUTED_RL_RUN': mark},
  )
  assert late.stdout.readline() == b'started\n'
  marked = janitor._marked_processes

  def hidden_once(*_):
    """Lists the processes as just before the writer was started, and from then on as they are."""
    monkeypatch.setattr(janitor, '_marked_processes', marked)
    return [early.pid]

  with late, subprocess.Popen(['sleep', '1000']) as early:
    monkeypatch.setattr(janitor, '_marked_processes', hidden_once)
    janitor._clean(mark, str(folder), os.getpid())
    try:
      assert not folder.exists()
      assert early.wait(SECONDS) == late.wait(SECONDS) == -signal.SIGKILL
    finally:
      late.kill()
      early.kill()


def test_shared_memory_that_an_engine_was_about_to_map_is_removed():
  # An engine killed while it starts has mapped nothing yet. Its segments are named after one of its
  # arguments.
  name = uuid.uuid4().hex
  segment = pathlib.Path(f'/dev/shm/Engine{name}')
  code = f"""
import subprocess, time
from common.machine import janitor
with janitor.attend():
  open({str(segment)!r}, 'w').close()
  subprocess.Popen(['sh', '-c', 'sleep 100; :', {name!r}])
  print('started', flush=True)
  time.sleep(100)
"""
  variables = {**os.environ, 'PYTHONPATH': str(ROOT)}
  run = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, env=variables)
  assert run.stdout.readline() == b'started\n' and segment.exists()
  run.kill()
  run.communicate()
  assert processes.becomes_true(lambda: not segment.exists(), SECONDS)
