"""One of several synchronous learners, run as a process by `replicas_test`; results go to files."""

import dataclasses
import os
import pathlib
import signal
import sys
from typing import Callable, Iterator

import numpy as np
import tensorflow as tf

from common import environments, errors
from common.runs import checkpoints
from impala import batching, networks, replicas, trajectory
from impala import config as configs
from impala import learner as learners

T, B, UPDATES = 6, 8, 5
# The update whose loss is not finite.
NOT_FINITE = 3
# Of the gradients' global norm. Those of these batches are several times longer.
MAX_NORM = 5.0
NETWORKS = {'lstm': True, 'feed_forward': False}
# Nothing is played. Batches have trajectories of two tasks.
SUITE = dataclasses.replace(environments.load('gym:CartPole-v1'), tasks=('first', 'second'))
FRAMES_PER_UPDATE = 50


def make_config(lstm: bool) -> configs.Config:
  """The settings of all learners together."""
  return dataclasses.replace(
    configs.PRESETS.preset('gym'),
    unroll_length=T,
    batch_size=B,
    total_frames=1000,
    lstm=lstm,
    # The learners share PopArt's statistics, too.
    popart=not lstm,
    popart_step_size=0.1,
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
  """Batches of all learners together, the same in every process.

  In the batch that is not finite only the last trajectory is not, which the last replica gets.
  """
  rng = np.random.default_rng(7)
  spec = trajectory.specification(SUITE, T, agent.initial_state(1))

  def draw(s: tf.TensorSpec) -> tf.Tensor:
    drawn = rng.normal(size=s.shape) if s.dtype.is_floating else rng.integers(0, 2, s.shape)
    return tf.constant(drawn, s.dtype)

  for number in range(UPDATES):
    trajectories = [tf.nest.map_structure(draw, spec) for _ in range(B)]
    if number == NOT_FINITE:
      trajectories[-1] = trajectories[-1]._replace(reward=trajectories[-1].reward + np.nan)
    yield batching.stack(trajectories)


def values(learner: learners.Learner, strategy: tf.distribute.Strategy) -> np.ndarray:
  """Everything a checkpoint holds, `[P]`; asserts that this process's replicas agree."""
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
  """Takes all updates, then one at which the last learner asks to stop.

  Returns:
    The results of the updates by name, `[UPDATES, ...]`; `values`, before the first and after each;
    `stopped` and `values_when_stopped`, of the update that stops.
  """
  frames = tf.constant(FRAMES_PER_UPDATE, tf.int64)
  num_learners = replicas.workers(strategy)
  found = {'values': [values(learner, strategy)]}
  for batch in make_batches(learner.agent):
    share = batching.split(batch, num_learners)[index]
    update = learner.update(share, frames)
    results = {**update.statistics, **update._asdict()}
    del results['statistics']
    for name, value in results.items():
      found.setdefault(name, []).append(value.numpy())
    found['values'].append(values(learner, strategy))

  stopped = learner.update(share, frames, stop=index == num_learners - 1)
  found['stopped'] = stopped.stop.numpy()
  found['values_when_stopped'] = values(learner, strategy)
  return {name: np.array(value) for name, value in found.items()}


def move(
  learner: learners.Learner,
  strategy: tf.distribute.Strategy,
  config: configs.Config,
  folder: pathlib.Path,
  index: int,
) -> dict[str, np.ndarray]:
  """Moves a checkpoint from several learners to a single one, and another back to all of them.

  Returns:
    `moved`, the values of the single learner, at the chief only; `back`, the values of this one
    after the second checkpoint, in which every variable is larger by one.
  """
  alone = tf.distribute.get_strategy()
  single = make_learner(config, alone, seed=9)
  found = {}
  if index == 0:
    many = checkpoints.Checkpoints(folder / 'many', learner)
    one = checkpoints.Checkpoints(folder / 'one', single)
    one.restore(many.save(1))
    found['moved'] = values(single, alone)
    for variable in single.variables:
      variable.assign_add(tf.ones_like(variable))
    many.restore(one.save(1))
  learner.synchronise()
  found['back'] = values(learner, strategy)
  return found


def refused(act: Callable[[], object]) -> np.ndarray:
  """The message of the `UserError` that `act` raises, or 'nothing'."""
  try:
    act()
  except errors.UserError as error:
    return np.array(str(error))
  return np.array('nothing')


def main(folder_name: str, devices: str, index_text: str, *addresses: str) -> None:
  folder = pathlib.Path(folder_name)
  index = int(index_text)
  cpu = tf.config.list_physical_devices('CPU')[0]
  tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * int(devices)
  )
  strategy = replicas.make_strategy(int(devices), addresses, index, trusted_network=True)

  for name, lstm in NETWORKS.items():
    config = make_config(lstm)
    learner = make_learner(config, strategy, seed=1 + index)
    learners.warm_up(learner, trajectory.specification(SUITE, T, learner.agent.initial_state(1)))
    found = learn(learner, strategy, index) | move(learner, strategy, config, folder / name, index)
    uneven = dataclasses.replace(config, batch_size=B + 1)
    found['uneven'] = refused(lambda: learners.Learner(uneven, SUITE, learner.agent, strategy))
    np.savez(folder / f'{name}_{index}.npz', **found)

  if addresses and index > 0:
    os.kill(os.getpid(), signal.SIGKILL)
  if addresses:
    batch = batching.split(next(make_batches(learner.agent)), replicas.workers(strategy))[index]
    frames = tf.constant(FRAMES_PER_UPDATE, tf.int64)
    gone = refused(lambda: learner.update(batch, frames))
    (folder / 'gone.txt').write_text(str(gone))


if __name__ == '__main__':
  main(*sys.argv[1:])
