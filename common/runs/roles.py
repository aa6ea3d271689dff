"""What the processes of a run do that are not its learner: act, or evaluate, wherever they are."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import logging
import pathlib
import socket
import threading
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from common import environments
from common.config import command_line, run_folder, settings
from common.distributed import actor_processes, cluster, parameters, queues
from common.distributed import link as links
from common.evaluation import play
from common.machine import signals, threads, version
from common.runs import system as systems

# Settings of the machine, not of the run: every actor has its own.
_OF_THE_MACHINE = (
  'dmlab_dataset_path',
  'dmlab_level_cache',
  'dmlab_level_cache_gb',
  'dmlab_renderer',
)


def work(
  system: systems.System,
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
) -> int:
  """Acts or evaluates until training is finished.

  Args:
    system: What is trained.
    config: Its settings of the machine are used; those named on the command line must equal the
      learner's.
    options: The command line's.
    who: This process.

  Returns:
    The exit status: 0 when training is finished, 130 when this process was stopped before.

  Raises:
    UserError: If the learner turns this process away or does not come back, or if environments
      crash again and again.
  """
  interrupted = threading.Event()
  with signals.setting(interrupted):
    if who.actor_processes:
      return _supervise(system, options, who, interrupted)
    link = _make_link(config, options, who)
    crew = threads.Crew(link.stop)
    crew.start(who.role, functools.partial(_work, crew, link, config, system, who.role))
    while not crew.stop.wait(0.2) and not interrupted.is_set():
      pass
    if crew.end():
      logging.warning('The environments do not end and are left behind.')
  if crew.error:
    raise crew.error
  logging.info('Training is finished.' if link.is_finished() else 'Stopped.')
  return 0 if link.is_finished() else 130


def _supervise(
  system: systems.System,
  options: command_line.Options,
  who: cluster.Cluster,
  interrupted: threading.Event,
) -> int:
  """Keeps `--actor_processes` actors going, each a process of this machine."""
  if options.values and options.values.run_dir:
    folder = options.run_dir
  else:
    folder = run_folder.default_path(f'actors-{socket.gethostname()}')
  logs = pathlib.Path(folder) / 'actors'
  program = f'{system.name}.train'
  actors = actor_processes.ActorProcesses(program, who.actor_processes, who.learner, who, logs)
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
  names = sorted(options.asked.difference(_OF_THE_MACHINE))
  asked = {name: getattr(config, name) for name in names}
  address = cluster.parse_learner(who.learner)
  applicant = links.Applicant(name=who.name, role=who.role, version=version.of_code(), config=asked)
  return links.Link(address, applicant, who.patience_seconds, who.token)


def _work(
  crew: threads.Crew,
  link: links.Link,
  own: settings.Settings,
  system: systems.System,
  role: str,
) -> None:
  """Joins and works; anew, with another place's tasks or epsilon, if a rejoining gave another."""
  do = _act if role == 'actor' else _evaluate
  try:
    with contextlib.suppress(queues.QueueClosed):
      welcome = link.join()
      while True:
        try:
          config = _learners_config(system, welcome.config, own)
          suite = environments.load(config.env, config.environment_options())
          do(system, config, suite, link, welcome)
          break
        except links.PlaceChanged:
          assert link.welcome  # It has joined.
          welcome = link.welcome
  finally:
    crew.stop.set()
    link.close()


def _learners_config(
  system: systems.System, run: Mapping[str, Any], own: settings.Settings
) -> settings.Settings:
  """The learner's settings, but for this machine's own."""
  config = system.presets.from_json(run)
  return dataclasses.replace(config, **{name: getattr(own, name) for name in _OF_THE_MACHINE})


def _act(
  system: systems.System,
  config: settings.Settings,
  suite: environments.Suite,
  link: links.Link,
  welcome: links.Welcome,
) -> None:
  actor, codec = system.make_actor(config, suite, link, welcome)
  link.be_described_by(actor.games.pulse.describe, lambda: actor.games.crashes)

  def put(elements: Any) -> None:
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
  """Plays episodes of every task with the newest parameters, again and again.

  Waits for newer parameters before it plays again, and never plays an episode twice: each round has
  another seed.
  """
  agent = system.make_playing_agent(config, suite, welcome.seed)
  assign = tf.function(functools.partial(parameters.assign, agent.variables))
  episodes = max(1, config.evaluation_episodes)
  played = None
  for attempt in itertools.count():
    while (snapshot := link.latest()) is played:
      if link.wait(config.log_every_seconds):
        return
    assign(snapshot.values)
    played = snapshot
    frames = link.frames
    for task in suite.tasks:
      link.be_described_by(functools.partial('playing {}'.format, task), lambda: 0)
      if link.is_ended():
        return
      seed = welcome.seed + attempt
      summary = play.play_episodes(suite, task, agent.make_player, episodes, seed).summary()
      link.report(
        task=task,
        frames=frames,
        version=snapshot.version,
        episodes=episodes,
        mean=summary['mean'],
        low=summary['low'],
        high=summary['high'],
      )
      logging.info('%s frames: %s %.2f', f'{frames:,}', task, summary['mean'])
