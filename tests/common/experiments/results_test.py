"""What a run's metrics become: final returns, speeds, scores of suites; pictures and their CSVs."""

import csv
import dataclasses
import math

import pytest

from common.experiments import conclusion, definitions, execution, plan, published, report, results
from impala import config as configs
from tests.common.experiments import plan_test


def write_run(folder, rows):
  folder.mkdir(parents=True)
  columns = list(dict.fromkeys(name for row in rows for name in row))
  with open(folder / 'metrics.csv', 'w', newline='') as file:
    writer = csv.DictWriter(file, columns, lineterminator='\n')
    writer.writeheader()
    writer.writerows(rows)
  (folder / 'finished.json').write_text('{"seconds": 30.0}')


def rows_of(returns, task='CartPole-v1', speed=100.0):
  return [
    {
      'frames': 100 * i,
      'updates': i,
      'seconds': 100 * i / speed,
      'frames_per_second': speed,
      f'return/{task}': value,
      'learning_rate': 1.0 / i,
    }
    for i, value in enumerate(returns, start=1)
  ]


def test_a_final_return_is_the_mean_of_the_last_tenth_of_the_frames(tmp_path):
  run = plan_test.planned(tmp_path).runs[0]
  write_run(tmp_path / run.name, rows_of([1.0] * 17 + [5.0, 6.0, 10.0]))
  outcome = results.read(run, tmp_path / run.name)
  # Of 2,000 frames, those from 1,800 on.
  assert outcome.metrics['final_return'] == pytest.approx(7.0)
  assert outcome.metrics['frames_per_second'] == pytest.approx(100.0)
  assert results.normalised(outcome, 'final_return') == pytest.approx((7 - 20) / 480)
  assert results.normalised(outcome, 'frames_per_second') == pytest.approx(math.log(100))


def test_a_suite_is_scored_as_the_papers_score_it(tmp_path):
  task = definitions.Task('DMLab-30', 'dmlab30', high=100.0, references='dmlab30')
  run = dataclasses.replace(plan_test.planned(tmp_path).runs[0], task=task)
  columns = {'return/rooms_watermaze': 54.0, 'return/rooms_select_nonmatching_object': 0.312}
  row = {'frames': 1, 'updates': 1, 'seconds': 1, 'frames_per_second': 1, **columns}
  write_run(tmp_path / run.name, [row, {**row, 'frames': 2, 'return/rooms_watermaze': ''}])
  outcome = results.read(run, tmp_path / run.name)
  # A human's score and that of random play. An empty cell keeps the value before it.
  assert outcome.metrics['final_return'] == pytest.approx(50.0)
  assert outcome.returns.tolist() == [50.0, 50.0]


@pytest.fixture(scope='module')
def concluded(tmp_path_factory):
  """An experiment with made-up runs, in which A is better; its last run is missing."""
  folder = tmp_path_factory.mktemp('made_up')
  made = plan.make(
    plan_test.experiment(pictures=definitions.PICTURES, title='Mine & <yours>'),
    'small',
    {'impala': configs.PRESETS},
    folder / 'runs',
  )
  for run in made.runs[:-1]:
    final = (300.0 if run.variant == 'A' else 100.0) + 10 * run.draw + run.config.seed
    level = run.config.env.partition(':')[2]
    write_run(made.folder / run.name, rows_of([20.0, 50.0, final, final], level))
  target = folder / 'results' / 'impala.mine' / 'small'
  result = conclusion.conclude(made, target, execution.Report(failed={'B on x': 'why'}), 'code')
  return folder, target, result


def test_an_experiment_is_judged_drawn_and_told(concluded):
  _, target, result = concluded
  assert [claim['word'] for claim in result['claims']] == ['holds']
  assert result['runs']['finished'] == 23 and result['runs']['unfinished'] == [
    'B on Acrobot, draw 2, seed 2'
  ]
  text = conclusion.text(result)
  assert 'HOLDS: A beats B. (section 1)' in text and 'FAILED: B on x: why' in text
  assert '23 of 24 runs are finished.' in text
  assert conclusion.load(target / 'result.json')['changes'] == 'All.'
  for kind in definitions.PICTURES:
    assert (target / f'{kind}.png').read_bytes().startswith(b'\x89PNG')
    assert '<svg' in (target / f'{kind}.svg').read_text()
    with open(target / f'{kind}.csv', newline='') as file:
      assert {row['variant'] for row in csv.DictReader(file)} == {'A', 'B'}
  with open(target / 'sorted.csv', newline='') as file:
    best = next(csv.DictReader(file))
  assert best['rank'] == '1' and float(best['final_return']) == 322.0
  with open(target / 'runs.csv', newline='') as file:
    assert len(list(csv.DictReader(file))) == 23


def test_a_report_has_everything_and_loads_nothing_from_outside(concluded):
  folder, _, _ = concluded
  markdown, page = report.write(folder / 'results', folder / 'docs')
  text = markdown.read_text()
  assert '| impala.mine, scale small | A beats B. (section 1) | holds |' in text
  for name in ('curves.png', 'curves.csv'):
    assert f'(reproduction/impala.mine.small.{name})' in text
    assert (folder / 'docs' / 'reproduction' / f'impala.mine.small.{name}').exists()
  html = page.read_text()
  assert 'Mine &amp; &lt;yours&gt;' in html
  assert html.count('<img ') == len(definitions.PICTURES)
  # Every source is inside the page, and nothing else could load anything.
  assert html.count('src="data:image/svg+xml;base64,') == html.count('src=')
  assert not any(word in html for word in ('<link', '<script', 'url(', '@import', 'http'))


def test_without_results_there_is_no_report(tmp_path):
  with pytest.raises(report.errors.UserError, match='has no results yet'):
    report.write(tmp_path, tmp_path / 'docs')


def test_the_published_numbers_come_out_of_the_published_scores(tmp_path):
  from scripts import reproduce

  computed = {
    each.title: (published.compute(each), each.printed, each.within)
    for experiment in reproduce.EXPERIMENTS.values()
    for each in experiment.published
  }
  printed = sorted(printed for _, printed, _ in computed.values())
  assert printed == [44.5, 49.4, 59.7, 93.2, 176.9, 191.8, 358.0, 434.0, 466.4, 957.6]
  for title, (value, printed, within) in computed.items():
    assert value == pytest.approx(printed, abs=within), title
  result = published.conclude(reproduce.EXPERIMENTS['apex.table_1'], tmp_path)
  assert result['claims'][0]['word'] == 'holds'
  with open(tmp_path / 'bars.csv', newline='') as file:
    assert len(list(csv.DictReader(file))) == 2 * 57
