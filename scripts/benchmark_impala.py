"""Measures IMPALA's parts, alone and together, in CPU time per agent step."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from common import environments
from common.config import command_line
from common.distributed import cluster
from common.machine import cores
from impala import config as configs
from scripts import measuring

# Modules that import TensorFlow are imported in functions: the benchmark first silences its notes.
if TYPE_CHECKING:
  from common.machine import threads
  from impala import actor, batching, networks, run

PRESETS = configs.PRESETS

# What TensorFlow and environments do; the rest is ours.
_LIMITING = ('environment', 'policy', 'learner')


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """Measures one round: speeds in agent steps/s, costs in CPU microseconds per agent step."""
  suite = environments.load(config.env, config.environment_options())
  config.fit(suite)
  parts = {}
  for name, measure_part in _measures(config, suite, seconds).items():
    measuring.say(f'{config.env}: {name}')
    parts[name] = measure_part()
  measuring.say(f'{config.env}: all together')
  speed, cost = together(config, seconds)

  limit = cores.count() * 1e6 / sum(parts[name].cpu_microseconds for name in _LIMITING)
  result = {
    'end_to_end': speed,
    'limit': limit,
    'ratio': speed / limit,
    'frames_per_second': speed * suite.action_repeat,
    'end_to_end_cost': cost,
    'cores_busy': speed * cost / 1e6,
  }
  for name, part in parts.items():
    result[f'{name}_alone'] = part.steps_per_second
    result[f'{name}_cost'] = part.cpu_microseconds
  # Measured with what they call.
  result['actor_python_cost'] = (
    result['actor_cost'] - result['environment_cost'] - result['policy_cost']
  )
  result['learner_python_cost'] = result['loop_cost'] - result['learner_cost']

  from scripts import flops

  # What a core could do, if nothing but products took time.
  peak = flops.peak()
  result['gflops_of_a_core'] = peak / 1e9
  for name, operations in _operations(config, suite).items():
    result[f'{name}_operations'] = operations
    result[f'{name}_share_of_peak'] = operations / peak / (result[f'{name}_cost'] / 1e6)
  return result


# Longer unrolls are loops in the graph, which cannot be counted.
_COUNTED_STEPS = 20


def _operations(config: configs.Config, suite: environments.Suite) -> dict[str, float]:
  """Floating point operations of an agent step, by policy and learner."""
  import tensorflow as tf

  from impala import batching, learner, networks, policy, trajectory
  from scripts import flops

  agent = networks.make_agent(config, suite)

  def decide(inputs: networks.AgentInput, core_state: Any) -> policy.Decision:
    return policy.decide(agent, suite, inputs, core_state, seed=0)

  def count(function: Callable[..., Any], *arguments: Any) -> int:
    graph = tf.function(function, autograph=False).get_concrete_function(*arguments).graph
    return flops.of_graph(graph)

  acting = count(decide, policy.example_inputs(suite, 1), agent.initial_state(1))

  spec = trajectory.specification(suite, _COUNTED_STEPS, agent.initial_state(1))
  unroll = tf.nest.map_structure(lambda s: tf.zeros([1, *s.shape], s.dtype), spec)
  learned = count(learner.Learner(config, suite, agent).gradients, batching.of_unroll(unroll))
  # T + 1 entries for T steps.
  entries = (config.unroll_length + 1) / config.unroll_length
  return {'policy': acting, 'learner': learned / (_COUNTED_STEPS + 1) * entries}


def _measures(
  config: configs.Config, suite: environments.Suite, seconds: float
) -> dict[str, Callable[[], measuring.Speed]]:
  """What measures each part."""
  count = config.envs_per_actor
  return {
    'environment': lambda: measuring.environments_alone(suite, config.num_actors, count, seconds),
    'policy': lambda: _policy(config, suite, seconds),
    'actor': lambda: _actors(config, suite, seconds),
    'queue': lambda: _queue(config, suite, seconds),
    'learner': lambda: _learner(config, suite, seconds),
    'loop': lambda: _loop(config, suite, seconds),
  }


def _policy(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """One thread and one network per actor; every step sees the same observation."""
  from common.distributed import parameters
  from impala import networks, policy

  inputs = _first_inputs(config, suite)
  agents = [networks.make_agent(config, suite) for _ in range(config.num_actors)]
  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(parameters.published(agents[0])))
  )
  policies = [policy.LocalPolicy(agent, suite, store, seed) for seed, agent in enumerate(agents)]
  core_state = agents[0].initial_state(config.envs_per_actor)

  def step(i: int) -> None:
    decision = policies[i](inputs, core_state)
    # An actor needs both as arrays, and on a GPU only fetching them waits for the computation.
    decision.actions.numpy()
    decision.logits.numpy()

  return measuring.measure(step, config.num_actors, config.envs_per_actor, seconds)


def _first_inputs(config: configs.Config, suite: environments.Suite) -> networks.AgentInput:
  """What one actor's environments show when they are reset."""
  from impala import networks

  count = config.envs_per_actor
  environment = suite.make(environments.assign(suite.tasks, 0, config.num_actors, count), True)
  observation, _ = environment.reset(seed=0)
  # Copies, since an environment may reuse its buffers and frees them when it closes.
  copied = {name: np.array(values) for name, values in observation.items()}
  environment.close()
  return networks.AgentInput(
    observation=copied,
    last_action=np.zeros(count, np.int32),
    reward=np.zeros(count, np.float32),
    done=np.zeros(count, bool),
  )


def _learner(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """Updates on one batch of trajectories, again and again."""
  import tensorflow as tf

  from impala import batching, learner, networks

  agent = networks.make_agent(config, suite)
  collected = collect(config, suite, agent, config.batch_size)
  batch = batching.stack(batching.unstack(collected, config.batch_size))
  trained = learner.Learner(config, suite, agent)
  frames = tf.constant(0, tf.int64)

  def update(i: int) -> None:
    del i  # There is one thread.
    # Fetching a value waits for the update.
    trained.update(batch, frames).statistics['finite'].numpy()

  return measuring.measure(update, 1, config.batch_size * config.unroll_length, seconds)


def _actors(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """Actors whose trajectories nobody takes."""
  from impala import networks

  made = [
    _actor(config, suite, networks.make_agent(config, suite), i) for i in range(config.num_actors)
  ]

  def runner(acting: actor.Actor) -> Callable[[Callable[[], None], Callable[[], bool]], None]:
    return lambda count, stopped: acting.run(lambda _: count(), stopped)

  steps = config.envs_per_actor * config.unroll_length
  return measuring.loops([runner(acting) for acting in made], steps, seconds)


def _queue(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """One unroll, again and again, from an actor into batches."""
  from common.distributed import queues
  from impala import batching, networks, trajectory

  agent = networks.make_agent(config, suite)
  unroll = collect(config, suite, agent, config.envs_per_actor)
  spec = trajectory.specification(suite, config.unroll_length, agent.initial_state(1))
  queue = queues.StructureQueue(spec, config.queue_capacity)
  batches = batching.from_queue(queue, config.batch_size, None, 0)

  def put() -> None:
    with contextlib.suppress(queues.QueueClosed):
      while True:
        queue.put_many(unroll)

  def take(count: Callable[[], None], stopped: Callable[[], bool]) -> None:
    while not stopped():
      next(batches)
      count()

  putting = threading.Thread(target=put)
  putting.start()
  try:
    return measuring.loops([take], config.batch_size * config.unroll_length, seconds)
  finally:
    queue.close()
    putting.join()


def _loop(config: configs.Config, suite: environments.Suite, seconds: float) -> measuring.Speed:
  """The learner's thread, with all that it does beside the update, on one batch."""
  from impala import batching, networks, system

  batch_size = config.batch_size
  collected = collect(config, suite, networks.make_agent(config, suite), batch_size)
  with tempfile.TemporaryDirectory() as folder:
    training = system.IMPALA.make_run(_endless(config), _options(folder), cluster.Cluster())
    unstacked = batching.unstack(collected, batch_size)
    batch = batching.Batch(batching.stack(unstacked), np.zeros(0, np.int64))
    stop = threading.Event()

    def learn(count: Callable[[], None], stopped: Callable[[], bool]) -> None:
      def batches() -> Iterator[batching.Batch]:
        while not stopped():
          yield batch
          count()

      training.learn(batches(), stop)

    try:
      return measuring.loops([learn], batch_size * config.unroll_length, seconds)
    finally:
      training.close_queues()
      training.host.close(finished=True)


def _endless(config: configs.Config) -> configs.Config:
  return dataclasses.replace(config, total_frames=10**12)


def _options(folder: str) -> command_line.Options:
  return command_line.Options(pathlib.Path(folder, 'run'), resume=False)


def _actor(
  config: configs.Config, suite: environments.Suite, agent: networks.Agent, index: int
) -> actor.Actor:
  """An actor with a network's parameters."""
  from common.distributed import parameters
  from impala import actor, policy

  store = parameters.ParameterStore(
    parameters.Snapshot(0, parameters.flatten(parameters.published(agent)))
  )
  tasks = environments.assign(suite.tasks, index, config.num_actors, config.envs_per_actor)
  acting = policy.LocalPolicy(agent, suite, store, index)
  return actor.Actor(index, suite, tasks, acting, config.unroll_length, seed=index)


def collect(
  config: configs.Config, suite: environments.Suite, agent: networks.Agent, count: int
) -> Any:
  """Runs an actor until it has `count` trajectories; returns them as one, `[count, ...]`."""
  import tensorflow as tf

  collector = _actor(config, suite, agent, 0)
  unrolls: list[Any] = []
  collector.run(unrolls.append, lambda: len(unrolls) * config.envs_per_actor >= count)
  # Each put has envs_per_actor trajectories, so the last may go beyond `count`.
  return tf.nest.map_structure(lambda *x: np.concatenate(x)[:count], *unrolls)


def together(
  config: configs.Config,
  seconds: float,
  who: cluster.Cluster = cluster.Cluster(),
  warm_up: float = measuring.WARM_UP_SECONDS,
) -> measuring.Speed:
  """Measures training as it is.

  Args:
    config: The run's settings.
    seconds: Length of the measurement, which ends with the first update after it.
    who: This process's role: with its actors in threads, or in other processes.
    warm_up: Seconds from the first update to the measurement.
  """
  from impala import system

  with tempfile.TemporaryDirectory() as folder:
    # Never ends by itself.
    training = system.IMPALA.make_run(_endless(config), _options(folder), who)
    crew = training.start()
    try:
      _wait_for_update(training, crew)
      time.sleep(warm_up)
      first = _wait_for_update(training, crew)
      time.sleep(seconds)
      last = _wait_for_update(training, crew)
    finally:
      crew.end()
      training.host.close(finished=True)

  suite = environments.load(config.env, config.environment_options())
  steps = (last.frames - first.frames) / suite.action_repeat
  return measuring.Speed(
    steps / (last.time - first.time), 1e6 * (last.cpu_seconds - first.cpu_seconds) / steps
  )


class _Reading(NamedTuple):
  """The state of training at the end of an update."""

  frames: int  # Environment frames so far.
  cpu_seconds: float
  time: float


def _wait_for_update(training: run.Run, crew: threads.Crew) -> _Reading:
  """Waits for the end of an update: with whole updates, their length does not distort the speed."""
  before = training.frames()
  while training.frames() == before:
    if crew.error:
      raise crew.error
    time.sleep(0.01)
  return _Reading(training.frames(), measuring.cpu_seconds(), time.monotonic())


def table(config: configs.Config, result: dict[str, Any]) -> str:
  """Formats the medians."""
  suite = environments.load(config.env, config.environment_options())
  network = f'{config.torso_for(suite)}{" LSTM" if config.lstm else ""}'
  lines = [
    f'{config.env}: T={config.unroll_length}, B={config.batch_size}, {config.num_actors} actors of '
    f'{config.envs_per_actor} environments, {network}, '
    f'{cores.count()} cores; medians of {len(result["rounds"])}',
    f'{"part":<16}{"steps/s alone":>16}{"CPU us/step":>14}',
  ]
  for name in (*_LIMITING, 'queue'):
    lines.append(f'{name:<16}{result[f"{name}_alone"]:>16,.0f}{result[f"{name}_cost"]:>14.1f}')
  for name in ('actor', 'learner'):
    cost = result[f'{name}_python_cost']
    lines.append(f'{f"Python, {name}":<16}{"":>16}{cost:>14.1f}')
  lines += [
    f'{"all together":<16}{result["end_to_end"]:>16,.0f}{result["end_to_end_cost"]:>14.1f}'
    f'   ({result["cores_busy"]:.2f} cores busy)',
    f'{"limit":<16}{result["limit"]:>16,.0f}',
    f'ratio {result["ratio"]:.3f}   ({result["frames_per_second"]:,.0f} frames/s)',
    f'a core reaches {result["gflops_of_a_core"]:.0f} GFLOP/s in a large matrix product; of these,'
    + ' and'.join(
      f' the {name} has {result[f"{name}_share_of_peak"]:.2f} '
      f'({result[f"{name}_operations"] / 1e6:.2f} MFLOP a step)'
      for name in ('policy', 'learner')
    ),
  ]
  return '\n'.join(lines)
