"""Measures the parts of Ape-X DQN or DPG, alone and together, in CPU time per transition.

Costs of actors are per inserted transition, those of the learner per sampled one. The replay ratio,
samples per inserted transition, weighs them against each other, so the limit is only defined if
training holds a target (--config.replay_ratio).
"""

from __future__ import annotations

import dataclasses
import itertools
import pathlib
import tempfile
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from apex import config as configs
from common import environments, errors
from common.config import command_line
from common.distributed import cluster
from common.machine import cores
from scripts import measuring

# Modules that import TensorFlow are imported in functions: the benchmark first silences its notes.
if TYPE_CHECKING:
  from apex import actor, run, transitions
  from common.distributed import parameters
  from common.machine import threads

PRESETS = configs.PRESETS

# Transitions in the replay that is measured alone.
_REPLAYED = 20_000
# Samples whose priorities are updated in turn: updates of the same leaves would all be cached.
_SAMPLES = 20
_PARTS = ('environment', 'policy', 'add', 'sample', 'learner')


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """Measures one round: speeds in transitions/s, costs in CPU microseconds per transition.

  Raises:
    UserError: If the replay ratio has no target.
  """
  if not config.replay_ratio:
    raise errors.UserError(
      'replay_ratio is 0.0, expected more than 0: parts can only be added up at a fixed ratio. '
      'Set it with --config.replay_ratio=VALUE'
    )
  suite = environments.load(config.env, config.environment_options())
  measuring.say(f'{config.env}: environment')
  environment = measuring.environments_alone(
    suite, config.num_actors, config.envs_per_actor, seconds
  )
  measuring.say(f'{config.env}: policy, actor')
  parts = {
    'environment': environment,
    'policy': _policy(config, suite, seconds),
    'actor': _actors(config, suite, seconds),
    **_replay_and_learner(config, suite, seconds),
  }
  cost = {name: part.cpu_microseconds for name, part in parts.items()}

  per_inserted = cost['environment'] + cost['policy'] + cost['add']
  per_sampled = cost['sample'] + cost['learner']
  limit = cores.count() * 1e6 / (per_inserted + config.replay_ratio * per_sampled)
  # Of all work on the replay, per sampled transition.
  replay = cost['sample'] + cost['add'] / config.replay_ratio

  measuring.say(f'{config.env}: all together')
  together = _together(config, seconds)
  # With replicas, one agent step inserts several transitions.
  agent_steps = together['transitions_in'] / config.replicas
  return {
    **{f'{name}_alone': part.steps_per_second for name, part in parts.items()},
    **{f'{name}_cost': value for name, value in cost.items()},
    **together,
    'actor_python_cost': cost['actor'] - cost['environment'] - cost['policy'],
    'limit': limit,
    'ratio': together['transitions_in'] / limit,
    'replay_share': replay / cost['learner'],
    'frames_per_second': agent_steps * suite.action_repeat,
  }


def table(config: configs.Config, result: dict[str, Any]) -> str:
  """Formats the medians."""
  network = config.torso if config.algorithm == 'dqn' else config.algorithm
  lines = [
    f'{config.env}: batch {config.batch_size}, {config.num_actors} actors of '
    f'{config.envs_per_actor} environments, {network} network, '
    f'replay ratio {config.replay_ratio}, {result["cores"]} cores; '
    f'medians of {len(result["rounds"])}',
    f'{"part":<20}{"transitions/s alone":>20}{"CPU us/transition":>20}',
  ]
  for name in _PARTS:
    lines.append(f'{name:<20}{result[f"{name}_alone"]:>20,.0f}{result[f"{name}_cost"]:>20.1f}')
  lines += [
    f'{"Python, actor":<40}{result["actor_python_cost"]:>20.1f}',
    f'replay: {result["replay_share"]:.1%} of the learner',
    f'all together: {result["transitions_in"]:,.0f} transitions/s in, '
    f'{result["transitions_out"]:,.0f} out, '
    f'replay ratio {result["measured_replay_ratio"]:.3f}, {result["cores_busy"]:.2f} cores busy',
    f'limit: {result["limit"]:,.0f} transitions/s in',
    f'ratio {result["ratio"]:.3f}   ({result["frames_per_second"]:,.0f} frames/s)',
  ]
  return '\n'.join(lines)


def _policy(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """One thread and one network per actor; every step sees the same observation."""
  from apex import algorithms

  environment = suite.make([suite.tasks[0]] * config.envs_per_actor, True)
  # Copies, since an environment may reuse its buffers and frees them when it closes.
  observation = {name: part.copy() for name, part in environment.reset(seed=0)[0].items()}
  environment.close()

  make_policy = algorithms.module(config).make_policy
  store = _store(config, suite)
  actors = range(config.num_actors)
  policies = [make_policy(config, suite, store, i, seed=i, frames=lambda: 0) for i in actors]
  no_start = np.zeros(config.envs_per_actor, bool)
  return measuring.measure(
    lambda i: policies[i](observation, no_start), config.num_actors, config.envs_per_actor, seconds
  )


def _actors(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """Actors whose transitions nobody takes."""
  made = [_actor(config, suite, i) for i in range(config.num_actors)]

  def runner(acting: actor.Actor) -> Callable[[Callable[[], None], Callable[[], bool]], None]:
    def run(count: Callable[[], None], stopped: Callable[[], bool]) -> None:
      def put(shipment: transitions.Shipment) -> None:
        for _ in shipment.environment:
          count()

      acting.run(put, stopped)

    return run

  return measuring.loops([runner(acting) for acting in made], config.block_length, seconds)


def _actor(config: configs.Config, suite: environments.Suite, index: int) -> actor.Actor:
  """An actor with the parameters of a new network."""
  from apex import actor, algorithms

  make_policy = algorithms.module(config).make_policy
  store = _store(config, suite)
  policy = make_policy(config, suite, store, index, seed=index, frames=lambda: 0)
  tasks = [suite.tasks[0]] * config.envs_per_actor
  return actor.Actor(index, suite, tasks, policy, config, seed=index)


def _replay_and_learner(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> dict[str, measuring.Speed]:
  """Each operation on a replay of an actor's transitions, and updates on a sample of it."""
  import tensorflow as tf

  from apex import learner, writer
  from apex import replay as replays
  from common.replay import structures

  measuring.say(f'{config.env}: replay, learner')
  config = dataclasses.replace(config, replay_capacity=_REPLAYED)
  replay = replays.make(config, suite)
  # Tensors of as many blocks as the writer adds at once, as a queue gives them to it.
  collected = tf.nest.map_structure(lambda *parts: tf.concat(parts, 0), *_collect(config, suite))
  count = writer.blocks_of_an_update(config)
  shipments = [
    tf.nest.map_structure(lambda part, i=i: part[i : i + count], collected)
    for i in range(0, len(collected.environment) - count + 1, count)
  ]
  for shipment in shipments:
    replays.insert(config, replay, shipment)
  samples = [replay.sample(config.batch_size) for _ in range(_SAMPLES)]
  trained = learner.Learner(config, suite)

  next_shipment = itertools.cycle(shipments)
  next_sample = itertools.cycle(samples)

  # One thread calls each of these, so none needs its number.
  def sample(_: int) -> None:
    # With the priorities of an earlier sample, as in training.
    drawn = next(next_sample)
    changed = structures.Priorities(drawn.leaf, drawn.stamp, drawn.priority)
    replay.update_and_sample(changed, config.batch_size)

  def update(_: int) -> None:
    # Fetching a value waits for the update.
    trained.update(samples[0]).statistics['finite'].numpy()

  def add(_: int) -> None:
    replays.insert(config, replay, next(next_shipment))

  transitions_per_block = float(np.mean([s.block.valid.numpy().sum() for s in shipments]))
  return {
    'sample': measuring.measure(sample, 1, config.batch_size, seconds),
    'learner': measuring.measure(update, 1, config.batch_size, seconds),
    # Last, since it overwrites what was sampled.
    'add': measuring.measure(add, 1, transitions_per_block, seconds),
  }


def _collect(config: configs.Config, suite: environments.Suite) -> list[Any]:
  """Runs an actor until its shipments hold enough transitions to fill the replay."""
  collector = _actor(config, suite, 0)
  shipments: list[Any] = []

  def is_full() -> bool:
    return sum(shipment.block.valid.sum() for shipment in shipments) >= _REPLAYED

  collector.run(shipments.append, is_full)
  return shipments


def _store(config: configs.Config, suite: environments.Suite) -> parameters.ParameterStore:
  """A store with the parameters of a new network."""
  from apex import algorithms
  from common.distributed import parameters

  networks = algorithms.module(config).make_networks(config, suite)
  return parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(parameters.published(networks)))
  )


def _together(config: configs.Config, seconds: float) -> dict[str, float]:
  """Measures training as it is, once the learner has started."""
  from apex import system

  # Never ends by itself.
  config = dataclasses.replace(config, total_frames=10**12)
  with tempfile.TemporaryDirectory() as folder:
    options = command_line.Options(pathlib.Path(folder, 'run'), resume=False)
    training = system.APEX.make_run(config, options, cluster.Cluster())
    crew = training.start()
    try:
      # Before, the replay was filling; the first update traces the learner's graph.
      while training.learner.updates.numpy() < 2:
        _raise_error(crew)
        time.sleep(0.1)
      time.sleep(measuring.WARM_UP_SECONDS)
      first = _read(training)
      time.sleep(seconds)
      _raise_error(crew)
      last = _read(training)
    finally:
      crew.end()

  elapsed = last.time - first.time
  inserted = last.inserted - first.inserted
  sampled = (last.updates - first.updates) * config.batch_size
  return {
    'transitions_in': inserted / elapsed,
    'transitions_out': sampled / elapsed,
    'measured_replay_ratio': sampled / inserted,
    'cores_busy': (last.cpu_seconds - first.cpu_seconds) / elapsed,
  }


class _Reading(NamedTuple):
  """The state of training at one time."""

  time: float
  cpu_seconds: float
  inserted: int  # Transitions so far.
  updates: int


def _read(training: run.Run) -> _Reading:
  return _Reading(
    time=time.monotonic(),
    cpu_seconds=measuring.cpu_seconds(),
    inserted=training.ratio.inserted,
    updates=int(training.learner.updates),
  )


def _raise_error(crew: threads.Crew) -> None:
  if crew.error:
    raise crew.error
