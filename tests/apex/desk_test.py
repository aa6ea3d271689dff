"""The desk of an evaluator in the learner's process: when a round is due, what it plays."""

import csv
import threading

import tensorflow as tf

from apex import desk
from common.distributed import parameters
from common.evaluation import ticker


def snapshot(version):
  return parameters.Snapshot(version, tf.zeros([1]))


def test_parameters_are_handed_out_when_their_frames_have_passed(tmp_path):
  frames = 500
  store = parameters.ParameterStore(snapshot(1))
  place = desk.Desk(100, lambda: frames, store, tmp_path, threading.Event())
  assert place.latest() is None
  frames = 599
  assert place.latest() is None
  frames = 600
  first = place.latest()
  assert first.version == 1 and place.frames == 600
  store.publish(snapshot(2))
  frames = 699
  # The same object: nothing new to play.
  assert place.latest() is first and place.frames == 600
  frames = 950
  assert place.latest().version == 2 and place.frames == 950
  # A round that took long does not make the next ones come faster.
  store.publish(snapshot(3))
  frames = 1_049
  assert place.latest().version == 2


def test_it_ends_with_the_run_and_is_seen_to_work(tmp_path):
  stop = threading.Event()
  place = desk.Desk(1, lambda: 0, parameters.ParameterStore(snapshot(0)), tmp_path, stop)
  place.begin(ticker.Ticker(10, 60.0))
  place.pulse.since -= 1_000.0
  assert not place.is_ended() and place.pulse.seconds_at_work() < 500.0
  assert '0 of 10 episodes' in place.pulse.describe()
  stop.set()
  assert place.is_ended() and place.wait(60.0)
  assert place.pulse.seconds_at_work() == 0.0


def test_results_are_rows_of_the_runs_file(tmp_path):
  store = parameters.ParameterStore(snapshot(0))
  place = desk.Desk(1, lambda: 0, store, tmp_path, threading.Event())
  row = dict(task='a', frames=7, version=2, episodes=3, mean=0.5, low=0.25, high=1.0)
  for _ in range(2):
    place.report(**row)
  with open(tmp_path / 'evaluator.csv') as file:
    assert list(csv.DictReader(file)) == [{name: str(value) for name, value in row.items()}] * 2
