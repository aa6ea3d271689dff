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
  expected = '1,500,000 frames 25% 12,346/s ETA 6:04 lag 3.1 return -123.5 (12 episodes)'
  assert ' '.join(line.split()) == expected and '\n' not in line
  one = {'basic': episodes.Recent(1.0, 50.0, 1)}
  assert progress.line(0, 100, 10.0, '', one).endswith('  return 1 (1 episode)')


def test_of_several_tasks_the_line_has_mean_worst_and_best():
  returns = recent(pong=-20.0, boxing=6.0)
  line = progress.line(0, 9, 1.0, '', returns, progress.Comparable({'pong': 2, 'boxing': 50}, '%'))
  assert line.endswith('  mean 26%: pong 2% to boxing 50%')
  line = progress.line(
    0, 9, 1.0, '', returns, progress.Comparable({'pong': -0.25, 'boxing': 1}, '')
  )
  assert line.endswith('  mean 0.38: pong -0.25 to boxing 1.00')


def test_names_are_cut_to_the_width_of_the_line():
  names = ['GoToRedBallNoDists', 'health_gathering_supreme']
  comparable = progress.Comparable(dict(zip(names, (0.125, 234.5), strict=True)), '')
  values = (1_500_000, 20_000_000, 12_345.0, 'lag 3.1')
  line = progress.line(*values, recent(**dict.fromkeys(names, 0.125)), comparable)
  assert 97 <= len(line) <= 100 and '\n' not in line
  assert line.endswith('  lag 3.1  mean 117: GoToRedBa… 0.12 to health_ga… 234')


def test_a_long_note_breaks_the_line_and_loses_nothing():
  comparable = progress.Comparable({'health_gathering_supreme': 0.1, 'GoToRedBallNoDists': 1}, '')
  note = '123.4 updates/s  replay 1,000,000, ratio 8.00, 12 actors, crashes 3, actors lost 2'
  values = (150_000_000, 200_000_000, 123_456.0, note)
  line = progress.line(*values, recent(pong=1.0), None)
  first, second = line.split('\n')
  assert note in first and second == '    return 1 (12 episodes)'
  _, second = progress.line(*values, recent(a=1.0), comparable).split('\n')
  assert second == '    mean 0.55: health_gathering_supreme 0.10 to GoToRedBallNoDists 1.00'


def test_all_tasks_fit_in_lines_of_100_columns():
  tasks = [f'health_gathering_supreme_{i}' for i in range(30)]
  text = progress.all_tasks(recent(**dict.fromkeys(tasks, 1234.5)), {'median': 12.34, 'mean': 56.0})
  lines = text.split('\n')
  assert max(map(len, lines)) <= 100
  assert all(one.startswith('    ') and one.strip() == one[4:] for one in lines)
  # Names keep their numbers.
  assert text.count(' 1234 (12)') + text.count(' 1235 (12)') == 30
  assert all(task in text for task in tasks)
  assert text.endswith('(12)\n    human-normalised (%): median 12.3, mean 56.0')
  assert progress.all_tasks(recent(a=1.0), {}) == '    returns (episodes): a 1 (12)'


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
  assert first.index('/s') == second.index('/s')
