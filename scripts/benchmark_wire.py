"""Costs of remote actors: the wire alone, and IMPALA with actor processes against threads.

Each is measured twice: over a Unix socket, as actors of the learner's machine connect, and through
the gate, as those of other machines do (here over loopback).
"""

import contextlib
import dataclasses
import os
import pathlib
import secrets
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING, Any, Iterator, Mapping, NamedTuple, Sequence

from common import environments
from common.distributed import cluster
from impala import config as configs
from scripts import benchmark_impala, measuring

# TensorFlow is imported inside functions, after `command_line.import_tensorflow` has configured it.
if TYPE_CHECKING:
  from common.distributed import server as servers
  from common.distributed import wire
  from common.machine import threads

PRESETS = configs.PRESETS
_COUNTS = (1, 2, 4, 8)
_WAYS = ('socket', 'gate')
_TOKEN = secrets.token_hex(16)
_QUEUE_CAPACITY = 64


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """Runs one round: 1 to 8 processes that only send, then training with threads and processes.

  Args:
    config: The settings for trajectories and training.
    seconds: The duration of each measurement.

  Returns:
    Throughput in MB/s and agent steps/s, and CPU costs, by name.
  """
  config = dataclasses.replace(config)  # `fit` changes it.
  suite = environments.load(config.env, config.environment_options())
  config.fit(suite)
  codec, unrolls = trajectories(config, suite)
  payload = codec.encode(unrolls)
  steps = len(unrolls.actor) * config.unroll_length
  result = {
    'payload_mb': len(payload) / 1e6,
    'payload_ratio': len(payload) / unrolls.observation['observation'].nbytes,
  }
  for number in _COUNTS:
    for way in _WAYS:
      for name, value in _alone(codec, payload, steps, number, seconds, way).items():
        result[f'{name}_of_{number}_by_{way}'] = value

  result['threads'], result['threads_cost'] = benchmark_impala.together(config, seconds)
  near = cluster.Cluster(actor_processes=config.num_actors, name='benchmark')
  result['socket'], result['socket_cost'] = benchmark_impala.together(config, seconds, near)
  result['gate'], result['gate_cost'] = _through_the_gate(config, seconds)
  result['ratio'] = result['socket'] / result['threads']
  result['gate_ratio'] = result['gate'] / result['socket']
  return result


def _through_the_gate(config: configs.Config, seconds: float) -> measuring.Speed:
  """Measures training with actor processes that connect as those of another machine do."""
  from common.distributed import actor_processes, gate
  from common.runs import trust

  address = f'127.0.0.1:{gate.free_port("127.0.0.1", 0)}'
  who = cluster.Cluster(role='learner', listen=address, token=_TOKEN, name='benchmark')
  with tempfile.TemporaryDirectory() as folder:
    actors = actor_processes.ActorProcesses(
      'impala.train',
      config.num_actors,
      address,
      who,
      trust.flags_for_own(config),
      pathlib.Path(folder),
    )
    try:
      return benchmark_impala.together(config, seconds, who)
    finally:
      actors.close()


def trajectories(config: configs.Config, suite: environments.Suite) -> tuple['wire.Codec', Any]:
  """The codec, and as many of an actor's trajectories `[M, ...]` as fit one message."""
  from impala import networks

  agent = networks.make_agent(config, suite)
  made = codec(config, suite)
  collected = benchmark_impala.collect(config, suite, agent, config.envs_per_actor)
  return made, made.group(collected)[0]


def codec(config: configs.Config, suite: environments.Suite) -> 'wire.Codec':
  """The codec of an actor's trajectories."""
  from common.distributed import wire
  from impala import networks, trajectory

  initial_state = networks.make_agent(config, suite).initial_state(1)
  spec = trajectory.specification(suite, config.unroll_length, initial_state)
  return wire.Codec(spec, trajectory.bounds(spec, suite, config.num_actors, lambda: 0))


def _alone(
  codec: 'wire.Codec', payload: bytes, steps: int, number: int, seconds: float, way: str
) -> dict[str, float]:
  """Measures processes that put a message over and over while a thread empties the queue.

  Args:
    codec: The queue's codec.
    payload: The message.
    steps: The agent steps it holds.
    number: The number of processes.
    seconds: The duration.
    way: One of `_WAYS`.
  """
  with contextlib.ExitStack() as stack:
    server, _ = stack.enter_context(listening(codec))
    assert server.endpoint
    address = server.endpoint if way == 'gate' else server.address
    processes = stack.enter_context(sending(address, payload, number, 1))
    wait_for(server, processes, number, 10 * number)
    before = _usage(server, processes)
    started = time.monotonic()
    time.sleep(seconds)
    after = _usage(server, processes)
    elapsed = time.monotonic() - started

  mb = after.mb - before.mb
  return {
    'mb_per_second': mb / elapsed,
    'steps_per_second': (after.puts - before.puts) * steps / elapsed,
    'learner_ms_per_mb': 1e3 * (after.learner - before.learner) / mb,
    'actor_ms_per_mb': 1e3 * (after.senders - before.senders) / mb,
  }


def wait_for(
  server: 'servers.Server', processes: Sequence[subprocess.Popen], actors: int, puts: int
) -> None:
  """Waits until `actors` have joined and `puts` have arrived."""
  while server.gauges()['actors'] < actors or server.gauges()['puts'] < puts:
    if any(process.poll() is not None for process in processes):
      raise RuntimeError('a sender has ended')
    time.sleep(0.05)


class _Usage(NamedTuple):
  """Totals so far."""

  mb: float  # Received by the server.
  puts: float
  learner: float  # CPU seconds of this process.
  senders: float  # CPU seconds of all senders.


def _usage(server: 'servers.Server', processes: Sequence[subprocess.Popen]) -> _Usage:
  gauges = server.gauges()
  senders = sum(measuring.cpu_seconds(process.pid) for process in processes)
  return _Usage(
    mb=gauges['received_mb'],
    puts=gauges['puts'],
    learner=measuring.cpu_seconds() - senders,  # Which includes its descendants.
    senders=senders,
  )


@contextlib.contextmanager
def listening(codec: 'wire.Codec') -> Iterator[tuple['servers.Server', 'threads.Crew']]:
  """A server whose queue a thread empties and discards, and the crew of that thread."""
  import tensorflow as tf

  from common.distributed import intake, membership, parameters, queues
  from common.distributed import server as servers
  from common.machine import threads
  from scripts import senders

  queue = queues.StructureQueue(codec.spec, _QUEUE_CAPACITY)
  store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros([1])))
  server = servers.Server(
    listen=servers.Listen(cluster.Endpoint('127.0.0.1', 0), _TOKEN),
    identity=membership.Identity(version=senders.VERSION, config={}),
    assignments=range(1),
    intake=intake.Intake(queue=queue, codec=codec, store=store),
    callbacks=servers.Callbacks(
      frames=lambda: 0, seed_of=lambda number: number, on_report=lambda report: None
    ),
  )
  server.start()
  crew = threads.Crew(queue.close)

  def drain() -> None:
    while True:
      queue.take_many(max(1, queue.size()))

  crew.start('drain', drain)
  try:
    yield server, crew
  finally:
    crew.end()
    server.close(finished=True)


@contextlib.contextmanager
def sending(
  address: cluster.Address, payload: bytes, processes: int, links: int
) -> Iterator[list[subprocess.Popen]]:
  """Starts processes that put a payload over and over, each with `links` synthetic actors."""
  program = str(pathlib.Path(__file__).with_name('senders.py'))
  with tempfile.NamedTemporaryFile() as file:
    file.write(payload)
    file.flush()
    command = [sys.executable, program, address.address, str(links), file.name]
    environment = {**os.environ, cluster.TOKEN_VARIABLE: _TOKEN}
    started = [
      subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
      for _ in range(processes)
    ]
    try:
      yield started
    finally:
      for process in started:
        process.terminate()
        process.wait()


def table(config: configs.Config, result: Mapping[str, Any]) -> str:
  """Formats the results of several rounds as text."""
  lines = [
    f'{config.env}: messages of {result["payload_mb"]:.2f} MB, {result["payload_ratio"]:.3f} '
    f'times the frames they hold; {result["cores"]} cores; '
    f'medians of {len(result["rounds"])}',
    f'{"processes":<12}{"by":<8}{"MB/s":>10}{"steps/s":>12}{"CPU ms/MB, learner":>22}'
    f'{"actors":>10}',
  ]
  for number in _COUNTS:
    for way in _WAYS:
      suffix = f'of_{number}_by_{way}'
      mb = result[f'mb_per_second_{suffix}']
      steps = result[f'steps_per_second_{suffix}']
      learner = result[f'learner_ms_per_mb_{suffix}']
      actor = result[f'actor_ms_per_mb_{suffix}']
      lines.append(f'{number:<12}{way:<8}{mb:>10.0f}{steps:>12,.0f}{learner:>22.2f}{actor:>10.2f}')

  names = {
    'threads': 'threads',
    'socket': 'processes by socket',
    'gate': 'processes through the gate',
  }
  for name, what in names.items():
    lines.append(
      f'training with {config.num_actors} actors as {what}: {result[name]:,.0f} steps/s, '
      f'{result[f"{name}_cost"]:.0f} CPU us/step'
    )
  lines.append(
    f'processes / threads {result["ratio"]:.3f}; gate / socket {result["gate_ratio"]:.3f}'
  )
  return '\n'.join(lines)
