"""Whole runs in child processes: files, refusals, interruption, killing, resuming, failing."""

import json
import re
import signal
import sys
import time

import numpy as np
import pytest

from tests.common import programs
from tests.common.programs import finish, rows, saved_updates, wait_for


def train(*flags: str):
  return programs.start('impala', *flags)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'finished'
  return folder, finish(train(f'--run_dir={folder}', '--total_frames=12000', '--seed=4'))


def test_a_run_leaves_config_metrics_curves_checkpoints_and_an_evaluation(finished):
  folder, output = finished
  assert json.loads((folder / 'config.json').read_text())['seed'] == 4
  last = rows(folder)[-1]
  assert (last['frames'], last['updates']) == (12000, 75) and last['return/CartPole-v1'] > 0
  assert saved_updates(folder) == 75 and list(folder.glob('checkpoints/best/*.index'))
  assert (folder / 'curves.png').stat().st_size > 1000 and list(folder.glob('tensorboard/events*'))
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  for policy in ('agent', 'random'):
    assert len(evaluation[policy]['CartPole-v1']['returns']) == 2
  assert '\nNext:\n' in output and f'.evaluate {folder}' in output
  assert '/s  ETA ' in output and 'random' in output


def test_a_second_run_in_the_same_folder_is_refused(finished):
  folder, _ = finished
  before = (folder / 'metrics.csv').read_bytes()
  assert 'holds a run already' in finish(train(f'--run_dir={folder}'), 2)
  assert (folder / 'metrics.csv').read_bytes() == before


def test_resuming_continues_the_counters(finished):
  folder, _ = finished
  before = rows(folder)
  finish(train(f'--run_dir={folder}', '--resume', '--total_frames=16000'))
  after = rows(folder)
  assert after[: len(before)] == before
  assert (after[-1]['frames'], after[-1]['updates']) == (16000, 100)
  assert after[-1]['seconds'] > before[-1]['seconds']
  # The learning rate anneals over all 16,000 frames, of which the first new row has seen 12,160.
  assert after[len(before)]['learning_rate'] <= 0.002 * (1 - 12000 / 16000)


def test_resuming_with_another_network_is_refused(finished):
  folder, _ = finished
  output = finish(train(f'--run_dir={folder}', '--resume', '--config.lstm=false'), 2)
  assert 'does not fit' in output and 'another network' in output


@pytest.mark.parametrize(
  'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_an_interrupted_run_saves_and_says_how_to_resume(tmp_path, number):
  folder = tmp_path / 'run'
  process = train(f'--run_dir={folder}', '--total_frames=100000000')
  programs.wait_for_rows(folder, 1, process)
  process.send_signal(number)
  sent = time.monotonic()
  output = finish(process, 130)
  assert time.monotonic() - sent < 10
  assert f'--run_dir={folder} --resume' in output
  assert saved_updates(folder) == rows(folder)[-1]['updates'] > 0


@pytest.mark.long
def test_a_killed_run_resumes_from_its_last_checkpoint(tmp_path):
  folder = tmp_path / 'run'
  process = train(
    f'--run_dir={folder}', '--total_frames=100000000', '--config.checkpoint_every_seconds=1'
  )
  # Not the one that is saved before the first update.
  wait_for(folder, 'checkpoints/latest/ckpt-[1-9]*.index', process)
  programs.wait_for_rows(folder, 1, process)
  # Rows that the checkpoint does not cover.
  programs.wait_for_rows(folder, len(rows(folder)) + 2, process)
  process.kill()
  process.communicate()
  saved = saved_updates(folder)
  process = train(
    f'--run_dir={folder}',
    '--resume',
    f'--total_frames={160 * (saved + 5)}',
    '--config.evaluation_episodes=0',
  )
  assert f'at {160 * saved:,} frames' in finish(process)
  frames = [row['frames'] for row in rows(folder)]
  assert frames == sorted(set(frames)) and frames[-1] == 160 * (saved + 5)


def test_losses_that_are_never_finite_stop_the_run_and_the_first_batch_is_saved(tmp_path):
  folder = tmp_path / 'run'
  output = finish(train(f'--run_dir={folder}', '--config.learning_rate=1e30'), 2)
  assert 'the loss is not finite at update 1, for 10 batches in a row' in output
  assert output.count('A batch is dropped at update 1') == 9
  assert 'A checkpoint is saved' in output and f'--run_dir={folder} --resume' in output
  batch = np.load(folder / 'non_finite_batch.npz')
  assert batch['reward'].shape == (21, 8) and np.isfinite(batch['reward']).all()


def test_parameters_that_are_not_finite_stop_the_run_at_once_and_are_not_saved(tmp_path):
  folder = tmp_path / 'run'
  output = finish(train(f'--run_dir={folder}', '--config.learning_rate=3e38'), 2)
  assert 'the parameters are not finite at update 1' in output
  assert 'A batch is dropped' not in output and 'NOT SAVED' in output
  assert saved_updates(folder) == 0


@pytest.mark.parametrize('replay', [True, pytest.param(False, marks=pytest.mark.long)])
def test_batches_that_are_not_finite_are_dropped_and_training_goes_on(tmp_path, replay):
  """One trajectory in 25 has a reward of 3e38."""
  folder = tmp_path / 'run'
  process = train(
    '--env=gym:environments:Surge-v0',
    f'--run_dir={folder}',
    '--total_frames=8000',
    '--config.evaluation_episodes=0',
    '--config.reward_clipping=none',
    f'--config.replay_fraction={0.5 * replay}',
    '--config.replay_capacity=1000',
  )
  output = finish(process)
  last = rows(folder)[-1]
  assert last['frames'] == 8000 and last['updates'] == 50 * (1 + replay)
  # About 16 of 400 new trajectories are bad. The two batches after one may replay it, since they
  # were assembled before it was removed.
  assert 0 < last['dropped_batches'] < 48
  assert f'dropped batches {int(last["dropped_batches"])}' in output
  warning = next(line for line in output.splitlines() if 'A batch is dropped' in line)
  assert 'beyond 1e+09, are of actor ' in warning and 'reward: largest magnitude 3e+38' in warning
  assert '(environments:Surge-v0)' in warning and 'of gym:environments:Surge-v0' in warning
  assert np.load(folder / 'non_finite_batch.npz')['reward'].max() > 1e38


def test_rewards_that_are_too_large_end_the_run_and_name_the_environment_and_the_task(tmp_path):
  process = train('--env=gym:environments:Overflowing-v0', f'--run_dir={tmp_path}/run')
  output = finish(process, 2)
  error = next(line for line in output.splitlines() if '10 batches in a row' in line)
  assert 'of gym:environments:Overflowing-v0' in error
  assert 'actor 0 (environments:Overflowing-v0)' in error
  assert 'reward: largest magnitude 3e+38' in error


def test_an_error_in_an_actor_ends_the_run_with_its_cause(tmp_path):
  output = finish(train('--env=gym:environments:Faulty-v0', f'--run_dir={tmp_path}/run'), 2)
  assert 'gym:environments:Faulty-v0, step 1 of an episode: ZeroDivisionError' in output
  flags = '--env=gym:CartPole-v1 .*--env=gym:environments:Faulty-v0'
  again = f'{sys.executable} -u -m impala.train {flags} --run_dir={tmp_path}/run --resume\n'
  assert re.search(f'A checkpoint is saved, of 0 frames. Go on from there with: {again}', output)


@pytest.mark.long
def test_one_of_two_actors_that_hangs_is_named_once_and_again_when_it_goes_on(
  tmp_path, monkeypatch
):
  folder = tmp_path / 'run'
  halt = tmp_path / 'halt'
  monkeypatch.setenv('HALT', str(halt))
  process = train(
    '--env=gym:environments:Halting-v0',
    f'--run_dir={folder}',
    '--total_frames=100000000',
    '--config.num_actors=2',
    '--config.stall_seconds=3',
  )
  lines = []

  def await_line(pattern):
    while not (found := re.search(pattern, lines[-1] if lines else '')):
      lines.append(process.stdout.readline())
      assert lines[-1], 'the run ended'
    return found.group(1)

  programs.wait_for_rows(folder, 2, process)
  halt.touch()
  named = await_line(
    r'^Silent for more than 3 s: (actor \d \(environments:Halting-v0\)): stepping environments for'
  )
  programs.wait_for_rows(folder, len(rows(folder)) + 2, process)
  (tmp_path / 'halt-no-more').touch()
  await_line(f'^({re.escape(named)}) goes on, after')
  process.send_signal(signal.SIGINT)
  lines += finish(process, 130).splitlines()
  stepping = [line for line in lines if 'Silent' in line and f'{named}: stepping' in line]
  assert len(stepping) == 1


@pytest.mark.long
def test_a_stalled_run_names_the_actor_that_hangs(tmp_path):
  process = train(
    '--env=gym:environments:Stuck-v0', f'--run_dir={tmp_path}/run', '--config.stall_seconds=1'
  )
  line = ''
  # Reports while the actor is choosing actions do not count: tracing the networks takes a while.
  while 'Nothing to learn from for' not in line or 'choosing' in line:
    line = process.stdout.readline()
    assert line, 'the run ended'
  process.send_signal(signal.SIGINT)
  # The environment sleeps; the run stops waiting for it.
  assert 'actor-0 has not ended' in finish(process, 130)
  assert 'actor 0 (environments:Stuck-v0): stepping environments for' in line


def test_dynamic_batching_and_replay_train(tmp_path):
  process = train(
    f'--run_dir={tmp_path}/run',
    '--total_frames=8000',
    '--config.dynamic_batching',
    '--config.dynamic_batch_size=8',
    '--config.replay_fraction=0.5',
    '--config.replay_capacity=50',
  )
  finish(process)
  last = rows(tmp_path / 'run')[-1]
  # Half of a batch is replayed, which leaves 80 new frames per update.
  assert last['frames'] == 8000 and last['updates'] == 100


@pytest.mark.long
def test_arguments_and_wrappers_are_in_the_config_and_evaluation_uses_them(tmp_path):
  folder = tmp_path / 'run'
  flags = (
    '--env=gym:FrozenLake-v1',
    '--env_kwargs=map_name=8x8,is_slippery=false,max_episode_steps=20',
    '--wrappers=environments:Patient',
    '--total_frames=4000',
  )
  # With 4x4 cells, or without the wrapper's number, the checkpoint would not fit.
  finish(train(f'--run_dir={folder}', *flags))
  config = json.loads((folder / 'config.json').read_text())
  assert config['wrappers'] == 'environments:Patient' and '8x8' in config['env_kwargs']
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  assert max(evaluation['agent']['FrozenLake-v1']['lengths']) <= 20
  finish(train(f'--run_dir={folder}', '--resume', flags[0], '--total_frames=5000'))


_SCRIPT = """
import gymnasium
from {system} import config, train


class Short(gymnasium.Wrapper):
  def __init__(self):
    super().__init__(gymnasium.make('CartPole-v1', max_episode_steps=11))


settings = config.PRESETS.preset('gym')
settings.total_frames = {frames}
settings.evaluation_episodes = 2
print('FOLDER', train.train(settings, make_env=Short, run_dir={folder!r}))
"""


@pytest.mark.parametrize('system, frames', [('impala', 4000), ('apex', 2000)])
def test_training_from_python(tmp_path, system, frames):
  """In a script without a main guard: the function is this process's own."""
  folder = str(tmp_path / 'run')
  script = tmp_path / 'script.py'
  script.write_text(_SCRIPT.format(system=system, frames=frames, folder=folder))
  output = finish(programs.start_script(script))
  assert f'FOLDER {folder}' in output
  evaluation = json.loads((tmp_path / 'run' / 'evaluation.json').read_text())
  assert evaluation['env'] == 'python:Short'
  assert max(evaluation['agent']['Short']['lengths']) <= 11


@pytest.mark.parametrize(
  'flags, message',
  [
    (
      ['--env=gym:CartPol-v1'],
      "unknown gymnasium environment 'CartPol-v1'. Did you mean CartPole-v1",
    ),
    (['--env=dom'], "unknown environment 'dom'. Did you mean doom"),
    (
      ['--config.learnin_rate=1'],
      "unknown config field 'learnin_rate'. Did you mean learning_rate",
    ),
    (['--run_dir=/proc/none'], 'the run folder /proc/none cannot be written'),
    (
      ['--config.replay_fraction=0.5', '--config.replay_capacity=1000000000'],
      'lower --config.replay_capacity',
    ),
  ],
)
def test_user_errors_are_one_sentence(flags, message):
  assert message in programs.refusal('impala', *flags)
