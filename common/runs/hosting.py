"""The learner's door to other processes: its server, the actors it starts itself, and what evaluators report."""

import csv
import dataclasses
import logging
import pathlib
import socket
from typing import Any, Callable, Mapping

from common import environments
from common.config import settings
from common.distributed import actor_processes, cluster, parameters, queues, rpc, wire
from common.distributed import server as servers
from common.machine import version
from common.runs import games

_REPORT = {
  'task': str,
  'frames': int,
  'version': int,
  'episodes': int,
  'mean': float,
  'low': float,
  'high': float,
}


def check(who: cluster.Cluster) -> None:
  """Raises UserError, if this process is to listen where it cannot: before a folder is made for the run."""
  if who.listen:
    rpc.free_port(*cluster.parse_address(who.listen, '--listen'))


class Host:
  """Actors and evaluators of other processes, as a learner sees them; nobody, if it does not listen for any."""

  def __init__(
    self,
    who: cluster.Cluster,
    program: str,
    config: settings.Settings,
    num_actors: int,
    suite: environments.Suite,
    folder: pathlib.Path,
    queue: queues.StructureQueue,
    codec: wire.Codec,
    store: parameters.ParameterStore,
    frames: Callable[[], int],
    inference: servers.Inference | None = None,
  ):
    """Takes the port, if this process listens; `start` begins.

    Args:
      who: this process.
      program: the system's module, `impala.train`.
      config: of the run, as actors are asked for it and get it.
      num_actors: of the run.
      suite: of the run.
      folder: of the run.
      queue: what actors put goes there.
      codec: of its elements.
      store: of the parameters to give out.
      frames: tells how many environment frames were learned from so far.
      inference: if actors hold no parameters.

    Raises:
      UserError: if the port cannot be had.
    """
    self._who, self._program, self._folder, self._tasks = who, program, folder, suite.tasks
    self._actors: actor_processes.ActorProcesses | None = None
    self._server: servers.Server | None = None
    if not who.listen:
      return
    host, port = cluster.parse_address(who.listen, '--listen')
    assignments = cluster.assignments(who, num_actors)
    identity = servers.Identity(version.of_code(), who.token, dataclasses.asdict(config))
    # Every one that joins gets a seed of its own, other ones after a restart: none is to play the same games again.
    seed_of = lambda number: games.seed_of(config.seed, who.index, frames(), number)
    self._server = servers.Server(
      host,
      port,
      identity,
      assignments,
      queue,
      codec,
      store,
      frames,
      seed_of,
      self._report,
      inference,
    )

  def start(self) -> None:
    """Listens, and starts the actors of this machine."""
    if not self._server:
      return
    self._server.start()
    here = self._server.host
    is_everywhere = here in ('0.0.0.0', '::')
    logging.info(
      'Listening on %s: python -m %s --role=actor --learner=%s',
      self._server.address,
      self._program,
      cluster.join_address(socket.gethostname() if is_everywhere else here, self._server.port),
    )
    if self._who.actor_processes:
      self._actors = actor_processes.ActorProcesses(
        self._program,
        self._who.actor_processes,
        cluster.join_address('127.0.0.1' if is_everywhere else here, self._server.port),
        self._who,
        self._folder / 'actors',
      )

  def look_after(self) -> None:
    """To be called now and then. Raises UserError, if an actor of this machine fails again and again."""
    if self._server:
      self._server.expire()
    if self._actors:
      self._actors.look_after()

  @property
  def columns(self) -> tuple[str, ...]:
    """Names of `gauges`."""
    return (*servers.Server.COLUMNS, 'actor_restarts') if self._server else ()

  def gauges(self) -> dict[str, float]:
    """For `metrics.csv`: who is there, and totals since the start of this process."""
    if not self._server:
      return {}
    return {**self._server.gauges(), 'actor_restarts': self._actors.restarts if self._actors else 0}

  @property
  def crashes(self) -> int:
    """Of the engines of all actors."""
    return self._server.roster.totals()['crashes'] if self._server else 0

  def describe(self) -> list[str]:
    """What each of the others was doing last."""
    if not self._server:
      return []
    return self._server.roster.describe() or [
      f'no actor is connected; they find this learner with --role=actor --learner=HOST:{self._server.port}'
    ]

  def close(self, finished: bool) -> None:
    """Ends serving and the actors of this machine; those of other machines end too, if training is finished."""
    if self._actors and not finished:
      self._actors.close()  # While somebody still answers them.
    if self._server:
      self._server.close(finished)
    if self._actors:
      self._actors.close()

  def _report(self, report: Mapping[str, Any]) -> None:
    """Adds a row to `evaluator.csv`. Raises Malformed."""
    wire.expect(report, _REPORT)
    row = {name: report[name] for name in _REPORT}
    if row['task'] not in self._tasks:
      raise wire.Malformed(
        f'task is {row["task"][:40]!r}, expected one of {", ".join(self._tasks)[:200]}'
      )
    try:
      _append(self._folder / 'evaluator.csv', row)
    except OSError as error:
      logging.warning('NOT WRITTEN: what an evaluator has found, %s: %s', row, error.strerror)


def _append(path: pathlib.Path, row: Mapping[str, Any]) -> None:
  is_new = not path.exists()
  with open(path, 'a', newline='') as file:
    writer = csv.DictWriter(file, list(row))
    if is_new:
      writer.writeheader()
    writer.writerow(row)
