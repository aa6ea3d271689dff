"""What processes do that are not a run's learner: an actor's and an evaluator's work, wherever they are."""

import contextlib
import dataclasses
import itertools
import logging
import socket
import threading
from typing import Any, Callable, Mapping, Protocol

from common import environments
from common.config import command_line, run_folder, settings
from common.distributed import actor_processes, cluster, queues, wire
from common.distributed import link as links
from common.evaluation import play as evaluation
from common.machine import signals, threads, version

# Settings of the machine, not of the run: an actor has its own.
_OF_THE_MACHINE = (
  'dmlab_dataset_path',
  'dmlab_level_cache',
  'dmlab_level_cache_gb',
  'dmlab_renderer',
)


class System(Protocol):
  """What IMPALA and Ape-X are here: modules `impala.remote` and `apex.remote`."""

  def make_actor(
    self,
    config: settings.Settings,
    suite: environments.Suite,
    link: links.Link,
    welcome: links.Welcome,
  ) -> tuple[Any, wire.Codec]:
    """An actor with `games` and `run(put, stopped)`, and the codec of what it puts."""

  def make_evaluator(
    self, config: settings.Settings, suite: environments.Suite, seed: int
  ) -> tuple[Callable[[Any], None], Callable[[str, int], evaluation.Player]]:
    """What takes a vector of parameters, and what makes a player of them for a task and a number of environments."""


def config_of(
  run: Mapping[str, Any], own: settings.Settings, presets: settings.Presets
) -> settings.Settings:
  """The run's config, with this machine's own settings."""
  return dataclasses.replace(
    presets.from_json(run), **{name: getattr(own, name) for name in _OF_THE_MACHINE}
  )


def work(
  config: settings.Settings,
  options: command_line.Options,
  who: cluster.Cluster,
  presets: settings.Presets,
  program: str,
  system: System,
) -> int:
  """Does an actor's or an evaluator's work until training is finished; returns the exit status.

  Args:
    config: of which the settings that were asked for must be the learner's, and those of the machine are used.
    options: of the command line.
    who: this process.
    presets: the system's.
    program: the system's module, `impala.train`.
    system: its parts.

  Raises:
    UserError: if the learner turns this one away or does not come back, or environments crash again and again.
  """
  interrupted = threading.Event()
  with signals.setting(interrupted):
    if who.actor_processes:
      folder = (
        options.run_dir
        if options.values.run_dir
        else run_folder.default_path(f'actors-{socket.gethostname()}')
      )
      return _supervise(who, program, folder, interrupted)
    asked = {
      name: getattr(config, name) for name in sorted(options.asked) if name not in _OF_THE_MACHINE
    }
    link = links.Link(
      cluster.parse_address(who.learner, '--learner'),
      links.Applicant(who.name, who.role, version.of_code(), who.token, asked),
      who.patience_seconds,
    )
    crew = threads.Crew(link.stop)
    crew.start(who.role, lambda: _work(crew, link, config, presets, system, who.role))
    while not crew.stop.wait(0.2) and not interrupted.is_set():
      pass
    if crew.end():
      logging.warning('The environments do not end and are left behind.')
  if crew.error:
    raise crew.error
  logging.info('Training is finished.' if link.is_finished() else 'Stopped.')
  return 0 if link.is_finished() else 130


def _supervise(who, program, folder, interrupted) -> int:
  actors = actor_processes.ActorProcesses(
    program, who.actor_processes, who.learner, who, folder / 'actors'
  )
  logging.info(
    '%d actors work for %s. What they say is in %s.',
    who.actor_processes,
    who.learner,
    folder / 'actors',
  )
  try:
    while not interrupted.wait(0.5) and not actors.are_done():
      actors.look_after()
    return 0 if actors.are_done() else 130
  finally:
    actors.close()


def _work(crew, link, own, presets, system, role) -> None:
  try:
    with contextlib.suppress(queues.QueueClosed):
      welcome = link.join()
      while True:
        try:
          config = config_of(welcome.config, own, presets)
          suite = environments.load(config.env, config.environment_options())
          (_act if role == 'actor' else _evaluate)(link, welcome, config, suite, system)
          break
        except links.PlaceChanged:
          welcome = link.welcome
  finally:
    crew.stop.set()
    link.close()


def _act(link, welcome, config, suite, system) -> None:
  actor, codec = system.make_actor(config, suite, link, welcome)
  link.be_described_by(actor.games.pulse.describe, lambda: actor.games.crashes)

  def put(elements) -> None:
    for group in codec.group(elements):
      link.put(codec.encode(group))

  actor.run(put, link.is_ended)


def _evaluate(link, welcome, config, suite, system) -> None:
  """Plays episodes of every task with the latest parameters, again and again, but none of the same ones twice."""
  take, make_player = system.make_evaluator(config, suite, welcome.seed)
  episodes, played = max(1, config.evaluation_episodes), None
  for attempt in itertools.count():
    while (snapshot := link.latest()) is played:
      if link.wait(config.log_every_seconds):
        return
    take(snapshot.values)
    played, frames = snapshot, link.frames
    for task in suite.tasks:
      link.be_described_by(lambda task=task: f'playing {task}', lambda: 0)
      if link.is_ended():
        return
      summary = evaluation.play(
        suite, task, make_player, episodes, welcome.seed + attempt
      ).summary()
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
