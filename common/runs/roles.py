"""The work of a run's other processes: acting and evaluating, on any machine."""

from __future__ import annotations

import contextlib
import functools
import logging
import socket
import threading
from collections.abc import Collection
from typing import Any

import tensorflow as tf

from common import environments, errors
from common.config import command_line, run_folder, settings
from common.distributed import actor_processes, cluster, queues
from common.distributed import link as links
from common.machine import signals, threads, version
from common.runs import evaluating, trust
from common.runs import system as systems


def work(
  system: systems.System,
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
) -> int:
  """Acts or evaluates until training is finished.

  Args:
    system: The system to train.
    config: This process's settings. The learner's replace them, except for settings of the
      machine; those named on the command line must equal the learner's.
    options: The rest of the command line.
    who: This process's role and its peers' addresses.

  Returns:
    The exit status: 0 if training is finished, 130 if this process was stopped before that.

  Raises:
    UserError: If the learner rejects this process, does not come back, sends what cannot be used
      or may not be decided by it, or if environments crash repeatedly.
  """
  interrupted = threading.Event()
  with signals.setting(interrupted):
    if who.actor_processes:
      return _supervise(system, config, options, who, interrupted)
    link = _make_link(config, options, who)
    # The main thread stays free to receive signals; `link.stop` unblocks the other one.
    crew = threads.Crew(link.stop)
    crew.start(
      who.role, functools.partial(_work, crew, link, config, options.asked, system, who.role)
    )
    while not crew.stop.wait(0.2) and not interrupted.is_set():
      pass
    # An engine that hangs would keep the thread from ending.
    if crew.end():
      logging.warning('The environments have not ended and are left behind.')
  if crew.error:
    raise crew.error
  logging.info('Training is finished.' if link.is_finished() else 'Stopped.')
  return 0 if link.is_finished() else 130


def _supervise(
  system: systems.System,
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
  interrupted: threading.Event,
) -> int:
  """Starts `--actor_processes` actors and restarts those that die; returns the exit status."""
  if options.values and options.values.run_dir:
    folder = options.run_dir
  else:
    # The run's own folder may be on another machine.
    folder = run_folder.default_path(f'actors-{socket.gethostname()}')
  logs = folder / 'actors'
  actors = actor_processes.ActorProcesses(
    program=f'{system.name}.train',
    count=who.actor_processes,
    learner=who.learner,
    who=who,
    flags=trust.flags_for(config, options.asked),
    folder=logs,
  )
  logging.info('%d actors work for %s. Their logs: %s', who.actor_processes, who.learner, logs)
  try:
    while not interrupted.wait(0.5) and not actors.are_done():
      actors.look_after()
    return 0 if actors.are_done() else 130
  finally:
    actors.close()


def _make_link(
  config: settings.Settings, options: command_line.Options, who: cluster.Cluster
) -> links.Link:
  """The link to the learner, which will compare the settings that the user asked for."""
  names = sorted(options.asked.difference(trust.OF_THE_MACHINE))
  asked = {name: getattr(config, name) for name in names}
  address = cluster.parse_learner(who.learner)
  applicant = links.Applicant(name=who.name, role=who.role, version=version.of_code(), config=asked)
  return links.Link(address, applicant, who.patience_seconds, who.token)


def _work(
  crew: threads.Crew,
  link: links.Link,
  own: settings.Settings,
  asked: Collection[str],
  system: systems.System,
  role: str,
) -> None:
  """Joins the learner and works; starts over whenever the learner assigns another place."""
  do = _act if role == 'actor' else _evaluate
  try:
    # The link closes when training is finished or this process is stopped.
    with contextlib.suppress(queues.QueueClosed):
      welcome = link.join()
      while True:
        try:
          config = trust.of_learner(system, welcome.config, own, asked)
          suite = environments.load(config.env, config.environment_options())
          crew.patience = suite.closing_seconds
          do(system, config, suite, link, welcome)
          break
        except links.PlaceChanged:
          # After rejoining. Another place means other tasks (IMPALA) or another epsilon (Ape-X).
          welcome = link.welcome
  except (MemoryError, tf.errors.ResourceExhaustedError) as error:
    raise errors.UserError(
      f'this machine has too little memory for the settings of the learner: {error!s:.200}'
    ) from error
  finally:
    crew.stop.set()
    link.close()


def _act(
  system: systems.System,
  config: settings.Settings,
  suite: environments.Suite,
  link: links.Link,
  welcome: links.Welcome,
) -> None:
  """Collects experience and sends it to the learner until the link ends."""
  # 0 actors stands for one for each task, and their numbers are taken modulo the tasks.
  if config.num_actors and welcome.assignment >= config.num_actors:
    raise errors.UserError(
      f'the learner makes this process actor {welcome.assignment} of {config.num_actors}, which '
      'are counted from 0'
    )
  actor, codec = system.make_actor(config, suite, link, welcome)
  # Heartbeats carry this to the learner, for its warnings and its count of crashes.
  link.be_described_by(actor.games.pulse.describe, lambda: actor.games.crashes)

  def put(elements: Any) -> None:
    # A message has a limited size, so elements are sent in groups.
    for group in codec.group(elements):
      link.put(codec.encode(group))

  actor.run(put, link.is_ended)


def _evaluate(
  system: systems.System,
  config: settings.Settings,
  suite: environments.Suite,
  link: links.Link,
  welcome: links.Welcome,
) -> None:
  """Plays every task with the latest parameters, round after round, and reports the returns."""
  evaluator = evaluating.Evaluator(system, config, suite, welcome.seed)
  evaluator.run(link, lambda watch: link.be_described_by(watch.line, lambda: 0))
