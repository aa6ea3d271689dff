"""The progress line of a training run."""

import pytest

from common.reporting import episodes, progress


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


def recent(**returns):
  """Means of 12 episodes of each task."""
  return {task: episodes.Recent(value, 50.0, 12) for task, value in returns.items()}


def test_line_has_frames_speed_eta_note_and_the_return_with_its_episodes():
  line = progress.line(1_500_000, 6_000_000, 12_345.6, 'lag 3.1', recent(basic=-123.456))
  expected = '1,500,000 frames ( 25%) 12,346 frames/s ETA 6:04 lag 3.1 return -123.5 (12 episodes)'
  assert ' '.join(line.split()) == expected and '\n' not in line
  one = {'basic': episodes.Recent(1.0, 50.0, 1)}
  assert progress.line(0, 100, 10.0, '', one).endswith('  return 1 (1 episode)')


def test_tasks_are_named_where_there_are_several_even_if_one_has_ended_an_episode():
  assert progress.line(0, 9, 1.0, '', recent(a=1.0), 2).endswith('  returns (episodes): a 1 (12)')
  line = progress.line(0, 9, 1.0, '', recent(a=1.0, b=-20.0), 2)
  assert line.endswith('  returns (episodes): a 1 (12), b -20 (12)')


def test_no_line_is_longer_than_100_columns():
  tasks = [f'health_gathering_supreme_{i}' for i in range(12)]
  note = '123.4 updates/s  replay 1,000,000, ratio 8.00, 12 actors, crashes 3, actors lost 2'
  scores = {'median': 12.34, 'mean': 56.0}
  values = (150_000_000, 200_000_000, 123_456.0, note)
  line = progress.line(*values, recent(**dict.fromkeys(tasks, 1234.5)), 12, scores)
  first, *others = line.split('\n')
  # The note, the scores, and two tasks to a line.
  assert max(map(len, [first, *others])) <= 100 and len(others) == 2 + 6
  assert all(other.startswith('    ') and other.strip() == other[4:] for other in others)
  # Nothing is lost, and names keep their numbers.
  for part in (note, 'human-normalised (%): median 12.3, mean 56.0', *tasks):
    assert part in line
  assert line.count(' 1234 (12)') + line.count(' 1235 (12)') == 12


def test_no_episode_yet():
  assert progress.line(0, 100, 10.0, '', {}).endswith('  returns: no episode has ended yet')


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
  returns = recent(**{f'task_{i}': 1.0 for i in range(13)})
  line = progress.line(5_000, 200_000_000, 9.0, 'lag 1.0', returns, 57, {'median': 12.34})
  assert line.endswith('lag 1.0\n    human-normalised (%): median 12.3  returns of 13 tasks')
