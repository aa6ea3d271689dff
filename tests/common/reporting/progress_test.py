"""The progress line of a training run."""

import pytest

from common.reporting import progress


@pytest.mark.parametrize(
  'seconds, text',
  [
    (0, '0:00'),
    (9.99, '0:09'),
    (59, '0:59'),
    (60, '1:00'),
    (123, '2:03'),
    (3599, '59:59'),
    (3600, '1:00:00'),
    (3723, '1:02:03'),
    (360_000, '100:00:00'),
  ],
)
def test_duration(seconds, text):
  assert progress.duration(seconds) == text


def test_line_has_frames_speed_eta_note_and_returns():
  returns = {'basic': -123.456, 'deathmatch': 2.0}
  line = progress.line(1_500_000, 6_000_000, 12_345.6, 'lag 3.1', returns)
  expected = (
    '1,500,000 frames ( 25%) 12,346 frames/s ETA 6:04 lag 3.1 returns: basic -123.5, deathmatch 2'
  )
  assert line.split() == expected.split()


def test_no_episode_yet():
  assert progress.line(0, 100, 10.0, '', {}).endswith('returns: no episode has ended yet')


def test_no_speed_yet():
  assert 'ETA unknown' in progress.line(0, 100, 0.0, '', {})


def test_the_end_and_beyond():
  for frames in (100, 120):
    assert 'ETA 0:00' in progress.line(frames, 100, 10.0, '', {})


def test_lines_of_one_run_are_aligned():
  first = progress.line(5_000, 200_000_000, 9.0, 'lag 1.0', {})
  second = progress.line(200_000_000, 200_000_000, 9e4, 'lag 1.0', {})
  assert first.index('frames/s') == second.index('frames/s')


def test_many_tasks_are_shown_by_number_and_scores():
  returns = {f'task {i}': 1.0 for i in range(13)}
  line = progress.line(5_000, 200_000_000, 9.0, 'lag 1.0', returns, {'median': 12.34, 'mean': 56.0})
  assert line.endswith('lag 1.0  human-normalised (%): median 12.3, mean 56.0  returns of 13 tasks')
  del returns['task 3']
  assert 'task 4 1, task 5 1' in progress.line(5_000, 200_000_000, 9.0, 'lag 1.0', returns)
