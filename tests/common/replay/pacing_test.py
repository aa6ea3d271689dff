"""The replay ratio: it is held, nobody waits without need, and nobody waits for ever."""

import itertools
import math
import threading

import pytest

from common.distributed import queues
from common.replay import pacing
from scripts import processes

DEADLINE = 20.0  # Seconds, for what happens at once on a quiet machine.
# How long one that must wait is watched. A slow machine cannot make it go on: only a broken ratio can.
WATCHED = 0.2
BLOCK, BATCH, MINIMUM = 50, 512, 1000
TARGETS = [0.01, 0.78, 1.0, 8.0, 100.0]


class Background:
  """A call in a thread: whether it has returned, and what it raised."""

  def __init__(self, function, *arguments):
    self.error, self._returned = None, threading.Event()
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
  """Inserts blocks or draws batches in a thread, `times` or for as long as it may; notes both counts after each."""

  def __init__(self, ratio, step, times=math.inf):
    self.seen, self._ratio, self._step, self._times = [], ratio, step, times
    self.background = Background(self._run)

  def stops_after(self, count):
    """Whether it comes so far, and then waits."""
    return processes.becomes_true(lambda: len(self.seen) >= count, DEADLINE) and (
      not self.background.has_returned(WATCHED) and len(self.seen) == count
    )

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
  """What was inserted and sampled, both at the same moment: as they only grow, they have not changed in between."""
  while True:
    inserted, sampled = ratio.inserted, ratio.sampled
    if (inserted, sampled) == (ratio.inserted, ratio.sampled):
      return inserted, sampled


def filled(target):
  """Its minimum has just been reached."""
  ratio = pacing.ReplayRatio(target, MINIMUM, BATCH)
  ratio.add_inserted(MINIMUM, MINIMUM)
  return ratio


@pytest.mark.parametrize('target', TARGETS)
def test_the_ratio_is_held_at_every_moment(target):
  """Both run as fast as they may, for as long as five batches and a hundred blocks take; neither waits for ever."""
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


def test_inserting_goes_on_when_enough_has_been_sampled():
  ratio = filled(100.0)
  insert(ratio)  # 5,000 are to be drawn now; at 4,488, the next may be inserted.
  waiting = Background(insert, ratio)
  for _ in range(8):
    draw(ratio)
  assert not waiting.has_returned(WATCHED)
  draw(ratio)
  assert waiting.has_returned() and waiting.error is None
  assert counts(ratio) == (2 * BLOCK, 9 * BATCH)


def test_sampling_goes_on_when_enough_has_been_inserted():
  ratio = filled(1.0)
  draw(ratio)  # At 512, the next may be drawn.
  waiting = Background(draw, ratio)
  for _ in range(10):
    insert(ratio)
  assert not waiting.has_returned(WATCHED)
  insert(ratio)
  assert waiting.has_returned() and waiting.error is None
  assert counts(ratio) == (11 * BLOCK, 2 * BATCH)


@pytest.mark.parametrize('step', [insert, draw])
def test_without_a_target_nobody_waits(step):
  ratio = filled(0.0)
  alone = Side(ratio, step, 1000)
  assert alone.background.has_returned() and alone.background.error is None
  assert sorted(counts(ratio)) == [0, 1000 * (BLOCK if step is insert else BATCH)]


@pytest.mark.parametrize('target', [0.0, *TARGETS])
def test_nothing_is_sampled_before_the_minimum_is_held_and_inserting_does_not_wait(target):
  ratio = pacing.ReplayRatio(target, MINIMUM, BATCH)
  waiting, held = Background(draw, ratio), itertools.count(BLOCK, BLOCK)
  filling = Side(ratio, lambda ratio: insert(ratio, next(held)), MINIMUM // BLOCK - 1)
  assert filling.background.has_returned() and filling.background.error is None
  assert not waiting.has_returned(WATCHED)
  assert not ratio.is_filled() and counts(ratio) == (0, 0)
  insert(ratio, next(held))
  assert waiting.has_returned() and waiting.error is None
  assert ratio.is_filled() and counts(ratio) == (0, BATCH)


def test_all_go_on_that_wait_for_the_minimum():
  ratio = pacing.ReplayRatio(0.0, MINIMUM, BATCH)
  waiting = [Background(draw, ratio) for _ in range(3)]
  assert not any(one.has_returned(WATCHED / 3) for one in waiting)
  ratio.add_inserted(MINIMUM, MINIMUM)
  assert all(one.has_returned() and one.error is None for one in waiting)


def test_all_go_on_that_wait_to_insert():
  ratio = filled(
    BATCH / BLOCK
  )  # A batch for each block: after two blocks, the others wait for a batch.
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
  """However far ahead it was: as nothing is sampled meanwhile, it would wait for ever."""
  ratio = filled(target)
  assert Side(
    ratio, insert, 1 + int(BATCH / (target * BLOCK))
  ).background.has_returned()  # No more would be let.
  ratio.add_inserted(BLOCK, BLOCK)
  held = itertools.count(2 * BLOCK, BLOCK)
  refilling = Side(ratio, lambda ratio: insert(ratio, next(held)), MINIMUM // BLOCK - 1)
  has_refilled = refilling.background.has_returned(DEADLINE / 4)
  filled_again, error = ratio.is_filled(), refilling.background.error
  ratio.close()
  assert has_refilled and filled_again and error is None


def test_what_fills_it_again_after_a_loss_is_not_counted():
  """Like what filled it first: else, all that made up for the loss would call for samples at once."""
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
  drawing, inserting = (
    [Background(draw, behind) for _ in range(3)],
    [Background(insert, ahead) for _ in range(3)],
  )
  assert not any(waiting.has_returned(WATCHED / 6) for waiting in drawing + inserting)
  behind.close()
  ahead.close()
  for waiting in drawing + inserting:
    assert waiting.has_returned()
    assert isinstance(waiting.error, queues.QueueClosed)
  assert counts(behind) == (0, 0) and counts(ahead) == (BLOCK, 0)


def test_closed_it_lets_nobody_go_on():
  ratio = filled(0.0)
  ratio.close()
  ratio.close()
  for step in (insert, draw):
    with pytest.raises(queues.QueueClosed):
      step(ratio)
  assert counts(ratio) == (0, 0)
