"""The roster of members: places are assigned, kept for rejoining actors, and freed."""

import random

import pytest

from common.distributed import roster as rosters
from tests.common.distributed import learners

LEASE = 30.0


class Clock:
  """Advances only when told to."""

  def __init__(self):
    self.now = 1000.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


@pytest.fixture
def roster(clock):
  """A roster of three places."""
  return rosters.Roster(3, LEASE, clock)


def join(roster, *names):
  return [roster.join(name, 'actor') for name in names]


def test_places_are_assigned_from_0(roster):
  assert [member.place for member in join(roster, 'a', 'b', 'c')] == [0, 1, 2]
  assert [member.name for member in roster.members()] == ['a', 'b', 'c']


def test_actors_beyond_the_last_place_get_the_following_numbers(roster):
  assert [member.place for member in join(roster, *'abcdefg')] == list(range(7))


def test_evaluators_take_no_place(roster):
  assert [roster.join(f'e{i}', 'evaluator').place for i in range(3)] == [0, 0, 0]
  assert join(roster, 'a')[0].place == 0
  assert len(roster.members()) == 4


def test_rejoining_actors_get_their_places_back_in_any_order(roster):
  members = join(roster, 'a', 'b', 'c')
  for member in members:
    roster.leave(member.session)
  assert [member.place for member in join(roster, 'c', 'a', 'b')] == [2, 0, 1]


def test_rejoining_before_the_lease_ends_replaces_the_old_session(roster):
  first, other = join(roster, 'a', 'b')
  (again,) = join(roster, 'a')
  assert again.place == first.place and again.session != first.session
  assert [member.session for member in roster.members()] == [again.session, other.session]
  with pytest.raises(rosters.Unknown):
    roster.find(first.session)
  assert roster.find(again.session) is again


def test_an_evaluator_may_have_the_name_of_an_actor(roster):
  (actor,) = join(roster, 'a')
  evaluator = roster.join('a', 'evaluator')
  assert roster.find(actor.session) is actor and roster.find(evaluator.session) is evaluator


def test_new_actors_get_places_that_no_former_member_had(roster):
  a, _ = join(roster, 'a', 'b')
  roster.leave(a.session)
  assert join(roster, 'new')[0].place == 2  # Place 0 is kept for `a` while there is another.
  assert join(roster, 'a')[0].place == 0


def test_places_of_former_members_are_assigned_before_new_numbers(roster):
  a, _, c = join(roster, 'a', 'b', 'c')
  roster.leave(c.session)
  roster.leave(a.session)
  assert [member.place for member in join(roster, 'x', 'y', 'z')] == [0, 2, 3]
  assert join(roster, 'a')[0].place == 4  # Its own place and all others are taken.


def test_rejoining_actors_get_places_beyond_the_last_back_too(roster):
  members = join(roster, *'abcde')
  roster.leave(members[4].session)
  assert join(roster, 'e')[0].place == 4


def test_members_silent_for_longer_than_the_lease_are_dropped(roster, clock):
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


def test_members_that_leave_are_not_counted_as_lost(roster):
  (a,) = join(roster, 'a')
  roster.leave(a.session)
  roster.leave(a.session)
  roster.leave('nobody')
  assert roster.members() == [] and roster.lost == 0
  with pytest.raises(rosters.Unknown):
    roster.find(a.session)


def test_sessions_are_long_and_unique(roster):
  sessions = {roster.join(f'{i % 10}', 'actor').session for i in range(100)}
  assert len(sessions) == 100 and min(map(len, sessions)) >= 32


def test_totals_include_former_members(roster, clock):
  a, b, c = join(roster, 'a', 'b', 'c')
  (a.crashes, a.dropped), (b.crashes, b.dropped), (c.crashes, c.dropped) = (1, 10), (2, 20), (4, 40)
  assert roster.totals() == {'crashes': 7, 'dropped': 70}
  roster.leave(a.session)
  (again,) = join(roster, 'b')
  assert roster.totals() == {'crashes': 7, 'dropped': 70}
  again.crashes = 8  # Of a new process, which counts from 0.
  clock.now += LEASE + 1
  roster.expire()
  assert roster.members() == [] and roster.totals() == {'crashes': 15, 'dropped': 70}


def test_all_members_are_described(roster, clock):
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
def test_places_stay_unique_under_random_joins_and_leaves(seed, roster, clock):
  """Actors join, leave, go silent and rejoin."""
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
    elif name in here:  # It goes silent, all others do not.
      clock.now += LEASE + 1
      for other in here.keys() - {name}:
        roster.find(here[other].session)
      assert roster.expire() == [here.pop(name)]
    places = [member.place for member in roster.members()]
    assert places == sorted({member.place for member in here.values()}) and len(places) == len(here)
    assert max(places, default=0) < 3 + 8


def test_concurrent_joins_get_different_places():
  roster = rosters.Roster(16, LEASE)
  joining = [
    learners.Background(lambda i=i: [roster.join(f'{i}-{j}', 'actor').place for j in range(4)])
    for i in range(8)
  ]
  assert all(one.has_returned(10.0) and one.error is None for one in joining)
  assert sorted(place for one in joining for place in one.result) == list(range(32))


def put(roster, member, sequence=1):
  member.admitted = sequence
  roster.deliver(member.session, sequence)


def test_an_actor_is_late_by_what_others_have_put_since(roster, clock):
  first, second = join(roster, 'a', 'b')
  roster.join('e', 'evaluator')  # Puts nothing, and is not late.

  def lateness():
    return {member.name: seconds for member, seconds in roster.lateness()}

  clock.now += 70.0
  # Nobody has put anything: the learner may be the one who holds them up.
  assert lateness() == {'a': 0.0, 'b': 0.0}
  put(roster, first)
  assert lateness() == {'a': 0.0, 'b': 70.0}
  clock.now += 20.0
  put(roster, first, 2)
  assert lateness() == {'a': 0.0, 'b': 90.0} and first.delivered == 2
  second.admitted = 1  # Its put waits for room.
  assert lateness() == {'a': 0.0, 'b': 0.0}
  roster.deliver(second.session, 1)
  assert lateness() == {'a': 0.0, 'b': 0.0}
  roster.leave(first.session)
  assert lateness() == {'b': 0.0}
  with pytest.raises(rosters.Unknown):
    roster.deliver(first.session, 3)
