"""Evaluation in several processes: the same episodes as in one, none twice, no orphans."""

import dataclasses
import functools
import json
import logging
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest

from apex import system as apex
from common import environments, errors
from common.config import run_folder
from common.evaluation import command as evaluation_command
from common.evaluation import jobs as evaluation_jobs
from common.evaluation import play as playing
from common.reporting import scores
from impala import config as configs
from impala import system
from scripts import processes
from tests import other_user

ROOT = pathlib.Path(__file__).resolve().parents[3]
SEED = 5
EPISODES = 12
JOBS = [
  evaluation_jobs.Job(who, task) for who in ('random', 'agent') for task in ('a', 'b', 'c', 'd')
]
FOREVER = 600.0
LOG_EVERY = 10.0


class Diary:
  """Plays CartPole under any task name; records each play and its process in a folder."""

  def __init__(self, folder: pathlib.Path):
    self._folder = folder
    self._suite = environments.load('gym:CartPole-v1')
    folder.mkdir(exist_ok=True)

  def begin(self, who, task, episodes):
    path = self._folder / f'{time.monotonic_ns()}-{who}-{task}'
    # Renamed when complete: tests read the folder at any time.
    path.with_suffix('.new').write_text(str(os.getpid()))
    path.with_suffix('.new').rename(path)
    self.meet(task)
    seed = SEED + sum(map(ord, who + task))

    def make_player(name, count):
      return playing.random_player(self._suite.action_space, seed)

    self._playing = playing.play_episodes(
      self._suite, 'CartPole-v1', make_player, episodes, seed, 100_000
    )

  def play_on(self, seconds):
    """Every turn is a step."""
    played = next(self._playing)
    is_done = len(played.returns) == played.asked
    return evaluation_jobs.Turn(played.standing(), played.summary() if is_done else None)

  def close(self):
    self._playing.close()

  def meet(self, task):
    """What else happens while a task is played; nothing here."""


class Mishaps(Diary):
  """Some tasks go wrong: `slow` never ends, the bad ones fail once two have begun."""

  def meet(self, task):
    if task == 'slow':
      time.sleep(FOREVER)
    if task.startswith('bad'):
      processes.becomes_true(lambda: len(begun(self._folder)) >= 2, 60.0)
    if task == 'bad user':
      raise errors.UserError('no bananas left')
    if task == 'bad program':
      raise KeyError('no such fruit')


class Unmakeable:
  """A player that cannot be made."""

  def __init__(self):
    raise errors.UserError('no checkpoint here')


class Gated(Diary):
  """Only tasks a and b end, so that an interrupt finds processes playing others."""

  def meet(self, task):
    if task not in ('a', 'b'):
      time.sleep(FOREVER)


def begun(folder):
  """All plays in the order in which they began: (who, task, process)."""
  plays = (path for path in folder.iterdir() if path.suffix != '.new')
  plays = sorted(plays, key=lambda path: int(path.name.split('-')[0]))
  return [(*path.name.split('-')[1:], int(path.read_text())) for path in plays]


def names(folder):
  """Who played which task, sorted."""
  return sorted(play[:2] for play in begun(folder))


def play(tmp_path, jobs=JOBS, processes_=2, player=Diary, results='results'):
  make = functools.partial(player, tmp_path / 'diary')
  return evaluation_jobs.play_all(
    jobs, EPISODES, tmp_path / results, make(), make, processes_, LOG_EVERY
  )


def finished(player, job):
  """The summary of a job that a player plays to its end."""
  player.begin(*job, EPISODES)
  while not (summary := player.play_on(1.0).summary):
    pass
  return summary


def expected(jobs=JOBS):
  """The results of one player that plays the jobs in order."""
  diary = pathlib.Path(f'/tmp/diary-of-{os.getpid()}')
  try:
    player = Diary(diary)
    return {job: finished(player, job) for job in jobs}
  finally:
    shutil.rmtree(diary)


def files_in(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(autouse=True)
def no_process_is_left():
  before = processes.descendants()
  yield
  assert processes.becomes_true(
    lambda: not any(map(processes.is_alive, processes.descendants() - before))
  )


@pytest.mark.parametrize('count', [1, 2])
def test_results_do_not_depend_on_the_number_of_processes(tmp_path, count):
  found = play(tmp_path, processes_=count)
  assert found == expected() and list(found) == JOBS
  assert {one['episodes'] for one in found.values()} == {EPISODES}
  assert names(tmp_path / 'diary') == sorted(map(tuple, JOBS))
  pids = {pid for *_, pid in begun(tmp_path / 'diary')}
  if count == 1:
    assert pids == {os.getpid()}
  else:
    assert os.getpid() not in pids
    assert len(pids) <= count


@pytest.mark.parametrize('count', [1, 2])
def test_progress_is_logged_while_jobs_are_played(tmp_path, caplog, monkeypatch, count):
  caplog.set_level(logging.INFO)
  # A line after each turn.
  monkeypatch.setattr(sys.modules[__name__], 'LOG_EVERY', 0.0)
  play(tmp_path, JOBS[:2], processes_=count)
  lines = [message for message in caplog.messages if 'ETA' in message]
  pattern = r'  (\d+) of 24 episodes, ([\d,]+) steps, ETA (at most )?[\d:]+( \(playing (.*)\))?'
  found = [re.fullmatch(pattern, line) for line in lines]
  assert len(found) > 100 and all(found)
  episodes = [int(match[1]) for match in found]
  assert episodes == sorted(episodes) and len(set(episodes)) > 4 and episodes[-1] == 24
  assert found[0][3] and found[0][5] in ('a, random', 'b, random') and not found[-1][4]


ALONE = [evaluation_jobs.Job(who, 'a') for who in ('random', 'agent')]


def test_a_single_short_task_is_played_by_this_process(tmp_path):
  found = play(tmp_path, ALONE, processes_=2)
  assert found == expected(ALONE)
  assert begun(tmp_path / 'diary') == [('random', 'a', os.getpid()), ('agent', 'a', os.getpid())]


def test_a_single_long_task_is_played_again_by_processes_that_share_its_jobs(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluation_jobs, '_ALONE_SECONDS', 0.0)
  found = play(tmp_path, ALONE, processes_=2)
  assert found == expected(ALONE)
  first, *others = begun(tmp_path / 'diary')
  assert first == ('random', 'a', os.getpid())
  assert {(who, pid != os.getpid()) for who, _, pid in others} == {
    ('random', True),
    ('agent', True),
  }


def test_the_last_job_of_a_long_task_is_played_on(tmp_path, monkeypatch):
  monkeypatch.setattr(evaluation_jobs, '_ALONE_SECONDS', 0.0)
  assert play(tmp_path, ALONE[1:], processes_=2) == expected(ALONE[1:])
  assert len(begun(tmp_path / 'diary')) == 1


def test_no_more_processes_are_started_than_there_are_jobs(tmp_path):
  seen = set()
  over = threading.Event()
  before = processes.descendants()

  def watch():
    while not over.is_set():
      seen.update(processes.descendants() - before)
      time.sleep(0.01)

  watcher = threading.Thread(target=watch)
  watcher.start()
  try:
    play(tmp_path, JOBS[:2], processes_=16)
  finally:
    over.set()
    watcher.join()
  assert len(seen) == 2


def test_each_result_is_a_file_of_its_own(tmp_path):
  found = play(tmp_path, processes_=1)
  kept = {path.name: json.loads(path.read_text()) for path in (tmp_path / 'results').iterdir()}
  assert kept == {f'{who}-{task}.json': found[who, task] for who, task in JOBS}


@pytest.mark.parametrize('count', [1, 2])
def test_existing_results_are_not_played_again(tmp_path, count):
  first = play(tmp_path, processes_=1)
  for gone in ('agent-b.json', 'random-d.json'):
    (tmp_path / 'results' / gone).unlink()
  shutil.rmtree(tmp_path / 'diary')
  again = play(tmp_path, processes_=count)
  assert names(tmp_path / 'diary') == [('agent', 'b'), ('random', 'd')]
  assert again == first and list(again) == JOBS


def test_complete_results_start_no_process(tmp_path):
  first = play(tmp_path, processes_=1)
  shutil.rmtree(tmp_path / 'diary')
  again = evaluation_jobs.play_all(JOBS, EPISODES, tmp_path / 'results', None, None, 4, LOG_EVERY)
  assert again == first


def test_an_existing_result_is_used_unchanged(tmp_path):
  """Shows that tests of resuming can fail: nothing is computed again."""
  (tmp_path / 'results').mkdir()
  (tmp_path / 'results' / 'agent-b.json').write_text('{"mean": 77}')
  assert play(tmp_path, JOBS[4:6], 1)['agent', 'b'] == {'mean': 77}
  assert names(tmp_path / 'diary') == [('agent', 'a')]


@pytest.mark.parametrize('task', ['lasertag/small', 'gym:Cart-v1'])
def test_task_names_become_file_names(tmp_path, task):
  name = evaluation_jobs.file_name(task)
  assert '/' not in name and ':' not in name and re.sub('[/:]', '_', task) == name


@pytest.mark.parametrize(
  'task, error, text',
  [
    ('bad user', errors.UserError, '^no bananas left$'),
    ('bad program', RuntimeError, 'no such fruit'),
  ],
)
def test_an_error_in_one_process_ends_the_others(tmp_path, task, error, text):
  jobs = [evaluation_jobs.Job('agent', name) for name in ('slow', task, 'later')]
  start = time.monotonic()
  with pytest.raises(error, match=text):
    play(tmp_path, jobs, 2, Mishaps)
  assert time.monotonic() - start < FOREVER / 4
  assert len(begun(tmp_path / 'diary')) == 2 and not list((tmp_path / 'results').iterdir())


def test_an_error_keeps_finished_results(tmp_path):
  jobs = [evaluation_jobs.Job('agent', name) for name in ('a', 'b', 'bad user')]
  with pytest.raises(errors.UserError, match='no bananas left'):
    play(tmp_path, jobs, 1, Mishaps)
  assert set(files_in(tmp_path / 'results')) == {'agent-a.json', 'agent-b.json'}


def test_the_error_of_a_player_that_cannot_be_made_is_raised_unchanged(tmp_path):
  with pytest.raises(errors.UserError, match='^no checkpoint here$'):
    evaluation_jobs.play_all(JOBS, EPISODES, tmp_path / 'results', None, Unmakeable, 2, LOG_EVERY)


def test_a_killed_process_is_a_clear_error(tmp_path):
  diary = tmp_path / 'diary'
  killed = []
  jobs = [evaluation_jobs.Job('agent', name) for name in ('a', 'slow', 'b')]

  def kill_the_slow_one():
    if processes.becomes_true(
      lambda: (
        diary.exists()
        and ('agent', 'slow') in names(diary)
        and len(list((tmp_path / 'results').glob('*.json'))) == 2
      ),
      60.0,
    ):
      killed.append(next(pid for _, task, pid in begun(diary) if task == 'slow'))
      os.kill(killed[0], signal.SIGKILL)

  killer = threading.Thread(target=kill_the_slow_one)
  killer.start()
  with pytest.raises(errors.UserError) as refused:
    play(tmp_path, jobs, 2, Mishaps)
  killer.join()
  assert killed
  assert str(refused.value).startswith(
    'while slow was played, the process was killed by SIGKILL (9)'
  )
  assert 'Results so far are kept: the same command continues.' in str(refused.value)
  assert set(files_in(tmp_path / 'results')) == {'agent-a.json', 'agent-b.json'}


def interrupted(tmp_path, count):
  """Plays in another process, which gets Ctrl-C when two jobs are finished and others are not.

  Returns:
    The exit status, the output, and the processes below it before Ctrl-C.
  """
  program = (
    'import functools, pathlib\n'
    'from common.config import command_line\n'
    'from common.evaluation import jobs as evaluation_jobs\n'
    'from common.machine import janitor\n'
    'from tests.common.evaluation import jobs_test as here\n'
    'def main(argv):\n'
    f'  with janitor.attend():\n'
    f'    here.play(pathlib.Path({str(tmp_path)!r}), processes_={count}, player=here.Gated)\n'
    f'command_line.run(main)'
  )
  process = subprocess.Popen(
    [sys.executable, '-c', program],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    env={**os.environ, 'PYTHONPATH': str(ROOT)},
  )
  try:
    wanted = 2 + count
    assert processes.becomes_true(
      lambda: (
        (tmp_path / 'diary').exists()
        and len(begun(tmp_path / 'diary')) >= wanted
        and len(list((tmp_path / 'results').glob('*.json'))) >= 2
        or process.poll() is not None
      ),
      60.0,
    )
    assert process.poll() is None, process.stdout.read()
    below = processes.descendants(process.pid)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60.0)
  finally:
    process.kill()
    process.wait()
  return process.returncode, output, below


@pytest.mark.parametrize('count', [1, 2])
def test_an_interrupted_evaluation_keeps_complete_results_and_can_be_continued(tmp_path, count):
  status, output, below = interrupted(tmp_path, count)
  assert status == 130 and 'Traceback' not in output
  assert processes.becomes_true(lambda: not any(map(processes.is_alive, below)))
  assert len(below) >= count
  kept = files_in(tmp_path / 'results')
  assert set(kept) == {'random-a.json', 'random-b.json'}
  assert all(json.loads(text)['episodes'] == EPISODES for text in kept.values())
  shutil.rmtree(tmp_path / 'diary')
  assert play(tmp_path, processes_=2) == expected()
  assert names(tmp_path / 'diary') == sorted(tuple(job) for job in JOBS[2:])


@pytest.fixture(scope='module')
def fresh_run(tmp_path_factory):
  """A run of two games with an untrained agent, and checkpoints of 1 and 2 updates."""
  folder = tmp_path_factory.mktemp('runs') / 'fresh'
  config = dataclasses.replace(
    configs.PRESETS.preset('table_4_multi_task'),
    tasks='breakout,road_runner',
    torso='shallow',
    num_actors=1,
    envs_per_actor=2,
  )
  run_folder.create(folder, config)
  save(folder, config, 1)
  save(folder, config, 2)
  return folder


def save(folder, config, number):
  """Saves a new agent's checkpoint; its number is the seed of its parameters."""
  import tensorflow as tf

  from common.runs import checkpoints
  from impala import networks

  tf.random.set_seed(number)
  model = tf.Module()
  model.agent = networks.make_agent(
    config, environments.load(config.env, config.environment_options())
  )
  checkpoints.Checkpoints(folder / 'checkpoints', model).save(number)


def evaluate(folder, episodes=3, **named):
  evaluation_command.evaluate(folder, system.IMPALA, episodes, **{'processes': 1, **named})
  return json.loads((folder / 'evaluation.json').read_text())


@pytest.fixture(scope='module')
def evaluated_run(fresh_run, tmp_path_factory):
  """The run, evaluated in this process."""
  folder = tmp_path_factory.mktemp('runs') / 'evaluated'
  shutil.copytree(fresh_run, folder)
  evaluate(folder)
  return folder


@pytest.fixture
def evaluated(evaluated_run, tmp_path):
  """A copy of `evaluated_run` that the test may change."""
  return pathlib.Path(shutil.copytree(evaluated_run, tmp_path / 'run'))


@pytest.fixture
def played(monkeypatch):
  """The tasks that are played in this process, rather than taken from earlier results."""
  tasks = []
  original = playing.play_episodes

  def play_and_record(suite, task, *rest, **named):
    tasks.append(task)
    return original(suite, task, *rest, **named)

  monkeypatch.setattr(playing, 'play_episodes', play_and_record)
  return tasks


def played_episodes(folder):
  return json.loads((folder / 'evaluation.json').read_text())['agent']


def test_the_json_of_an_evaluation(evaluated_run):
  found = json.loads((evaluated_run / 'evaluation.json').read_text())
  # Without `random`: there are published scores of random play.
  names = {'checkpoint', 'env', 'seed', 'deterministic', 'references', 'note', 'agent'}
  assert set(found) == names
  assert (found['env'], found['references'], found['note']) == ('atari57', 'atari57', '')
  assert found['checkpoint'].endswith('checkpoints/latest/ckpt-2')
  assert found['seed'] == 2_000_000_000
  assert list(found['agent']) == ['breakout', 'road_runner']
  for summary in found['agent'].values():
    assert set(summary) == {'mean', 'low', 'high', 'episodes', 'returns', 'lengths', 'cut'}
    assert summary['episodes'] == len(summary['returns']) == len(summary['lengths']) == 3
    assert summary['mean'] == pytest.approx(sum(summary['returns']) / 3)


def test_an_evaluation_writes_scores_beside_those_of_the_papers(evaluated_run):
  found = json.loads((evaluated_run / 'scores.json').read_text())
  means = {task: summary['mean'] for task, summary in played_episodes(evaluated_run).items()}
  assert found['normalised'] == scores.normalised('atari57', means)
  assert set(found['summary']) == {'agent', 'IMPALA multi-task', 'IMPALA deep', 'Ape-X'}
  assert (evaluated_run / 'scores.png').read_bytes().startswith(b'\x89PNG')


@pytest.mark.long
def test_two_processes_play_the_same_episodes_as_one(fresh_run, evaluated_run, tmp_path):
  """Seeds, games and actions do not depend on the process, or on what it played before."""
  shutil.copytree(fresh_run, tmp_path / 'run')
  done = subprocess.run(
    [
      sys.executable,
      '-m',
      'impala.evaluate',
      str(tmp_path / 'run'),
      '--episodes=3',
      '--processes=2',
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=120.0,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  for word in (
    'Evaluating',
    'breakout',
    'road_runner',
    'IMPALA multi-task',
    '2 of the 57 tasks',
    'evaluation.json',
  ):
    assert word in done.stdout
  assert played_episodes(tmp_path / 'run') == played_episodes(evaluated_run)


def test_a_task_played_alone_has_the_same_episodes_as_among_others(evaluated, played):
  whole = played_episodes(evaluated)
  [gone] = evaluated.glob('evaluation/*/agent-road_runner.json')
  gone.unlink()
  evaluate(evaluated)
  assert played == ['road_runner'] and played_episodes(evaluated) == whole


def test_results_with_other_episodes_seeds_and_checkpoints_are_not_reused(evaluated, played):
  whole = played_episodes(evaluated)
  older = str(evaluated / 'checkpoints' / 'latest' / 'ckpt-1')
  for other in ({'episodes': 2}, {'seed': 7}, {'checkpoint': older}, {'deterministic': True}):
    found = evaluate(evaluated, **other)
    assert played == ['breakout', 'road_runner']
    assert all(found['agent'][task] != whole[task] for task in whole)
    assert found['seed'] == other.get('seed', 2_000_000_000)
    assert found['deterministic'] == other.get('deterministic', False)
    assert found['checkpoint'].endswith(other.get('checkpoint', 'ckpt-2'))
    del played[:]
  evaluate(evaluated)
  assert not played and played_episodes(evaluated) == whole


def test_a_limit_of_steps_cuts_episodes_and_the_report_says_so(evaluated, played, caplog):
  caplog.set_level(logging.INFO)
  found = evaluate(evaluated, max_steps=20)
  assert played == ['breakout', 'road_runner']
  for summary in found['agent'].values():
    assert summary['lengths'] == [20] * 3 and summary['cut'] == 3
  assert (
    'Cut after 20 agent steps (max_evaluation_steps): agent, 6 of 6 episodes of breakout, '
    'road_runner.'
  ) in caplog.messages


def test_the_best_action_repeated_is_a_baseline(tmp_path, caplog):
  caplog.set_level(logging.INFO)
  config = configs.PRESETS.preset('gym')
  run_folder.save_config(tmp_path, config)
  save(tmp_path, config, 1)
  best = evaluate(tmp_path, repeated_actions=True)['best action repeated']['CartPole-v1']
  means = [
    json.loads(path.read_text())['mean'] for path in tmp_path.glob('evaluation/*/action *.json')
  ]
  assert len(means) == 2 and best['mean'] == max(means)
  assert best['episodes'] == 3 and best['player'] in ('action 0', 'action 1')
  assert any('best action repeated' in message for message in caplog.messages)


def test_results_of_another_run_s_checkpoint_of_the_same_name_are_not_reused(
  evaluated, played, tmp_path
):
  config = configs.PRESETS.from_json(run_folder.load_config(evaluated))
  save(tmp_path / 'other', config, 3)
  for path in (tmp_path / 'other').glob('checkpoints/latest/ckpt-3.*'):
    path.rename(path.with_name(path.name.replace('ckpt-3', 'ckpt-2')))
  checkpoint = str(tmp_path / 'other' / 'checkpoints' / 'latest' / 'ckpt-2')
  found = evaluate(evaluated, checkpoint=checkpoint)
  assert played == ['breakout', 'road_runner']
  assert found['checkpoint'].startswith(str(tmp_path / 'other'))


def test_films_are_made_even_if_there_are_results(evaluated, played):
  evaluate(evaluated, film=True)
  assert played == ['breakout', 'road_runner']
  assert {path.stem for path in (evaluated / 'videos').iterdir()} == {'breakout', 'road_runner'}


def test_a_run_of_the_other_system_is_refused_by_name(fresh_run):
  with pytest.raises(errors.UserError, match='python -m impala.evaluate'):
    evaluation_command.evaluate(fresh_run, apex.APEX, 1)


def test_a_run_that_cannot_get_results_is_refused_before_it_is_played(tmp_path):
  run_folder.create(tmp_path / 'run', configs.PRESETS.preset('gym'))
  run = other_user.protect(tmp_path / 'run')
  program = [sys.executable, '-m', 'impala.evaluate', str(run)]
  done = subprocess.run(
    [*other_user.command(), *program], cwd=ROOT, capture_output=True, text=True, timeout=120.0
  )
  message = (
    f'error: {run} cannot be written by this user, and results belong there: evaluate a copy of '
    'the run\n'
  )
  assert (done.returncode, done.stderr) == (2, message)


def test_zero_processes_are_refused():
  with pytest.raises(errors.UserError, match='processes'):
    evaluation_command.main(['evaluate', 'a/run', '--processes=0'], 'Evaluates.', system.IMPALA)
