"""Lines of a population, by histories and metrics that are made by hand."""

import math

import pytest

from common.reporting import metrics_file
from impala import ancestry
from impala import population_folder as folders


def event(generation, frames, score, partner=None, taken=None, rate=1.0):
  """`taken` is the generation and the frames of the checkpoint that was taken over."""
  return folders.Event(
    generation=generation,
    frames=frames,
    returns={'task': float(score)},
    fitness=float(score),
    before={'learning_rate': rate},
    after={'learning_rate': rate + 0.1},
    partner=partner,
    partner_fitness=None,
    taken_generation=taken[0] if taken else None,
    taken_frames=taken[1] if taken else None,
  )


# Member 2 learns by itself. Member 1 takes it over, and member 0 takes over what became of that; it
# is behind: its own 300 frames stand for the 420 of the line.
HISTORIES = {
  0: [
    event(0, 100, 1, partner=2, rate=1.0),
    event(1, 300, 2, partner=1, taken=(2, 320), rate=2.0),
    event(2, 400, 33, partner=1, rate=3.0),
  ],
  1: [
    event(0, 110, 5, partner=2, taken=(1, 210), rate=4.0),
    event(1, 220, 25, partner=0, rate=5.0),
    # Published, then taken over by 0; itself takes over 2 right after that.
    event(2, 320, 30, partner=2, taken=(2, 300), rate=6.0),
    event(3, 420, 40, rate=7.0),
  ],
  2: [
    event(0, 100, 10, rate=8.0),
    event(1, 210, 20, rate=9.0),
    event(2, 300, 28, rate=10.0),
  ],
}


def parts_of(member):
  return [tuple(part) for part in ancestry.line(HISTORIES, member)]


def test_a_member_that_took_over_nobody_is_its_own_line():
  assert parts_of(2) == [(2, 0, math.inf, 0, range(0, 3))]


def test_a_line_goes_back_through_copies_of_copies():
  assert parts_of(0) == [
    (2, 0, 210, 0, range(0, 2)),
    # 110 frames of member 1 were thrown away: the line had 210 then.
    (1, 110, 320, 100, range(1, 3)),
    (0, 300, math.inf, 120, range(2, 3)),
  ]


def test_what_the_one_copied_did_afterwards_belongs_to_another_line():
  # Member 1 itself went on with what it took over at the same moment.
  assert parts_of(1) == [(2, 0, 300, 0, range(0, 3)), (1, 320, math.inf, -20, range(3, 4))]


def test_points_have_the_frames_of_the_line_and_the_hyperparameters_it_went_on_with():
  points = ancestry.points(HISTORIES, 0)
  assert [(point.frames, point.event.fitness) for point in points] == [
    (100, 10.0),
    (210, 20.0),
    (320, 25.0),
    (420, 30.0),
    (520, 33.0),
  ]
  # At a copy those of the one who took it: member 1's after its generation 0, 0's after its 1.
  rates = [point.after['learning_rate'] for point in points]
  assert rates == pytest.approx([8.1, 4.1, 5.1, 2.1, 3.1])


def test_rows_of_metrics_follow_the_line(tmp_path):
  for number in range(3):
    run = folders.member_folder(tmp_path, number)
    run.mkdir()
    rows = [f'{frames},{1000 * number + frames}' for frames in range(50, 500, 50)]
    # The last one is being written.
    (run / 'metrics.csv').write_text('\n'.join(['frames,return/task', *rows]) + '\n500,7')
  out = tmp_path / 'metrics.csv'
  assert ancestry.write_metrics(tmp_path, ancestry.line(HISTORIES, 0), out)
  found = [(row['frames'], row['return/task']) for row in metrics_file.read(out)]
  assert found == [
    *((frames, 2000 + frames) for frames in (50, 100, 150, 200)),
    *((frames + 100, 1000 + frames) for frames in (150, 200, 250, 300)),
    *((frames + 120, frames) for frames in (350, 400, 450)),
  ]


def test_members_without_metrics_or_history_have_no_rows(tmp_path):
  histories = {0: [], 1: []}
  assert ancestry.points(histories, 0) == []
  assert not ancestry.write_metrics(tmp_path, ancestry.line(histories, 0), tmp_path / 'out.csv')
