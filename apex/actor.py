"""An actor: environments and an exploring policy, whose steps become blocks of transitions (Ape-X, algorithm 1)."""

from typing import Callable, Sequence

import numpy as np

from apex import agent as agents
from apex import config as configs
from apex import transitions
from common.distributed import queues
from common.environments import suite as suites
from common.runs import acting


class Actor:
  """Steps N environments together, and sends a block for each B transitions of one."""

  def __init__(
    self,
    index: int,
    suite: suites.Suite,
    tasks: Sequence[str],
    policy: agents.Policy,
    config: configs.Config,
    seed: int,
  ):
    """`tasks`: one environment is made for each."""
    count, first = len(tasks), index * config.envs_per_actor
    self.games = acting.Games(index, suite, tasks, seed)
    self._suite, self._policy, self._config = suite, policy, config
    self._accumulator = transitions.Accumulator(
      suite, first, count, config.block_length, config.n_step
    )
    self._everyone = np.arange(count)

  def run(self, put: Callable[[transitions.Shipment], None], stopped: Callable[[], bool]) -> None:
    """Collects shipments and puts them, `[K, ...]`, until `stopped()` or until the queue that it puts to is closed.

    Raises:
      UserError: if environments crash again and again.
    """

    def put_all(shipments: list[transitions.Shipment]) -> None:
      for shipment in shipments:
        put(shipment)

    self.games.run(self._begin, lambda: self.collect(stopped), put_all, stopped)

  def collect(self, stopped: Callable[[], bool]) -> list[transitions.Shipment]:
    """Steps until at least one environment has gathered a block.

    Raises:
      QueueClosed: if `stopped()` between two steps: nobody would take the blocks.
    """
    shipments = []
    while not shipments:
      if stopped():
        raise queues.QueueClosed
      shipments = [shipment for shipment in self._step() if shipment is not None]
    return shipments

  def _begin(self) -> None:
    observation = self.games.reset()['observation']
    self._accumulator.restart()
    self._observation, self._start = observation, np.ones(len(self._everyone), bool)
    self._steps, self._version = 0, 0

  def _step(self) -> list[transitions.Shipment | None]:
    if self._steps % max(1, self._config.parameter_pull_frames // self._suite.action_repeat) == 0:
      self.games.pulse.enter('taking parameters')
      self._version = self._policy.refresh()
    self._steps += 1
    self.games.pulse.enter('choosing actions')
    decision = self._policy(self._observation)
    newest, start = self._newest(self._observation).copy(), self._start
    step = self.games.step(decision.actions)
    self._observation, self._start = step.observation['observation'], step.start
    # An engine that died gave no answer: what was seen before is the last that transitions can bootstrap from.
    records = transitions.Records(
      newest,
      start,
      *decision,
      np.clip(step.reward, -1.0, 1.0) if self._config.clip_rewards else step.reward,
      np.where(step.terminated | step.crashed, 0.0, self._config.discount),
      step.crashed,
      step.episode_return,
      step.episode_length,
    )
    shipments = [self._accumulator.add(self._everyone, records, self._version)]
    at_limit = np.flatnonzero(step.truncated & ~step.terminated)
    if len(at_limit):
      shipments.append(self._add_final(at_limit, suites.final_observations(step.info, at_limit)))
    return shipments

  def _add_final(self, which: np.ndarray, observation: np.ndarray) -> transitions.Shipment | None:
    """A time limit is no end: what was seen last is what transitions before it bootstrap from."""
    value = self._policy.bootstrap_value(observation)
    return self._accumulator.add(
      which,
      transitions.Records(self._newest(observation), False, 0, 0.0, value, 0.0, 0.0, True, 0.0, 0),
      self._version,
    )

  def _newest(self, observation: np.ndarray) -> np.ndarray:
    return observation[:, -1] if self._suite.frame_stack > 1 else observation
