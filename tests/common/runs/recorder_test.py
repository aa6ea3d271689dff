"""Recorded statistics become rows: means, distributions, totals per second, episodes, gauges."""

import dataclasses
import logging
import math
import threading
import time
import types

import numpy as np
import pytest

from common import environments
from common.config import settings
from common.reporting import metrics_file, plots
from common.runs import counters
from common.runs import recorder as recorders

COLUMNS = ('loss', 'lag_mean', 'lag_max', 'samples', 'doubled')


@pytest.fixture
def learner():
  return counters.Counters('learner')


@pytest.fixture
def recorder(tmp_path, learner):
  config = settings.Settings(env='some:task', total_frames=1000, log_every_seconds=0.05)
  suite = dataclasses.replace(environments.load('gym:CartPole-v1'), tasks=('task',))
  return recorders.Recorder(
    config,
    suite,
    tmp_path,
    learner,
    COLUMNS,
    gauges=lambda row: {'doubled': 2 * row['frames']},
    note=lambda row: f'loss {row["loss"]}',
  )


def rows(folder):
  return metrics_file.read(folder / 'metrics.csv')


def test_a_row_has_means_distributions_totals_gauges_and_episodes(
  tmp_path, learner, recorder, caplog
):
  recorder.start_clock()
  started = time.monotonic()
  for loss, lags in ((1.0, [1, 2]), (2.0, [6])):
    recorder.record({'loss': loss}, {'lag': lags}, {'samples': 10})
  recorder.add_episode('task', 5.0, 20)
  recorder.add_episode('task', 7.0, 40)
  learner.frames.assign(100)
  learner.updates.assign(2)
  with caplog.at_level(logging.INFO):
    recorder.close()
  elapsed = time.monotonic() - started

  (row,) = rows(tmp_path)
  assert (row['frames'], row['updates'], row['doubled']) == (100, 2, 200.0)
  assert (row['loss'], row['lag_mean'], row['lag_max']) == (1.5, 3.0, 6.0)
  assert (row['return/task'], row['length/task'], row['episodes/task']) == (6.0, 30.0, 2)
  assert row['samples'] >= 20 / elapsed and row['frames_per_second'] >= 100 / elapsed
  # 20 samples in the time of 100 frames.
  assert row['samples'] / row['frames_per_second'] == pytest.approx(0.2, rel=1e-4)
  assert 'loss 1.5' in caplog.text and 'return 6 (2 episodes)' in caplog.text


def test_the_line_says_what_the_row_and_the_curve_say(tmp_path, learner, recorder, caplog):
  """However many intervals the window spans, and also where no episode ended in the last."""
  caplog.set_level(logging.INFO)
  recorder.start_clock()
  for values in ([10.0, 20.0], [60.0], []):
    for value in values:
      recorder.add_episode('task', value, 5)
    recorder.record({'loss': 1.0})
    learner.frames.assign_add(100)
    recorder._report()
  recorder.close()
  lines = [message for message in caplog.messages if '/s  ETA' in message]
  assert [line.rpartition('return ')[2] for line in lines] == [
    '15 (2 episodes)',
    '30 (3 episodes)',
    '30 (3 episodes)',
  ]
  assert [row['return/task'] for row in rows(tmp_path)[:2]] == [15.0, 30.0]
  assert plots._curves(rows(tmp_path)) == {'task': [(0.0001, 15.0), (0.0002, 30.0)]}


def test_an_empty_distribution_leaves_its_columns_empty(tmp_path, recorder):
  recorder.start_clock()
  recorder.record({'loss': 1.0}, {'lag': []})
  recorder.close()
  (row,) = rows(tmp_path)
  assert math.isnan(row['lag_mean'])


def test_nothing_is_reported_before_there_are_data(tmp_path, recorder):
  time.sleep(0.06)
  recorder.report_if_due()
  recorder.close()
  assert rows(tmp_path) == []


def test_a_row_is_due_after_the_interval_and_covers_only_that(tmp_path, learner, recorder):
  recorder.start_clock()
  recorder.record({'loss': 4.0})
  recorder.report_if_due()
  assert rows(tmp_path) == []
  time.sleep(0.06)
  recorder.report_if_due()
  recorder.record({'loss': 8.0})
  learner.frames.assign(10)
  recorder.close()
  assert [row['loss'] for row in rows(tmp_path)] == [4.0, 8.0]


@pytest.fixture
def clock(monkeypatch):
  """A clock that only `advance` moves."""
  now = [1000.0]
  monkeypatch.setattr(recorders, 'time', types.SimpleNamespace(monotonic=lambda: now[0]))

  def advance(seconds):
    now[0] += seconds

  return advance


def make_recorder(folder, learner, columns=('samples', 'wait_share')):
  config = settings.Settings(env='some:task', total_frames=10_000, log_every_seconds=10.0)
  suite = dataclasses.replace(environments.load('gym:CartPole-v1'), tasks=('task',))
  return recorders.Recorder(
    config, suite, folder, learner, columns, gauges=lambda row: {}, note=lambda row: ''
  )


def learn(learner, recorder, frames=160):
  """An update."""
  learner.updates.assign_add(1)
  learner.frames.assign_add(frames)
  recorder.start_clock()
  recorder.record(totals={'samples': 32})


def watch(recorder, clock, seconds):
  """Passes the time as the main thread does."""
  for _ in range(int(seconds * 5)):
    clock(0.2)
    recorder.report_if_due()


def test_updates_longer_than_the_interval_are_not_reported_as_nothing_and_too_much(
  tmp_path, learner, clock
):
  recorder = make_recorder(tmp_path, learner)
  learn(learner, recorder)
  for _ in range(4):
    watch(recorder, clock, 25.0)
    learn(learner, recorder)
    recorder.report_if_due()
  recorder.close()
  seen = rows(tmp_path)
  assert [row['updates'] for row in seen] == [2, 3, 4, 5]
  assert [row['frames_per_second'] for row in seen] == pytest.approx([160 / 25] * 4, rel=1e-3)
  # The first update came before the clock started.
  assert [row['samples'] for row in seen] == pytest.approx([64 / 25, *[32 / 25] * 3], rel=1e-3)


def test_a_share_of_waiting_is_that_of_the_time_between_two_reports(tmp_path, learner, clock):
  recorder = make_recorder(tmp_path, learner)
  # Waiting for the first data does not count.
  with recorder.timed('wait_share'):
    clock(300.0)
  learn(learner, recorder)
  for _ in range(4):
    # Reported after 10 s, while it waits, because of the update before.
    with recorder.timed('wait_share'):
      watch(recorder, clock, 160.0)
    watch(recorder, clock, 4.0)
    learn(learner, recorder)
    watch(recorder, clock, 4.0)
    learn(learner, recorder)
  recorder.report_if_due()
  recorder.close()
  seen = rows(tmp_path)
  shares = [row['wait_share'] for row in seen if not math.isnan(row['wait_share'])]
  assert len(shares) > 4 and 0 < max(shares) <= 1.0
  # All of the waiting is in some row.
  waited = 0.0
  before = 0.0
  for row in seen:
    waited += np.nan_to_num(row['wait_share']) * (row['seconds'] - before)
    before = row['seconds']
  assert waited == pytest.approx(4 * 160.0, rel=1e-3)


def test_data_are_reported_although_learning_has_not_begun(tmp_path, learner, clock):
  """As while a replay fills; after the first update, rows wait for one."""
  recorder = make_recorder(tmp_path, learner)
  recorder.start_clock()
  for _ in range(2):
    recorder.record(totals={'samples': 1})
    watch(recorder, clock, 11.0)
  assert len(rows(tmp_path)) == 2
  learn(learner, recorder)
  watch(recorder, clock, 11.0)
  recorder.record(totals={'samples': 1})
  watch(recorder, clock, 11.0)
  assert len(rows(tmp_path)) == 3
  recorder.close()
  assert len(rows(tmp_path)) == 4


def test_the_learner_s_seconds_count_from_the_first_data(learner, recorder):
  recorder.update_clock()
  assert float(learner.seconds) == 0.0
  recorder.start_clock()
  time.sleep(0.05)
  recorder.start_clock()  # No effect: it is running.
  recorder.update_clock()
  assert float(learner.seconds) >= 0.05
  recorder.close()


def test_no_statistics_are_lost_between_threads(tmp_path, recorder):
  recorder.start_clock()

  def work():
    for _ in range(500):
      recorder.record({'loss': 1.0}, {'lag': [1]}, {'samples': 1})

  workers = [threading.Thread(target=work) for _ in range(4)]
  for worker in workers:
    worker.start()
  while any(worker.is_alive() for worker in workers):
    recorder.report_if_due()
  recorder.close()

  total = 0.0
  before = 0.0
  for row in rows(tmp_path):
    total += row['samples'] * (row['seconds'] - before)
    before = row['seconds']
  assert total == pytest.approx(2000, rel=0.02)


def test_suites_with_references_have_scores_once_every_task_has_finished_an_episode(
  tmp_path, learner, caplog, monkeypatch
):
  suite = dataclasses.replace(
    environments.load('gym:CartPole-v1'), tasks=('pong', 'boxing'), references='atari57'
  )
  config = settings.Settings(env='atari57', total_frames=1000, log_every_seconds=0.05)
  recorder = recorders.Recorder(
    config, suite, tmp_path, learner, ('loss',), lambda row: {}, lambda row: ''
  )
  monkeypatch.setattr(recorders, '_ALL_TASKS_SECONDS', 0.0)
  recorder.start_clock()
  for task, value in (('pong', 14.6), ('boxing', 6.1)):
    recorder.record({'loss': 1.0})
    recorder.add_episode(task, value, 20)
    with caplog.at_level(logging.INFO):
      recorder._report()
  recorder.close()
  first, second = rows(tmp_path)
  assert math.isnan(first['score/median']) and math.isnan(first['score/mean'])
  # Human level in Pong is 100%; the return in Boxing is half of it.
  assert (second['score/median'], second['score/mean']) == pytest.approx((75.0, 75.0))
  assert caplog.messages[-2].endswith('mean 75%: boxing 50% to pong 100%')
  assert 'human-normalised (%): median 75.0, mean 75.0' in caplog.messages[-1]
  assert not any('human' in message for message in caplog.messages[:-2])
