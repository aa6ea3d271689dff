"""An actor: environments and an exploring policy, whose steps become blocks of transitions.

Algorithm 1 of the Ape-X paper.
"""

from typing import Callable, NamedTuple, Sequence

import numpy as np

from apex import agent as agents
from apex import config as configs
from apex import transitions
from common.distributed import queues
from common.environments import masks
from common.environments import suite as suites
from common.runs import games


class State(NamedTuple):
  """Where an actor stands between two steps of its N environments."""

  observation: suites.Observation  # By name [N, ...]; what the next actions are chosen from.
  start: np.ndarray  # bool [N]: the observation is the first of a game.
  steps: int  # Agent steps since the games started.
  parameter_version: int  # Learner updates that the policy's parameters have seen.


class Actor:
  """Steps N environments together; ships a block for every B transitions of one environment.

  Attributes:
    games: The environments, with the actor's pulse and its count of crashes.
  """

  def __init__(
    self,
    index: int,
    suite: suites.Suite,
    tasks: Sequence[str],
    policy: agents.Policy,
    config: configs.Config,
    seed: int,
  ):
    """Makes an actor; `run` makes its environments.

    Args:
      index: The actor's number in the run.
      suite: The suite that the tasks belong to.
      tasks: The task of each of the N environments.
      policy: The exploring policy.
      config: The run's settings.
      seed: The seed of the environments.
    """
    self.games = games.Games(index, suite, tasks, seed)
    self._policy = policy
    self._config = config
    self._suite = suite
    # The setting is in environment frames, as in appendix C.
    self._refresh_steps = max(1, config.parameter_pull_frames // suite.action_repeat)
    self._environments = np.arange(len(tasks))
    first = index * config.envs_per_actor
    self._accumulator = transitions.Accumulator(
      suite,
      first,
      len(tasks),
      config.block_length,
      config.n_step,
      policy.rewards if config.normalize_rewards else None,
    )

  def run(self, put: Callable[[transitions.Shipment], None], stopped: Callable[[], bool]) -> None:
    """Acts until `stopped()` or until the learner closes the queue.

    Args:
      put: Hands over the blocks of the K environments that have filled one, `[K, ...]`; may wait
        for room.
      stopped: Whether to end; asked before every step.

    Raises:
      UserError: If the environments crash five times in a row with no block in between.
    """
    with self.games:
      while not stopped():
        try:
          state = self._start_games()
          while not stopped():
            state, shipments = self._step(state)
            for shipment in shipments:
              self.games.record_collected()
              put(shipment)
        except suites.EnvironmentCrashed as crash:
          self.games.record_crash(crash)
        except queues.QueueClosed:
          return

  def _start_games(self) -> State:
    """Resets the environments, and drops transitions that are not in a full block yet."""
    observation = self.games.reset()
    self._accumulator.restart()
    return State(
      observation=observation,
      start=np.ones(len(self._environments), bool),
      steps=0,
      parameter_version=0,
    )

  def _step(self, state: State) -> tuple[State, list[transitions.Shipment]]:
    """Takes one step in all environments.

    Returns:
      The state after it, and shipments of the blocks that are full now; most steps fill none.

    Raises:
      EnvironmentCrashed: If the environments crashed together.
    """
    version = state.parameter_version
    if state.steps % self._refresh_steps == 0:
      self.games.pulse.enter('taking parameters')
      version = self._policy.refresh()

    self.games.pulse.enter('choosing actions')
    decision = self._policy(state.observation, state.start)
    # Copied, since the step overwrites the observation.
    entry = {name: part.copy() for name, part in self._entry(state.observation).items()}
    step = self.games.step(decision.actions)

    records = self._records(entry, state.start, decision, step)
    shipments = [self._accumulator.add(self._environments, records, version)]
    at_limit = np.flatnonzero(step.truncated & ~step.terminated)  # [M]
    if len(at_limit):
      records = self._time_limit_records(suites.final_observations(step.info, at_limit))
      shipments.append(self._accumulator.add(at_limit, records, version))

    state = State(
      observation=step.observation,
      start=step.start,
      steps=state.steps + 1,
      parameter_version=version,
    )
    return state, [shipment for shipment in shipments if shipment is not None]

  def _records(
    self, entry: suites.Observation, start: np.ndarray, decision: agents.Decision, step: games.Step
  ) -> transitions.Records:
    """The records `[N]` of a step from observations whose `_entry` is given."""
    reward = np.clip(step.reward, -1.0, 1.0) if self._config.clip_rewards else step.reward
    return transitions.Records(
      observation=entry,
      start=start,
      action=decision.actions,
      q_taken=decision.q_taken,
      bootstrap_value=decision.bootstrap_value,
      reward=reward,
      discount=np.where(step.terminated | step.crashed, 0.0, self._config.discount),
      # An engine that died returned no outcome of this action, so the action is not recorded as
      # one. Earlier transitions bootstrap from this observation instead, as at a time limit.
      final=step.crashed,
      episode_return=step.episode_return,
      episode_length=step.episode_length,
      discounted_return=step.discounted_return,
    )

  def _time_limit_records(self, observation: suites.Observation) -> transitions.Records:
    """Additional records `[M]` for the last observations of episodes cut by a time limit.

    A time limit is not part of the task, so the value beyond it is not 0: the transitions before
    must bootstrap from the episode's last observation. No action follows that observation, and the
    environment has replaced it by the first one of the next episode, so that it appears in no
    ordinary record. It gets one of its own, marked `final`: n-step sums stop here and bootstrap
    from `bootstrap_value`, and no transition begins here. The other fields are placeholders.

    Args:
      observation: The last observations by name, `[M, ...]`.
    """
    # Their values are bootstrapped from, so an action must be legal in them too.
    masks.check(self._suite, observation)
    return transitions.Records(
      observation=self._entry(observation),
      start=False,
      action=0,
      q_taken=0.0,
      bootstrap_value=self._policy.bootstrap_value(observation),
      reward=0.0,
      discount=0.0,
      final=True,
      episode_return=0.0,
      episode_length=0,
    )

  def _entry(self, observation: suites.Observation) -> suites.Observation:
    """What is new in observations: of stacks `[N, stack, H, W]` the newest frames `[N, H, W]`."""
    if self._suite.frame_stack == 1:
      return observation
    return {**observation, 'observation': observation['observation'][:, -1]}
