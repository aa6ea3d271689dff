"""Who works for a learner: places of actors, and who holds them."""

import dataclasses
import itertools
import secrets
import threading
import time
from typing import Any, Callable

_TOTALS = ('crashes', 'dropped')


class Unknown(Exception):
  """The session is none, or none any more."""


@dataclasses.dataclass
class Member:
  """Someone who has joined.

  Attributes:
    name: tells it from others, also when it comes again.
    role: actor or evaluator.
    place: of an actor, its number; those beyond the run's number of actors share the settings of those below.
    session: what all of its calls must carry; nobody can guess it.
    heard: when it last called, by the roster's clock.
    activity: what it said it was doing.
    crashes, dropped: of its engines, and puts that it has dropped as its learner was gone; as it said.
    admitted, delivered: the sequence numbers of its last put that came whole, and that is in the queue.
    coming, parts: the sequence number of a put of several messages, and those that have come.
  """

  name: str
  role: str
  place: int
  session: str
  heard: float
  activity: str = 'joining'
  crashes: int = 0
  dropped: int = 0
  admitted: int = 0
  delivered: int = 0
  coming: int = 0
  parts: list[bytes] = dataclasses.field(default_factory=list)

  def title(self) -> str:
    return f'{self.role} {self.place} ({self.name})'

  def describe(self, now: float) -> str:
    return f'{self.title()}, heard {now - self.heard:.0f} s ago: {self.activity}'


class Roster:
  """Gives out places, gives one that returns its own, and forgets who has not been heard of for long. For any thread."""

  def __init__(
    self, places: int, lease_seconds: float, clock: Callable[[], float] = time.monotonic
  ):
    """`places`: the run's number of actors."""
    self._places, self._lease, self._clock, self._lock = (
      places,
      lease_seconds,
      clock,
      threading.Lock(),
    )
    self._members: dict[str, Member] = {}
    self._last_place: dict[str, int] = {}  # By name, also of those who have gone.
    self._gone = dict.fromkeys(_TOTALS, 0)
    self.lost = 0

  def join(self, name: str, role: str, before: Any = None) -> Member:
    """Adds a member; an earlier one of this name and role, which it replaces, is unknown from then on.

    Args:
      name: of the member.
      role: of the member.
      before: the place that it had at another learner, if it was an actor there.
    """
    with self._lock:
      if role == 'actor' and type(before) is int and 0 <= before < self._places:
        self._last_place.setdefault(name, before)
      replaced = next((m for m in self._members.values() if (m.name, m.role) == (name, role)), None)
      if replaced:
        self._forget(replaced)
      place = self._place(name) if role == 'actor' else 0
      member = Member(name, role, place, secrets.token_hex(16), self._clock())
      self._members[member.session] = member
      if role == 'actor':
        self._last_place[name] = place
      return member

  def find(self, session: str) -> Member:
    """The member that calls. Raises Unknown."""
    with self._lock:
      if session not in self._members:
        raise Unknown
      member = self._members[session]
      member.heard = self._clock()
      return member

  def leave(self, session: str) -> None:
    """A member says that it ends."""
    with self._lock:
      member = self._members.get(session)
      if member:
        self._forget(member)

  def expire(self) -> list[Member]:
    """Forgets, counts and returns those who were not heard of for longer than the lease."""
    with self._lock:
      now = self._clock()
      late = [member for member in self._members.values() if now - member.heard > self._lease]
      for member in late:
        self._forget(member)
      self.lost += len(late)
      return late

  def members(self) -> list[Member]:
    with self._lock:
      return sorted(self._members.values(), key=lambda member: (member.role, member.place))

  def describe(self) -> list[str]:
    return [member.describe(self._clock()) for member in self.members()]

  def totals(self) -> dict[str, int]:
    """Crashes and dropped puts of all who are or were here."""
    with self._lock:
      return {
        name: self._gone[name] + sum(getattr(member, name) for member in self._members.values())
        for name in _TOTALS
      }

  def _forget(self, member: Member) -> None:
    for name in _TOTALS:
      self._gone[name] += getattr(member, name)
    del self._members[member.session]

  def _place(self, name: str) -> int:
    """The one it had, if that is free; else one that nobody is likely to return to; else any, at last beyond all."""
    taken = {member.place for member in self._members.values() if member.role == 'actor'}
    before = self._last_place.get(name)
    if before is not None and before not in taken:
      return before
    free = set(range(self._places)) - taken
    if free:
      return min(free - set(self._last_place.values()) or free)
    return next(place for place in itertools.count(self._places) if place not in taken)
