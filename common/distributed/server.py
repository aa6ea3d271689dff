"""The learner's server for remote actors: takes their data, gives them parameters, tracks them.

Each kind of message has a file of its own: `intake` (puts), `snapshots` (parameters), `membership`
(everything short) and `inference` (decisions at the learner).
"""

import logging
import time
from typing import Any, Callable, NamedTuple, Sequence

import tensorflow as tf

from common.distributed import cluster, gate, membership, rpc, snapshots, traffic
from common.distributed import inference as inferences
from common.distributed import intake as intakes
from common.distributed import roster as rosters

LEASE_SECONDS = 30.0  # Members silent for this long are dropped.
_FAREWELL_SECONDS = 5.0  # How long `close` waits for members to leave.


class Listen(NamedTuple):
  """Where a learner listens for other machines."""

  endpoint: cluster.Endpoint  # Port 0 chooses a free one.
  token: str  # The run's, which members must have.


class Callbacks(NamedTuple):
  """What the server asks of the run it belongs to; called from any thread."""

  frames: Callable[[], int]  # Environment frames learned from so far.
  seed_of: Callable[[int], int]  # From the number of a join, 1, 2, ..., to the actor's seed.
  on_report: Callable[[dict[str, Any]], None]  # Takes an evaluator's report.


class Server:
  """Serves remote actors and evaluators from `start` to `close`.

  Attributes:
    address: The Unix socket where processes of this machine and user reach it.
    endpoint: Where other machines reach it; None if they do not.
    roster: Its members.
  """

  COLUMNS = (
    'actors',
    'actors_lost',
    'puts',
    'puts_repeated',
    'puts_dropped',
    'messages_refused',
    'received_mb',
  )

  def __init__(
    self,
    listen: Listen | None,
    identity: membership.Identity,
    assignments: Sequence[int],
    intake: intakes.Intake,
    callbacks: Callbacks,
    inference: inferences.Inference | None = None,
  ):
    """Reserves a port, if other machines are to reach it.

    Args:
      listen: Where to listen for other machines; None for this machine only.
      identity: What members must have in common with the learner.
      assignments: The numbers of the run's actors that work here, one for each place.
      intake: Takes the actors' data, and holds the parameters they get.
      callbacks: Connects the server to the run.
      inference: How the learner acts for actors, if they hold no parameters.

    Raises:
      UserError: If the port is in use, the host is not this machine, or the temporary folder's path
        is too long for a socket.
    """
    self._folder = gate.Folder()
    self.address = cluster.UnixSocket(self._folder.path)
    self._gate = gate.Gate(*listen, self._folder.path) if listen else None
    self.endpoint = self._gate.endpoint if self._gate else None
    self.roster = rosters.Roster(len(assignments), LEASE_SECONDS)
    self._counts = traffic.Traffic(self.roster)
    self._membership = membership.Membership(
      identity, assignments, callbacks.seed_of, callbacks.on_report, self.roster, self._counts
    )
    self._reception = intakes.Reception(intake, self.roster, self._counts)
    self._publication = snapshots.Publication(
      intake.store, callbacks.frames, self.roster, self._counts
    )
    self._inference = (
      inferences.Service(inference, self.roster, self._counts) if inference else None
    )
    self._server: tf.distribute.experimental.rpc.Server | None = None

  def start(self) -> None:
    """Traces the graphs and begins to serve."""
    functions = {
      'tell': self._membership.graph(),
      'parameters': self._publication.graph(),
      'put': self._reception.graph(),
    }
    if self._inference:
      functions['infer'] = self._inference.graph()
    self._server = rpc.serve(self.address.path, functions)
    if self._gate:
      self._gate.start()

  def close(self, finished: bool) -> None:
    """Stops serving. The queue must be closed already: puts that wait for room would hold this up.

    Args:
      finished: Whether training is finished. If so, members are told to end, and are given a few
        seconds to leave. If not, they will wait for another learner.
    """
    self._membership.state = 'finished' if finished else 'stopped'
    deadline = time.monotonic() + (_FAREWELL_SECONDS if finished else 0.0)
    # Members hear of it with their next heartbeat, and leave.
    while self.roster.members() and time.monotonic() < deadline:
      time.sleep(0.05)
    self._server = None
    if self._gate:
      self._gate.close()
    self._folder.close()

  def look_after(self) -> None:
    """Drops silent members, and replaces a gate that has died; to be called now and then."""
    self.expire()
    self._membership.look_after()
    if self._gate:
      self._gate.look_after()

  def expire(self) -> None:
    """Drops silent members."""
    for member in self.roster.expire():
      logging.warning(
        '%s is gone: silent for %.0f s. Last activity: %s. Its place is free.',
        member.title(),
        LEASE_SECONDS,
        member.activity,
      )

  def gauges(self) -> dict[str, float]:
    """Columns of `metrics.csv`: members present, and totals since the server was made."""
    members = self.roster.members()
    return {
      'actors': sum(member.role == 'actor' for member in members),
      'actors_lost': self.roster.lost,
      'puts': self._counts.count('puts'),
      'puts_repeated': self._counts.count('repeated'),
      'puts_dropped': self.roster.totals()['dropped'],
      'messages_refused': self._counts.count('refused'),
      'received_mb': self._counts.count('bytes') / 1e6,
    }
