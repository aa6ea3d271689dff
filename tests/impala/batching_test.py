"""Batches: layout, order, the share of replay, and how they are split among learners."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from common import environments
from common.distributed import queues
from common.replay import uniform
from impala import batching, networks, replicas, trajectory
from impala import config as configs
from tests.impala import together

T, B = 6, 4
SUITE = environments.load('gym:CartPole-v1')


@pytest.fixture(scope='module')
def spec() -> trajectory.Trajectory:
  agent = networks.make_agent(configs.PRESETS.preset('gym'), SUITE)
  return trajectory.specification(SUITE, T, agent.initial_state(1))


def put_numbered(queue: queues.StructureQueue, spec: trajectory.Trajectory, number: int) -> None:
  """Puts a trajectory into the queue whose values are all `number`."""
  queue.put_many(
    tf.nest.map_structure(lambda s: np.full((1, *s.shape), number, s.dtype.as_numpy_dtype), spec)
  )


def test_batches_are_time_major_in_the_order_of_the_queue(spec):
  queue = queues.StructureQueue(spec, 100)
  for number in range(2 * B):
    put_numbered(queue, spec, number)
  batches = batching.from_queue(queue, B, None, 0)
  for start in (0, B):
    batch, serials = next(batches)
    assert serials.shape == (0,)
    assert batch.reward.shape == (T + 1, B)
    assert batch.observation['observation'].shape == (T + 1, B, 4)
    assert batch.core_state.hidden.shape == (B, configs.PRESETS.preset('gym').core_size)
    np.testing.assert_array_equal(batch.reward[0], np.arange(start, start + B))
    np.testing.assert_array_equal(batch.task, np.arange(start, start + B))
  queue.close()
  assert list(batches) == []


def test_replay_fills_its_share_of_a_batch_with_what_was_new_before(spec):
  queue = queues.StructureQueue(spec, 100)
  replay = uniform.UniformReplay(spec, 3)
  for number in range(1, 9):
    put_numbered(queue, spec, number)
  batches = batching.from_queue(queue, B, replay, 2)
  for step in range(4):
    batch, serials = next(batches)
    tasks = batch.task.numpy()
    # Trajectories are numbered from 1 here, serial numbers from 0.
    np.testing.assert_array_equal(serials, tasks - 1)
    np.testing.assert_array_equal(tasks[:2], [2 * step + 1, 2 * step + 2])
    # Of the newest three, which include the two just added.
    assert set(tasks[2:]) <= set(range(max(1, 2 * step), 2 * step + 3))
  queue.close()
  list(batches)


def test_stacking_undoes_unstacking(spec):
  rng = np.random.default_rng(0)
  arrays = tf.nest.map_structure(
    lambda s: tf.cast(rng.integers(0, 9, (B, *s.shape)), s.dtype), spec
  )
  batch = batching.stack(batching.unstack(arrays, B))
  for name in batch._fields:
    has_time = name not in ('actor', 'parameter_version', 'task', 'core_state')
    for part, array in zip(
      tf.nest.flatten(getattr(batch, name)), tf.nest.flatten(getattr(arrays, name)), strict=True
    ):
      expected = np.swapaxes(array, 0, 1) if has_time else array
      np.testing.assert_array_equal(part, expected)


@pytest.mark.parametrize('lstm', together.NETWORKS.values(), ids=list(together.NETWORKS))
def test_a_batch_is_split_in_its_order(lstm):
  learner = together.make_learner(together.make_config(lstm), replicas.make_strategy(), 1)
  batch = next(together.make_batches(learner.agent))
  parts = batching.split(batch, 4)
  assert [part.reward.shape for part in parts] == [(together.T + 1, 2)] * 4
  for name in batch._fields:
    axis = 0 if name in ('actor', 'parameter_version', 'task', 'core_state') else 1

    def assert_is_cut(whole, *cut, axis=axis):
      np.testing.assert_array_equal(whole, np.concatenate(cut, axis))

    tf.nest.map_structure(
      assert_is_cut, getattr(batch, name), *[getattr(part, name) for part in parts]
    )


def test_replayed_trajectories_are_not_new_frames():
  config = dataclasses.replace(
    configs.PRESETS.preset('doom'), unroll_length=5, batch_size=8, replay_fraction=0.25
  )
  suite = dataclasses.replace(SUITE, action_repeat=4)
  assert batching.new_frames(config, suite) == 6 * 5 * 4


@pytest.mark.parametrize('field', ['reward', 'observation', 'core_state', 'behaviour_logits'])
@pytest.mark.parametrize('wrong', [np.nan, -np.inf, 3e38])
def test_the_actors_and_tasks_of_a_batch_are_named_and_the_suspicious_ones(spec, field, wrong):
  tasks = ['basic', 'deathmatch']
  trajectories = []
  for actor, task in ((0, 0), (2, 1), (2, 0), (0, 0)):
    zeros = tf.nest.map_structure(lambda s: np.zeros(s.shape, s.dtype.as_numpy_dtype), spec)
    trajectories.append(zeros._replace(actor=np.int32(actor), task=np.int32(task)))
  named = 'trajectories of actor 0 (basic), actor 2 (deathmatch), actor 2 (basic)'
  assert batching.origins(batching.stack(trajectories), tasks) == named
  tf.nest.flatten(getattr(trajectories[1], field))[0].flat[-1] = wrong
  suspicion = '; numbers that are not finite, or beyond 1e+09, are of actor 2 (deathmatch)'
  assert batching.origins(batching.stack(trajectories), tasks) == named + suspicion


def test_what_is_removed_does_not_come_again(spec):
  queue = queues.StructureQueue(spec, 100)
  replay = uniform.UniformReplay(spec, 50)
  for number in range(40):
    put_numbered(queue, spec, number)
  batches = batching.from_queue(queue, B, replay, 2)
  batch, serials = next(batches)
  removed = set(batch.task.numpy().tolist())
  replay.remove(serials)
  next(batches)  # Was perhaps assembled before.
  for _ in range(15):
    assert not removed & set(next(batches).trajectories.task.numpy().tolist())
  queue.close()
  list(batches)
