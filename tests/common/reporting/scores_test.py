"""Human-normalised scores: the papers' published scores give their published medians and means."""

import numpy as np
import pytest

from common.environments import atari, levels
from common.reporting import scores

# IMPALA, table 4. Its means take the random score of Video Pinball as 0.
ATARI_MEDIANS = {'impala_deep': 191.8, 'impala_shallow': 93.2, 'impala_deep_multi_task': 59.7}
ATARI_MEANS = {'impala_deep': 957.6, 'impala_shallow': 466.4, 'impala_deep_multi_task': 176.9}
# The paper may have computed its means from scores with more digits than it printed.
MEAN_ROUNDING = 0.35


def published(name, column):
  """One column of the papers' tables, by task."""
  return {task: row[column] for task, row in scores.references(name).items()}


def by_hand(values, random, human):
  """Human-normalised scores in percent, computed without the code under test."""
  return 100 * (np.array(values) - np.array(random)) / (np.array(human) - np.array(random))


@pytest.mark.parametrize(
  'task, column, value',
  [
    # IMPALA, table C.1, and its human and random references.
    ('alien', 'random', 227.8),
    ('alien', 'human', 7127.7),
    ('alien', 'impala_deep', 15962.1),
    ('breakout', 'random', 1.7),
    ('breakout', 'human', 30.5),
    ('breakout', 'impala_shallow', 640.43),
    ('breakout', 'impala_deep', 787.34),
    ('breakout', 'impala_deep_multi_task', 35.67),
    ('skiing', 'random', -17098.1),
    ('skiing', 'human', -4336.9),
    ('skiing', 'impala_shallow', -29975.0),
    ('video_pinball', 'random', 16256.9),
    ('video_pinball', 'human', 17667.9),
    ('enduro', 'impala_deep', 0.0),
    ('pitfall', 'random', -229.4),
    ('zaxxon', 'impala_deep_multi_task', 6497.0),
    # Ape-X, table 2: no-op starts, human starts, and their references.
    ('alien', 'apex', 40804.9),
    ('alien', 'human_starts_apex', 17731.5),
    ('gravitar', 'apex', 1598.5),
    ('gravitar', 'human_starts_apex', 662.0),
    ('video_pinball', 'human_starts_random', 20452.0),
    ('video_pinball', 'human_starts_human', 15641.1),
    ('pong', 'human_starts_random', -18.0),
    ('zaxxon', 'human_starts_apex', 37672.0),
  ],
)
def test_atari_references_are_those_of_the_papers(task, column, value):
  assert scores.references('atari57')[task][column] == value


@pytest.mark.parametrize(
  'task, column, value',
  [
    # IMPALA, table B.1 and the constants of the released code.
    ('rooms_collect_good_objects_train', 'random', 0.073),
    ('rooms_collect_good_objects_train', 'table_b1_random', 0.1),
    ('rooms_collect_good_objects_train', 'impala_deep_pbt', 5.8),
    ('language_execute_random_task', 'human', 254.05),
    ('language_execute_random_task', 'random', -5.913),
    ('language_execute_random_task', 'experts_deep', -49.9),
    ('psychlab_visual_search', 'impala_deep_pbt', 0.0),
    ('explore_object_rewards_many', 'table_b1_human', 106.7),
    # The pairs of lasertag: the code's, and the table's, which has them under the other size.
    ('lasertag_one_opponent_small', 'human', 12.65),
    ('lasertag_one_opponent_small', 'table_b1_human', 18.6),
    ('lasertag_three_opponents_small', 'human', 18.55),
    ('lasertag_three_opponents_small', 'table_b1_human', 31.5),
    ('lasertag_one_opponent_large', 'human', 18.6),
    ('lasertag_one_opponent_large', 'table_b1_human', 12.7),
    ('lasertag_three_opponents_large', 'human', 31.5),
    ('lasertag_three_opponents_large', 'table_b1_human', 18.6),
    ('lasertag_three_opponents_small', 'experts_deep', 19.1),
    ('lasertag_three_opponents_small', 'impala_deep_pbt', 11.3),
  ],
)
def test_dmlab_references_are_those_of_the_paper(task, column, value):
  assert scores.references('dmlab30')[task][column] == value


def test_every_task_has_references_and_nothing_else_has():
  assert set(scores.references('atari57')) == set(atari.ATARI_57) and len(atari.ATARI_57) == 57
  assert set(scores.references('dmlab30')) == set(levels.DMLAB_30) and len(levels.DMLAB_30) == 30


def test_all_tasks_have_all_columns():
  for name in ('atari57', 'dmlab30'):
    table = scores.references(name)
    columns = set(next(iter(table.values())))
    assert columns >= {'random', 'human', *scores.PAPER_COLUMNS[name].values()}
    for row in table.values():
      assert set(row) == columns and all(np.isfinite(value) for value in row.values())


@pytest.mark.parametrize('column, median', ATARI_MEDIANS.items())
def test_published_scores_give_the_published_median(column, median):
  assert round(scores.summary('atari57', published('atari57', column))['median'], 1) == median


@pytest.mark.parametrize('column, mean', ATARI_MEANS.items())
def test_published_scores_give_the_published_mean_with_video_pinball_from_0(column, mean):
  found = scores.summary('atari57', published('atari57', column))
  assert found['mean_video_pinball_from_0'] == pytest.approx(mean, abs=MEAN_ROUNDING)
  # The game's own random score gives another mean.
  assert abs(found['mean'] - mean) > 2.0


@pytest.mark.parametrize(
  'column, mean',
  [('impala_deep', 1592.5), ('impala_shallow', 707.4), ('impala_deep_multi_task', 179.4)],
)
def test_the_mean_uses_all_random_scores(column, mean):
  found = scores.summary('atari57', published('atari57', column))
  assert found['mean'] == pytest.approx(mean, abs=0.05)


def test_ape_x_has_its_published_medians():
  """434% from no-op starts and 358% from human starts; the latter only with |human - random|."""
  no_ops = scores.summary('atari57', published('atari57', 'apex'))
  assert round(no_ops['median']) == 434
  human_starts = scores.summary(
    'atari57', published('atari57', 'human_starts_apex'), human_starts=True
  )
  assert round(human_starts['median']) == 358

  # Without the absolute value: in Video Pinball, random play beats the human.
  apex, random, human = (
    list(published('atari57', f'human_starts_{column}').values())
    for column in ('apex', 'random', 'human')
  )
  assert round(np.median(by_hand(apex, random, human))) == 350


def test_human_starts_have_their_own_references():
  half = pytest.approx(50.0)
  assert scores.normalised('atari57', {'pong': -1.25}, 'human_starts_')['pong'] == half
  assert scores.summary('atari57', {'pong': -1.25}, human_starts=True)['median'] == half
  assert scores.summary('atari57', {'pong': -3.05})['median'] == half


def test_the_mean_with_video_pinball_from_0_is_left_out_without_the_game_or_with_human_starts():
  assert set(scores.summary('atari57', {'pong': 0.0})) == {'median', 'mean'}
  human_starts = scores.summary('atari57', published('atari57', 'human_starts_apex'), True)
  assert set(human_starts) == {'median', 'mean'}


@pytest.mark.parametrize(
  'column, table_b1, code, published_score',
  [('impala_deep_pbt', 49.34, 50.06, 49.4), ('experts_deep', 44.44, 45.74, 44.5)],
)
def test_dmlab_30_has_the_papers_scores_with_the_pairing_of_its_table(
  column, table_b1, code, published_score
):
  found = scores.summary('dmlab30', published('dmlab30', column))
  assert found['mean_capped_table_b1'] == pytest.approx(table_b1, abs=0.005)
  assert found['mean_capped_table_b1'] == pytest.approx(published_score, abs=0.1)
  assert found['mean_capped'] == pytest.approx(code, abs=0.005)


@pytest.mark.parametrize('name', ['atari57', 'dmlab30'])
@pytest.mark.parametrize('column, percent', [('random', 0.0), ('human', 100.0)])
def test_random_play_scores_0_and_a_human_100(name, column, percent):
  found = scores.normalised(name, published(name, column))
  assert len(found) == {'atari57': 57, 'dmlab30': 30}[name]
  assert found == {task: pytest.approx(percent) for task in found}
  with_columns = scores.summary(name, published(name, column))
  assert with_columns['mean'] == pytest.approx(percent)


def test_every_column_of_dmlab_30_is_0_for_random_play_and_100_for_a_human():
  for prefix, capped in (('', 'mean_capped'), ('table_b1_', 'mean_capped_table_b1')):
    random = scores.summary('dmlab30', published('dmlab30', f'{prefix}random'))
    human = scores.summary('dmlab30', published('dmlab30', f'{prefix}human'))
    assert random[capped] == pytest.approx(0.0)
    assert human[capped] == pytest.approx(100.0)


def test_scores_are_capped_at_100_task_by_task():
  """Twice a human's score in one level does not make up for random play in another."""
  known = scores.references('dmlab30')['rooms_watermaze']
  twice = {
    'rooms_watermaze': 2 * known['human'] - known['random'],
    'rooms_keys_doors_puzzle': 4.135,
  }
  found = scores.summary('dmlab30', twice)
  assert (found['mean_capped'], found['mean']) == (pytest.approx(50.0), pytest.approx(100.0))


def test_there_is_no_cap_from_below():
  """As in the paper's means: the experts' -49.9 in language_execute_random_task counts as it is."""
  found = scores.summary('dmlab30', {'language_execute_random_task': -49.9})
  expected = 100 * (-49.9 + 5.913) / (254.05 + 5.913)
  assert found['mean_capped'] == found['mean'] == pytest.approx(expected)


def test_atari_is_not_capped():
  assert scores.summary('atari57', {'breakout': 59.3})['mean'] == pytest.approx(200.0)


def test_some_tasks_alone():
  tasks = {'pong': 14.6, 'breakout': 1.7, 'boxing': 6.1}
  assert scores.normalised('atari57', tasks) == {
    'pong': pytest.approx(100.0),
    'breakout': pytest.approx(0.0),
    'boxing': pytest.approx(50.0),
  }
  found = scores.summary('atari57', tasks)
  assert (found['median'], found['mean']) == (pytest.approx(50.0), pytest.approx(50.0))
  # The median of an even number of tasks is between the middle two.
  found = scores.summary('atari57', {'pong': 14.6, 'breakout': 1.7})
  assert found['median'] == pytest.approx(50.0)


def test_video_pinball_alone_from_its_random_score_and_from_0():
  found = scores.summary('atari57', {'video_pinball': 16256.9})
  assert found['mean'] == found['median'] == pytest.approx(0.0)
  assert found['mean_video_pinball_from_0'] == pytest.approx(100 * 16256.9 / 17667.9)


def test_less_than_random_play_is_below_0_even_where_random_play_beats_humans():
  assert scores.human_normalised(90.0, random=100.0, human=80.0) == pytest.approx(-50.0)
  assert scores.human_normalised(110.0, random=100.0, human=80.0) == pytest.approx(50.0)
  assert scores.human_normalised(-5.0, random=0.0, human=10.0) == pytest.approx(-50.0)


def random_scores(name, tasks, count, rng):
  """Scores of `count` random tasks; the same normalised by hand, by prefix of the references."""
  chosen = [str(task) for task in rng.choice(tasks, count, replace=False)]
  values = rng.normal(50.0, 100.0, count)
  known = [scores.references(name)[task] for task in chosen]
  prefixes = ['', 'table_b1_'] if name == 'dmlab30' else ['']
  normalised = {
    prefix: by_hand(
      values, [row[f'{prefix}random'] for row in known], [row[f'{prefix}human'] for row in known]
    )
    for prefix in prefixes
  }
  return dict(zip(chosen, values, strict=True)), normalised


@pytest.mark.parametrize('count', [1, 2, 9, 57])
def test_atari_summary_equals_an_independent_calculation(count):
  rng = np.random.default_rng(count)
  values, normalised = random_scores('atari57', atari.ATARI_57, count, rng)
  found = scores.summary('atari57', values)
  assert found['mean'] == pytest.approx(np.sum(normalised['']) / count)
  assert found['median'] == pytest.approx(np.quantile(normalised[''], 0.5))


@pytest.mark.parametrize('count', [1, 2, 9, 30])
def test_dmlab_summary_equals_an_independent_calculation(count):
  rng = np.random.default_rng(count)
  values, normalised = random_scores('dmlab30', levels.DMLAB_30, count, rng)
  found = scores.summary('dmlab30', values)
  assert found['mean'] == pytest.approx(np.sum(normalised['']) / count)
  for prefix, statistic in (('', 'mean_capped'), ('table_b1_', 'mean_capped_table_b1')):
    capped = np.where(normalised[prefix] > 100, 100, normalised[prefix])
    assert found[statistic] == pytest.approx(np.sum(capped) / count)


def test_values_are_plain_numbers_for_json():
  for name in ('atari57', 'dmlab30'):
    found = scores.summary(name, published(name, 'human'))
    assert all(type(value) is float for value in found.values())
