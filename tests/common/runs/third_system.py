"""A third system, as small as possible: it counts the steps of random play, and learns nothing."""

import dataclasses
import threading
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from common import environments
from common.config import command_line, presets, settings
from common.distributed import cluster, intake, parameters, queues, wire
from common.evaluation import play
from common.machine import threads
from common.runs import counters, games, hosting, program
from common.runs import recorder as recorders
from common.runs import run as runs
from common.runs import system as systems


@dataclasses.dataclass
class Config(settings.Settings):
  SYSTEM: ClassVar[str] = 'third'

  """No settings of its own, only defaults."""

  env: str = 'gym:CartPole-v1'
  torso: str = 'vector'
  num_actors: int = 2
  envs_per_actor: int = 3


# One step of one environment.
SPEC = (
  tf.TensorSpec([], tf.float32),  # The return of the episode that the step ended.
  tf.TensorSpec([], tf.int32),  # The episode's length; 0 if the step ended none.
)


class Actor:
  """Plays at random; sends the return and length of episodes."""

  def __init__(self, index: int, suite: environments.Suite, config: Config, seed: int):
    self.games = games.Games(index, suite, [suite.tasks[0]] * config.envs_per_actor, seed)
    self._action_space = suite.action_space
    self._count = config.envs_per_actor
    self._rng = np.random.default_rng(seed)

  def run(self, put: Callable[[Any], None], stopped: Callable[[], bool]) -> None:
    with self.games:
      self.games.reset()
      while not stopped():
        actions = play.random_actions(self._action_space, self._count, self._rng)
        step = self.games.step(actions)
        self.games.record_collected()
        put((step.episode_return, step.episode_length))


class Run(runs.Run):
  """Counts the steps of random play."""

  def __init__(
    self,
    system: systems.System,
    config: Config,
    options: command_line.Options,
    who: cluster.Cluster,
  ):
    hosting.check(who)
    self._config = config
    suite = environments.load(config.env, config.environment_options())
    self._learner = counters.Counters('learner')
    # Creates the run's folder, or restores the counters from it.
    super().__init__(config, options, self._learner, who.index)
    self._task = suite.tasks[0]
    self._repeat = suite.action_repeat
    self.queue = queues.StructureQueue(SPEC, 100)
    # Actors need no parameters, but the server publishes some.
    store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros([1])))
    description = hosting.RunDescription(
      program='tests.common.runs.third_system',
      config=config,
      num_actors=config.num_actors,
      tasks=suite.tasks,
      folder=self.supervisor.folder,
    )
    arrivals = intake.Intake(queue=self.queue, codec=wire.Codec(SPEC, {}), store=store)
    self.host = hosting.Host(who, description, arrivals, self.frames)

    self.actors = [
      Actor(i, suite, config, games.seed_of(config.seed, i)) for i in range(config.num_actors)
    ]
    self.recorder = recorders.Recorder(
      config,
      suite,
      self.supervisor.folder,
      self._learner,
      ('steps_per_second',),
      gauges=lambda row: {},
      note=lambda row: f'{row["steps_per_second"]:.0f} steps/s',
    )
    self.taker = threads.Pulse('counter')

  def summary(self) -> str:
    return f'Counting to {self._config.total_frames} frames.'

  def warm_up(self) -> None:
    """There are no graphs."""

  def start_threads(self, crew: threads.Crew) -> None:
    crew.start('counter', lambda: self._count(crew.stop))

  def close_queues(self) -> None:
    self.queue.close()

  def _count(self, stop: threading.Event) -> None:
    while self.frames() < self._config.total_frames:
      self.taker.enter('waiting for steps')
      episode_return, length = self.queue.take()
      self.taker.enter('counting')
      self.recorder.start_clock()
      # Each step counts as an update, so that the run makes progress.
      self._learner.frames.assign_add(self._repeat)
      self._learner.updates.assign_add(1)
      self.recorder.record(totals={'steps_per_second': 1})
      if length > 0:
        self.recorder.add_episode(self._task, float(episode_return), int(length))
    # Training is finished: all other threads end too.
    stop.set()


class Third:
  """Implements `common.runs.system.System`."""

  title = 'Third'
  # There is no such package: only actor processes would need it.
  name = 'third'
  presets = presets.Presets(config=Config, rows={'only': {}}, families={}, default='only')
  switches: dict[str, str] = {}
  has_several_learners = False

  def make_run(self, config: Config, options: command_line.Options, who: cluster.Cluster) -> Run:
    return Run(self, config, options, who)

  def make_actor(self, config, suite, to_learner, welcome):
    return Actor(welcome.assignment, suite, config, welcome.seed), wire.Codec(SPEC, {})

  def make_playing_agent(self, config, suite, seed, deterministic=False) -> systems.PlayingAgent:
    def make_player(task: str, count: int) -> play.Player:
      del task, count
      return play.random_player(suite.action_space, seed)

    return systems.PlayingAgent(counters.Counters('learner'), [], make_player)


def main(argv: Sequence[str]) -> int:
  return program.main(argv, __doc__, Third())
