"""Parameters as messages: what a learner's remote actors fetch, part by part."""

import threading
import time
from typing import Callable, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import graphs, parameters, traffic, wire
from common.distributed import roster as rosters

# How long a version stays available to a member that has begun to fetch it and does not go on.
_KEPT_SECONDS = 30.0


class _Fetch(NamedTuple):
  """A member's place in a snapshot of several parts."""

  version: int
  messages: list[bytes]
  asked: float  # When it last asked for a part.


class Snapshots:
  """The latest snapshot as messages, and those that members are still fetching; thread-safe.

  A small network has hundreds of versions in half a minute, so only what somebody is in the middle
  of fetching is kept: at most one version a member, none if a snapshot is a single message.
  """

  def __init__(self, store: parameters.ParameterStore):
    self._store = store
    self._lock = threading.Lock()
    self._version: int | None = None
    self._messages: list[bytes] = []
    # By session.
    self._fetches: dict[str, _Fetch] = {}

  def begin(self, session: str, known: int | None = None) -> tuple[int, list[bytes]]:
    """The version and the messages of the latest snapshot, of which the member takes the first.

    Args:
      session: The member's session.
      known: The version that it has already, and does not fetch again.
    """
    with self._lock:
      version, values = self._store.latest()
      if version != self._version:
        # Encoded once for all members.
        self._messages = wire.split(values.numpy().tobytes())
        self._version = version
      if version != known:
        self._keep(session, version, self._messages, part=0)
      return version, self._messages

  def part(self, session: str, version: int, part: int) -> list[bytes]:
    """The messages of the version that the member began to fetch; empty if it is another now.

    Args:
      session: The member's session.
      version: The version it asks for.
      part: The message that it takes; after the last one nothing is kept for it.
    """
    with self._lock:
      fetch = self._fetches.get(session)
      if fetch is None or fetch.version != version:
        return []
      self._keep(session, version, fetch.messages, part)
      return fetch.messages

  def _keep(self, session: str, version: int, messages: list[bytes], part: int) -> None:
    """Keeps what a member has yet to fetch; drops what others have ceased to fetch."""
    now = time.monotonic()
    self._fetches = {
      other: fetch
      for other, fetch in self._fetches.items()
      if other != session and now - fetch.asked < _KEPT_SECONDS
    }
    if part != len(messages) - 1:
      self._fetches[session] = _Fetch(version, messages, now)


class Publication:
  """Answers requests for parameters."""

  def __init__(
    self,
    store: parameters.ParameterStore,
    frames: Callable[[], int],
    roster: rosters.Roster,
    counts: traffic.Traffic,
  ):
    """`frames`: the environment frames learned from so far, which evaluators report."""
    self._snapshots = Snapshots(store)
    self._frames = frames
    self._roster = roster
    self._counts = counts

  def graph(self) -> tf.types.experimental.PolymorphicFunction:
    """The server's function `parameters`: from the request, a string `[]`, to answer and part."""
    answer = self._counts.guarded('request for parameters', self._part, (b'',))
    return graphs.of_strings(answer, 2)

  def _part(self, header: bytes) -> Sequence[bytes]:
    """The answer and one part: the first of the latest version, or a later one of a given version.

    Raises Unknown or Malformed.
    """
    request = wire.from_json(header, {'session': str, 'version': int, 'part': int})
    session = request['session']
    self._roster.find(session)
    version = request['version']
    part = request['part']

    if part == 0:
      # `known` distinguishes a version the actor has from one of another learner.
      known = version if 'known' in request else None
      latest, parts = self._snapshots.begin(session, known)
      frames = self._frames()
      if latest == known:
        return wire.to_json(state='known', frames=frames), b''
      answer = wire.to_json(state='given', version=latest, parts=len(parts), frames=frames)
      return answer, parts[0]

    parts = self._snapshots.part(session, version, part)
    if not parts:
      return wire.to_json(state='outdated'), b''
    if not 0 < part < len(parts):
      raise wire.Malformed(f'part {part} of the parameters, expected 0 to {len(parts) - 1}')
    return wire.to_json(state='given', version=version, parts=len(parts)), parts[part]
