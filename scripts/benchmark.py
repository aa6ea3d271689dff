"""Measures speed as a ratio to what the machine can give: `scripts/benchmark.py impala --env=NAME --seconds=S`.

Every part of the system runs alone first (environments, policy, learner), which gives its cost in CPU time per agent
step; the sum of these costs and the number of cores give the limit. Then all parts run together, as in training. Each is
measured in the same process, one after the other, `--rounds` times, and medians are shown.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import threading
import time
from typing import Any, Callable, Sequence

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

from absl import flags
import numpy as np

from common import command_line, environments, errors, files, janitor
from impala import config as configs

_WARM_UP_SECONDS = 5.0


def main(argv: Sequence[str]) -> int:
  """Runs the benchmark named first on the command line."""
  if len(argv) < 2 or argv[1] != 'impala':
    raise errors.UserError(f'expected what to measure: {argv[0]} impala --env=NAME --seconds=S')
  values, rest = flags.FlagValues(), argv[:1] + argv[2:]
  flags.DEFINE_float('seconds', 20.0, 'Length of each measurement.', lower_bound=1.0, flag_values=values)
  flags.DEFINE_integer('rounds', 3, 'How often to measure all.', lower_bound=1, flag_values=values)
  flags.DEFINE_string('json', None, 'Write the results to this file.', flag_values=values)
  rest = [rest[0], *values(list(rest), known_only=True)[1:]]
  config, _ = command_line.parse(
      rest, __doc__, configs.preset, list(configs.PRESETS), configs.preset_for, configs.from_json)
  with janitor.attend():
    command_line.import_tensorflow()
    rounds = [measure_impala(config, values.seconds) for _ in range(values.rounds)]
  result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
  result |= {'env': config.env, 'cores': len(os.sched_getaffinity(0)), 'rounds': rounds}
  print(_table(config, result))
  if values.json:
    with files.replacing(pathlib.Path(values.json)) as file:
      json.dump(result, file, indent=1)
  return 0


def measure_impala(config: configs.Config, seconds: float) -> dict[str, float]:
  """One round. Speeds in agent steps/s, costs in CPU microseconds per agent step."""
  suite = environments.load(config.env)
  parts = {'environment': _environments(config, suite, seconds), 'policy': _policy(config, suite, seconds),
           'learner': _learner(config, suite, seconds)}
  end_to_end, cost = _together(config, seconds)
  cores = len(os.sched_getaffinity(0))
  limit = cores * 1e6 / sum(cost for _, cost in parts.values())
  result = {'end_to_end': end_to_end, 'limit': limit, 'ratio': end_to_end / limit,
            'frames_per_second': end_to_end * suite.action_repeat, 'end_to_end_cost': cost,
            'cores_busy': end_to_end * cost / 1e6}
  for name, (speed, cost) in parts.items():
    result |= {f'{name}_alone': speed, f'{name}_cost': cost}
  return result


def _environments(config: configs.Config, suite: environments.Suite, seconds: float) -> tuple[float, float]:
  """As many threads as actors, random actions."""
  made = [suite.make(environments.assign(suite.tasks, i * config.envs_per_actor, config.envs_per_actor), True)
          for i in range(config.num_actors)]
  for i, environment in enumerate(made):
    environment.reset(seed=i)
  try:
    rngs = [np.random.default_rng(i) for i in range(len(made))]
    step = lambda i: made[i].step(rngs[i].integers(suite.num_actions, size=config.envs_per_actor))
    return _measure(step, config.num_actors, config.envs_per_actor, seconds)
  finally:
    for environment in made:
      environment.close()


def _policy(config: configs.Config, suite: environments.Suite, seconds: float) -> tuple[float, float]:
  """As many threads as actors, each with a network of its own, on observations that an environment gave."""
  from common.distributed import parameters
  from impala import networks, policy
  environment = suite.make(environments.assign(suite.tasks, 0, config.envs_per_actor), True)
  observation, _ = environment.reset(seed=0)
  inputs = networks.AgentInput(
      {name: np.array(values) for name, values in observation.items()}, np.zeros(config.envs_per_actor, np.int32),
      np.zeros(config.envs_per_actor, np.float32), np.zeros(config.envs_per_actor, bool))
  environment.close()
  agents = [networks.make_agent(config, suite) for _ in range(config.num_actors)]
  store = parameters.ParameterStore(parameters.Snapshot(0, parameters.flatten(agents[0].trainable_variables)))
  policies = [policy.LocalPolicy(agent, suite, store, seed) for seed, agent in enumerate(agents)]
  state = agents[0].initial_state(config.envs_per_actor)

  def step(i: int) -> None:
    decision = policies[i](inputs, state)
    decision.actions.numpy(), decision.logits.numpy()

  return _measure(step, config.num_actors, config.envs_per_actor, seconds)


def _learner(config: configs.Config, suite: environments.Suite, seconds: float) -> tuple[float, float]:
  """Updates on one batch of an actor's trajectories."""
  import tensorflow as tf
  from common.distributed import parameters
  from impala import actor, learner, networks, policy
  agent = networks.make_agent(config, suite)
  store = parameters.ParameterStore(parameters.Snapshot(0, parameters.flatten(agent.trainable_variables)))
  collector = actor.Actor(0, suite, environments.assign(suite.tasks, 0, config.envs_per_actor),
                          policy.LocalPolicy(agent, suite, store, 0), config.unroll_length, seed=0)
  collected = []

  def collect(unrolls) -> None:
    collected.extend(tf.nest.map_structure(lambda x, i=i: x[i], unrolls) for i in range(config.envs_per_actor))

  collector.run(collect, lambda: len(collected) >= config.batch_size)
  batch = learner.stack_trajectories(collected[:config.batch_size])
  trained = learner.Learner(config, suite, agent)
  frames = tf.constant(0, tf.int64)
  return _measure(lambda i: trained.update(batch, frames).statistics['finite'].numpy(), 1,
                  config.batch_size * config.unroll_length, seconds)


def _together(config: configs.Config, seconds: float) -> tuple[float, float]:
  from impala import run
  with tempfile.TemporaryDirectory() as folder:
    config.total_frames = 10**12
    training = run.Run(config, command_line.Options(pathlib.Path(folder, 'run'), resume=False))
    crew = training.start()
    try:
      _wait_for_update(training, crew)
      time.sleep(_WARM_UP_SECONDS)
      frames, cpu, started = _wait_for_update(training, crew)
      time.sleep(seconds)
      last_frames, last_cpu, ended = _wait_for_update(training, crew)
    finally:
      crew.end()
  steps = (last_frames - frames) / environments.load(config.env).action_repeat
  return steps / (ended - started), 1e6 * (last_cpu - cpu) / steps


def _wait_for_update(training, crew) -> tuple[int, float, float]:
  """Frames, CPU time and time at the next update's end: whole updates are measured, however long one takes."""
  before = training.frames()
  while training.frames() == before:
    if crew.error:
      raise crew.error
    time.sleep(0.01)
  return training.frames(), _cpu_seconds(), time.monotonic()


def _measure(step: Callable[[int], Any], num_threads: int, steps_per_call: int, seconds: float) -> tuple[float, float]:
  """Calls `step(thread)` in threads for so long; returns agent steps/s and CPU microseconds per agent step."""
  for i in range(num_threads):
    step(i)
    step(i)
  calls, end = [0] * num_threads, time.monotonic() + seconds

  def work(i: int) -> None:
    while time.monotonic() < end:
      step(i)
      calls[i] += 1

  workers = [threading.Thread(target=work, args=(i,)) for i in range(num_threads)]
  cpu, started = _cpu_seconds(), time.monotonic()
  for worker in workers:
    worker.start()
  for worker in workers:
    worker.join()
  steps = sum(calls) * steps_per_call
  return steps / (time.monotonic() - started), 1e6 * (_cpu_seconds() - cpu) / steps


def _cpu_seconds() -> float:
  """CPU time so far of this process and of its living children: the games' engines."""
  ticks = 0
  for stat in pathlib.Path('/proc').glob('[0-9]*/stat'):
    try:
      text = stat.read_text()
    except OSError:  # It ended meanwhile.
      continue
    columns = text.rpartition(')')[2].split()
    if os.getpid() in (int(stat.parent.name), int(columns[1])):
      ticks += int(columns[11]) + int(columns[12])
  return ticks / os.sysconf('SC_CLK_TCK')


def _table(config: configs.Config, result: dict) -> str:
  lines = [f'{config.env}: T={config.unroll_length}, B={config.batch_size}, {config.num_actors} actors of '
           f'{config.envs_per_actor} environments, {config.torso}{" LSTM" if config.lstm else ""}, '
           f'{result["cores"]} cores; medians of {len(result["rounds"])}',
           f'{"part":<16}{"steps/s alone":>16}{"CPU us/step":>14}']
  for name in ('environment', 'policy', 'learner'):
    lines.append(f'{name:<16}{result[f"{name}_alone"]:>16,.0f}{result[f"{name}_cost"]:>14.0f}')
  lines.append(f'{"all together":<16}{result["end_to_end"]:>16,.0f}{result["end_to_end_cost"]:>14.0f}'
               f'   ({result["cores_busy"]:.2f} cores busy)')
  lines.append(f'{"limit":<16}{result["limit"]:>16,.0f}')
  lines.append(f'ratio {result["ratio"]:.3f}   ({result["frames_per_second"]:,.0f} frames/s)')
  return '\n'.join(lines)


if __name__ == '__main__':
  command_line.run(main)
