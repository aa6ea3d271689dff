"""The population's program: folders, refusals, turns; killed, resumed; a bad draw is replaced."""

import json
import os
import re
import signal
import time

import pytest

from common import errors
from impala import ancestry, hyperparameters, places, population
from impala import population_folder as folders
from tests.common import programs

CARTPOLE = '--env=gym:CartPole-v1'


def call(*flags):
  return population.main(['population', CARTPOLE, *flags])


def config_of(folder, number):
  return json.loads((folders.member_folder(folder, number) / 'config.json').read_text())


def refusal(*flags):
  with pytest.raises(errors.UserError) as refused:
    call(*flags)
  return str(refused.value)


@pytest.fixture(scope='module')
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp('populations') / 'four'
  flags = (f'--run_dir={folder}', '--population=4', '--members=none', '--episodes=70')
  assert call(*flags, '--config.core_size=32', '--seed=5') == 0
  return folder


def test_members_are_prepared_with_their_draws_and_nothing_else_of_their_own(prepared):
  shared = json.loads((prepared / 'config.json').read_text())
  for number in range(4):
    drawn = hyperparameters.draw(number)
    own = {'population': True, 'seed': 5 + 10_000 * number, 'evaluation_episodes': 0}
    assert config_of(prepared, number) == shared | drawn | own
  assert shared['core_size'] == 32
  found = folders.load(prepared)
  assert (found.size, found.seed, found.rule.episodes) == (4, 5, 70)
  assert found.rule.burn_in_frames == 20_000_000
  assert found.adapted == ('learning_rate', 'entropy_cost', 'rmsprop_epsilon')
  # Random play of CartPole reaches about 20.
  assert 10 < folders.random(prepared)['CartPole-v1'] < 40


def test_others_join_with_the_same_command_only(prepared):
  flags = (f'--run_dir={prepared}', '--members=none', '--config.core_size=32', '--seed=5')
  before = (prepared / 'population.json').read_bytes()
  assert call(*flags, '--population=4', '--episodes=70') == 0
  assert (prepared / 'population.json').read_bytes() == before
  for others in (['--population=4'], ['--population=4', '--episodes=70', '--total_frames=7']):
    assert 'holds a population of other settings' in refusal(*flags, *others)


def test_resuming_changes_rules_and_adds_members(prepared):
  flags = (f'--run_dir={prepared}', '--members=none', '--resume')
  assert call(*flags, '--population=5', '--margin=2.5') == 0
  found = folders.load(prepared)
  assert (found.size, found.rule.margin, found.rule.episodes) == (5, 2.5, 70)
  assert config_of(prepared, 4)['core_size'] == 32
  assert 'at least the 5 members' in refusal(*flags, '--population=4')


def test_atari_adapts_the_norm_s_threshold(tmp_path):
  flags = ['--env=atari:pong', f'--run_dir={tmp_path}', '--population=2', '--members=none']
  assert population.main(['population', *flags]) == 0
  assert 'max_gradient_norm' in folders.load(tmp_path).adapted
  # Human scores are known.
  assert not (tmp_path / 'random.json').exists()


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--population=1'], '--population=1: 1 is not integer >= 2'),
    (['--config.learning_rate=0.1'], 'config.learning_rate: every member of a population draws'),
    (['--members=2-30'], "--members is '2-30', expected numbers and ranges of the members 0 to 23"),
    (['--members=x'], "--members is 'x'"),
    (['--episodes=0'], 'episodes is 0, expected more than 0'),
    (['--factor=0.5'], 'factor is 0.5, expected 1 or more'),
    (['--env=gym:Pendulum-v1'], 'continuous actions'),
    (['--run_dir=/proc/none'], 'the population.s folder /proc/none cannot be written'),
    (['--resume'], '--resume needs the folder'),
    (['--role=learner'], 'unknown flag --role'),
  ],
)
def test_user_errors_are_one_sentence(flags, message, tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  assert re.search(message, refusal(*flags))
  assert not (tmp_path / 'runs').exists()


def test_the_folder_of_a_run_is_refused(tmp_path):
  (tmp_path / 'checkpoints').mkdir()
  assert 'holds a run of its own' in refusal(f'--run_dir={tmp_path}')
  with pytest.raises(errors.UserError, match='not that of a member of a population'):
    programs.importlib.import_module('impala.train').main(
      ['train', CARTPOLE, f'--run_dir={tmp_path}/run', '--config.population']
    )
  assert not (tmp_path / 'run').exists()


def test_frames_are_those_of_the_last_whole_row(tmp_path):
  assert places.frames_of(tmp_path) == 0
  path = tmp_path / 'metrics.csv'
  for text, frames in [
    ('updates,frames\n', 0),
    ('updates,frames\n1,20\n2,40\n', 40),
    ('updates,frames\n1,20\n2,4', 20),
  ]:
    path.write_text(text)
    assert places.frames_of(tmp_path) == frames


def histories(folder):
  return {n: folders.history(folder, n) for n in range(folders.load(folder).size)}


def generations(folder):
  if not (folder / 'population.json').exists():
    return 0
  return sum(len(history) for history in histories(folder).values())


def wait_until(holds, process, seconds=300.0):
  end = time.monotonic() + seconds
  while not holds():
    assert process.poll() is None, process.stdout.read()
    assert time.monotonic() < end
    time.sleep(0.1)


def finish(process):
  # Longer than other runs: several at once share the machine.
  output, _ = process.communicate(timeout=500.0)
  assert process.returncode == 0 and 'Traceback' not in output, output
  return output


SHORT = (
  '--burn_in_frames=1000',
  '--episodes=20',
  '--config.checkpoint_every_seconds=2',
  '--config.intra_op_threads=1',
)


# About two minutes of CPU time.
@pytest.mark.long
def test_a_population_that_was_killed_goes_on_from_its_checkpoints(tmp_path):
  """Two places, three members: they take turns."""
  folder = tmp_path / 'population'
  flags = (f'--run_dir={folder}', '--total_frames=9600', '--turn_frames=3200', *SHORT)
  more = ('--population=3', '--members_at_once=2')
  process = programs.start_population(*flags, *more)
  wait_until(lambda: generations(folder) > 3, process)
  before = histories(folder)
  frames = [places.frames_of(folders.member_folder(folder, n)) for n in range(3)]
  os.kill(process.pid, signal.SIGKILL)
  process.wait()
  # The janitor ends the members: their folders are free again.
  output = finish(programs.start_population(*flags, *more))
  after = histories(folder)
  assert '3 done' in output and 'Best: member ' in output
  for number in range(3):
    # What was decided before the kill was decided once.
    assert [event.generation for event in after[number]] == list(range(len(after[number])))
    kept = before[number][:-1]
    assert after[number][: len(kept)] == kept
    assert len(after[number]) > len(kept)
    rows = programs.rows(folders.member_folder(folder, number))
    assert rows[-1]['frames'] == 9600 and max(frames) < 9600
    steps = [row['frames'] for row in rows]
    # A row of the time before the first update after resuming repeats the frames of the last one.
    assert steps == sorted(steps) and len(steps) - len(set(steps)) <= 1
    log = (folders.member_folder(folder, number) / 'member.log').read_text()
    # Turns, and the kill.
    assert log.count('Resuming ') >= 1
  assert (folder / 'population.png').stat().st_size > 10_000
  assert (folder / 'curves.png').stat().st_size > 10_000
  assert not list(folder.glob('**/saving-*'))


# About three minutes of CPU time.
@pytest.mark.long
def test_a_member_that_dies_is_started_again_and_a_bad_draw_is_replaced(tmp_path):
  folder = tmp_path / 'population'
  flags = (f'--run_dir={folder}', '--total_frames=40000', '--burn_in_frames=16000', '--episodes=60')
  more = ('--population=4', '--config.intra_op_threads=1')
  programs.finish(programs.start_population(*flags, *more, '--members=none'))
  # The lowest learning rate of Table D.1: too slow to learn anything in a minute.
  path = folders.member_folder(folder, 0) / 'config.json'
  path.write_text(json.dumps(config_of(folder, 0) | {'learning_rate': 5e-6}))

  process = programs.start_population(*flags, *more, '--members_at_once=4')
  victim = folders.member_folder(folder, 3)
  wait_until(lambda: places.frames_of(victim) > 3000, process)
  pid = int(re.search(r'process (\d+) on', (victim / 'lock').read_text()).group(1))
  os.kill(pid, signal.SIGKILL)
  output = finish(process)

  assert 'Member 3 was killed by SIGKILL' in output and '4 done' in output
  # All have places: nobody has to make room for the one that is started again.
  for number in range(3):
    log = (folders.member_folder(folder, number) / 'member.log').read_text()
    assert 'Stopping' not in log and 'Resuming' not in log
  history = folders.history(folder, 0)
  assert any(event.taken_generation is not None for event in history)
  # Its network and its learning rate come from elsewhere, and it plays better than by chance.
  assert ancestry.line(histories(folder), 0)[0].member != 0
  assert history[-1].after['learning_rate'] > 1e-4
  assert history[-1].returns['CartPole-v1'] > 1.5 * folders.random(folder)['CartPole-v1']
