"""Whole runs in child processes: files, interruption, killing, resuming with and without replay."""

import csv
import json
import re
import signal

import numpy as np
import pytest

from tests.common import programs
from tests.common.programs import finish, rows, saved_updates, wait_for


def train(*flags: str):
  return programs.start('apex', '--config.min_replay=500', *flags)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
  folder = tmp_path_factory.mktemp('runs') / 'finished'
  process = train(f'--run_dir={folder}', '--total_frames=4000', '--seed=4', '--checkpoint_replay')
  return folder, finish(process)


def test_a_run_leaves_config_metrics_curves_checkpoints_and_an_evaluation(finished):
  folder, output = finished
  config = json.loads((folder / 'config.json').read_text())
  assert config['seed'] == 4 and config['checkpoint_replay']
  last = rows(folder)[-1]
  assert 4000 <= last['frames'] < 4200 and saved_updates(folder) >= last['updates'] > 0
  assert (folder / 'curves.png').stat().st_size > 1000 and list(folder.glob('tensorboard/events*'))
  evaluation = json.loads((folder / 'evaluation.json').read_text())
  for policy in ('agent', 'random'):
    assert len(evaluation[policy]['CartPole-v1']['returns']) == 2
  assert 'updates/s' in output and 'ratio' in output and 'random' in output


def test_the_metrics_describe_the_replay(finished):
  last = rows(finished[0])[-1]
  # CartPole has one frame per step, and nothing has been evicted yet.
  assert last['replay_size'] == last['frames']
  assert 0 < last['sample_age_mean'] < last['sample_age_max'] < last['frames']
  assert 0 < last['sampled_priority_mean'] <= last['sampled_priority_max']
  assert last['parameter_age_mean'] >= 0
  statistics = ('loss', 'q_value', 'td_error', 'weight')
  learning = [row for row in rows(finished[0]) if row['updates'] > 20]
  assert np.isfinite([[row[name] for name in statistics] for row in learning]).all()


def test_the_replay_ratio_is_held(finished):
  last = rows(finished[0])[-1]
  samples = 64 * last['updates']
  inserted = last['frames'] - 500  # The ratio counts from the minimum that training starts with.
  assert samples == pytest.approx(8.0 * inserted, rel=0.05)


def test_resuming_with_the_replay_trains_at_once(finished):
  folder, _ = finished
  before = rows(folder)
  output = finish(train(f'--run_dir={folder}', '--resume', '--total_frames=6000'))
  after = rows(folder)
  assert f'Restored a replay of {int(before[-1]["frames"]):,} transitions' in output
  assert 'filling' not in output
  assert after[: len(before)] == before
  assert after[-1]['frames'] >= 6000 and after[-1]['updates'] > before[-1]['updates']
  assert after[-1]['seconds'] > before[-1]['seconds']


@pytest.mark.long
def test_resuming_without_the_replay_fills_it_again(tmp_path):
  folder = tmp_path / 'run'
  finish(train(f'--run_dir={folder}', '--total_frames=2000'))
  updates = saved_updates(folder)
  process = train(
    f'--run_dir={folder}', '--resume', '--total_frames=2300', '--config.min_replay=1000'
  )
  output = finish(process)
  assert 'filling the replay' in output and 'Restored a replay' not in output
  # 300 new transitions are fewer than the minimum, so nothing was learned.
  assert saved_updates(folder) == updates > 0


def test_resuming_with_another_network_is_refused(finished):
  output = finish(train(f'--run_dir={finished[0]}', '--resume', '--config.hidden_size=32'), 2)
  assert 'does not fit' in output and 'another network' in output


def test_a_replay_with_another_block_length_is_refused(finished):
  output = finish(train(f'--run_dir={finished[0]}', '--resume', '--config.block_length=9'), 2)
  assert 'the replay saved in' in output and '--config.checkpoint_replay=false' in output


@pytest.mark.parametrize(
  'number', [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long)]
)
def test_an_interrupted_run_saves_and_says_how_to_resume(tmp_path, number):
  folder = tmp_path / 'run'
  process = train(f'--run_dir={folder}', '--total_frames=100000000')
  programs.wait_for_rows(folder, 4, process)
  process.send_signal(number)
  output = finish(process, 130)
  # With the flags of this run, of which `train` adds some.
  again = rf'-m apex\.train --env=gym:CartPole-v1 .*--run_dir={re.escape(str(folder))} --resume\n'
  assert re.search(again, output)
  assert saved_updates(folder) >= rows(folder)[-1]['updates'] > 0


@pytest.mark.long
def test_a_killed_run_resumes_from_its_last_checkpoint_and_replay(tmp_path):
  folder = tmp_path / 'run'
  process = train(
    f'--run_dir={folder}',
    '--total_frames=100000000',
    '--checkpoint_replay',
    '--config.checkpoint_every_seconds=1',
  )
  wait_for(folder, 'replay/*/priorities.npz', process)
  programs.wait_for_rows(folder, len(rows(folder)) + 3, process)
  process.kill()
  process.communicate()
  saved = saved_updates(folder)
  process = train(f'--run_dir={folder}', '--resume', '--config.evaluation_episodes=0')
  programs.wait_for_rows(folder, len(rows(folder)) + 1, process)
  process.send_signal(signal.SIGINT)
  output = finish(process, 130)
  assert f'ckpt-{saved} at' in output and 'Restored a replay of' in output
  frames = [row['frames'] for row in rows(folder)]
  assert frames == sorted(frames) and saved_updates(folder) > saved


def test_losses_that_are_never_finite_stop_the_run_and_the_first_sample_is_saved(tmp_path):
  folder = tmp_path / 'run'
  # So high a ratio that the learner need not wait for actors, whose priorities are soon NaN too.
  flags = ('--config.learning_rate=1e30', '--config.replay_ratio=200')
  output = finish(train(f'--run_dir={folder}', *flags), 2)
  assert 'the loss is not finite at update 1, for 10 batches in a row' in output
  sample = np.load(folder / 'non_finite_batch.npz')
  assert sample['n_step_return'].shape == (64,) and np.isfinite(sample['n_step_return']).all()


def test_parameters_that_spoil_what_actors_send_are_named(tmp_path):
  """The learner waits for the replay ratio, for which all blocks that come are useless."""
  process = train(f'--run_dir={tmp_path}/run', '--config.learning_rate=1e30')
  output = finish(process, 2)
  assert (
    'the parameters are useless at update 1: what actors compute with them (priority)' in output
  )
  assert re.search(r'largest magnitude of a parameter is 1(\.\d+)?e\+30', output)
  assert 'A smaller --config.learning_rate' in output and 'hold NaN?' not in output


@pytest.mark.long
def test_parameters_that_are_not_finite_stop_the_run_at_once_and_are_not_saved(tmp_path):
  folder = tmp_path / 'run'
  output = finish(train(f'--run_dir={folder}', '--config.learning_rate=3e38'), 2)
  assert 'the parameters are not finite at update 1' in output
  assert 'A batch is dropped' not in output and 'NOT SAVED' in output
  assert saved_updates(folder) == 0


@pytest.mark.parametrize(
  'eviction', ['oldest', pytest.param('by_priority', marks=pytest.mark.long)]
)
def test_samples_that_are_not_finite_are_dropped_and_not_drawn_again(tmp_path, eviction):
  """One reward in 500 is 3e38, and so are three returns, whose priorities are the highest."""
  folder = tmp_path / 'run'
  process = train(
    '--env=gym:environments:Surge-v0',
    f'--run_dir={folder}',
    '--total_frames=5000',
    '--config.evaluation_episodes=0',
    f'--config.eviction={eviction}',
    '--config.alpha_evict=-0.4',
  )
  output = finish(process)
  last = rows(folder)[-1]
  assert last['frames'] >= 5000 and last['updates'] > 300
  # Were they not removed, each draw would have them.
  assert 0 < last['dropped_batches'] < 40
  assert last['frames'] - 100 < last['replay_size'] < last['frames']
  assert last['sampled_priority_max'] < 1e9
  warning = next(line for line in output.splitlines() if 'A batch is dropped' in line)
  assert '(environments:Surge-v0), of actor ' in warning
  assert 'of gym:environments:Surge-v0' in warning
  # The reward itself, or discounted once or twice.
  assert re.search(r'n_step_return: largest magnitude (3|2\.9\d)e\+38', warning)


def test_priorities_that_are_not_finite_are_refused_and_their_actor_named(tmp_path):
  process = train(
    '--env=gym:environments:Overflowing-v0', f'--run_dir={tmp_path}/run', '--config.num_actors=1'
  )
  line = ''
  while 'is refused' not in line:
    line = process.stdout.readline()
    assert line, 'the run ended'
  assert '(environments:Overflowing-v0), of actor 0, is refused: not all of its' in line
  assert 'numbers are finite (n_step_return, priority)' in line
  output = finish(process, 2)
  assert 'blocks were all refused' in output and 'hold NaN?' in output
  last = rows(tmp_path / 'run')[-1]
  assert last['replay_size'] == last['frames'] == 0 and last['refused_blocks_per_second'] > 0


@pytest.mark.parametrize('name', ['Fleeting', pytest.param('FleetingPush', marks=pytest.mark.long)])
def test_a_replay_that_never_holds_its_minimum_ends_the_run(tmp_path, name):
  """Every eighth of the 320 places has an episode's last observation: 280 transitions fill it."""
  process = train(
    f'--env=gym:environments:{name}-v0',
    f'--run_dir={tmp_path}/run',
    '--config.replay_capacity=300',
    '--config.min_replay=300',
    '--config.block_length=10',
    '--config.local_buffer=20',
    '--config.eviction=oldest',
  )
  output = finish(process, 2)
  assert 'a replay of 300 transitions is full when it holds 28' in output
  assert 'but learning starts at 300. Lower --config.min_replay to 25' in output
  # Two turns of the ring, and what was under way.
  assert rows(tmp_path / 'run')[-1]['frames'] < 3 * 320


def test_an_error_in_an_actor_ends_the_run_with_its_cause(tmp_path):
  output = finish(train('--env=gym:environments:Faulty-v0', f'--run_dir={tmp_path}/run'), 2)
  assert 'gym:environments:Faulty-v0, step 1 of an episode: ZeroDivisionError' in output


@pytest.mark.long
def test_a_stalled_run_names_the_actor_that_hangs(tmp_path):
  process = train(
    '--env=gym:environments:Stuck-v0',
    f'--run_dir={tmp_path}/run',
    '--config.stall_seconds=1',
    # In a process of its own, it would be ended with the run.
    '--config.env_processes=never',
  )
  line = ''
  # Reports while the actor is choosing actions do not count: tracing the networks takes a while.
  while 'Nothing to learn from for' not in line or 'choosing' in line:
    line = process.stdout.readline()
    assert line, 'the run ended'
  process.send_signal(signal.SIGINT)
  assert 'actor-0 has not ended' in finish(process, 130)
  assert 'actor 0 (environments:Stuck-v0): stepping environments for' in line


@pytest.mark.long
def test_the_baseline_of_dqn_trains_while_an_evaluator_plays(tmp_path):
  folder = tmp_path / 'run'
  process = train(
    f'--run_dir={folder}',
    '--preset=gym_dqn',
    '--total_frames=2500',
    '--config.evaluator_frames=400',
  )
  output = finish(process)
  last = rows(folder)[-1]
  # All that is learned from is the one actor's: what the evaluator plays is not.
  assert last['replay_size'] == last['frames'] and last['weight'] == 1.0
  # 64 samples for every two transitions beyond the first 500.
  assert last['updates'] == pytest.approx((last['frames'] - 500) / 2, rel=0.05)
  with open(folder / 'evaluator.csv') as file:
    rounds = list(csv.DictReader(file))
  frames = [int(row['frames']) for row in rounds]
  assert 400 <= frames[0] <= 600 and all(np.diff(frames) >= 400)
  assert all(row['episodes'] == '2' and row['task'] == 'CartPole-v1' for row in rounds)
  assert f'Evaluation at {frames[0]:,} frames: CartPole-v1' in output


@pytest.mark.long
def test_copies_uniform_sampling_and_six_epsilons_train(tmp_path):
  folder = tmp_path / 'run'
  process = train(
    f'--run_dir={folder}',
    '--total_frames=2000',
    '--config.replicas=3',
    '--config.alpha=0',
    '--config.distinct_epsilons=6',
    '--config.stratified=false',
    '--config.replay_ratio=0',
  )
  finish(process)
  last = rows(folder)[-1]
  assert last['replay_size'] == 3 * last['frames'] and last['updates'] > 0 and last['weight'] == 1.0


def test_ape_x_dpg_trains_evicts_by_priority_and_resumes_with_its_replay(tmp_path):
  folder = tmp_path / 'run'
  dpg = [
    '--env=gym:Pendulum-v1',
    f'--run_dir={folder}',
    '--config.replay_capacity=1500',
    '--config.replay_ratio=4',
  ]
  finish(train(*dpg, '--total_frames=2500', '--checkpoint_replay'))
  before = rows(folder)
  assert before[-1]['replay_size'] == 1500 and before[-1]['updates'] > 0
  statistics = ('loss', 'q_value', 'policy_gradient_norm', 'td_error')
  assert np.isfinite([before[-1][name] for name in statistics]).all()
  assert json.loads((folder / 'config.json').read_text())['algorithm'] == 'dpg'
  returns = json.loads((folder / 'evaluation.json').read_text())['agent']['Pendulum-v1']['returns']
  assert len(returns) == 2 and max(returns) < 0

  process = train(f'--run_dir={folder}', '--env=gym:Pendulum-v1', '--resume', '--total_frames=3500')
  output = finish(process)
  assert 'Restored a replay of 1,500 transitions' in output and 'filling' not in output
  assert rows(folder)[-1]['updates'] > before[-1]['updates']


@pytest.mark.parametrize(
  'flags, message',
  [
    (['--env=doom'], 'doom has 10 tasks, but Ape-X learns one'),
    (
      ['--env=gym:Pendulum-v1', '--preset=gym'],
      "algorithm is 'dqn', expected dpg, as gym:Pendulum-v1 has continuous "
      'actions; --preset=gym_continuous is made for it',
    ),
    (
      ['--env=control:walker-wlk'],
      "unknown Control Suite task 'walker-wlk'. Did you mean walker-walk",
    ),
    (
      ['--env=atari:pong', '--preset=gym', '--config.eviction=by_priority'],
      "eviction is 'by_priority', expected 'oldest'",
    ),
    (['--config.replay_capacity=100000000000'], 'lower --config.replay_capacity'),
    (
      ['--config.replay_capacit=5'],
      "unknown config field 'replay_capacit'. Did you mean replay_capacity",
    ),
    (['--preset=figure_4'], "unknown preset 'figure_4'. Did you mean"),
  ],
)
def test_user_errors_are_one_sentence(flags, message):
  assert message in programs.refusal('apex', *flags)
