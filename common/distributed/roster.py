"""The members of a run: which actors and evaluators have joined a learner, and at which places."""

import dataclasses
import itertools
import secrets
import threading
import time
from typing import Any, Callable

_TOTALS = ('crashes', 'dropped')


class Unknown(Exception):
  """No member has this session: it never joined, has left, or was dropped."""


@dataclasses.dataclass
class Member:
  """An actor or evaluator that has joined.

  Attributes:
    name: Identifies the member across rejoins.
    role: `actor` or `evaluator`.
    place: An actor's number. Places beyond the run's number of actors share the assignments of
      those below.
    session: The secret that accompanies all its calls.
    heard: When it last called, by the roster's clock, in seconds.
    put: When its last put was in the queue, or when it joined.
    activity: What it last said it was doing.
    crashes: Crashes of its environments, as it reported.
    dropped: Puts it dropped because its learner was gone, as it reported.
    admitted: Sequence number of its last put that arrived completely.
    delivered: Sequence number of its last put that is in the queue.
    coming: Sequence number of the put that `parts` belong to.
    parts: The messages of that put so far.
  """

  name: str
  role: str
  place: int
  session: str
  heard: float
  put: float
  activity: str = 'joining'
  crashes: int = 0
  dropped: int = 0
  admitted: int = 0
  delivered: int = 0
  coming: int = 0
  parts: list[bytes] = dataclasses.field(default_factory=list)

  def title(self) -> str:
    """Role, place and name, for log messages."""
    return f'{self.role} {self.place} ({self.name})'

  def describe(self, now: float) -> str:
    """Title and activity; `now` is the time by the roster's clock."""
    return f'{self.title()}, heard {now - self.heard:.0f} s ago: {self.activity}'


class Roster:
  """Assigns places; a rejoining actor gets its old place, silent members are dropped.

  Thread-safe.
  """

  def __init__(
    self, places: int, lease_seconds: float, clock: Callable[[], float] = time.monotonic
  ):
    """Makes an empty roster.

    Args:
      places: The run's number of actors.
      lease_seconds: Members silent for longer are dropped by `expire`.
      clock: Time in seconds.
    """
    self._places = places
    self._lease = lease_seconds
    self._clock = clock
    self._lock = threading.Lock()
    self._members: dict[str, Member] = {}  # By session.
    self._last_place: dict[str, int] = {}  # By name, of former members too.
    self._gone = dict.fromkeys(_TOTALS, 0)  # Totals of former members.
    self.lost = 0

  def join(self, name: str, role: str, before: Any = None) -> Member:
    """Adds a member, replacing an earlier member of the same name and role.

    Args:
      name: The member's name.
      role: The member's role.
      before: The place the member had at a previous learner; ignored unless valid.
    """
    with self._lock:
      if role == 'actor' and type(before) is int and 0 <= before < self._places:
        # Only a hint: a place this learner itself has assigned takes precedence.
        self._last_place.setdefault(name, before)

      for member in list(self._members.values()):
        if (member.name, member.role) == (name, role):
          self._forget(member)

      place = self._place(name) if role == 'actor' else 0
      member = Member(
        name=name,
        role=role,
        place=place,
        session=secrets.token_hex(16),
        heard=self._clock(),
        put=self._clock(),
      )
      self._members[member.session] = member
      if role == 'actor':
        self._last_place[name] = place
      return member

  def find(self, session: str) -> Member:
    """The member that calls, which renews its lease. Raises Unknown."""
    with self._lock:
      if session not in self._members:
        raise Unknown
      member = self._members[session]
      member.heard = self._clock()
      return member

  def leave(self, session: str) -> None:
    """Removes a member, if it is one."""
    with self._lock:
      member = self._members.get(session)
      if member:
        self._forget(member)

  def expire(self) -> list[Member]:
    """Removes the members silent for longer than the lease, counts them as lost, returns them."""
    with self._lock:
      now = self._clock()
      late = [member for member in self._members.values() if now - member.heard > self._lease]
      for member in late:
        self._forget(member)
      self.lost += len(late)
      return late

  def members(self) -> list[Member]:
    """All members, by role and place."""
    with self._lock:
      return sorted(self._members.values(), key=lambda member: (member.role, member.place))

  def describe(self) -> list[str]:
    """What each member is doing."""
    return [self.describe_one(member) for member in self.members()]

  def describe_one(self, member: Member) -> str:
    """What a member is doing."""
    return member.describe(self._clock())

  def deliver(self, session: str, sequence: int) -> None:
    """Notes that a put is in the queue. Raises Unknown if its sender has gone meanwhile."""
    member = self.find(session)
    member.delivered = sequence
    member.put = self._clock()

  def lateness(self) -> list[tuple[Member, float]]:
    """Each actor with the seconds by which its last put is older than the latest of all actors.

    An actor whose put waits for room in the queue is not late.
    """
    actors = [member for member in self.members() if member.role == 'actor']
    latest = max((member.put for member in actors), default=0.0)
    return [
      (member, 0.0 if member.admitted > member.delivered else latest - member.put)
      for member in actors
    ]

  def totals(self) -> dict[str, int]:
    """Crashes and dropped puts, summed over present and former members."""
    totals = {}
    with self._lock:
      for name in _TOTALS:
        present = sum(getattr(member, name) for member in self._members.values())
        totals[name] = self._gone[name] + present
    return totals

  def _forget(self, member: Member) -> None:
    for name in _TOTALS:
      self._gone[name] += getattr(member, name)
    del self._members[member.session]

  def _place(self, name: str) -> int:
    """Chooses a free place.

    In order of preference: the actor's last one; one that no former member is likely to return to;
    any; the lowest beyond the run's number of actors.
    """
    taken = {member.place for member in self._members.values() if member.role == 'actor'}
    last = self._last_place.get(name)
    if last is not None and last not in taken:
      return last
    free = set(range(self._places)) - taken
    if free:
      return min(free - set(self._last_place.values()) or free)
    return next(place for place in itertools.count(self._places) if place not in taken)
