"""A learner's remote actors: the server for them, the actor processes it starts, evaluators."""

import csv
import dataclasses
import functools
import logging
import pathlib
import shlex
import socket
from typing import Any, Callable, Mapping, NamedTuple, Sequence

from common.config import settings
from common.distributed import actor_processes, cluster, credentials, gate, membership, wire
from common.distributed import inference as inferences
from common.distributed import intake as intakes
from common.distributed import server as servers
from common.machine import files, version
from common.runs import games, silence, trust

_REPORT = {
  'task': str,
  'frames': int,
  'version': int,
  'episodes': int,
  'cut': int,
  'mean': float,
  'low': float,
  'high': float,
}
_EVERYWHERE = ('0.0.0.0', '::')


class RunDescription(NamedTuple):
  """The run that remote actors work for."""

  program: str  # The system's module, such as `impala.train`.
  config: settings.Settings  # The settings that actors get, which may be unresolved.
  num_actors: int  # Of the run, over all learners.
  tasks: Sequence[str]  # Tasks that evaluators may report on.
  folder: pathlib.Path


def check(who: cluster.Cluster) -> None:
  """Raises UserError if this process cannot listen as asked, before the run's folder is made."""
  if who.listen:
    gate.free_port(*cluster.parse_address(who.listen, '--listen'))
  if who.is_host:
    gate.Folder().close()


class Host:
  """The remote actors and evaluators of a learner; none, if it does not listen for any."""

  def __init__(
    self,
    who: cluster.Cluster,
    run: RunDescription,
    intake: intakes.Intake,
    frames: Callable[[], int],
    inference: inferences.Inference | None = None,
  ):
    """Reserves the port if this process listens; starts nothing.

    Args:
      who: This process.
      run: What actors work for.
      intake: Takes the actors' data, and holds the parameters they get.
      frames: The environment frames learned from so far.
      inference: How the learner acts for actors, if they hold no parameters.

    Raises:
      UserError: If the port is in use, or the host is not this machine.
    """
    self._who = who
    self._run = run
    self._frames = frames
    self._actors: actor_processes.ActorProcesses | None = None
    self._server: servers.Server | None = None
    if not who.is_host:
      return
    identity = membership.Identity(version=version.of_code(), config=dataclasses.asdict(run.config))
    callbacks = servers.Callbacks(frames=frames, seed_of=self._seed_of, on_report=self._report)
    self._server = servers.Server(
      listen=self._listen(),
      identity=identity,
      assignments=cluster.assignments(who, run.num_actors),
      intake=intake,
      callbacks=callbacks,
      inference=inference,
    )

  def start(self) -> None:
    """Listens, and starts the actor processes of this machine."""
    if not self._server:
      return
    self._server.start()
    if self._server.endpoint:
      self._announce(self._server.endpoint)
    if self._who.actor_processes:
      self._actors = actor_processes.ActorProcesses(
        program=self._run.program,
        count=self._who.actor_processes,
        learner=self._server.address.address,
        who=self._who,
        flags=trust.flags_for_own(self._run.config),
        folder=self._run.folder / 'actors',
      )

  def look_after(self) -> None:
    """Drops silent members and restarts failed actors; to be called now and then.

    Raises:
      UserError: If the actor processes of this machine fail repeatedly.
    """
    if self._server:
      self._server.look_after()
    if self._actors:
      self._actors.look_after()

  @property
  def columns(self) -> tuple[str, ...]:
    """The names of `gauges`."""
    return (*servers.Server.COLUMNS, 'actor_restarts') if self._server else ()

  def gauges(self) -> dict[str, float]:
    """Columns of `metrics.csv`: members present, and totals since the start of this process."""
    if not self._server:
      return {}
    restarts = self._actors.restarts if self._actors else 0
    return {**self._server.gauges(), 'actor_restarts': restarts}

  @property
  def crashes(self) -> int:
    """Environment crashes of all remote actors."""
    return self._server.roster.totals()['crashes'] if self._server else 0

  def describe(self) -> list[str]:
    """What each remote actor and evaluator is doing."""
    if not self._server:
      return []
    endpoint = self._server.endpoint
    elsewhere = (
      f'; actors find this learner with --role=actor --learner=HOST:{endpoint.port}'
      if endpoint
      else ''
    )
    return self._server.roster.describe() or [f'no actor is connected{elsewhere}']

  def silences(self) -> list[silence.Silence]:
    """For how long each remote actor has put nothing while others have."""
    if not self._server:
      return []
    roster = self._server.roster
    return [
      silence.Silence(member.title(), seconds, functools.partial(roster.describe_one, member))
      for member, seconds in roster.lateness()
    ]

  def close(self, finished: bool) -> None:
    """Ends the server and the actor processes of this machine.

    Args:
      finished: Whether training is; if so, actors on other machines end too.
    """
    if self._actors and not finished:
      # While the server still answers: actors would otherwise wait for another learner.
      self._actors.close()
    if self._server:
      self._server.close(finished)
    if self._actors:
      self._actors.close()

  @property
  def _token_path(self) -> pathlib.Path:
    """Where a learner without a token keeps its own."""
    return self._run.folder.absolute() / 'token'

  def _listen(self) -> servers.Listen | None:
    """Where to listen for other machines, if at all. Raises UserError."""
    if not self._who.listen:
      return None
    token = self._who.token or credentials.own_token(self._token_path)
    return servers.Listen(cluster.parse_address(self._who.listen, '--listen'), token)

  def _announce(self, endpoint: cluster.Endpoint) -> None:
    """Says how actors find this learner."""
    host = socket.gethostname() if endpoint.host in _EVERYWHERE else endpoint.host
    token = 'PATH' if self._who.token else shlex.quote(str(self._token_path))
    logging.info(
      'Listening on %s: python -m %s --role=actor --learner=%s --token_file=%s',
      endpoint.address,
      self._run.program,
      cluster.Endpoint(host, endpoint.port).address,
      token,
    )

  def _seed_of(self, number: int) -> int:
    """A seed for the actor that joins as `number`.

    It differs between joins and after a restart, so that no actor repeats episodes.
    """
    return games.seed_of(self._run.config.seed, self._who.index, self._frames(), number)

  def _report(self, report: Mapping[str, Any]) -> None:
    """Adds a row to `evaluator.csv`. Raises Malformed."""
    wire.expect(report, _REPORT)
    row = {name: report[name] for name in _REPORT}
    tasks = self._run.tasks
    if row['task'] not in tasks:
      raise wire.Malformed(
        f'task is {row["task"][:40]!r}, expected one of {", ".join(tasks)[:200]}'
      )
    try:
      _append(self._run.folder / 'evaluator.csv', row)
    except OSError as error:
      # A full disk must not end the run.
      logging.warning("NOT WRITTEN: an evaluator's results, %s: %s", row, error.strerror)


def _append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
  """Appends a row to a CSV file, which gets a header, or the columns that an older one lacks."""
  columns = list(row)
  found: list[str] = []
  rows: list[dict[str, str]] = []
  if path.exists():
    with open(path, newline='') as file:
      reader = csv.DictReader(file)
      found = list(reader.fieldnames or ())
      rows = list(reader) if found != columns else []
  if found != columns:
    with files.replacing(path) as file:
      writer = csv.DictWriter(file, columns, extrasaction='ignore')
      writer.writeheader()
      writer.writerows(rows)
  with open(path, 'a', newline='') as file:
    csv.DictWriter(file, columns).writerow(row)
