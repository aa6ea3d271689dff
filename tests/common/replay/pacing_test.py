"""The replay ratio: it is held, and no side waits needlessly or forever."""

import itertools
import math
import threading

import pytest

from common.distributed import queues
from common.replay import pacing
from scripts import processes

DEADLINE = 20.0  # Seconds, for what takes none on a quiet machine.
# How long a call that must wait is watched, in seconds. A slow machine cannot end its waiting: only
# a broken ratio can.
WATCHED = 0.2
BLOCK = 50  # Transitions.
BATCH = 512  # Samples.
MINIMUM = 1000  # Transitions.
TARGETS = [0.01, 0.78, 1.0, 8.0, 100.0]


class Background:
  """A call in a thread: whether it has returned, and what it raised."""

  def __init__(self, function, *arguments):
    self.error = None
    self._returned = threading.Event()
    threading.Thread(target=self._run, args=(function, *arguments), daemon=True).start()

  def has_returned(self, within=DEADLINE):
    return self._returned.wait(within)

  def _run(self, function, *arguments):
    try:
      function(*arguments)
    except BaseException as error:
      self.error = error
    self._returned.set()


class Side:
  """Inserts blocks or draws batches in a thread, `times` or as often as it may.

  Attributes:
    seen: Both counts after each.
  """

  def __init__(self, ratio, step, times=math.inf):
    self.seen = []
    self._ratio = ratio
    self._step = step
    self._times = times
    self.background = Background(self._run)

  def stops_after(self, count):
    """Whether it gets to `count` steps, and then waits."""
    if not processes.becomes_true(lambda: len(self.seen) >= count, DEADLINE):
      return False
    return not self.background.has_returned(WATCHED) and len(self.seen) == count

  def _run(self):
    while len(self.seen) < self._times:
      self._step(self._ratio)
      self.seen.append(counts(self._ratio))


def insert(ratio, held=2 * MINIMUM):
  ratio.await_insert()
  ratio.add_inserted(BLOCK, held)


def draw(ratio):
  ratio.await_sample(BATCH)


def counts(ratio):
  """What was inserted and sampled at one moment.

  The counts only grow: if both are the same again, they had not changed in between.
  """
  while True:
    inserted, sampled = ratio.inserted, ratio.sampled
    if (inserted, sampled) == (ratio.inserted, ratio.sampled):
      return inserted, sampled


def filled(target):
  """A ratio whose minimum has just been reached."""
  ratio = pacing.ReplayRatio(target, MINIMUM, BATCH)
  ratio.add_inserted(MINIMUM, MINIMUM)
  return ratio


@pytest.mark.parametrize('target', TARGETS)
def test_the_ratio_is_held_at_every_moment(target):
  """Both sides run freely for at least five batches and a hundred blocks; neither waits forever."""
  blocks = max(100, math.ceil(5 * BATCH / target / BLOCK))
  batches = int(blocks * BLOCK * target / BATCH)
  ratio = filled(target)
  inserting, drawing = Side(ratio, insert, blocks), Side(ratio, draw, batches)
  assert inserting.background.has_returned() and drawing.background.has_returned()
  assert inserting.background.error is None and drawing.background.error is None
  assert counts(ratio) == (blocks * BLOCK, batches * BATCH)
  ahead = [sampled - target * inserted for inserted, sampled in inserting.seen + drawing.seen]
  assert max(ahead) <= BATCH
  assert min(ahead) >= -(BATCH + target * BLOCK)


@pytest.mark.parametrize('target', TARGETS)
def test_inserting_alone_stops_when_it_is_a_batch_ahead(target):
  expected = 1 + max(block for block in range(2000) if target * block * BLOCK <= BATCH)
  ratio = filled(target)
  inserting = Side(ratio, insert)
  assert inserting.stops_after(expected)
  assert counts(ratio) == (expected * BLOCK, 0)
  ratio.close()


@pytest.mark.parametrize('target', TARGETS)
@pytest.mark.parametrize('blocks', [0, 7])
def test_sampling_alone_stops_when_it_is_a_batch_ahead(target, blocks):
  ratio = filled(target)
  for _ in range(blocks):
    ratio.add_inserted(BLOCK, MINIMUM)
  expected = max(batch for batch in range(200) if batch * BATCH <= target * blocks * BLOCK + BATCH)
  drawing = Side(ratio, draw)
  assert drawing.stops_after(expected)
  assert counts(ratio) == (blocks * BLOCK, expected * BATCH)
  ratio.close()


@pytest.mark.parametrize(
  'target, ahead, behind, steps, expected',
  [
    # 50 inserted demand 5,000 samples. The next may be inserted at 4,488: after nine batches.
    (100.0, insert, draw, 9, (2 * BLOCK, 9 * BATCH)),
    # After a batch of 512, the next may be drawn when 512 are inserted: after eleven blocks.
    (1.0, draw, insert, 11, (11 * BLOCK, 2 * BATCH)),
  ],
  ids=['inserting', 'sampling'],
)
def test_the_side_ahead_continues_when_the_other_has_caught_up(
  target, ahead, behind, steps, expected
):
  ratio = filled(target)
  ahead(ratio)
  waiting = Background(ahead, ratio)
  for _ in range(steps - 1):
    behind(ratio)
  assert not waiting.has_returned(WATCHED)
  behind(ratio)
  assert waiting.has_returned() and waiting.error is None
  assert counts(ratio) == expected


@pytest.mark.parametrize('step', [insert, draw])
def test_without_a_target_no_side_waits(step):
  ratio = filled(0.0)
  alone = Side(ratio, step, 1000)
  assert alone.background.has_returned() and alone.background.error is None
  assert sorted(counts(ratio)) == [0, 1000 * (BLOCK if step is insert else BATCH)]


@pytest.mark.parametrize('target', [0.0, *TARGETS])
def test_nothing_is_sampled_before_the_minimum_is_held_and_inserting_does_not_wait(target):
  ratio = pacing.ReplayRatio(target, MINIMUM, BATCH)
  waiting = Background(draw, ratio)
  held = itertools.count(BLOCK, BLOCK)
  filling = Side(ratio, lambda ratio: insert(ratio, next(held)), MINIMUM // BLOCK - 1)
  assert filling.background.has_returned() and filling.background.error is None
  assert not waiting.has_returned(WATCHED)
  assert not ratio.is_filled() and counts(ratio) == (0, 0)
  insert(ratio, next(held))
  assert waiting.has_returned() and waiting.error is None
  assert ratio.is_filled() and counts(ratio) == (0, BATCH)


def test_all_that_wait_for_the_minimum_continue():
  ratio = pacing.ReplayRatio(0.0, MINIMUM, BATCH)
  waiting = [Background(draw, ratio) for _ in range(3)]
  assert not any(one.has_returned(WATCHED / 3) for one in waiting)
  ratio.add_inserted(MINIMUM, MINIMUM)
  assert all(one.has_returned() and one.error is None for one in waiting)


def test_all_that_wait_to_insert_continue():
  # A batch for each block: after two blocks, others wait for a batch.
  ratio = filled(BATCH / BLOCK)
  insert(ratio)
  insert(ratio)
  waiting = [Background(insert, ratio) for _ in range(3)]
  assert not any(one.has_returned(WATCHED / 3) for one in waiting)
  ratio.await_sample(3 * BATCH)
  assert all(one.has_returned() and one.error is None for one in waiting)
  assert counts(ratio) == (5 * BLOCK, 3 * BATCH)


@pytest.mark.parametrize('target', [0.0, 1.0, 100.0])
def test_after_a_loss_sampling_waits_until_the_minimum_is_held_again(target):
  ratio = filled(target)
  ratio.add_inserted(BLOCK, BLOCK)
  assert not ratio.is_filled()
  waiting = Background(draw, ratio)
  for held in range(2 * BLOCK, MINIMUM, BLOCK):
    ratio.add_inserted(BLOCK, held)
  assert not waiting.has_returned(WATCHED)
  ratio.add_inserted(BLOCK, MINIMUM)
  assert waiting.has_returned() and waiting.error is None
  assert ratio.is_filled()


@pytest.mark.parametrize('target', [1.0, 100.0])
def test_after_a_loss_inserting_does_not_wait_until_the_minimum_is_held_again(target):
  """However far it is ahead: nothing is sampled meanwhile, so it would wait forever."""
  ratio = filled(target)
  # As many as may be inserted without samples.
  most = 1 + int(BATCH / (target * BLOCK))
  assert Side(ratio, insert, most).background.has_returned()
  ratio.add_inserted(BLOCK, BLOCK)
  held = itertools.count(2 * BLOCK, BLOCK)
  refilling = Side(ratio, lambda ratio: insert(ratio, next(held)), MINIMUM // BLOCK - 1)
  has_refilled = refilling.background.has_returned(DEADLINE / 4)
  filled_again, error = ratio.is_filled(), refilling.background.error
  ratio.close()
  assert has_refilled and filled_again and error is None


def test_what_refills_it_after_a_loss_is_not_counted():
  """As when it was first filled. Otherwise the refill would demand a burst of samples."""
  ratio = filled(1.0)
  ratio.add_inserted(BLOCK, BLOCK)
  before = counts(ratio)
  for held in range(2 * BLOCK, MINIMUM + 1, BLOCK):
    ratio.add_inserted(BLOCK, held)
  assert counts(ratio) == before
  ratio.add_inserted(BLOCK, MINIMUM + BLOCK)
  assert counts(ratio) == (before[0] + BLOCK, 0)


def test_close_ends_waiting_on_both_sides():
  behind, ahead = pacing.ReplayRatio(1.0, MINIMUM, BATCH), filled(100.0)
  insert(ahead)
  drawing = [Background(draw, behind) for _ in range(3)]
  inserting = [Background(insert, ahead) for _ in range(3)]
  assert not any(waiting.has_returned(WATCHED / 6) for waiting in drawing + inserting)
  behind.close()
  ahead.close()
  for waiting in drawing + inserting:
    assert waiting.has_returned()
    assert isinstance(waiting.error, queues.QueueClosed)
  assert counts(behind) == (0, 0) and counts(ahead) == (BLOCK, 0)


def test_a_closed_ratio_refuses_both_sides():
  ratio = filled(0.0)
  ratio.close()
  ratio.close()
  for step in (insert, draw):
    with pytest.raises(queues.QueueClosed):
      step(ratio)
  assert counts(ratio) == (0, 0)
