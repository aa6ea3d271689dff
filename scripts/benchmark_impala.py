"""The parts of IMPALA, alone and together: CPU time per agent step."""

import dataclasses
import pathlib
import tempfile
import time

import numpy as np

from common import environments
from common.config import command_line
from common.distributed import cluster
from impala import config as configs
from scripts import measuring

PRESETS = configs.PRESETS


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """One round. Speeds in agent steps/s, costs in CPU microseconds per agent step."""
  suite = environments.load(config.env, config.environment_options())
  config.fit(suite)
  parts = {
    'environment': measuring.environments_alone(
      suite, config.num_actors, config.envs_per_actor, seconds
    ),
    'policy': _policy(config, suite, seconds),
    'learner': _learner(config, suite, seconds),
  }
  end_to_end, cost = together(config, seconds)
  cores = measuring.cores()
  limit = cores * 1e6 / sum(cost for _, cost in parts.values())
  result = {
    'end_to_end': end_to_end,
    'limit': limit,
    'ratio': end_to_end / limit,
    'frames_per_second': end_to_end * suite.action_repeat,
    'end_to_end_cost': cost,
    'cores_busy': end_to_end * cost / 1e6,
  }
  for name, (speed, cost) in parts.items():
    result |= {f'{name}_alone': speed, f'{name}_cost': cost}
  return result


def _policy(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> tuple[float, float]:
  """As many threads as actors, each with a network of its own, on observations that an environment gave."""
  from common.distributed import parameters
  from impala import networks, policy

  environment = suite.make(
    environments.assign(suite.tasks, 0, config.num_actors, config.envs_per_actor), True
  )
  observation, _ = environment.reset(seed=0)
  inputs = networks.AgentInput(
    {name: np.array(values) for name, values in observation.items()},
    np.zeros(config.envs_per_actor, np.int32),
    np.zeros(config.envs_per_actor, np.float32),
    np.zeros(config.envs_per_actor, bool),
  )
  environment.close()
  agents = [networks.make_agent(config, suite) for _ in range(config.num_actors)]
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(agents[0].trainable_variables))
  )
  policies = [policy.LocalPolicy(agent, suite, store, seed) for seed, agent in enumerate(agents)]
  state = agents[0].initial_state(config.envs_per_actor)

  def step(i: int) -> None:
    decision = policies[i](inputs, state)
    decision.actions.numpy(), decision.logits.numpy()

  return measuring.measure(step, config.num_actors, config.envs_per_actor, seconds)


def _learner(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> tuple[float, float]:
  """Updates on one batch of an actor's trajectories."""
  import tensorflow as tf

  from impala import batching, learner, networks

  agent = networks.make_agent(config, suite)
  collected = collect(config, suite, agent, config.batch_size)
  batch = batching.stack(batching.unstack(collected, config.batch_size))
  trained = learner.Learner(config, suite, agent)
  frames = tf.constant(0, tf.int64)
  return measuring.measure(
    lambda i: trained.update(batch, frames).statistics['finite'].numpy(),
    1,
    config.batch_size * config.unroll_length,
    seconds,
  )


def collect(config: configs.Config, suite: environments.Suite, agent, count: int):
  """`count` trajectories of an actor, `[count, ...]`."""
  import tensorflow as tf

  from common.distributed import parameters
  from impala import actor, policy

  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(agent.trainable_variables))
  )
  collector = actor.Actor(
    0,
    suite,
    environments.assign(suite.tasks, 0, config.num_actors, config.envs_per_actor),
    policy.LocalPolicy(agent, suite, store, 0),
    config.unroll_length,
    seed=0,
  )
  unrolls = []
  collector.run(unrolls.append, lambda: len(unrolls) * config.envs_per_actor >= count)
  return tf.nest.map_structure(lambda *x: np.concatenate(x)[:count], *unrolls)


def together(
  config: configs.Config, seconds: float, who: cluster.Cluster = cluster.Cluster()
) -> tuple[float, float]:
  """Training as it is, with actors as `who` says; returns as `measuring.measure`."""
  from impala import system

  with tempfile.TemporaryDirectory() as folder:
    config = dataclasses.replace(config, total_frames=10**12)
    options = command_line.Options(pathlib.Path(folder, "run"), resume=False)
    training = system.IMPALA.make_run(config, options, who)
    crew = training.start()
    try:
      _wait_for_update(training, crew)
      time.sleep(measuring.WARM_UP_SECONDS)
      frames, cpu, started = _wait_for_update(training, crew)
      time.sleep(seconds)
      last_frames, last_cpu, ended = _wait_for_update(training, crew)
    finally:
      crew.end()
      training.host.close(finished=True)
  steps = (last_frames - frames) / environments.load(
    config.env, config.environment_options()
  ).action_repeat
  return steps / (ended - started), 1e6 * (last_cpu - cpu) / steps


def _wait_for_update(training, crew) -> tuple[int, float, float]:
  """Frames, CPU time and time at the next update's end: whole updates are measured, however long one takes."""
  before = training.frames()
  while training.frames() == before:
    if crew.error:
      raise crew.error
    time.sleep(0.01)
  return training.frames(), measuring.cpu_seconds(), time.monotonic()


def table(config: configs.Config, result: dict) -> str:
  lines = [
    f'{config.env}: T={config.unroll_length}, B={config.batch_size}, {config.num_actors} actors of '
    f'{config.envs_per_actor} environments, {config.torso}{" LSTM" if config.lstm else ""}, '
    f'{measuring.cores()} cores; medians of {len(result["rounds"])}',
    f'{"part":<16}{"steps/s alone":>16}{"CPU us/step":>14}',
  ]
  for name in ('environment', 'policy', 'learner'):
    lines.append(f'{name:<16}{result[f"{name}_alone"]:>16,.0f}{result[f"{name}_cost"]:>14.0f}')
  lines.append(
    f'{"all together":<16}{result["end_to_end"]:>16,.0f}{result["end_to_end_cost"]:>14.0f}'
    f'   ({result["cores_busy"]:.2f} cores busy)'
  )
  lines.append(f'{"limit":<16}{result["limit"]:>16,.0f}')
  lines.append(f'ratio {result["ratio"]:.3f}   ({result["frames_per_second"]:,.0f} frames/s)')
  return '\n'.join(lines)
