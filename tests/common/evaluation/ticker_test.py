"""Lines of progress: what they count, when they come, and the time that they expect."""

import logging
import types

import pytest

from common.evaluation import play, ticker


@pytest.fixture
def clock(monkeypatch):
  """A clock that stands still; set `now`."""
  fake = types.SimpleNamespace(now=1000.0)
  fake.monotonic = lambda: fake.now
  monkeypatch.setattr(ticker, 'time', fake)
  return fake


def test_a_line_comes_every_some_seconds(clock, caplog):
  caplog.set_level(logging.INFO)
  watch = ticker.Ticker(100, seconds=10.0)
  for now in range(1000, 1036):
    clock.now = float(now)
    watch.note('pong', play.Standing(now - 1000, 7 * (now - 1000), float(now - 1000)))
  # A hundred episodes, one each second.
  assert caplog.messages == [
    '  10 of 100 episodes, 70 steps, ETA 1:30 (playing pong)',
    '  20 of 100 episodes, 140 steps, ETA 1:20 (playing pong)',
    '  30 of 100 episodes, 210 steps, ETA 1:10 (playing pong)',
  ]


def test_until_an_episode_has_ended_the_time_is_the_longest_possible(clock):
  watch = ticker.Ticker(10, seconds=10.0)
  assert watch.line() == '0 of 10 episodes, 0 steps, ETA unknown'
  clock.now += 60.0
  # A twentieth of the work.
  watch.note('a', play.Standing(0, 5000, 0.5))
  assert watch.line() == '0 of 10 episodes, 5,000 steps, ETA at most 19:00 (playing a)'


def test_several_tasks_are_added_up(clock):
  watch = ticker.Ticker(1000, seconds=10.0)
  clock.now += 20.0
  for task in 'abcde':
    watch.note(task, play.Standing(40, 1000, 40.0))
  assert watch.line() == '200 of 1,000 episodes, 5,000 steps, ETA 1:20 (playing a, b, c and 2 more)'
  for task in 'abcde':
    watch.note(task, play.Standing(200, 5000, 200.0), is_done=True)
  assert watch.line() == '1,000 of 1,000 episodes, 25,000 steps, ETA 0:00'
