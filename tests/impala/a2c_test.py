"""Synchronous runs: A2C's policy lag is 0 and a chosen one is exact; who waits, and when."""

import dataclasses
import threading
from typing import NamedTuple

import gymnasium
import numpy as np
import pytest
import tensorflow as tf

from common import environments, errors
from common.distributed import parameters, queues
from impala import actor as actors
from impala import architectures, batching, lag, networks, policy, turns
from impala import config as configs
from impala import learner as learners
from tests import environments as own_environments
from tests.impala import runs

A2C = [name for name in architectures.NAMES if name.startswith('a2c')]
UPDATES = 12


@pytest.mark.parametrize('architecture', A2C)
def test_a2c_acts_with_the_parameters_of_the_last_update(tmp_path, architecture):
  config = runs.make_config(architecture=architecture)
  kept, rows = runs.train(tmp_path, config, UPDATES)
  assert len(kept) == UPDATES == rows[-1]['updates']
  for version, (told, update) in enumerate(kept):
    assert set(told.parameter_version.numpy()) == {version}
    np.testing.assert_allclose(update.statistics['importance_weight'], 1.0, rtol=1e-5)
  assert (
    {row['policy_lag_mean'] for row in rows} == {0.0} == {row['policy_lag_max'] for row in rows}
  )


def test_a_chosen_lag_is_exact_in_every_batch(tmp_path):
  kept, _ = runs.train(tmp_path, runs.make_config(policy_lag=3), UPDATES)
  assert len(kept) == UPDATES
  for version, (told, _) in enumerate(kept):
    # The first three updates have the initial parameters.
    assert set(told.parameter_version.numpy()) == {max(0, version - 3)}


def test_a_batch_that_is_dropped_does_not_end_the_turns(tmp_path):
  config = runs.make_config(policy_lag=1, reward_clipping='none')
  kept, rows = runs.train(tmp_path, config, 100, own_environments.Surge)
  dropped = [not update.statistics['finite'] for _, update in kept]
  assert sum(dropped) == rows[-1]['dropped_batches'] > 0
  versions = np.cumsum([0, *(not is_dropped for is_dropped in dropped)])[:-1]
  for version, (told, _) in zip(versions, kept, strict=True):
    assert set(told.parameter_version.numpy()) == {max(0, version - 1)}


class Logged(gymnasium.Env):
  """Notes each of its steps in a log of all environments; its episodes never end."""

  observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
  action_space = gymnasium.spaces.Discrete(2)
  log: list['Logged'] = []

  def reset(self, *, seed=None, options=None):
    return np.zeros(2, np.float32), {}

  def step(self, action):
    # Not those that are stepped to find out how long it takes.
    if threading.current_thread().name.startswith('actor'):
      self.log.append(self)
    return np.zeros(2, np.float32), 0.0, False, False, {}


class LoggedAndUneven(Logged):
  """The same; the first to step waits there until another has taken a whole unroll."""

  def step(self, action):
    is_first = threading.current_thread().name.startswith('actor') and not self.log
    result = super().step(action)
    if is_first:
      # At most 20 s, if they wait for each other.
      for _ in range(2000):
        if len(self.log) > 1 and max(map(self.log.count, self.log)) >= runs.T:
          break
        threading.Event().wait(0.01)
      type(self).seen = [self.log.count(each) for each in dict.fromkeys(self.log)]
    return result


def test_environments_in_step_wait_for_each_other_at_every_step(tmp_path):
  Logged.log.clear()
  runs.train(tmp_path, runs.make_config(architecture='a2c_sync_step'), 3, Logged)
  count = runs.ACTORS * runs.ENVS
  steps = [set(Logged.log[i : i + count]) for i in range(0, 3 * runs.T * count, count)]
  assert all(step == set(Logged.log) and len(step) == count for step in steps)


def test_actors_of_whole_trajectories_wait_at_the_unrolls_end_only(tmp_path):
  Logged.log.clear()
  runs.train(tmp_path, runs.make_config(architecture='a2c_sync_trajectory'), 3, LoggedAndUneven)
  # While the first one stood in its first step, the other actor's took a whole unroll and no more.
  assert sorted(LoggedAndUneven.seen) == [1, runs.T, runs.T]
  size = runs.ACTORS * runs.ENVS * runs.T
  for i in range(3):
    unrolls = Logged.log[i * size : (i + 1) * size]
    assert [unrolls.count(each) for each in set(unrolls)] == [runs.T] * runs.ACTORS * runs.ENVS


class Elements(NamedTuple):
  """What an actor puts, `[M]`."""

  actor: np.ndarray
  value: np.ndarray


def elements(actor: int, *values: int) -> Elements:
  return Elements(np.full(len(values), actor), np.array(values, np.int64))


def test_what_crashes_took_is_collected_again_before_an_actor_waits():
  put = []
  turn = turns.Turns(lambda e: put.extend(e.value.tolist()), num_actors=2, share=3)
  turn.put(elements(1))
  turn.put(elements(1, 10, 11))
  done = threading.Event()

  def complete():
    turn.put(elements(1, 12, 13, 14))
    done.set()

  thread = threading.Thread(target=complete)
  thread.start()
  turn.end(np.array([0, 0, 0, 1, 1]))
  assert not done.wait(0.1)
  turn.end(np.array([1]))
  thread.join(10)
  assert done.is_set() and put == [10, 11, 12]
  turn.close()
  with pytest.raises(queues.QueueClosed):
    turn.put(elements(0, 1, 2, 3))


def test_without_a_lag_v_trace_is_a2c():
  """The same update to float precision, as every importance weight is 1."""
  config = runs.make_config(lstm=True, core_size=8)
  suite = environments.load('gym:CartPole-v1')
  found = []
  for correction in ('none', 'vtrace'):
    tf.random.set_seed(3)
    agent = networks.make_agent(config, suite)
    fixed = dataclasses.replace(config, correction=correction)
    learner = learners.Learner(fixed, suite, agent)
    store = parameters.ParameterStore(learner.snapshot())
    acting = policy.LocalPolicy(networks.make_agent(config, suite), suite, store, seed=5)
    tasks = [suite.tasks[0]] * config.batch_size
    unrolls = []
    actors.Actor(0, suite, tasks, acting, runs.T, 1).run(unrolls.append, lambda: len(unrolls) > 1)
    batch = batching.of_unroll(tf.nest.map_structure(tf.constant, unrolls[1]))
    update = learner.update(batch, tf.constant(1, tf.int64))
    np.testing.assert_allclose(update.statistics['importance_weight'], 1.0, rtol=1e-6)
    found.append([variable.numpy() for variable in learner.variables])
  for mine, other in zip(*found, strict=True):
    np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-6)


def fitted(env: str = 'gym:CartPole-v1', **settings) -> configs.Config:
  config = runs.make_config(env=env, **settings)
  config.check()
  config.fit(environments.load(env))
  return config


def test_settings_follow_the_architecture():
  assert fitted(architecture='a2c_sync_trajectory', batch_size=0).batch_size == 4
  together = fitted(architecture='a2c_sync_step')
  batched = fitted(architecture='a2c_dynamic_batching')
  assert batched.dynamic_batching and batched.dynamic_batch_size == 2
  assert (together.correction, batched.correction, fitted().correction) == (
    'none',
    'none',
    'vtrace',
  )
  assert fitted(architecture='a3c', batch_size=7).batch_size == 2
  # Half of the batch is replayed.
  assert fitted(policy_lag=1, batch_size=0, replay_fraction=0.5).replayed_per_batch == 4


@pytest.mark.parametrize(
  'settings, message',
  [
    ({'architecture': 'a4c'}, "architecture is 'a4c', expected one of impala, a2c_sync_step"),
    ({'policy_lag': -2}, 'policy_lag is -2, expected -1 for whatever lag'),
    ({'batch_size': 0}, 'batch_size is 0, expected more than 0'),
    (
      {'architecture': 'a2c_sync_trajectory', 'batch_size': 6},
      'batch_size is 6, expected 4, or 0 for that: .* 2 x 2 environments',
    ),
    (
      {'policy_lag': 1, 'batch_size': 4, 'replay_fraction': 0.5},
      'batch_size is 4, expected 8, or 0 .* and what is replayed',
    ),
    ({'architecture': 'a3c', 'policy_lag': 1}, 'policy_lag is 1, expected -1 for a3c'),
    ({'architecture': 'a3c', 'replay_fraction': 0.5}, 'expected 0 for a3c, which is on-policy'),
    ({'architecture': 'a3c', 'learner_devices': 2}, 'learner_devices is 2, expected 1 for a3c'),
    ({'policy_lag': 0, 'population': True}, 'population is True, expected false'),
    ({'architecture': 'a3c', 'popart': True}, 'popart is True, expected false for a3c'),
    ({'architecture': 'a2c_sync_step', 'dynamic_batching': True}, 'false for a2c_sync_step'),
    ({'policy_lag': 1, 'dynamic_batching': True}, 'dynamic_batching is True, expected false with'),
  ],
)
def test_settings_that_contradict_the_architecture_are_refused(settings, message):
  with pytest.raises(errors.UserError, match=message):
    fitted(**settings)


def test_a_lag_that_memory_cannot_hold_is_refused():
  lag.check_memory(10, 1000)
  with pytest.raises(errors.UserError, match='policy_lag is 1000: the parameters of 1001 updates'):
    lag.check_memory(1000, 10**10)
