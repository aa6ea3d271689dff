"""The loop of both systems' actors: crashes, restarts, closed queues, and the end of a run.

Each test runs IMPALA's and Ape-X's actor, with policies that always choose action 0, on CartPole
environments that crash as planned.
"""

import dataclasses
import functools
import itertools
import threading
from typing import Any, Callable, NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from apex import actor as apex_actors
from apex import agent as apex_agents
from apex import config as apex_configs
from common import environments, errors
from common.distributed import queues
from common.machine import threads
from impala import actor as impala_actors
from impala import policy as impala_policies

N = 2
ACTOR = 7
# In a plan, instead of a number of steps: the environments crash while they are reset.
AT_RESET = None


class Crashing(gymnasium.vector.VectorWrapper):
  """Crashes as planned: entry k says how many steps after reset k succeed. Endless afterwards."""

  def __init__(self, env: gymnasium.vector.VectorEnv, plan):
    super().__init__(env)
    self.resets = 0
    self.steps = 0
    self._plan = iter(plan)
    self._left = None

  def reset(self, *, seed=None, options=None):
    self.resets += 1
    self._left = next(self._plan, float('inf'))
    if self._left is AT_RESET:
      raise environments.EnvironmentCrashed(f'game {self.resets} ended')
    return self.env.reset(seed=seed, options=options)

  def step(self, actions):
    if self._left <= 0:
      raise environments.EnvironmentCrashed(f'game {self.resets} ended')
    self._left -= 1
    self.steps += 1
    return self.env.step(actions)


class ImpalaPolicy:
  def refresh(self) -> int:
    return 0

  def initial_state(self, batch_size: int) -> Any:
    return ()

  def __call__(self, inputs, core_state) -> impala_policies.Decision:
    return impala_policies.Decision(
      actions=tf.zeros([N], tf.int32), logits=tf.zeros([N, 2]), core_state=()
    )


class ApexPolicy:
  def refresh(self) -> int:
    return 0

  def __call__(self, observation, start) -> apex_agents.Decision:
    return apex_agents.Decision(
      actions=np.zeros(N, np.int32),
      q_taken=np.zeros(N, np.float32),
      bootstrap_value=np.zeros(N, np.float32),
    )

  def bootstrap_value(self, observation) -> np.ndarray:
    return np.zeros(len(observation), np.float32)


def make_impala(suite, unroll_length=1):
  """An actor that puts a trajectory of each environment every `unroll_length` steps."""
  return impala_actors.Actor(ACTOR, suite, suite.tasks * N, ImpalaPolicy(), unroll_length, seed=1)


def make_apex(suite):
  """An actor that puts a block of each environment every step but the first of a game."""
  config = dataclasses.replace(
    apex_configs.PRESETS.preset('gym'),
    block_length=1,
    local_buffer=2,
    n_step=1,
    envs_per_actor=N,
  )
  return apex_actors.Actor(ACTOR, suite, suite.tasks * N, ApexPolicy(), config, seed=1)


class Made(NamedTuple):
  """An actor, and its environments once it has made them."""

  actor: impala_actors.Actor | apex_actors.Actor
  environments: list[Crashing]

  def has_reset(self, count: int) -> bool:
    return bool(self.environments) and self.environments[0].resets >= count

  def has_stepped(self, count: int) -> bool:
    return bool(self.environments) and self.environments[0].steps >= count


def make_crashing(make_actor, plan=(), **arguments) -> Made:
  """Makes an actor whose environments crash by `plan`."""
  suite = environments.load('gym:CartPole-v1')
  made = []

  def make_environments(tasks, training):
    made.append(Crashing(suite.make(tasks, training), plan))
    return made[-1]

  return Made(make_actor(dataclasses.replace(suite, make=make_environments), **arguments), made)


@pytest.fixture(params=[make_impala, make_apex], ids=['impala', 'apex'])
def make(request) -> Callable[..., Made]:
  return functools.partial(make_crashing, request.param)


def ignore(collected: Any) -> None:
  del collected


def never() -> bool:
  return False


@pytest.mark.parametrize(
  'plan',
  [
    [0],
    [3, 0],
    [3, 3, 3, 3, 3, 3],
    [0, 0, 0, 0, 3, 0, 0, 0],
    [AT_RESET],
    [3, AT_RESET, 0],
    [AT_RESET, AT_RESET, AT_RESET, AT_RESET, 3, AT_RESET, 0, AT_RESET],
  ],
)
def test_crashes_with_something_collected_between_them_are_survived(make, plan):
  made = make(plan)
  collected = []
  made.actor.run(collected.append, lambda: made.has_reset(len(plan) + 1) and len(collected) >= 20)
  assert len(collected) >= 20 and made.actor.games.crashes == len(plan)
  assert len(made.environments) == 1 and made.environments[0].closed


@pytest.mark.parametrize(
  'plan, crashes',
  [
    ([0, 0, 0, 0, 0], 5),
    ([AT_RESET] * 5, 5),
    # The game of three steps is collected from, and its crash is the first in a row of five.
    ([0, 3, 0, 0, AT_RESET, 0], 6),
  ],
)
def test_the_fifth_crash_in_a_row_ends_the_run_and_names_the_actor(make, plan, crashes):
  made = make(plan)
  message = (
    rf'actor 7 \(CartPole-v1\): environments crashed 5 times in a row: game {crashes} ended$'
  )
  with pytest.raises(errors.UserError, match=message):
    made.actor.run(ignore, never)
  assert made.actor.games.crashes == made.environments[0].resets == crashes
  assert made.environments[0].closed


def test_nothing_is_collected_if_it_is_stopped_already(make):
  made = make()
  collected = []
  made.actor.run(collected.append, lambda: True)
  assert collected == [] and made.environments[0].resets == 0
  assert made.environments[0].closed


def test_it_stops_between_two_steps(make):
  made = make()
  made.actor.run(ignore, lambda: made.has_stepped(5))
  assert made.environments[0].steps == 5 and made.environments[0].closed


def test_an_unroll_that_is_stopped_is_not_put():
  made = make_crashing(make_impala, unroll_length=4)
  collected = []
  made.actor.run(collected.append, lambda: made.has_stepped(7))
  assert len(collected) == 1
  assert made.environments[0].steps == 7 and made.environments[0].closed


@pytest.mark.parametrize('policy', [ImpalaPolicy, ApexPolicy])
def test_a_queue_that_is_closed_while_collecting_ends_it_quietly(policy, monkeypatch):
  def refresh(self):
    raise queues.QueueClosed

  monkeypatch.setattr(policy, 'refresh', refresh)
  made = make_crashing(make_impala if policy is ImpalaPolicy else make_apex)
  collected = []
  made.actor.run(collected.append, never)
  assert collected == [] and made.actor.games.crashes == 0
  assert made.environments[0].closed


def test_a_queue_that_is_closed_while_putting_ends_it_quietly(make):
  made = make()

  def put(collected):
    raise queues.QueueClosed

  made.actor.run(put, never)
  assert made.environments[0].closed and made.actor.games.crashes == 0


def test_a_queue_that_is_closed_while_waiting_for_room_ends_its_thread_quietly(make):
  # The second element finds no room, and waits until the queue is closed.
  made = make()
  queue = queues.StructureQueue(tf.TensorSpec([], tf.int32), 1)
  count = itertools.count(1)
  second = threading.Event()

  def put(collected):
    number = next(count)
    if number == 2:
      second.set()
    queue.put(tf.constant(number))

  crew = threads.Crew(queue.close)
  crew.start('actor', lambda: made.actor.run(put, crew.stop.is_set))
  assert second.wait(60)
  assert crew.end() == [] and crew.error is None
  assert made.environments[0].closed and next(count) == 3
  assert int(queue.take()) == 1


def test_other_errors_are_not_hidden(make):
  made = make()

  def put(collected):
    raise ZeroDivisionError

  with pytest.raises(ZeroDivisionError):
    made.actor.run(put, never)
  assert made.environments[0].closed and made.actor.games.crashes == 0


def test_the_pulse_follows_the_loop(make):
  made = make()
  entered = []
  pulse = made.actor.games.pulse
  enter = pulse.enter

  def record(activity, *detail):
    entered.append(activity)
    enter(activity, *detail)

  pulse.enter = record
  waiting = 'waiting for the learner to take what was collected'

  def put(collected):
    assert pulse.activity == waiting

  made.actor.run(put, lambda: waiting in entered)
  assert list(dict.fromkeys(entered)) == [
    'making environments',
    'resetting environments',
    'taking parameters',
    'choosing actions',
    'stepping environments',
    waiting,
  ]
