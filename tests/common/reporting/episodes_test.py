"""The window of episodes that a run's mean returns are over."""

import math

import pytest

from common.reporting import episodes


def window_of(*ended, tasks=('a', 'b')):
  """A window with an episode of task a at each time, whose return is that time."""
  window = episodes.EpisodeWindow(tasks)
  for now in ended:
    window.add('a', float(now), 2 * now, now)
  return window


def test_the_means_of_each_task_that_has_ended_an_episode():
  window = window_of(10, 20)
  assert window.recent() == {'a': (15.0, 30.0, 2)}
  window.add('b', -1.0, 5, 21)
  assert window.recent() == {'a': (15.0, 30.0, 2), 'b': (-1.0, 5.0, 1)}


def test_episodes_of_the_last_minute_count_but_ten_at_least():
  # 30 episodes of long ago, 12 of the last minute.
  assert window_of(*range(30), *range(200, 260, 5)).recent()['a'].episodes == 12
  # The oldest of these is a minute old, and the one before it older.
  assert window_of(*range(30), *range(199, 260, 1)).recent()['a'].episodes == 61
  # Ten, whatever their age.
  assert window_of(*range(0, 3000, 100)).recent()['a'] == (2450.0, 4900.0, 10)
  # And no more than a hundred.
  assert window_of(*[7] * 300).recent()['a'].episodes == 100


def test_time_without_an_episode_changes_nothing():
  """The line then still shows the last point of the curve."""
  window = window_of(10, 20)
  window.add('b', 0.0, 1, 5000)
  assert window.recent()['a'] == (15.0, 30.0, 2)


def test_a_report_has_the_tasks_that_have_ended_an_episode_since_the_last():
  window = window_of(10, 20)
  assert window.report() == {'return/a': 15.0, 'length/a': 30.0, 'episodes/a': 2}
  assert window.report() == {}
  window.add('a', 45.0, 30, 30)
  assert window.report() == {'return/a': 25.0, 'length/a': 30.0, 'episodes/a': 3}


def test_returns_of_tasks_with_enough_episodes():
  window = window_of(10, 20)
  window.add('b', 1.0, 1, 20)
  assert window.recent_returns(2) == {'a': 15.0}


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
def test_a_return_that_is_no_number_counts_for_nothing(value):
  window = window_of()
  window.add('a', value, 10, 0)
  assert window.report() == {} and window.recent() == {}
  window.add('a', 3.0, 10, 1)
  window.add('a', value, 10, 2)
  assert window.recent() == {'a': (3.0, 10.0, 1)}
