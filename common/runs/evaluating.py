"""An evaluator: plays with a run's latest parameters while it trains, and adds no data to it.

In a process of its own it is the role `evaluator`; a system may also run one as a thread.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
from typing import Callable, Protocol

import tensorflow as tf

from common import environments
from common.config import settings
from common.distributed import parameters
from common.evaluation import play, ticker
from common.runs import system as systems


class Desk(Protocol):
  """Where an evaluator gets parameters and hands in results: a link to the learner, or its run.

  Attributes:
    frames: Environment frames learned from when `latest` was last called.
  """

  @property
  def frames(self) -> int: ...

  def latest(self) -> parameters.Snapshot | None:
    """What to play next; the object that was played last, or None at first, if not yet."""

  def wait(self, seconds: float) -> bool:
    """Waits; returns whether it is time to end."""

  def is_ended(self) -> bool:
    """Whether it is time to end."""

  def report(
    self,
    *,
    task: str,
    frames: int,
    version: int,
    episodes: int,
    cut: int,
    mean: float,
    low: float,
    high: float,
  ) -> None:
    """Takes the result of one task."""


class Evaluator:
  """Plays every task with the latest parameters, round after round, and reports the returns."""

  def __init__(
    self, system: systems.System, config: settings.Settings, suite: environments.Suite, seed: int
  ):
    """Makes the agent, and runs its graphs before there are environments.

    Args:
      system: Makes the agent.
      config: The run's settings.
      suite: The environments.
      seed: The seed of the first round; the others' follow.
    """
    self._agent = system.make_playing_agent(config, suite, seed)
    self._config = config
    self._suite = suite
    self._seed = seed
    # 0 episodes means no table at the end of training; an evaluator still evaluates.
    self._episodes = max(1, config.evaluation_episodes)
    self._assign = tf.function(
      functools.partial(parameters.assign, self._agent.variables), autograph=False
    )
    self._assign(parameters.flatten(self._agent.variables))

  def run(self, desk: Desk, begin: Callable[[ticker.Ticker], None]) -> None:
    """Plays until the desk says that it is time to end.

    Args:
      desk: Gives parameters and takes results.
      begin: Called at each round's beginning, with what tells how far it is.

    Raises:
      UserError: If the parameters are of other networks, or environments crash repeatedly.
    """
    played = None
    for number in itertools.count():
      # The same parameters are not played again.
      while (snapshot := desk.latest()) is played or snapshot is None:
        if desk.wait(self._config.log_every_seconds):
          return
      parameters.check(self._agent.variables, snapshot)
      self._assign(snapshot.values)
      played = snapshot
      frames = desk.frames

      watch = ticker.Ticker(self._episodes * len(self._suite.tasks), self._config.log_every_seconds)
      begin(watch)
      for task in self._suite.tasks:
        # Another seed for each round: no episode is played twice.
        done = self._play(task, self._seed + number, watch, desk.is_ended)
        if done is None:
          return
        self._hand_in(desk, task, frames, snapshot.version, done)

  def _play(
    self, task: str, seed: int, watch: ticker.Ticker, is_ended: Callable[[], bool]
  ) -> play.Episodes | None:
    """Plays the episodes of a task; None if it was time to end before they were over."""
    playing = play.play_episodes(
      self._suite,
      task,
      self._agent.make_player,
      self._episodes,
      seed,
      self._config.max_evaluation_steps,
    )
    # Closes the environments at once if this ends early.
    with contextlib.closing(playing):
      for so_far in playing:
        if is_ended():
          return None
        watch.note(task, so_far.standing(), len(so_far.returns) == self._episodes)
    return so_far

  def _hand_in(self, desk: Desk, task: str, frames: int, version: int, done: play.Episodes) -> None:
    summary = done.summary()
    desk.report(
      task=task,
      frames=frames,
      version=version,
      episodes=self._episodes,
      cut=summary['cut'],
      mean=summary['mean'],
      low=summary['low'],
      high=summary['high'],
    )
    logging.info('Evaluation at %s frames: %s %.2f', f'{frames:,}', task, summary['mean'])
    if note := play.cut_note({'agent': {task: summary}}, self._config.max_evaluation_steps):
      logging.info('  %s', note)
