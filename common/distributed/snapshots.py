"""Parameters as messages: what a learner's remote actors fetch, part by part."""

import threading
import time
from typing import Callable, Sequence

import tensorflow as tf

from common.distributed import graphs, parameters, traffic, wire
from common.distributed import roster as rosters

# A version that is no longer the latest stays available to actors that have begun to fetch it.
_KEPT_SECONDS = 30.0


class Snapshots:
  """The latest snapshot as messages, and older ones that are still being fetched; thread-safe."""

  def __init__(self, store: parameters.ParameterStore):
    self._store = store
    self._lock = threading.Lock()
    # By version: when they were last fetched, and the messages.
    self._kept: dict[int, tuple[float, list[bytes]]] = {}

  def latest(self) -> tuple[int, list[bytes]]:
    """The version and the messages of the latest snapshot."""
    with self._lock:
      version, values = self._store.latest()
      if version not in self._kept:
        # Encoded once for all actors.
        self._kept[version] = time.monotonic(), wire.split(values.numpy().tobytes())
      return version, self._touched(version)

  def kept(self, version: int) -> list[bytes]:
    """The messages of a version; empty if it is no longer kept."""
    with self._lock:
      return self._touched(version) if version in self._kept else []

  def _touched(self, version: int) -> list[bytes]:
    """The messages of a version, whose time starts anew; drops versions that nobody fetches."""
    now = time.monotonic()
    messages = self._kept[version][1]
    self._kept[version] = now, messages
    self._kept = {
      other: kept
      for other, kept in self._kept.items()
      if other == version or now - kept[0] < _KEPT_SECONDS
    }
    return messages


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
    self._roster.find(request['session'])
    version = request['version']
    part = request['part']

    if part == 0:
      latest, parts = self._snapshots.latest()
      frames = self._frames()
      # `known` distinguishes a version the actor has from one of another learner.
      if latest == version and 'known' in request:
        return wire.to_json(state='known', frames=frames), b''
      answer = wire.to_json(state='given', version=latest, parts=len(parts), frames=frames)
      return answer, parts[0]

    parts = self._snapshots.kept(version)
    if not parts:
      return wire.to_json(state='outdated'), b''
    if part >= len(parts):
      raise wire.Malformed(f'part {part} of the parameters, expected less than {len(parts)}')
    return wire.to_json(state='given', version=version, parts=len(parts)), parts[part]
