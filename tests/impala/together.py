"""One of several synchronous learners, in a process of its own, for `replicas_test`: what it sees goes into a file."""

import dataclasses
import os
import pathlib
import signal
import sys
from typing import Iterator

import numpy as np
import tensorflow as tf

from common import environments, errors
from common.runs import checkpoints
from impala import config as configs
from impala import learner as learners
from impala import batching, networks, replicas, trajectory

T, B, UPDATES = 6, 8, 5
NOT_FINITE = 3  # Which of the updates is not.
MAX_NORM = 5.0  # Of gradients; those of these batches are several times longer.
NETWORKS = {'lstm': True, 'feed_forward': False}
SUITE = environments.load('gym:CartPole-v1')
FRAMES = 50  # Of an update.


def make_config(lstm: bool) -> configs.Config:
  """Of all learners together."""
  return dataclasses.replace(
    configs.PRESETS.preset('gym'),
    unroll_length=T,
    batch_size=B,
    total_frames=1000,
    lstm=lstm,
    reward_clipping='none',
    rmsprop_momentum=0.5,
    max_gradient_norm=MAX_NORM,
  )


def make_learner(
  config: configs.Config, strategy: tf.distribute.Strategy, seed: int
) -> learners.Learner:
  tf.random.set_seed(seed)
  with strategy.scope():
    agent = networks.make_agent(config, SUITE)
  return learners.Learner(config, SUITE, agent, strategy)


def make_batches(agent: networks.Agent) -> Iterator[trajectory.Trajectory]:
  """Of all learners together. Of the one that is not finite, only the last trajectory is not: the last replica's."""
  rng = np.random.default_rng(7)
  spec = trajectory.specification(SUITE, T, agent.initial_state(1))

  def draw(s: tf.TensorSpec) -> tf.Tensor:
    return tf.constant(
      rng.normal(size=s.shape) if s.dtype.is_floating else rng.integers(0, 2, s.shape), s.dtype
    )

  for number in range(UPDATES):
    trajectories = [tf.nest.map_structure(draw, spec) for _ in range(B)]
    if number == NOT_FINITE:
      trajectories[-1] = trajectories[-1]._replace(reward=trajectories[-1].reward + np.nan)
    yield batching.stack(trajectories)


def values(learner: learners.Learner, strategy: tf.distribute.Strategy) -> np.ndarray:
  """All that a checkpoint holds, `[P]`; each replica of this process has the same."""
  found = []
  for variable in learner.variables:
    first, *others = strategy.experimental_local_results(variable)
    for other in others:
      np.testing.assert_array_equal(first, other)
    found.append(np.ravel(first))
  return np.concatenate(found)


def learn(
  learner: learners.Learner, strategy: tf.distribute.Strategy, index: int
) -> dict[str, np.ndarray]:
  """Takes all updates; returns what each tells, the values before the first and after each, and what a stop changes."""
  frames, count = tf.constant(FRAMES, tf.int64), replicas.workers(strategy)
  found = {'values': [values(learner, strategy)]}
  for batch in make_batches(learner.agent):
    share = batching.split(batch, count)[index]
    update = learner.update(share, frames)
    for name, value in {
      **update.statistics,
      'parameters': update.parameters,
      'stop': update.stop,
    }.items():
      found.setdefault(name, []).append(value.numpy())
    found['values'].append(values(learner, strategy))
  stopped = learner.update(share, frames, stop=index == count - 1)
  found['stopped'], found['values_when_stopped'] = stopped.stop.numpy(), values(learner, strategy)
  return {name: np.array(value) for name, value in found.items()}


def move(
  learner: learners.Learner,
  strategy: tf.distribute.Strategy,
  config: configs.Config,
  folder: pathlib.Path,
  index: int,
) -> dict[str, np.ndarray]:
  """The chief moves a checkpoint to a single learner, and another one from there to all; returns what both get."""
  alone = tf.distribute.get_strategy()
  single = make_learner(config, alone, seed=9)
  if index == 0:
    many, one = (
      checkpoints.Checkpoints(folder / name, of)
      for name, of in (('many', learner), ('one', single))
    )
    one.restore(many.save(1))
    moved = values(single, alone)
    for variable in single.variables:
      variable.assign_add(tf.ones_like(variable))
    many.restore(one.save(1))
  learner.synchronise()
  return {'back': values(learner, strategy)} | ({'moved': moved} if index == 0 else {})


def refused(act) -> np.ndarray:
  """What the user is told."""
  try:
    act()
  except errors.UserError as error:
    return np.array(str(error))
  return np.array('nothing')


def main(folder: str, devices: str, index: str, *addresses: str) -> None:
  folder, index = pathlib.Path(folder), int(index)
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
  )
  strategy = replicas.make_strategy(int(devices), addresses, index)
  for name, lstm in NETWORKS.items():
    config = make_config(lstm)
    learner = make_learner(config, strategy, seed=1 + index)
    spec = trajectory.specification(SUITE, T, learner.agent.initial_state(1))
    learners.warm_up(learner, spec)
    found = learn(learner, strategy, index) | move(learner, strategy, config, folder / name, index)
    uneven = dataclasses.replace(config, batch_size=B + 1)
    found['uneven'] = refused(lambda: learners.Learner(uneven, SUITE, learner.agent, strategy))
    np.savez(folder / f'{name}_{index}.npz', **found)
  if addresses and index > 0:
    os.kill(os.getpid(), signal.SIGKILL)
  if addresses:
    batch = batching.split(next(make_batches(learner.agent)), replicas.workers(strategy))[index]
    gone = refused(lambda: learner.update(batch, tf.constant(FRAMES, tf.int64)))
    (folder / 'gone.txt').write_text(str(gone))


if __name__ == '__main__':
  main(*sys.argv[1:])
