"""The parts of Ape-X, DQN or DPG, alone and together: CPU time per inserted or sampled transition.

The replay ratio, samples per inserted transition, weighs the learner's part against the actors': it must be held at a
target (--config.replay_ratio) for the limit to mean anything.
"""

import dataclasses
import pathlib
import tempfile
import time

import numpy as np

from apex import config as configs
from common import environments, errors
from common.config import command_line
from scripts import measuring

PRESETS = configs.PRESETS
_REPLAYED = 20_000  # Transitions in the replay that is measured alone.


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """One round. Speeds in transitions/s, costs in CPU microseconds per transition."""
  if not config.replay_ratio:
    raise errors.UserError(
      'replay_ratio is 0.0, expected more than 0: parts can only be added up at a fixed ratio. '
      'Set it with --config.replay_ratio=VALUE'
    )
  suite = environments.load(config.env, config.environment_options())
  result = {
    'environment': measuring.environments_alone(
      suite, config.num_actors, config.envs_per_actor, seconds
    ),
    'policy': _policy(config, suite, seconds),
    **_replay_and_learner(config, suite, seconds),
  }
  cost = {name: cost for name, (_, cost) in result.items()}
  per_sample = cost['sample'] + cost['learner'] + cost['update_priorities']
  limit = (
    measuring.cores()
    * 1e6
    / (cost['environment'] + cost['policy'] + cost['add'] + config.replay_ratio * per_sample)
  )
  replay = cost['sample'] + cost['update_priorities'] + cost['add'] / config.replay_ratio
  together = _together(config, seconds)
  return (
    {f'{name}_alone': speed for name, (speed, _) in result.items()}
    | {f'{name}_cost': value for name, value in cost.items()}
    | together
    | {
      'limit': limit,
      'ratio': together['transitions_in'] / limit,
      'replay_share': replay / cost['learner'],
      'frames_per_second': together['transitions_in'] / config.replicas * suite.action_repeat,
    }
  )


def table(config: configs.Config, result: dict) -> str:
  """The medians as text."""
  network = config.torso if config.algorithm == 'dqn' else config.algorithm
  lines = [
    f'{config.env}: batch {config.batch_size}, {config.num_actors} actors of {config.envs_per_actor} '
    f'environments, {network} network, replay ratio {config.replay_ratio}, {result["cores"]} cores; medians of '
    f'{len(result["rounds"])}',
    f'{"part":<20}{"transitions/s alone":>20}{"CPU us/transition":>20}',
  ]
  for name in ('environment', 'policy', 'add', 'sample', 'learner', 'update_priorities'):
    lines.append(f'{name:<20}{result[f"{name}_alone"]:>20,.0f}{result[f"{name}_cost"]:>20.1f}')
  lines.append(f'replay: {result["replay_share"]:.1%} of the learner')
  lines.append(
    f'all together: {result["transitions_in"]:,.0f} transitions/s in, {result["transitions_out"]:,.0f} out, '
    f'replay ratio {result["measured_replay_ratio"]:.3f}, {result["cores_busy"]:.2f} cores busy'
  )
  lines.append(f'limit: {result["limit"]:,.0f} transitions/s in')
  lines.append(f'ratio {result["ratio"]:.3f}   ({result["frames_per_second"]:,.0f} frames/s)')
  return '\n'.join(lines)


def _policy(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> tuple[float, float]:
  """As many threads as actors, each with a network of its own, on observations that an environment gave."""
  from apex import algorithms

  environment = suite.make([suite.tasks[0]] * config.envs_per_actor, True)
  observation = environment.reset(seed=0)[0]['observation'].copy()
  environment.close()
  make_policy, store = algorithms.module(config).make_policy, _store(config, suite)
  policies = [make_policy(config, suite, store, i, seed=i) for i in range(config.num_actors)]
  return measuring.measure(
    lambda i: policies[i](observation), config.num_actors, config.envs_per_actor, seconds
  )


def _replay_and_learner(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> dict[str, tuple[float, float]]:
  """Each operation on a replay of an actor's transitions, and updates on a sample of it."""
  import tensorflow as tf

  from apex import learner
  from apex import replay as replays

  config = dataclasses.replace(config, replay_capacity=_REPLAYED)
  replay = replays.make(config, suite)
  blocks = [
    tf.nest.map_structure(tf.constant, shipment.block) for shipment in _collect(config, suite)
  ]
  for block in blocks:
    replays.insert(config, replay, block)
  count = iter(range(10**12))
  add = lambda i: replays.insert(config, replay, blocks[next(count) % len(blocks)])
  samples = [replay.sample(config.batch_size) for _ in range(20)]
  priorities = [(s.leaf, s.stamp, s.priority) for s in samples]
  trained = learner.Learner(config, suite)
  parts = {
    'sample': (lambda i: replay.sample(config.batch_size), config.batch_size),
    'update_priorities': (
      lambda i: replay.update_priorities(*priorities[next(count) % len(priorities)]),
      config.batch_size,
    ),
    'learner': (
      lambda i: trained.update(samples[0]).statistics['finite'].numpy(),
      config.batch_size,
    ),
    # At the end, as it writes over what was sampled.
    'add': (add, np.mean([block.valid.numpy().sum() for block in blocks])),
  }
  return {
    name: measuring.measure(step, 1, transitions, seconds)
    for name, (step, transitions) in parts.items()
  }


def _collect(config: configs.Config, suite: environments.Suite) -> list:
  """An actor's shipments, as they come, of a replay's worth of transitions."""
  from apex import actor, algorithms

  policy = algorithms.module(config).make_policy(config, suite, _store(config, suite), 0, seed=0)
  collector = actor.Actor(
    0, suite, [suite.tasks[0]] * config.envs_per_actor, policy, config, seed=0
  )
  shipments = []
  collector.run(shipments.append, lambda: sum(s.block.valid.sum() for s in shipments) >= _REPLAYED)
  return shipments


def _store(config: configs.Config, suite: environments.Suite):
  from apex import algorithms
  from common.distributed import parameters

  networks = algorithms.module(config).make_networks(config, suite)
  return parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(networks.trainable_variables))
  )


def _together(config: configs.Config, seconds: float) -> dict[str, float]:
  from apex import system

  config = dataclasses.replace(config, total_frames=10**12)
  with tempfile.TemporaryDirectory() as folder:
    options = command_line.Options(pathlib.Path(folder, "run"), resume=False)
    training = system.APEX.make_run(config, options, cluster.Cluster())
    crew = training.start()
    try:
      while training.learner.updates.numpy() < 2:
        _raise_error(crew)
        time.sleep(0.1)
      time.sleep(measuring.WARM_UP_SECONDS)
      before = _counts(training)
      time.sleep(seconds)
      _raise_error(crew)
      after = _counts(training)
    finally:
      crew.end()
  elapsed, cpu, inserted, updates = (last - first for first, last in zip(before, after))
  sampled = updates * config.batch_size
  return {
    'transitions_in': inserted / elapsed,
    'transitions_out': sampled / elapsed,
    'measured_replay_ratio': sampled / inserted,
    'cores_busy': cpu / elapsed,
  }


def _counts(training) -> tuple[float, float, int, int]:
  """Time, CPU time, transitions inserted and updates made so far."""
  return (
    time.monotonic(),
    measuring.cpu_seconds(),
    training.ratio.inserted,
    int(training.learner.updates),
  )


def _raise_error(crew) -> None:
  if crew.error:
    raise crew.error
