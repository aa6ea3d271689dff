"""Score reports: our agent beside the papers' on the same tasks, as text, JSON and a chart."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from common.environments import atari, levels
from common.reporting import score_report, scores

NOTE = 'Without psychlab, whose data set is not there.'
# 50, 100 and 0 percent.
ATARI = {'breakout': 16.1, 'pong': 14.6, 'boxing': 0.1}


def played(means):
  """Summaries of evaluated episodes with these means."""
  return {
    task: {'mean': mean, 'low': mean - 1.25, 'high': mean + 2.5, 'episodes': 3}
    for task, mean in means.items()
  }


def lines_of(text):
  """Lines by their first word."""
  return {line.split()[0]: line for line in text.splitlines() if line.strip()}


def test_the_report_has_our_agent_and_the_papers_on_the_same_tasks():
  found = score_report.report('atari57', played(ATARI), NOTE)
  assert set(found) == {'references', 'normalised', 'summary', 'note'}
  assert found['references'] == 'atari57'
  assert found['normalised'] == {
    'breakout': pytest.approx(50.0),
    'pong': pytest.approx(100.0),
    'boxing': pytest.approx(0.0),
  }
  assert set(found['summary']) == {'agent', 'IMPALA multi-task', 'IMPALA deep', 'Ape-X'}
  assert found['summary']['agent'] == {'median': pytest.approx(50.0), 'mean': pytest.approx(50.0)}
  # Table C.1: 35.67, 8.58 and 96.63 points of the multi-task agent.
  multi_task = np.array([(35.67 - 1.7) / 28.8, (8.58 + 20.7) / 35.3, (96.63 - 0.1) / 12.0]) * 100
  assert found['summary']['IMPALA multi-task'] == {
    'median': pytest.approx(np.median(multi_task)),
    'mean': pytest.approx(np.mean(multi_task)),
  }


def test_a_whole_suite_gives_the_papers_their_published_scores():
  known = scores.references('atari57')
  agent = played({game: known[game]['human'] for game in atari.ATARI_57})
  summary = score_report.report('atari57', agent)['summary']
  assert {title: round(summary[title]['median'], 1) for title in summary} == {
    'agent': 100.0,
    'IMPALA multi-task': 59.7,
    'IMPALA deep': 191.8,
    'Ape-X': 434.1,
  }

  known = scores.references('dmlab30')
  agent = played({level: known[level]['random'] for level in levels.DMLAB_30})
  summary = score_report.report('dmlab30', agent)['summary']
  assert round(summary['IMPALA deep PBT']['mean_capped_table_b1'], 2) == 49.34
  assert round(summary['experts']['mean_capped_table_b1'], 2) == 44.44
  assert summary['agent']['mean_capped'] == pytest.approx(0.0)


@pytest.mark.parametrize(
  'name, tasks, size', [('atari57', atari.ATARI_57, 57), ('dmlab30', levels.DMLAB_30, 30)]
)
def test_missing_tasks_are_noted(name, tasks, size):
  some = score_report.report(name, played(dict.fromkeys(tasks[:-1], 1.0)), NOTE)
  assert f'{size - 1} of the {size} tasks' in some['note'] and NOTE in some['note']
  assert score_report.report(name, played(dict.fromkeys(tasks, 1.0)), NOTE)['note'] == NOTE
  assert score_report.report(name, played(dict.fromkeys(tasks, 1.0)))['note'] == ''


def test_the_table_has_our_columns_beside_the_papers():
  agent = played(ATARI)
  text = score_report.text('atari57', agent, score_report.report('atari57', agent, NOTE))
  header = text.splitlines()[0]
  columns = ['task', 'agent', '95% interval', 'normalised', 'random', 'human']
  columns += ['IMPALA multi-task', 'IMPALA deep', 'Ape-X']
  places = [header.index(column) for column in columns]
  assert places == sorted(places)

  rows = lines_of(text)
  # Mean, interval, percent; random, human, multi-task, deep (table C.1), and Ape-X's table 2.
  breakout = 'breakout 16.10 [14.85, 18.60] 50.0% 1.7 30.5 35.7 787.3 800.9'
  pong = 'pong 14.60 [13.35, 17.10] 100.0% -20.7 14.6 8.6 21.0 20.9'
  assert rows['breakout'].split() == breakout.split()
  assert rows['pong'].split() == pong.split()
  assert len({len(row) for task, row in rows.items() if task in ATARI or task == 'task'}) == 1
  assert NOTE in text and '3 of the 57 tasks' in text


def test_the_table_ends_with_statistics_over_all_tasks():
  agent = played({'breakout': 16.1, 'video_pinball': 17667.9})
  text = score_report.text('atari57', agent, score_report.report('atari57', agent))
  # The last five lines: labels, our agent, and the papers' three.
  labels, ours = text.splitlines()[-5:-3]
  assert labels.split() == ['median', 'mean', 'mean_video_pinball_from_0']
  assert ours.split() == ['agent', '75.0', '75.0', '75.0']
  papers = [line.rsplit(None, 3)[0] for line in text.splitlines()[-3:]]
  assert papers == ['IMPALA multi-task', 'IMPALA deep', 'Ape-X']


def test_dmlab_has_all_three_means():
  agent = played(dict.fromkeys(levels.DMLAB_30, 0.0))
  lines = score_report.text('dmlab30', agent, score_report.report('dmlab30', agent)).splitlines()
  assert lines[-4].split() == ['mean_capped', 'mean_capped_table_b1', 'mean']
  assert [line.split()[-3:] for line in lines[-2:]] == [
    ['50.1', '49.3', '53.5'],
    ['45.7', '44.4', '46.5'],
  ]
  assert max(map(len, lines)) < 250


def test_scores_are_written_and_shown(tmp_path, caplog):
  agent = played(ATARI)
  with caplog.at_level(logging.INFO):
    score_report.write(tmp_path, 'atari57', agent, NOTE)
  reported = score_report.report('atari57', agent, NOTE)
  assert json.loads((tmp_path / 'scores.json').read_text()) == reported
  assert score_report.text('atari57', agent, reported) in caplog.text
  assert str(tmp_path / 'scores.json') in caplog.text
  assert {path.name for path in tmp_path.iterdir()} == {'scores.json', 'scores.png'}


def test_the_chart_has_both_columns_and_room_for_57_games(tmp_path):
  """The first two of matplotlib's colours: ours, and the paper's."""
  agent = played({game: row['human'] for game, row in scores.references('atari57').items()})
  score_report.write(tmp_path, 'atari57', agent, NOTE)
  pixels = np.array(Image.open(tmp_path / 'scores.png').convert('RGB')).astype(int)
  assert pixels.shape[0] > 57 * 15
  for colour in ((31, 119, 180), (255, 127, 14)):
    drawn = np.all(np.abs(pixels - colour) < 40, axis=-1)
    # All bars are long, as our scores are a human's: each column's fill 40% of the height.
    assert np.mean(np.any(drawn, axis=1)) > 0.25
