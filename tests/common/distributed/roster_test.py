"""Who works for a learner: places are given out, kept for who returns, and freed of who has gone."""

import random

import pytest

from common.distributed import roster as rosters
from tests.common.distributed import learners

LEASE = 30.0


class Clock:
  """Goes on only when it is told to."""

  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def roster(clock):
  """Of three places."""
  return rosters.Roster(3, LEASE, clock)


def join(roster, *names):
  return [roster.join(name, 'actor') for name in names]


def test_places_are_given_out_from_0(roster):
  assert [member.place for member in join(roster, 'a', 'b', 'c')] == [0, 1, 2]
  assert [member.name for member in roster.members()] == ['a', 'b', 'c']


def test_more_actors_than_places_get_the_numbers_that_follow(roster):
  assert [member.place for member in join(roster, *'abcdefg')] == list(range(7))


def test_evaluators_take_no_place(roster):
  assert [roster.join(f'e{i}', 'evaluator').place for i in range(3)] == [0, 0, 0]
  assert join(roster, 'a')[0].place == 0
  assert len(roster.members()) == 4


def test_who_returns_gets_its_place_back_whatever_order_they_come_in(roster):
  members = join(roster, 'a', 'b', 'c')
  for member in members:
    roster.leave(member.session)
  assert [member.place for member in join(roster, 'c', 'a', 'b')] == [2, 0, 1]


def test_who_returns_before_it_was_missed_replaces_itself(roster):
  first, other = join(roster, 'a', 'b')
  (again,) = join(roster, 'a')
  assert again.place == first.place and again.session != first.session
  assert [member.session for member in roster.members()] == [again.session, other.session]
  with pytest.raises(rosters.Unknown):
    roster.find(first.session)
  assert roster.find(again.session) is again


def test_an_evaluator_of_an_actors_name_is_another(roster):
  (actor,) = join(roster, 'a')
  evaluator = roster.join('a', 'evaluator')
  assert roster.find(actor.session) is actor and roster.find(evaluator.session) is evaluator


def test_new_ones_get_places_that_nobody_is_likely_to_return_to(roster):
  a, _ = join(roster, 'a', 'b')
  roster.leave(a.session)
  assert join(roster, 'new')[0].place == 2  # 0 is kept for a as long as there is another.
  assert join(roster, 'a')[0].place == 0


def test_places_of_who_has_gone_are_given_out_before_any_is_shared(roster):
  a, _, c = join(roster, 'a', 'b', 'c')
  roster.leave(c.session)
  roster.leave(a.session)
  assert [member.place for member in join(roster, 'x', 'y', 'z')] == [0, 2, 3]
  assert join(roster, 'a')[0].place == 4  # Its own and all others are taken.


def test_who_shared_an_assignment_gets_the_number_beyond_back_too(roster):
  members = join(roster, *'abcde')
  roster.leave(members[4].session)
  assert join(roster, 'e')[0].place == 4


def test_who_is_not_heard_of_for_longer_than_the_lease_is_forgotten(roster, clock):
  a, b = join(roster, 'a', 'b')
  clock.now += 20
  roster.find(b.session)
  clock.now += LEASE - 20
  assert roster.expire() == [] and roster.lost == 0
  clock.now += 0.1
  assert roster.expire() == [a] and roster.expire() == []
  assert roster.lost == 1 and roster.members() == [b]
  with pytest.raises(rosters.Unknown):
    roster.find(a.session)
  assert join(roster, 'a')[0].place == 0


def test_who_leaves_is_not_lost(roster):
  (a,) = join(roster, 'a')
  roster.leave(a.session)
  roster.leave(a.session)
  roster.leave('nobody')
  assert roster.members() == [] and roster.lost == 0
  with pytest.raises(rosters.Unknown):
    roster.find(a.session)


def test_sessions_cannot_be_guessed_and_are_all_different(roster):
  sessions = {roster.join(f'{i % 10}', 'actor').session for i in range(100)}
  assert len(sessions) == 100 and min(map(len, sessions)) >= 32


def test_totals_are_of_all_who_are_or_were_here(roster, clock):
  a, b, c = join(roster, 'a', 'b', 'c')
  (a.crashes, a.dropped), (b.crashes, b.dropped), (c.crashes, c.dropped) = (1, 10), (2, 20), (4, 40)
  assert roster.totals() == {'crashes': 7, 'dropped': 70}
  roster.leave(a.session)
  (again,) = join(roster, 'b')
  assert roster.totals() == {'crashes': 7, 'dropped': 70}
  again.crashes = 8  # A new process, which begins at 0.
  clock.now += LEASE + 1
  roster.expire()
  assert roster.members() == [] and roster.totals() == {'crashes': 15, 'dropped': 70}


def test_everybody_is_described(roster, clock):
  a, _ = join(roster, 'machine/7', 'b')
  roster.join('e', 'evaluator')
  a.activity = 'stepping'
  clock.now += 12
  assert roster.describe() == [
    'actor 0 (machine/7), heard 12 s ago: stepping',
    'actor 1 (b), heard 12 s ago: joining',
    'evaluator 0 (e), heard 12 s ago: joining',
  ]


@pytest.mark.parametrize('seed', range(20))
def test_nobody_ever_shares_a_number_and_all_places_are_used(seed, roster, clock):
  """Any number of actors come, go, crash and return."""
  rng, here, last = random.Random(seed), {}, {}
  for _ in range(300):
    name = str(rng.randint(0, 7))
    if rng.random() < 0.6:
      before = last.get(name)
      free = before is not None and before not in [m.place for n, m in here.items() if n != name]
      here[name] = roster.join(name, 'actor')
      assert not free or here[name].place == before
      last[name] = here[name].place
    elif name in here and rng.random() < 0.5:
      roster.leave(here.pop(name).session)
    elif name in here:  # All others are heard of.
      clock.now += LEASE + 1
      for other in here.keys() - {name}:
        roster.find(here[other].session)
      assert roster.expire() == [here.pop(name)]
    places = [member.place for member in roster.members()]
    assert places == sorted({member.place for member in here.values()}) and len(places) == len(here)
    assert max(places, default=0) < 3 + 8


def test_many_may_join_at_once():
  roster = rosters.Roster(16, LEASE)
  joining = [
    learners.Background(lambda i=i: [roster.join(f'{i}-{j}', 'actor').place for j in range(4)])
    for i in range(8)
  ]
  assert all(one.has_returned(10.0) and one.error is None for one in joining)
  assert sorted(place for one in joining for place in one.result) == list(range(32))
