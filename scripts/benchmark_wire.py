"""What actors in other processes cost: the wire alone, and IMPALA with processes beside IMPALA with threads."""

import contextlib
import dataclasses
import pathlib
import subprocess
import sys
import tempfile
import time
from typing import Iterator

from common import environments
from common.distributed import cluster
from impala import config as configs
from scripts import benchmark_impala, measuring

PRESETS = configs.PRESETS
_COUNTS = (1, 2, 4, 8)


def measure(config: configs.Config, seconds: float) -> dict[str, float]:
  """One round: MB/s and agent steps/s of 1 to 8 processes that only send, and training with threads and processes."""
  config = dataclasses.replace(config)
  suite = environments.load(config.env, config.environment_options())
  config.fit(suite)
  codec, unrolls = trajectories(config, suite)
  payload, count = codec.encode(unrolls), len(unrolls.actor)
  result = {
    'payload_mb': len(payload) / 1e6,
    'payload_ratio': len(payload) / unrolls.observation['observation'].nbytes,
  }
  for number in _COUNTS:
    result |= {
      f'{name}_of_{number}': value
      for name, value in _alone(
        codec, payload, count * config.unroll_length, number, seconds
      ).items()
    }
  result['threads'], result['threads_cost'] = benchmark_impala.together(config, seconds)
  who = cluster.Cluster(listen='127.0.0.1:0', actor_processes=config.num_actors, name='benchmark')
  result['remote'], result['remote_cost'] = benchmark_impala.together(config, seconds, who)
  return result | {'ratio': result['remote'] / result['threads']}


def trajectories(config: configs.Config, suite: environments.Suite):
  """The codec, and as many trajectories of an actor as one message takes."""
  from common.distributed import wire
  from impala import networks, trajectory

  agent = networks.make_agent(config, suite)
  codec = wire.Codec(
    trajectory.specification(suite, config.unroll_length, agent.initial_state(1)),
    trajectory.bounds(suite, config.num_actors),
  )
  return codec, codec.group(benchmark_impala.collect(config, suite, agent, config.envs_per_actor))[
    0
  ]


def _alone(codec, payload: bytes, steps: int, number: int, seconds: float) -> dict[str, float]:
  """So many processes put a message of so many agent steps for ever, and a thread takes them out of the queue."""
  with listening(codec) as (server, _), sending(server.address, payload, number, 1) as processes:
    wait_for(server, processes, number, 10 * number)
    before, started = _state(server, processes), time.monotonic()
    time.sleep(seconds)
    after, elapsed = _state(server, processes), time.monotonic() - started
  mb, puts, learner, senders = (b - a for a, b in zip(before, after))
  return {
    'mb_per_second': mb / elapsed,
    'steps_per_second': puts * steps / elapsed,
    'learner_ms_per_mb': 1e3 * learner / mb,
    'actor_ms_per_mb': 1e3 * senders / mb,
  }


def wait_for(server, processes, actors: int, puts: int) -> None:
  """Until so many actors have joined, and so many puts have come."""
  while server.gauges()['actors'] < actors or server.gauges()['puts'] < puts:
    if any(process.poll() is not None for process in processes):
      raise RuntimeError('a sender has ended')
    time.sleep(0.05)


def _state(server, processes) -> tuple[float, float, float, float]:
  """MB received, puts, CPU seconds of the learner's side and of the senders' so far."""
  gauges = server.gauges()
  senders = sum(measuring.cpu_seconds(process.pid) for process in processes)
  return gauges['received_mb'], gauges['puts'], measuring.cpu_seconds() - senders, senders


@contextlib.contextmanager
def listening(codec) -> Iterator[tuple]:
  """A server whose queue is emptied by a thread that throws everything away; and the thread's crew."""
  import tensorflow as tf

  from common.distributed import parameters, queues
  from common.distributed import server as servers
  from common.machine import threads
  from scripts import senders

  queue = queues.StructureQueue(codec.spec, 64)
  store = parameters.ParameterStore(parameters.Snapshot(0, tf.zeros([1])))
  server = servers.Server(
    '127.0.0.1',
    0,
    servers.Identity(senders.VERSION, '', {}),
    range(1),
    queue,
    codec,
    store,
    lambda: 0,
    lambda number: number,
    lambda report: None,
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
  address: str, payload: bytes, processes: int, links: int
) -> Iterator[list[subprocess.Popen]]:
  """Processes of so many synthetic actors each."""
  with tempfile.NamedTemporaryFile() as file:
    file.write(payload)
    file.flush()
    program = str(pathlib.Path(__file__).with_name('senders.py'))
    started = [
      subprocess.Popen(
        [sys.executable, program, address, str(links), file.name], stdout=subprocess.DEVNULL
      )
      for _ in range(processes)
    ]
    try:
      yield started
    finally:
      for process in started:
        process.terminate()
        process.wait()


def table(config: configs.Config, result: dict) -> str:
  """The results as text."""
  lines = [
    f'{config.env}: messages of {result["payload_mb"]:.2f} MB, {result["payload_ratio"]:.3f} times the frames '
    f'they hold; {result["cores"]} cores; medians of {len(result["rounds"])}',
    f'{"processes":<12}{"MB/s":>10}{"steps/s":>12}{"CPU ms/MB, learner":>22}{"actors":>10}',
  ]
  for number in _COUNTS:
    values = [
      result[f'{name}_of_{number}']
      for name in ('mb_per_second', 'steps_per_second', 'learner_ms_per_mb', 'actor_ms_per_mb')
    ]
    lines.append(
      f'{number:<12}{values[0]:>10.0f}{values[1]:>12,.0f}{values[2]:>22.2f}{values[3]:>10.2f}'
    )
  for name, what in (('threads', 'threads'), ('remote', 'processes')):
    lines.append(
      f'training with {config.num_actors} actors as {what}: {result[name]:,.0f} steps/s, '
      f'{result[f"{name}_cost"]:.0f} CPU us/step'
    )
  lines.append(f'ratio {result["ratio"]:.3f}')
  return '\n'.join(lines)
